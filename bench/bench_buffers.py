"""Stream buffers: nanoseconds per packet.

Run ``PYTHONPATH=src python bench/bench_buffers.py [rounds]``.  Each line is the best round;
loops over packets are compiled, calls per 64 KiB are Python calls.
"""

from __future__ import annotations

import platform
import random
import sys
import time
from collections.abc import Callable

from iroh_fast.quic._buffers import ReceiveBufferModel, SendBufferModel

PACKET = 1400
BLOCK = 65536
BLOCKS = 160  # 10 MiB per round
PACKETS_PER_BLOCK = -(-BLOCK // PACKET)
DATA = bytes(range(256)) * (BLOCK // 256)


def bench_receive_insert_take() -> int:
    """Insert 64 KiB in order, take it; chunks are handed over whole."""
    b = ReceiveBufferModel()
    for _ in range(BLOCKS):
        b.insert_packets(DATA, PACKET)
        while b.take(BLOCK):
            pass
    return BLOCKS * PACKETS_PER_BLOCK


def bench_receive_insert_read_into() -> int:
    """Insert 64 KiB in order, copy it to a caller's buffer."""
    b = ReceiveBufferModel()
    target = bytearray(BLOCK)
    for _ in range(BLOCKS):
        b.insert_packets(DATA, PACKET)
        b.read_into(target)
    return BLOCKS * PACKETS_PER_BLOCK


def bench_receive_one_small_message() -> int:
    """Insert 100 bytes, take them: a chunk is made and handed over each time."""
    b = ReceiveBufferModel()
    message = DATA[:100]
    for _ in range(5000):
        b.insert_packets(message, PACKET)
        b.take(BLOCK)
    return 5000


def bench_receive_every_second_packet_late() -> int:
    """Odd packets first, then the even ones: each fills a gap."""
    b = ReceiveBufferModel()
    packet = DATA[:PACKET]
    count = 800
    for first in (1, 0):
        for i in range(first, count, 2):
            b.insert(i * PACKET, packet)
    return count


def bench_receive_4096_gaps_random() -> int:
    """One-byte pieces with gaps, in random order: the worst a peer can do."""
    b = ReceiveBufferModel()
    order = list(range(4096))
    random.Random(1).shuffle(order)
    for i in order:
        b.insert(1 + 2 * i, b"x")
    return len(order)


def bench_send_ref_poll_copy_ack() -> int:
    """Write 64 KiB by reference; poll, copy and acknowledge per packet."""
    b = SendBufferModel()
    count = 0
    for _ in range(BLOCKS):
        b.write_ref(DATA)
        count += b.send_all(PACKET, True)
    return count


def bench_send_copied_poll_copy_ack() -> int:
    """The same with 1 KiB writes that are copied."""
    b = SendBufferModel()
    small = DATA[:1024]
    count = 0
    for _ in range(BLOCKS):
        for _ in range(64):
            b.write_copy(small)
        count += b.send_all(PACKET, True)
    return count


def bench_send_ten_byte_segments() -> int:
    """10,000 segments of ten bytes, each written by reference, sent in full packets."""
    b = SendBufferModel()
    tiny = DATA[:10]
    for _ in range(10_000):
        b.write_ref(tiny)
    return b.send_all(PACKET, True)


def best(function: Callable[[], int], rounds: int) -> float:
    """Nanoseconds per packet of the fastest round."""
    result = float("inf")
    for _ in range(rounds):
        started = time.perf_counter_ns()
        count = function()
        result = min(result, (time.perf_counter_ns() - started) / count)
    return result


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    print(f"python {platform.python_version()} {platform.machine()}, packets of {PACKET} B")
    for name, function in sorted(globals().items()):
        if name.startswith("bench_"):
            print(f"{name[6:]:34} {best(function, rounds):9.1f} ns/packet")


if __name__ == "__main__":
    main()
