"""Soak: many endpoints that live on one relay process, which is restarted once.

``python tools/soak_relay.py`` runs 500 clients for ten minutes; ``--clients 200 --minutes 2`` is a
short version. Every client dials the next one over the relay and nothing else, and they echo
messages of random size all the time. Meanwhile TCP connections to the relay are cut at random,
clients leave without a word or in good order and others take their place, and half way the relay
is stopped and started again on the same port.

Fails when a connection was lost that QUIC could keep, an echo was wrong, a client or a connection
did not come back, or the relay did not give back what it used: connections, output buffers, and
memory up to ``--tolerance`` MiB above that of the same process after one client had come and gone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

sys.path.append(str(Path(__file__).parent.parent / "src"))

from iroh_fast import Connection, Endpoint, EndpointAddr, presets
from iroh_fast.errors import ConnectionLost, IrohError
from iroh_fast.relay.server.config import RelayServerConfig
from iroh_fast.relay.server.server import RelayServer

ALPN = b"soak/1"
LARGEST = 100_000
STALL_S = 45.0  # an echo that takes longer counts as lost: longer than any outage and its end
SETTLE_S = 20.0


# --- the relay's process ------------------------------------------------------------------


async def serve(port: int) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    me = psutil.Process()
    async with RelayServer(RelayServerConfig.dev(port=port)) as server:

        def tell() -> None:
            if not sys.stdin.readline():
                stop.set()
                return
            cpu = me.cpu_times()
            facts = {
                "url": server.url,
                "port": server.addresses["http"][1],
                "rss": me.memory_info().rss,
                "files": me.num_fds(),
                "cpu": cpu.user + cpu.system,
                **server.metrics(),
            }
            print(json.dumps(facts), flush=True)

        loop.add_reader(sys.stdin.fileno(), tell)
        await stop.wait()
        loop.remove_reader(sys.stdin.fileno())


class Relay:
    """The relay's process, seen from here."""

    def __init__(self) -> None:
        self.port = 0
        self.url = ""
        self.process: asyncio.subprocess.Process
        self.lives: list[dict[str, Any]] = []  # of each process: what it was at the start, the peak
        self._lock = asyncio.Lock()

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            *(__file__, "--relay-port", str(self.port)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        facts = await self._ask()
        self.port, self.url = facts["port"], facts["url"]
        async with Endpoint.bind(preset=presets.minimal, relays=[self.url], ip_transports=False) as first:
            await first.online()
        await asyncio.sleep(0.2)
        facts = await self._ask()
        self.lives.append({"start": facts, "peak": facts["rss"], "last": facts})

    async def _ask(self) -> dict[str, Any]:
        async with self._lock:
            assert self.process.stdin is not None and self.process.stdout is not None
            self.process.stdin.write(b"\n")
            line = await asyncio.wait_for(self.process.stdout.readline(), 30)
        facts: dict[str, Any] = json.loads(line)
        return facts

    async def ask(self) -> dict[str, Any]:
        """What the relay tells about itself; remembered for the summary."""
        life, facts = self.lives[-1], await self._ask()
        life["peak"] = max(life["peak"], facts["rss"])
        life["last"] = facts
        return facts

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        async with self._lock:
            self.process.send_signal(number)
            await asyncio.wait_for(self.process.wait(), 30)


# --- the clients --------------------------------------------------------------------------


class Client:
    """An endpoint without sockets that echoes, and a connection from it to the next one."""

    def __init__(self, soak: Soak, index: int) -> None:
        self.soak = soak
        self.index = index
        self.endpoint: Endpoint
        self.conn: Connection | None = None
        self.since = 0.0
        self.lock = asyncio.Lock()  # held while the client or its connection is being replaced
        self._echo: asyncio.Task[None] | None = None
        self._talk: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self.endpoint = await Endpoint.bind(
            preset=presets.minimal,
            relays=[self.soak.relay.url], ip_transports=False, alpns=[ALPN]
        )
        self._echo = asyncio.create_task(self._serve(self.endpoint))
        async with asyncio.timeout(60):
            await self.endpoint.online()

    async def _serve(self, endpoint: Endpoint) -> None:
        async with asyncio.TaskGroup() as group:
            async for incoming in endpoint.incoming():
                group.create_task(self._serve_one(incoming))

    async def _serve_one(self, incoming: Any) -> None:
        try:
            async with await incoming as conn, asyncio.TaskGroup() as group:
                async for send, recv in conn.bi_streams():
                    group.create_task(self._answer(send, recv))
        except* IrohError:
            pass  # the side that dialled keeps the books

    async def _answer(self, send: Any, recv: Any) -> None:
        await send.write_all(await recv.read_to_end(LARGEST))
        send.finish()

    async def link(self, to: Client) -> None:
        """Dial another client and begin to talk."""
        async with asyncio.timeout(60):
            self.conn = await self.endpoint.connect(
                EndpointAddr(to.endpoint.id, relay_url=self.soak.relay.url), ALPN
            )
        self.since = time.monotonic()
        self.soak.counts["connections"] += 1
        self._talk = asyncio.create_task(self._talk_on(self.conn))

    async def _talk_on(self, conn: Connection) -> None:
        rng, soak = self.soak.rng, self.soak
        try:
            while True:
                await asyncio.sleep(rng.expovariate(1 / soak.pause))
                await self.echo(conn)
        except (ConnectionLost, TimeoutError) as error:
            soak.lost.append(f"{self.index}: {error!r} after {time.monotonic() - self.since:.1f} s")

    async def echo(self, conn: Connection) -> None:
        soak = self.soak
        data = soak.rng.randbytes(soak.rng.choice((1, 100, 1_000, 10_000, LARGEST)))
        start = time.monotonic()
        async with asyncio.timeout(STALL_S):
            send, recv = await conn.open_bi()
            await send.write_all(data)
            send.finish()
            if await recv.read_to_end(LARGEST) != data:
                soak.wrong += 1
        soak.took.append(time.monotonic() - start)
        soak.counts["echoes"] += 1
        soak.counts["bytes"] += 2 * len(data)

    async def unlink(self) -> None:
        """End the connection to the next one, on purpose."""
        if self._talk is not None:
            self._talk.cancel()
            await asyncio.wait({self._talk})
        if self.conn is not None:
            if self.conn.close_reason is None:
                self.conn.close()
            self.conn = None

    async def stop(self) -> None:
        await self.endpoint.close()
        if self._echo is not None:
            await self._echo

    def cut(self) -> bool:
        """Break the TCP connection to the relay."""
        pool = self.endpoint._context.relay.pool  # type: ignore[union-attr]
        cut = False
        for active in pool._active.values():
            if active.connection is not None:
                active.connection.abort()
                cut = True
        return cut


class Soak:
    def __init__(self, clients: int, seconds: float, pause: float, seed: int) -> None:
        self.relay = Relay()
        self.rng = random.Random(seed)
        self.seconds = seconds
        self.pause = pause
        self.counts: Counter[str] = Counter()
        self.lost: list[str] = []
        self.failed: list[str] = []
        self.wrong = 0
        self.took: list[float] = []
        self.clients = [Client(self, index) for index in range(clients)]

    def next_of(self, client: Client, step: int = 1) -> Client:
        return self.clients[(client.index + step) % len(self.clients)]

    async def gather(self, *work: Any) -> None:
        """Run with limited concurrency; the first error counts."""
        gate = asyncio.Semaphore(50)

        async def one(item: Any) -> None:
            async with gate:
                await item

        await asyncio.gather(*map(one, work))

    async def replace(self, client: Client) -> None:
        """A client leaves; another with a new key takes its place in the ring."""
        before = self.next_of(client, -1)
        if client.lock.locked() or before.lock.locked() or self.next_of(client).lock.locked():
            return
        async with before.lock, client.lock:
            try:
                await before.unlink()
                await client.unlink()
                await client.stop()
                await client.start()
                await before.link(client)
                await client.link(self.next_of(client))
            except (IrohError, TimeoutError) as error:
                self.failed.append(f"{client.index}: not replaced: {error!r}")
        self.counts["replaced"] += 1

    async def trouble(self, until: float) -> None:
        """Cut and replace at random, about one client in fifty per second."""
        async with asyncio.TaskGroup() as group:
            while time.monotonic() < until:
                await asyncio.sleep(self.rng.expovariate(len(self.clients) / 50))
                client = self.rng.choice(self.clients)
                if self.rng.random() < 0.8:
                    self.counts["cut"] += client.cut()
                else:
                    group.create_task(self.replace(client))

    async def watch(self) -> None:
        while True:
            await asyncio.sleep(1)
            try:
                await self.relay.ask()
            except (TimeoutError, ValueError, OSError):
                pass  # it is being restarted

    async def run(self) -> None:
        await self.relay.start()
        print(f"relay at {self.relay.url}, {self.relay.lives[0]['start']['rss'] >> 10} KiB", flush=True)
        start = time.monotonic()
        await self.gather(*(client.start() for client in self.clients))
        await self.gather(*(client.link(self.next_of(client)) for client in self.clients))
        print(f"{len(self.clients)} clients in a ring after {time.monotonic() - start:.1f} s", flush=True)
        watching = asyncio.create_task(self.watch())
        end = time.monotonic() + self.seconds
        troubling = asyncio.create_task(self.trouble(end))
        await asyncio.sleep(self.seconds / 2)

        down = time.monotonic()
        await self.relay.stop()
        await asyncio.sleep(2)
        await self.relay.start()
        print(f"relay was away for {time.monotonic() - down:.1f} s", flush=True)

        await troubling
        # Everything that should be there is there, and works.
        for client in self.clients:
            if client.conn is None or client.conn.close_reason is not None:
                continue  # in the list of losses or failures
            try:
                await client.echo(client.conn)
                self.counts["alive at the end"] += 1
            except (IrohError, TimeoutError) as error:
                self.lost.append(f"{client.index}: last echo: {error!r}")
        oldest = min(client.since for client in self.clients)
        self.counts["oldest connection, s"] = round(time.monotonic() - oldest)
        for client in self.clients:
            stats = client.endpoint._context.relay.pool.stats  # type: ignore[union-attr]
            self.counts["relay connections"] += stats.relay_conns_success
            self.counts["relay attempts failed"] += stats.relay_conns_failed
        await self.gather(*(client.unlink() for client in self.clients))
        await self.gather(*(client.stop() for client in self.clients))
        watching.cancel()

    async def settle(self, tolerance: int) -> list[str]:
        """Wait until the relay is as empty as at its start; tell what is not."""
        end = time.monotonic() + SETTLE_S
        start = self.relay.lives[-1]["start"]
        while True:
            facts = await self.relay.ask()
            left = [
                f"the relay still has {name} = {facts[name]}"
                for name in ("connections", "keys", "unauthenticated", "out_buffer_bytes")
                if facts[name]
            ]
            if facts["files"] > start["files"]:
                left.append(f"the relay has {facts['files'] - start['files']} more open files")
            if facts["rss"] > start["rss"] + tolerance:
                left.append(f"the relay's memory grew by {facts['rss'] - start['rss'] >> 10} KiB")
            if not left or time.monotonic() > end:
                return left
            await asyncio.sleep(1)


async def soak(options: argparse.Namespace) -> int:
    run = Soak(options.clients, options.minutes * 60, options.pause, options.seed)
    try:
        await run.run()
        problems = await run.settle(options.tolerance << 20)
        await run.relay.stop()
    finally:
        if run.relay.process.returncode is None:
            run.relay.process.kill()
            await run.relay.process.wait()
    took = sorted(run.took)
    print(f"clients            {options.clients}")
    for name in sorted(run.counts):
        print(f"{name:18} {run.counts[name]:,}")
    print(f"echo, ms           p50 {statistics.median(took) * 1e3:.1f}", end="")
    print(f", p99 {took[len(took) * 99 // 100] * 1e3:.1f}, worst {took[-1] * 1e3:.0f}")
    for number, life in enumerate(run.relay.lives):
        last, first = life["last"], life["start"]
        print(
            f"relay process {number + 1}    {first['rss'] >> 10:,} KiB at its start, "
            f"{life['peak'] >> 10:,} at most, {last['rss'] >> 10:,} last; "
            f"{last['cpu'] - first['cpu']:.1f} s CPU, {last['bytes_sent'] / 1e6:,.0f} MB, "
            f"{last['accepts']:,} clients let in, {last['queue_full']:,} datagram frames dropped"
        )
    problems += [f"lost: {text}" for text in run.lost] + run.failed
    if run.wrong:
        problems.append(f"{run.wrong} echoes were wrong")
    if run.counts["alive at the end"] != options.clients:
        problems.append(f"only {run.counts['alive at the end']} of {options.clients} connections at the end")
    for text in problems[:50]:
        print(f"FAILED: {text}")
    if not problems:
        print(f"ok: nothing lost, memory back within {options.tolerance} MiB")
    return 1 if problems else 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--pause", type=float, default=2.0, help="seconds between two echoes")
    parser.add_argument("--tolerance", type=int, default=10, help="MiB of memory the relay may keep")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"))
    parser.add_argument("--relay-port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.clients < 3:
        parser.error("a ring needs three clients")
    try:
        import uvloop

        factory = uvloop.new_event_loop
    except ImportError:
        factory = None
    with asyncio.Runner(loop_factory=factory) as runner:
        if options.relay_port is not None:
            runner.run(serve(options.relay_port))
            return 0
        print(f"seed {options.seed}")
        return runner.run(soak(options))


if __name__ == "__main__":
    sys.exit(main())
