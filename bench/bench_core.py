"""The QUIC core alone: nanoseconds per packet, both ends in one process, without sockets.

``PYTHONPATH=src python bench/bench_core.py [--megabytes 64] [--rounds 5] [--controller bbr]`` prints
a table of the best round; ``pytest bench/bench_core.py -o python_files='bench_*.py' -o python_functions='bench_*'``
runs the same under pytest-benchmark.  Time is virtual, nothing is lost, no packet meets Python.

Columns: building packets (tx), taking them in (rx), and both without packet protection, which is
measured apart on packets of the same size.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from iroh_fast.config import QuicTransportConfig
from iroh_fast.quic._endpoint import QuicEndpoint
from iroh_fast.quic.tls import Identity

sys.path.insert(0, str(Path(__file__).parent / "rivals"))
from _build import load_pyx

pump = load_pyx(Path(__file__).with_name("core_pump.pyx"))

SUITE = 0x1301
CLIENT, SERVER = ("10.0.0.1", 1111), ("10.0.0.2", 2222)
ALPN = b"bench/1"
US, MS = 1000, 1_000_000
LATENCY = 50 * US
BLOCK = bytes(range(256)) * 4096  # 1 MiB
TRANSPORT = QuicTransportConfig(initial_mtu=1452, mtu_discovery=None)


@cache
def crypto(size: int) -> tuple[float, float]:
    """ns to protect and to unprotect a packet of `size` bytes."""
    seal, opened = pump.crypto_cost(SUITE, bytes(32), max(40, size))
    return seal, opened


@dataclass
class Phase:
    """Means of one direction; ns per packet."""

    name: str
    packets: int
    size: float
    tx: float
    rx: float
    deadline: float

    @property
    def seal(self) -> float:
        return crypto(round(self.size))[0]

    @property
    def open(self) -> float:
        return crypto(round(self.size))[1]

    def row(self) -> str:
        return (
            f"{self.name:32} {self.packets:9} {self.size:7.0f} {self.tx:8.0f} {self.rx:8.0f}"
            f" {self.tx - self.seal:10.0f} {self.rx - self.open:10.0f} {self.deadline:9.0f}"
        )


HEADINGS = (
    f"{'':32} {'packets':>9} {'bytes':>7} {'tx ns':>8} {'rx ns':>8}"
    f" {'tx-crypto':>10} {'rx-crypto':>10} {'timers':>9}"
)


class Net:
    """Two endpoints with one connection, on a clock of their own."""

    transport = TRANSPORT  # of all that are made

    def __init__(self) -> None:
        self.now = 10**12
        self.client_end = QuicEndpoint(Identity(b"\1" * 32), clock=lambda: self.now)
        self.server_end = QuicEndpoint(Identity(b"\2" * 32), clock=lambda: self.now)
        self.server_end.on_incoming = self.on_incoming
        self.forth = pump.Pump(self.client_end, CLIENT, self.server_end, SERVER)
        self.back = pump.Pump(self.server_end, SERVER, self.client_end, CLIENT)
        self.accepted: list[Any] = []
        self.connect()

    def on_incoming(self, incoming: Any) -> None:
        self.accepted.append(incoming.accept([ALPN], self.transport, self.now))

    def connect(self) -> None:
        """Replace the connection by a new one, confirmed by both sides."""
        self.accepted.clear()
        self.client = self.client_end.connect(
            [SERVER],
            expected_peer=self.server_end.identity.public_key,
            alpns=[ALPN],
            transport=self.transport,
            now=self.now,
        )
        for _ in range(50):
            self.turn()
            if self.client.handshake_confirmed and self.accepted[0].handshake_confirmed:
                break
        else:
            raise RuntimeError("no connection")
        self.server = self.accepted[0]
        while self.turn():
            pass
        self.forth.reset()
        self.back.reset()

    def turn(self) -> int:
        """One exchange in each direction; the number of packets."""
        count = self.forth.turn(self.client, self.now, LATENCY)
        self.now += LATENCY
        if self.accepted:
            count += self.back.turn(self.accepted[-1], self.now, LATENCY)
        self.now += LATENCY
        due = pump.settle_timers(self.client, self.now)
        if self.accepted:
            other = pump.settle_timers(self.accepted[-1], self.now)
            due = min(due or other, other or due)
        if not count and due and due - self.now < 20 * MS:
            # Nothing but a timer (the pacer, a delayed acknowledgement) goes on.
            self.now = max(self.now, due)
            pump.settle_timers(self.client, self.now)
            if self.accepted:
                pump.settle_timers(self.accepted[-1], self.now)
            return 1
        return count

    def close(self) -> None:
        self.client.close(0, b"")
        self.turn()


def phase(name: str, p: Any) -> Phase:
    if not p.packets:
        raise RuntimeError(f"{name}: nothing was sent")
    size = p.bytes / p.packets
    clock = pump.clock_cost()
    return Phase(
        name,
        p.packets,
        size,
        (p.tx_ns - clock * p.batches) / p.packets,
        (p.rx_ns - clock * p.batches) / p.packets,
        p.deadline_ns / p.packets,
    )


# --- workloads -----------------------------------------------------------------------------


def bulk(megabytes: int) -> tuple[list[Phase], int]:
    """One stream, client to server."""
    net = Net()
    stream = net.client.open_stream(False)
    left, received, offset = megabytes << 20, 0, 0
    remote = None
    while received < megabytes << 20:
        while left:
            n = stream.write(BLOCK, offset)
            if not n:
                break
            offset = (offset + n) % len(BLOCK)
            left -= min(n, left)
        if not left and stream.send_state == "ready":
            stream.finish()
        net.turn()
        if remote is None:
            remote = net.server.accept_stream(False)
        if remote is not None:
            while chunk := remote.read(1 << 20):
                received += len(chunk)
    net.close()
    return [
        phase("bulk: data", net.forth),
        phase("bulk: acknowledgements", net.back),
    ], net.forth.packets


def requests(count: int) -> tuple[list[Phase], int]:
    """128 bytes there, 1 KiB back, each on its own stream, 50 at a time."""
    net = Net()
    ask, answer = bytes(128), bytes(1024)
    done = 0
    while done < count:
        waiting: dict[Any, int] = {}  # bytes missing
        for _ in range(50):
            s = net.client.open_stream(True)
            if s is None:
                break
            s.write(ask)
            s.finish()
            waiting[s] = len(answer)
        net.turn()
        done += len(waiting)
        while waiting:
            while (r := net.server.accept_stream(True)) is not None:
                if r.read() != ask or r.read() != b"":
                    raise RuntimeError("a request is incomplete")
                r.write(answer)
                r.finish()
            net.turn()
            for s in list(waiting):
                while (got := s.read()) is not None:
                    waiting[s] -= len(got)
                    if not got:
                        break
                if got is not None:
                    if waiting.pop(s):
                        raise RuntimeError("an answer is incomplete")
    net.close()
    return [phase("requests", net.forth), phase("answers", net.back)], done


def datagrams(count: int) -> tuple[list[Phase], int]:
    """1200 bytes each, 150 at a time."""
    net = Net()
    data, got = bytes(1200), 0
    for _ in range(0, count, 150):
        for _ in range(150):
            net.client.send_datagram(data)
        for _ in range(4):
            net.turn()
        while net.server.read_datagram() is not None:
            got += 1
    if got < count:
        raise RuntimeError(f"{got} of {count} datagrams arrived")
    net.close()
    return [phase("datagrams", net.forth)], got


def echo(count: int) -> tuple[list[Phase], int]:
    """One datagram of 64 bytes there and back: the fixed costs of a turn with a single packet."""
    net = Net()
    data = bytes(64)
    for _ in range(count):
        net.client.send_datagram(data)
        while (got := net.server.read_datagram()) is None:
            net.turn()
        net.server.send_datagram(got)
        while net.client.read_datagram() is None:
            net.turn()
    net.close()
    return [phase("echo: there", net.forth), phase("echo: back", net.back)], count


def handshakes(count: int) -> tuple[list[Phase], int]:
    """Connections one after the other, both sides, with TLS."""
    net = Net()
    for _ in range(count):
        net.close()
        net.connect()
    net.close()
    return [], count


# --- running -------------------------------------------------------------------------------

Workload = Callable[[int], tuple[list[Phase], int]]


def best(workload: Workload, amount: int, rounds: int) -> tuple[list[Phase], float]:
    """The fastest round of each phase, and seconds per unit of the fastest round."""
    phases: list[Phase] = []
    seconds = float("inf")
    for _ in range(rounds):
        begin = time.perf_counter()
        found, units = workload(amount)
        seconds = min(seconds, (time.perf_counter() - begin) / units)
        if not phases:
            phases = found
        phases = [min(pair, key=lambda p: p.tx + p.rx) for pair in zip(phases, found, strict=True)]
    return phases, seconds


def measured(benchmark: Any, workload: Workload, amount: int) -> None:
    found: list[Phase] = []

    def run() -> None:
        found[:] = workload(amount)[0]

    benchmark.group = "core"
    benchmark.pedantic(run, rounds=5, warmup_rounds=1)
    for p in found:
        benchmark.extra_info[p.name] = {
            "packets": p.packets,
            "tx_ns": round(p.tx),
            "rx_ns": round(p.rx),
            "tx_without_crypto_ns": round(p.tx - p.seal),
            "rx_without_crypto_ns": round(p.rx - p.open),
        }


def bench_core_bulk(benchmark: Any) -> None:
    measured(benchmark, bulk, 64)


def bench_core_requests(benchmark: Any) -> None:
    measured(benchmark, requests, 5000)


def bench_core_datagrams(benchmark: Any) -> None:
    measured(benchmark, datagrams, 15_000)


def bench_core_echo(benchmark: Any) -> None:
    measured(benchmark, echo, 5000)


def bench_core_handshakes(benchmark: Any) -> None:
    measured(benchmark, handshakes, 20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=("bulk", "requests", "datagrams", "echo", "handshakes"))
    parser.add_argument(
        "--controller", choices=("bbr", "cubic", "newreno"), help="default: the library's"
    )
    args = parser.parse_args()
    if args.controller:
        Net.transport = replace(TRANSPORT, congestion_controller=args.controller)
    print(f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} CPUs")
    print(HEADINGS)
    work: list[tuple[str, Workload, int, str]] = [
        ("bulk", bulk, args.megabytes, "per packet, application included"),
        ("requests", requests, 5000, "per exchange, both sides, application included"),
        ("datagrams", datagrams, 15_000, "per datagram, application included"),
        ("echo", echo, 5000, "per round trip, application included"),
        ("handshakes", handshakes, 20, "per connection, both sides"),
    ]
    for name, workload, amount, unit in work:
        if args.only in (None, name):
            phases, seconds = best(workload, amount, args.rounds)
            for p in phases:
                print(p.row())
            print(f"{name:32} {seconds * 1e6:9.2f} us {unit}")


if __name__ == "__main__":
    main()
