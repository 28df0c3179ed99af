"""Relay frames."""

from typing import Final, Literal, TypedDict, type_check_only

from typing_extensions import Buffer

from ..errors import RelayFrameError as RelayFrameError
from ._websocket import build_message as build_message

DATAGRAM: Final[int]
DATAGRAM_BATCH: Final[int]
ENDPOINT_GONE: Final[int]
PING: Final[int]
PONG: Final[int]
HEALTH: Final[int]
RESTARTING: Final[int]
STATUS: Final[int]
TEXT: Final[int]
WS_CLOSED: Final[int]
WS_PINGED: Final[int]
WS_PONGED: Final[int]
MAX_DATAGRAM_CONTENTS: Final[int]
MAX_BATCH_CONTENTS: Final[int]

@type_check_only
class _Frame(TypedDict, total=False):
    type: int
    dst: bytes
    src: bytes
    ecn: int
    segment_size: int | None
    contents: bytes
    endpoint: bytes
    data: bytes
    text: str
    reconnect_in_ms: int
    try_for_ms: int
    status: int

def is_valid_key(key: Buffer) -> bool: ...
def decode_frame(
    data: Buffer, *, sender: Literal["client", "server"], version: int = ...
) -> _Frame: ...
def encode_frame(frame: _Frame) -> bytes: ...
def build_frame(type: int, body: Buffer = ..., mask: Buffer | None = ...) -> bytes: ...
def build_datagram(
    key: Buffer, ecn: int, segment_size: int, data: Buffer, mask: Buffer
) -> bytes: ...
