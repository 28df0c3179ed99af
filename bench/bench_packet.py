"""Cost of the packet codec, ns per frame (``extra_info["ns_per_frame"]``).

Run: ``python -m pytest bench/bench_packet.py --benchmark-columns=min,median``
with ``-o python_files='bench_*.py' -o python_functions='bench_*'``. The loops run in
compiled code, so that the figures hold for the data path and not for Python calls;
the rival (aioquic's ACK decoder) is called from Python, the only way it can be.
"""

from __future__ import annotations

from typing import Any

import pytest
from aioquic.buffer import Buffer
from aioquic.quic.packet import pull_ack_frame

from iroh_fast._packet import bench_decode, bench_put, encode_frame

LOOPS = 20_000


def ack(ranges: int, path_id: int | None = None, start: int = 100_000) -> dict[str, Any]:
    bounds = [(start - 5 * i - 2, start - 5 * i) for i in range(ranges)]
    frame: dict[str, Any] = {"type": 0x02, "largest": start, "delay": 100, "ranges": bounds}
    if path_id is not None:
        frame |= {"type": 0x3E, "path_id": path_id}
    return frame


def stream(frame_type: int, size: int) -> dict[str, Any]:
    return {"type": frame_type, "id": 4, "offset": 5_000_000, "fin": False, "data": bytes(size)}


FRAMES = {
    "stream-open-1200B": stream(0x0C, 1200),
    "stream-len-1200B": stream(0x0E, 1200),
    **{f"ack-{n}": ack(n) for n in (1, 10, 64)},
    **{f"path-ack-{n}": ack(n, 1) for n in (1, 10, 64)},
}
DECODED = {
    **FRAMES,
    "datagram-1200B": {"type": 0x31, "data": bytes(1200)},
    "max-stream-data": {"type": 0x11, "id": 4, "max": 5_000_000},
    "padding-1200B": {"type": 0x00, "length": 1200},
    "ping": {"type": 0x01},
}


def report(benchmark: Any, loops: int = LOOPS) -> None:
    benchmark.extra_info["ns_per_frame"] = benchmark.stats.stats.min / loops * 1e9


@pytest.mark.benchmark(group="packet-decode")
@pytest.mark.parametrize("name", DECODED)
def bench_packet_decode(benchmark: Any, name: str) -> None:
    payload = encode_frame(DECODED[name])
    assert benchmark(bench_decode, payload, LOOPS) == LOOPS
    report(benchmark)


@pytest.mark.benchmark(group="packet-decode")
@pytest.mark.parametrize("name", [name for name in FRAMES if "ack" in name])
def bench_packet_decode_and_walk(benchmark: Any, name: str) -> None:
    payload = encode_frame(FRAMES[name])
    assert benchmark(bench_decode, payload, LOOPS, True) == LOOPS
    report(benchmark)


@pytest.mark.benchmark(group="packet-put")
@pytest.mark.parametrize("name", FRAMES)
def bench_packet_put(benchmark: Any, name: str) -> None:
    assert benchmark(bench_put, FRAMES[name], LOOPS) > 0
    report(benchmark)


@pytest.mark.benchmark(group="packet-decode")
@pytest.mark.parametrize("ranges", [1, 10, 64])
def bench_aioquic_ack(benchmark: Any, ranges: int) -> None:
    body = encode_frame(ack(ranges))[1:]
    benchmark(lambda: pull_ack_frame(Buffer(data=body)))
    report(benchmark, 1)
