"""Cost of batched UDP on loopback, in ns per packet, and the crypto-free limit of two processes.

Run: ``PYTHONPATH=src python -m pytest bench/bench_batch.py -o python_files='bench_*.py'
-o python_functions='bench_*' --benchmark-columns=min,median,rounds``.
``ns_per_packet`` in ``extra_info`` (with ``--benchmark-json``) and on standard output (``-s``) is the
minimum over the rounds divided by the packets of a round.
"""

from __future__ import annotations

import multiprocessing
import time

import pytest

from iroh_fast._batch import UdpSocket, pump_recv, pump_send

SEGMENT = 1452  # the largest datagram of a stock peer
PACKETS = 90  # per round: fits the default receive buffer even as single datagrams
PIPE_BYTES = 1 << 30


@pytest.fixture
def pair():
    a, b = UdpSocket.bind(("127.0.0.1", 0)), UdpSocket.bind(("127.0.0.1", 0))
    yield a, b
    a.close()
    b.close()


def report(benchmark, name, segments):
    ns, median = (t / PACKETS * 1e9 for t in (benchmark.stats.stats.min, benchmark.stats.stats.median))
    benchmark.extra_info.update(ns_per_packet=round(ns, 1), segment=SEGMENT, segments_per_call=segments)
    print(f"\n{name}, {segments} per call: {ns:.0f} ns per packet (median {median:.0f})")


@pytest.mark.benchmark(group="batch-send")
@pytest.mark.parametrize("segments", [1, 10, 45])
def bench_send(benchmark, pair, segments):
    a, b = pair
    to = b.local_address
    lost = 0

    def drain():
        nonlocal lost
        while b.recv():
            pass
        lost = a.stats()["tx_datagrams"] - b.stats()["rx_datagrams"]

    def send():
        pump_send(a, to, PACKETS * SEGMENT, SEGMENT, segments)

    benchmark.pedantic(send, setup=drain, rounds=2000, warmup_rounds=100)
    drain()
    assert lost == 0, "a full receive buffer would make sending look cheap"
    report(benchmark, "send", segments)


@pytest.mark.benchmark(group="batch-receive")
@pytest.mark.parametrize("segments", [1, 10, 45])
def bench_receive(benchmark, pair, segments):
    a, b = pair
    to = b.local_address

    def fill():
        pump_send(a, to, PACKETS * SEGMENT, SEGMENT, segments)

    def receive():
        got = pump_recv(b, PACKETS * SEGMENT, deadline_s=1)
        assert got[1] == PACKETS

    benchmark.pedantic(receive, setup=fill, rounds=2000, warmup_rounds=100)
    report(benchmark, "receive", segments)


def send_forever(port, segments, seconds, results):
    a = UdpSocket.bind(("127.0.0.1", 0))
    cpu = time.process_time()
    sent = pump_send(a, ("127.0.0.1", port), 1 << 62, SEGMENT, segments, deadline_s=seconds)
    results.put((sent, time.process_time() - cpu))
    a.close()


@pytest.mark.benchmark(group="batch-pipe")
@pytest.mark.parametrize("segments", [1, 10, 45])
def bench_pipe_two_processes(benchmark, segments):
    """Goodput at the receiver of a sender without flow control; what overflows the buffer is not counted."""
    context = multiprocessing.get_context("spawn")

    def setup():
        b = UdpSocket.bind(("127.0.0.1", 0))
        results = context.SimpleQueue()
        sender = context.Process(target=send_forever, args=(b.local_address[1], segments, 2.0, results))
        sender.start()
        pump_recv(b, 1, deadline_s=20)  # the interpreter of the sender is up
        return (b, sender, results), {}

    rates = []

    def run(b, sender, results):
        cpu = time.process_time()
        got = pump_recv(b, PIPE_BYTES, deadline_s=1.5)
        rates.append((got[0] / got[3] / 1e6, got[1] / got[3] / 1e3, (time.process_time() - cpu) / got[1] * 1e9))
        sent, cpu = results.get()
        rates[-1] += (sent[0] / sent[3] / 1e6, cpu / sent[1] * 1e9)
        sender.join()
        b.close()

    benchmark.pedantic(run, setup=setup, rounds=3)
    rate, packets, rx_ns, offered, tx_ns = max(rates)
    benchmark.extra_info.update(
        goodput_mb_s=round(rate), offered_mb_s=round(offered), rx_cpu_ns=round(rx_ns), tx_cpu_ns=round(tx_ns),
        segments_per_call=segments,
    )  # fmt: skip
    print(
        f"\npipe, {segments} per call: {rate:.0f} MB/s received ({packets:.0f} k packets/s),"
        f" {offered:.0f} MB/s offered, CPU per packet {rx_ns:.0f} ns receiving, {tx_ns:.0f} ns sending"
    )
