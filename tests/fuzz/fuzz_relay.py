"""Relay frames and their WebSocket framing, as both ends read them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from iroh_fast._relay import (
    ClientReader,
    RelayFrameError,
    WsProtocolError,
    WsReader,
    build_message,
    decode_frame,
    encode_frame,
)

MASK = b"mask"
MAX_PAYLOAD = 20_000


def relay_seeds(frames: list[bytes]) -> list[bytes]:
    """From encoded frames: alone, as messages of a server and of a client, cut into fragments."""
    seeds = [bytes((mode,)) + data for data in frames for mode in (0, 1, 2, 3)]
    plain = b"".join(build_message(2, data) for data in frames)
    masked = b"".join(build_message(2, data, MASK) for data in frames)
    control = b"".join(build_message(op, b"\x03\xe8bye") for op in (9, 10, 1, 8))
    fragments = b"\x02\x03abc" + b"\x00\x02de" + build_message(9, b"between") + b"\x80\x01f"
    long = b"\x82\x7e" + (300).to_bytes(2, "big") + bytes(300)
    longer = b"\x82\x7f" + (2**40).to_bytes(8, "big")
    for mode in (4, 6):
        seeds += [bytes((mode,)) + data for data in (plain, control, fragments, long, longer)]
    seeds.append(b"\x05" + masked + b"".join(build_message(op, b"hi", MASK) for op in (9, 1, 8)))
    return seeds


def outcome(reader: Any, chunks: list[bytes], take: Callable[[Any], Any]) -> list[Any]:
    """Everything a reader gives for some bytes, and the error that ends it."""
    found: list[Any] = []
    for chunk in chunks:
        reader.feed(chunk)
        try:
            while (item := take(reader)) is not None:
                found.append(item)
        except (RelayFrameError, WsProtocolError) as error:
            found.append((type(error), str(error)))
            break
    return found


def run_relay(data: bytes) -> None:
    """The first byte chooses the reader."""
    mode = data[0] if data else 0
    rest = data[1:]
    if not mode & 4:
        sender, version = ("client", "server")[mode & 1], 1 + (mode >> 1 & 1)
        try:
            frame = decode_frame(rest, sender=sender, version=version)
        except RelayFrameError as error:
            assert error.kind
            return
        if frame.get("contents") == b"":
            return  # may be received, is never sent
        try:
            encoded = encode_frame(frame)
        except RelayFrameError as error:
            # A single datagram may come with one byte more than may be sent.
            assert error.kind == "FrameTooLarge"
            return
        assert decode_frame(encoded, sender=sender, version=version) == frame
        return

    def make() -> Any:
        if mode & 2:
            return ClientReader(max_payload=MAX_PAYLOAD)
        return WsReader(("client", "server")[mode & 1], max_payload=MAX_PAYLOAD)

    take = ClientReader.next if mode & 2 else WsReader.next_message
    whole = outcome(make(), [rest], take)
    size = 1 + (mode >> 3)
    cut = outcome(make(), [rest[at : at + size] for at in range(0, len(rest), size)][:3000], take)
    # However the bytes arrive, the messages are the same.
    assert whole[: len(cut)] == cut
    if len(rest) <= 3000 * size:
        assert len(whole) == len(cut)
