"""How long does it take to connect to somebody of whom only the key is known?

``python bench/by_key.py`` runs a relay, a DNS server and a process with many endpoints, all of this
package, on this machine. Another endpoint dials each of them once by its key: the lookup in the DNS,
the first packet through the relay, the handshake. All servers are warm and nothing is found from an
earlier time, since every key is dialed once. Beside it stand the same dials with the address given.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

from iroh_fast import Endpoint, EndpointAddr, EndpointId, presets
from iroh_fast.lookup import DnsLookup, DnsResolver, PkarrPublisher, PkarrResolver

ALPN = b"bench-by-key/1"
ORIGIN = "irohdns.example."
WARM = 5  # dials that are not counted


async def serve_dns() -> None:
    from iroh_fast.dns_server import DnsServer, DnsServerConfig

    async with DnsServer(DnsServerConfig.dev()) as server:
        host, port = server.dns_addr
        say(pkarr=f"{server.http_url.rstrip('/')}/pkarr", dns=f"{host}:{port}")
        await asyncio.Event().wait()


async def serve_relay() -> None:
    from iroh_fast.relay import RelayServer, RelayServerConfig

    async with RelayServer(RelayServerConfig.dev()) as server:
        say(relay=server.url)
        await asyncio.Event().wait()


def options(servers: dict[str, str]) -> dict[str, Any]:
    return {
        "preset": presets.minimal,
        "bind_addrs": ["127.0.0.1:0"],
        "relays": [servers["relay"]],
        "dns_resolver": DnsResolver([servers["dns"]]),
    }


async def serve_endpoints(servers: dict[str, str], number: int) -> None:
    async with contextlib.AsyncExitStack() as stack:
        made = []
        for _ in range(number):
            ep = await stack.enter_async_context(
                Endpoint.bind(
                    alpns=[ALPN],
                    address_lookup=[PkarrPublisher(servers["pkarr"])],
                    **options(servers),
                )
            )
            made.append(ep)
        for ep in made:
            await ep.online()
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(accept_all(ep)) for ep in made]
        say(ids=[str(ep.id) for ep in made])
        await asyncio.gather(*tasks)


async def accept_all(ep: Endpoint) -> None:
    async for conn in ep.connections():
        await conn.wait_closed()


async def dial_all(servers: dict[str, str], ids: list[str], how: str) -> list[float]:
    """Seconds that each dial took."""
    services: dict[str, list[Any]] = {
        "dns": [DnsLookup(ORIGIN)],
        "pkarr": [PkarrResolver(servers["pkarr"])],
        "both": [PkarrResolver(servers["pkarr"]), DnsLookup(ORIGIN)],
        "given": [],
    }
    took = []
    async with Endpoint.bind(address_lookup=services[how], **options(servers)) as ep:
        await ep.online()
        for id in ids:
            addr = EndpointAddr(EndpointId(id), relay_url=servers["relay"])
            start = time.perf_counter()
            async with ep.connect(addr if how == "given" else id, ALPN) as conn:
                took.append(time.perf_counter() - start)
                conn.close()
    return took[WARM:]


async def published(servers: dict[str, str], ids: list[str]) -> None:
    """Wait until all endpoints can be found."""
    async with Endpoint.bind(address_lookup=[DnsLookup(ORIGIN)], **options(servers)) as ep:
        for id in ids:
            while True:
                try:
                    async with ep.address_lookup.resolve(id) as lookup:
                        answers = [answer async for answer in lookup]
                    if any(answer.info.data.relay_urls for answer in answers):  # type: ignore[union-attr]
                        break
                except Exception:
                    await asyncio.sleep(0.1)


# --- processes -----------------------------------------------------------------------------


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


@contextlib.asynccontextmanager
async def child(role: str, *args: str) -> AsyncIterator[dict[str, Any]]:
    """A process of this file, and what it says first."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--role", role, *args, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        yield json.loads(await asyncio.wait_for(process.stdout.readline(), 120))
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def measure(number: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    async with child("dns") as dns, child("relay") as relay:
        servers = json.dumps({**dns, **relay})
        async with child(
            "endpoints", "--servers", servers, "--number", str(number + WARM)
        ) as there:
            await published(json.loads(servers), there["ids"])
            for how in ("given", "dns", "pkarr", "both"):
                # One process and one endpoint each: nothing is known from before.
                async with child(
                    "client", "--servers", servers, "--how", how, "--ids", json.dumps(there["ids"])
                ) as answer:
                    found[how] = answer["took"]
    return found


async def client(servers: dict[str, str], ids: list[str], how: str) -> None:
    say(took=await dial_all(servers, ids, how))


def show(found: dict[str, list[float]]) -> None:
    print(f"{'found by':10} {'p50 ms':>8} {'p90 ms':>8} {'worst':>8} {'dials':>6}")
    for how, took in found.items():
        ms = sorted(1e3 * one for one in took)
        p50, p90 = statistics.median(ms), ms[int(0.9 * (len(ms) - 1))]
        print(f"{how:10} {p50:8.2f} {p90:8.2f} {ms[-1]:8.2f} {len(ms):6}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=50, help="endpoints that are dialed")
    parser.add_argument("--json", help="file for the times, in seconds")
    for hidden in ("--role", "--servers", "--how", "--ids"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    args = parser.parse_args()
    servers = json.loads(args.servers) if args.servers else {}
    work: Any
    if args.role == "dns":
        work = serve_dns()
    elif args.role == "relay":
        work = serve_relay()
    elif args.role == "endpoints":
        work = serve_endpoints(servers, args.number)
    elif args.role == "client":
        work = client(servers, json.loads(args.ids), args.how)
    else:
        found = asyncio.run(measure(args.number))
        show(found)
        if args.json:
            with open(args.json, "w", encoding="utf-8") as file:
                json.dump(found, file)
        return
    try:
        import uvloop

        uvloop.run(work)
    except ImportError:
        asyncio.run(work)


if __name__ == "__main__":
    main()
