"""QUIC packet headers, varints and frames.

The compiled rooms work on raw memory, touch no Python object and allocate nothing: `_varint`, `_headers`, `_frames` (what
arrives) and `_put` (what leaves); the core cimports them. The Python functions below are for tests, fuzzing, qlog and
tools, and are loaded when they are first used.
"""

from __future__ import annotations

_ROOMS = {
    "_numbers": ("decode_pn", "decode_varint", "encode_pn", "encode_varint", "parse_header"),
    "_dicts": ("FrameDecodeError", "bench_decode", "bench_put", "decode_frames", "encode_frame"),
}

__all__ = [
    "FrameDecodeError",
    "bench_decode",
    "bench_put",
    "decode_frames",
    "decode_pn",
    "decode_varint",
    "encode_frame",
    "encode_pn",
    "encode_varint",
    "parse_header",
]


def __getattr__(name: str) -> object:
    from importlib import import_module

    for room, names in _ROOMS.items():
        if name in names:
            module = import_module(f"{__name__}.{room}")
            globals().update((each, getattr(module, each)) for each in names)
            return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
