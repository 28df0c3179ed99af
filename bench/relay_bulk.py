"""Bulk transfer over a relay: our relay and our endpoints, three processes on this machine.

``python bench/relay_bulk.py`` runs five transfers, each with fresh processes, and prints the rate
at the receiver, the CPU time of each process per GB (10^9 bytes), and the medians. The endpoints
have no UDP sockets, so that every byte passes through the relay. Nothing is pinned: on a machine
with two cores the three processes share them. ``--tls`` encrypts the way to the relay too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent.parent / "src"))

ALPN = b"bench/relay-bulk"
BLOCK = bytes(1 << 20)


def say(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


async def hear() -> dict[str, Any]:
    """The next line from the parent."""
    line = await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    facts: dict[str, Any] = json.loads(line or '{"stop": true}')
    return facts


async def relay(tls: bool) -> None:
    from iroh_fast.relay.server.config import RelayServerConfig, RelayTlsConfig
    from iroh_fast.relay.server.server import RelayServer

    config = RelayServerConfig.dev()
    if tls:
        settings = RelayTlsConfig(cert_mode="SelfSigned", https_bind_addr=("127.0.0.1", 0))
        config = config.with_changes(tls=settings)
    async with RelayServer(config) as server:
        pem = server.certificate.decode() if server.certificate else None
        url = f"https://localhost.:{server.addresses['https'][1]}" if tls else server.url
        say(url=url, pem=pem)
        cpu = time.process_time()
        while not (await hear()).get("stop"):
            say(cpu=time.process_time() - cpu)
            cpu = time.process_time()


async def bind(said: dict[str, Any]) -> Any:
    from iroh_fast import Endpoint, presets
    from iroh_fast.web.ca import CaConfig

    ca = CaConfig(roots="none", extra=[said["pem"]]) if said["pem"] else None
    endpoint = await Endpoint.bind(
        preset=presets.minimal,
        relays=[said["url"]], ip_transports=False, alpns=[ALPN], ca=ca
    )
    async with asyncio.timeout(10):
        await endpoint.online()
    return endpoint


async def receive() -> None:
    async with await bind(await hear()) as endpoint:
        say(ticket=str(endpoint.ticket))
        async with await (await endpoint.accept()) as conn:
            stream = await conn.accept_uni()
            count, start, cpu = 0, time.perf_counter(), time.process_time()
            async for block in stream:
                count += len(block)
            seconds = time.perf_counter() - start
            [path] = conn.paths
            if not str(path.remote_addr).startswith("relay:"):
                raise RuntimeError(f"the path is {path.remote_addr}, not relayed")
            say(bytes=count, seconds=seconds, cpu=time.process_time() - cpu)
            await conn.wait_closed()


async def send() -> None:
    said = await hear()
    async with await bind(said) as endpoint, endpoint.connect(said["ticket"], ALPN) as conn:
        stream = await conn.open_uni()
        cpu, count, end = time.process_time(), 0, time.perf_counter() + said["seconds"]
        while time.perf_counter() < end:
            await stream.write_all(BLOCK)
            count += len(BLOCK)
        stream.finish()
        await stream.stopped()
        [path] = conn.paths
        say(bytes=count, cpu=time.process_time() - cpu, lost=path.stats.lost_packets, mtu=path.mtu)


class Child:
    def __init__(self, role: str, *options: str) -> None:
        self.role = role
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--role", role, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def tell(self, **facts: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(facts) + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the {self.role} process has ended")
        facts: dict[str, Any] = json.loads(line)
        return facts

    def stop(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


def transfer(seconds: float, *options: str) -> dict[str, float]:
    """One run; gives the rate in MB/s and CPU seconds per GB of each process."""
    children = [Child("relay", *options), Child("receive", *options), Child("send", *options)]
    server, receiver, sender = children
    try:
        where = server.answer()
        receiver.tell(**where)
        ticket = receiver.answer()["ticket"]
        server.tell()
        server.answer()
        sender.tell(**where, ticket=ticket, seconds=seconds)
        sent, got = sender.answer(), receiver.answer()
        server.tell()
        relayed = server.answer()
        if sent["bytes"] != got["bytes"]:
            raise RuntimeError(f"{sent['bytes']} bytes were sent, {got['bytes']} arrived")
        gigabytes = got["bytes"] / 1e9
        return {
            "mb_s": got["bytes"] / got["seconds"] / 1e6,
            "send_cpu": sent["cpu"] / gigabytes,
            "relay_cpu": relayed["cpu"] / gigabytes,
            "receive_cpu": got["cpu"] / gigabytes,
            "lost": sent["lost"],
            "mtu": sent["mtu"],
        }
    finally:
        for child in reversed(children):
            child.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of sending, per run")
    parser.add_argument("--tls", action="store_true", help="encrypt the connections to the relay")
    parser.add_argument("--loop", choices=["uvloop", "asyncio"], default="uvloop")
    parser.add_argument("--json", type=Path, metavar="FILE", help="store the results")
    parser.add_argument("--role", choices=["relay", "receive", "send"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role:
        work = {"relay": lambda: relay(options.tls), "receive": receive, "send": send}[options.role]
        factory = None
        if options.loop == "uvloop":
            import uvloop

            factory = uvloop.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(work())
        return 0

    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"warning: load average {load:.1f}, the machine does other things meanwhile")
    passed = ["--loop", options.loop, *(["--tls"] if options.tls else [])]
    print(f"{'run':>8}  {'MB/s':>6}  CPU s/GB: {'send':>5}  {'relay':>5}  {'receive':>7}  lost packets")
    runs = []
    for number in range(options.runs):
        result = transfer(options.seconds, *passed)
        runs.append(result)
        show(str(number + 1), result)
    median = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    show("median", median)
    if options.json:
        facts = {
            "python": platform.python_version(),
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "load": load,
            "tls": options.tls,
            "loop": options.loop,
            "runs": runs,
            "median": median,
        }
        options.json.write_text(json.dumps(facts, indent=2) + "\n")
    return 0


def show(name: str, result: dict[str, float]) -> None:
    print(
        f"{name:>8}  {result['mb_s']:>6.0f}            {result['send_cpu']:>5.2f}  "
        f"{result['relay_cpu']:>5.2f}  {result['receive_cpu']:>7.2f}  {result['lost']:.0f}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
