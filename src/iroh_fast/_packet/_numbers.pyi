from typing import Literal, TypedDict, type_check_only

from typing_extensions import Buffer

_HeaderType = Literal[
    "initial", "0-rtt", "handshake", "retry", "1-rtt", "version-negotiation", "unknown-version"
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

def encode_varint(value: int) -> bytes: ...
def decode_varint(data: Buffer, offset: int = 0) -> tuple[int, int]: ...
def encode_pn(pn: int, largest_acked: int | None = None) -> bytes: ...
def decode_pn(data: Buffer, expected: int) -> int: ...
def parse_header(data: Buffer, dcid_len: int = 8) -> _Header: ...
