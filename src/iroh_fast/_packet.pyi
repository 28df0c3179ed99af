from typing import Literal, TypedDict, type_check_only

from typing_extensions import Buffer

_Kind = Literal["truncated", "unknown", "malformed"]
_HeaderType = Literal[
    "initial", "0-rtt", "handshake", "retry", "1-rtt", "version-negotiation", "unknown-version"
]
_FieldValue = int | bytes | tuple[str, int] | list[tuple[int, int]] | tuple[int, int, int]

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

@type_check_only
class _Header(TypedDict):
    type: _HeaderType
    first: int
    version: int | None
    dcid: bytes
    scid: bytes
    token: bytes
    pn_offset: int
    packet_len: int

class FrameDecodeError(ValueError):
    frame_type: int
    offset: int
    kind: _Kind
    def __init__(self, frame_type: int, offset: int, kind: _Kind) -> None: ...

def encode_varint(value: int) -> bytes: ...
def decode_varint(data: Buffer, offset: int = 0) -> tuple[int, int]: ...
def encode_pn(pn: int, largest_acked: int | None = None) -> bytes: ...
def decode_pn(data: Buffer, expected: int) -> int: ...
def parse_header(data: Buffer, dcid_len: int = 8) -> _Header: ...
def decode_frames(payload: Buffer) -> list[dict[str, _FieldValue]]: ...
def encode_frame(frame: dict[str, _FieldValue]) -> bytes: ...
def bench_decode(payload: Buffer, n: int, walk: bool = False) -> int: ...
def bench_put(frame: dict[str, _FieldValue], n: int) -> int: ...
