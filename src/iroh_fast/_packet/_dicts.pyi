from typing import Literal

from typing_extensions import Buffer

_Kind = Literal["truncated", "unknown", "malformed"]
_FieldValue = int | bytes | tuple[str, int] | list[tuple[int, int]] | tuple[int, int, int]

class FrameDecodeError(ValueError):
    frame_type: int
    offset: int
    kind: _Kind
    def __init__(self, frame_type: int, offset: int, kind: _Kind) -> None: ...

def decode_frames(payload: Buffer) -> list[dict[str, _FieldValue]]: ...
def encode_frame(frame: dict[str, _FieldValue]) -> bytes: ...
def bench_decode(payload: Buffer, n: int, walk: bool = False) -> int: ...
def bench_put(frame: dict[str, _FieldValue], n: int) -> int: ...
