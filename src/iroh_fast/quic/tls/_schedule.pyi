from collections.abc import Callable
from hashlib import _Hash
from typing import Final

AES_128_GCM_SHA256: Final = 0x1301
AES_256_GCM_SHA384: Final = 0x1302
CHACHA20_POLY1305_SHA256: Final = 0x1303

class Kdf:
    name: str
    new: Callable[..., _Hash]
    size: int
    zeros: bytes
    empty_hash: bytes
    early_derived: bytes
    def __init__(self, name: str, suite: int) -> None: ...
    def transcript(self, data: bytes) -> _Hash: ...
    def extract(self, salt: bytes, key: bytes) -> bytes: ...
    def derive(self, secret: bytes, label: bytes, context: bytes) -> bytes: ...
    def expand_label(self, secret: bytes, label: bytes, context: bytes, length: int) -> bytes: ...
    def finished(self, traffic_secret: bytes, transcript_hash: bytes) -> bytes: ...

SHA256: Kdf
SHA384: Kdf
KDF: dict[int, Kdf]

def equal(a: bytes, b: bytes) -> bool: ...
