"""Cost of the relay codec per frame: the client's reader and writer, and the key check.

Run: ``python -m pytest bench/bench_relay.py --benchmark-columns=min,median``
with ``-o python_files='bench_*.py' -o python_functions='bench_*'``. The rival is the `websockets`
library doing the framing alone. The whole server is measured by ``relay_compare.py``.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from websockets.frames import Frame, Opcode

from iroh_fast import PublicKey, SecretKey
from iroh_fast._relay import ClientReader, ClientWriter, build_message, encode_frame, is_valid_key

KEY = bytes(SecretKey(bytes(32)).public)
FRAMES = 50
SIZES = {"1200B": (1200, 0), "12000B-batch10": (12_000, 1200)}


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.benchmark(group="relay-write")
def bench_write_iroh_fast(benchmark: Any, name: str) -> None:
    size, segment = SIZES[name]
    data, writer = os.urandom(size), ClientWriter()

    def run() -> bytes:
        for _ in range(FRAMES):
            writer.add_datagram(KEY, 0, segment, data)
        return writer.take()

    assert len(benchmark(run)) > FRAMES * size


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.benchmark(group="relay-write")
def bench_write_websockets(benchmark: Any, name: str) -> None:
    size, _ = SIZES[name]
    data = os.urandom(size)
    head = b"\x04" + KEY + b"\x00"

    def run() -> bytes:
        return b"".join(
            Frame(Opcode.BINARY, head + data).serialize(mask=True) for _ in range(FRAMES)
        )

    assert len(benchmark(run)) > FRAMES * size


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.benchmark(group="relay-read")
def bench_read_iroh_fast(benchmark: Any, name: str) -> None:
    size, segment = SIZES[name]
    frame = encode_frame(
        {
            "type": 6,
            "src": KEY,
            "ecn": 0,
            "segment_size": segment or None,
            "contents": os.urandom(size),
        }
    )
    stream, reader = build_message(2, frame) * FRAMES, ClientReader()

    def run() -> int:
        reader.feed(stream)
        return len(reader.drain())

    assert benchmark(run) == FRAMES


@pytest.mark.benchmark(group="relay-key")
def bench_key_check(benchmark: Any) -> None:
    assert benchmark(is_valid_key, KEY)


@pytest.mark.benchmark(group="relay-key")
def bench_key_check_identity_module(benchmark: Any) -> None:
    assert benchmark(PublicKey, KEY)
