"""mDNS on one link: how soon is a node found, and what does an idle one among many cost?

``python bench/mdns.py`` makes hosts with network namespaces at the ports of a bridge, so it needs
Linux and root; it takes about four minutes, ``--quick`` one. The real peer takes part where
``tools/build_peers.sh`` has built it. Times are from the moment a node has something to tell (of the
real peer: from the start of its process) until another one tells its program.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from facts import ROOT, machine

from iroh_fast import SecretKey, SocketAddr
from iroh_fast.aio.owner import Owner
from iroh_fast.lookup.info import EndpointData
from iroh_fast.lookup.mdns import Discovered, MdnsLookup

sys.path.append(str(ROOT))

from tests.interop.rust import place
from tests.lab import LabError, missing
from tests.lab.lan import Host, Lan

OWN, REAL = "iroh_fast", "iroh"
PARTS = ("appear", "idle")
LIMIT_S = 30.0


# --- nodes ---------------------------------------------------------------------------------------
class Endpoint:
    """What the service sees of one; no QUIC is measured here."""

    def __init__(self) -> None:
        self.secret_key = SecretKey.generate()
        self.id = self.secret_key.public
        self.owner = Owner(asyncio.get_running_loop())
        self.dns_resolver: Any = None
        self.http: Any = None


def tell(**facts: Any) -> None:
    print(json.dumps({"at": time.monotonic(), **facts}), flush=True)


async def run_node(ip: str) -> None:
    """A process with nodes of this library: ``new`` makes one anew, ``end`` ends."""
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    node: MdnsLookup | None = None
    while (await commands.readline()) == b"new\n":
        if node is not None:
            await node.close()
        endpoint, node = Endpoint(), MdnsLookup()
        watching = asyncio.ensure_future(watch(node))
        node.into_address_lookup(endpoint)
        node.publish(EndpointData([SocketAddr(ip_address(ip), 4000)]))
        tell(event="bound", id=str(endpoint.id))
    if node is not None:
        await node.close()
        await watching


async def watch(node: MdnsLookup) -> None:
    async for event in node.subscribe():
        if isinstance(event, Discovered):
            tell(event="discovered", id=str(event.info.id))


class Process:
    """A node of either kind as a process on a host."""

    def __init__(self, process: asyncio.subprocess.Process, began: float) -> None:
        self.process = process
        self.began = began
        self.id = ""

    async def event(self, name: str) -> dict[str, Any]:
        assert self.process.stdout is not None
        async with asyncio.timeout(LIMIT_S):
            while line := await self.process.stdout.readline():
                event: dict[str, Any] = {"at": time.monotonic(), **json.loads(line)}
                if event["event"] == name:
                    return event
        raise RuntimeError(f"a node has ended before it told: {name}")

    async def found(self, id: str) -> float:
        """When it told that it found a node."""
        while (event := await self.event("discovered"))["id"] != id:
            pass
        return float(event["at"])

    async def renew(self) -> None:
        """The same process of this library as a new node."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"new\n")
        bound = await self.event("bound")
        self.id, self.began = bound["id"], bound["at"]

    def cost(self) -> tuple[float, int]:
        """Seconds of CPU that it took so far, and how often it went to sleep."""
        spent, sleeps = 0, 0
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            spent += int((task / "schedstat").read_text().split()[0])
            for line in (task / "status").read_text().splitlines():
                if line.startswith("voluntary_ctxt_switches"):
                    sleeps += int(line.split()[1])
        return spent / 1e9, sleeps


@asynccontextmanager
async def started(kind: str, host: Host) -> AsyncIterator[Process]:
    assert host.ip4 is not None
    if kind == OWN:
        command: list[str] = [sys.executable, __file__, "--node", host.ip4]
    else:
        command = [str(place() / "bin" / "peer"), "echo", "--mdns", "--bind", f"{host.ip4}:0"]
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *host.command(command),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    node = Process(process, began)
    try:
        if kind == OWN:
            await node.renew()
        else:
            node.id = (await node.event("bound"))["id"]
        yield node
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


# --- measures ------------------------------------------------------------------------------------
async def appear(found: str, finder: str, trials: int) -> list[float]:
    """Milliseconds until nodes of one kind are found by one of the other."""
    took = []
    with Lan(2, ip6=False) as lan:
        async with started(finder, lan.hosts[0]) as watcher, AsyncExitStack() as stack:
            node = await stack.enter_async_context(started(found, lan.hosts[1])) if found == OWN else None
            for trial in range(trials):
                # At any moment of the finder's rhythm.
                await asyncio.sleep(0.2 + 0.7 * trial / trials)
                if node is not None:
                    await node.renew()
                    took.append((await watcher.found(node.id) - node.began) * 1e3)
                else:
                    async with started(found, lan.hosts[1]) as once:
                        took.append((await watcher.found(once.id) - once.began) * 1e3)
    return took


async def idle(kind: str, nodes: int, seconds: float) -> dict[str, float]:
    """What a node of one kind costs among nodes of this library, and what all of them send."""
    with Lan(nodes, ip6=False) as lan:
        async with AsyncExitStack() as stack:
            for host in lan.hosts[1:]:
                await stack.enter_async_context(started(OWN, host))
            node = await stack.enter_async_context(started(kind, lan.hosts[0]))
            await asyncio.sleep(min(10.0, seconds))
            packets, size = lan.traffic()
            cpu, sleeps = node.cost()
            began = time.monotonic()
            await asyncio.sleep(seconds)
            took = time.monotonic() - began
            packets_then, size_then = lan.traffic()
            cpu_then, sleeps_then = node.cost()
    return {
        "packets_s": (packets_then - packets) / took,
        "bytes_s": (size_then - size) / took,
        "wakeups_s": (sleeps_then - sleeps) / took,
        "cpu_ms_s": (cpu_then - cpu) / took * 1e3,
    }


async def run(parts: Sequence[str], trials: int, nodes: int, seconds: float) -> dict[str, Any]:
    kinds = [OWN, REAL] if os.access(place() / "bin" / "peer", os.X_OK) else [OWN]
    results: dict[str, Any] = {"appear_ms": {}, "idle": {}}
    for found in kinds if "appear" in parts else ():
        for finder in kinds:
            took = sorted(await appear(found, finder, trials))
            results["appear_ms"][f"{found} by {finder}"] = took
            print(f"{found:>10} found by {finder:<10} p50 {statistics.median(took):6.1f} ms   "
                  f"p90 {took[int(len(took) * 0.9)]:6.1f} ms   worst {took[-1]:6.1f} ms")  # fmt: skip
    for kind in kinds if "idle" in parts else ():
        cost = results["idle"][kind] = await idle(kind, nodes, seconds)
        print(f"{kind:>10} idle among {nodes}: {cost['wakeups_s']:.1f} wake-ups/s, "
              f"{cost['cpu_ms_s']:.2f} ms CPU/s; all send {cost['packets_s']:.1f} packets/s, "
              f"{cost['bytes_s']:.0f} B/s")  # fmt: skip
    return results


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, help="nodes that appear (default: 40)")
    parser.add_argument("--nodes", type=int, default=50, help="on the link of idle nodes (default: 50)")
    parser.add_argument("--seconds", type=float, help="of idling (default: 30)")
    parser.add_argument("--quick", action="store_true", help="10 trials, 10 seconds")
    parser.add_argument("--part", choices=PARTS, help="only this one")
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--node", metavar="IP", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.node:
        asyncio.run(run_node(args.node))
        return 0
    reason = missing()
    if reason is not None:
        print(f"hosts cannot be made on this machine: {reason}", file=sys.stderr)
        return 1
    trials = args.trials or (10 if args.quick else 40)
    seconds = args.seconds or (10.0 if args.quick else 30.0)
    try:
        parts = [args.part] if args.part else PARTS
        results = asyncio.run(run(parts, trials, args.nodes, seconds))
    except LabError as error:
        print(f"the lab: {error}", file=sys.stderr)
        return 1
    if args.json:
        args.json.write_text(json.dumps({"machine": machine(), **results}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
