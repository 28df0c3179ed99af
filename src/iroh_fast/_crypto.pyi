import sys
from collections.abc import Iterable
from typing import Literal, TypedDict, final

if sys.version_info >= (3, 12):
    from collections.abc import Buffer
else:
    from typing_extensions import Buffer

_Backend = Literal["openssl", "ipsec-mb"]
_Hash = Literal["sha256", "sha384"]
_Suites = TypedDict(
    "_Suites",
    {
        "aes-128-gcm": _Backend | None,
        "aes-256-gcm": _Backend | None,
        "chacha20-poly1305": _Backend | None,
    },
)
_Libraries = TypedDict(
    "_Libraries", {"openssl": str, "openssl_headers": str, "ipsec-mb": str | None}
)

class _BackendInfo(TypedDict):
    suites: _Suites
    libraries: _Libraries
    available: list[_Backend]

class _BuildSwitches(TypedDict):
    compiler: str
    flags: str
    sanitize: str
    debug: bool
    trace: bool
    ipsec_mb: bool

@final
class PacketProtection:
    def __new__(
        cls, suite: int, secret: Buffer, *, backend: _Backend | None = None
    ) -> PacketProtection: ...
    @property
    def suite(self) -> int: ...
    @property
    def backend(self) -> _Backend: ...
    def seal(self, path_id: int, pn: int, header: Buffer, payload: Buffer) -> bytes: ...
    def open(self, path_id: int, pn: int, header: Buffer, payload: Buffer) -> bytes: ...
    def header_mask(self, sample: Buffer) -> bytes: ...
    def header_masks(self, samples: Iterable[Buffer]) -> list[bytes]: ...
    def seal_many(self, count: int, size: int, header_size: int = 11) -> int: ...
    def open_many(self, count: int, size: int, header_size: int = 11) -> int: ...
    def masks_many(self, count: int, batch: int) -> int: ...

def hkdf_expand_label(
    suite_or_hash: int | _Hash, secret: Buffer, label: bytes, length: int
) -> bytes: ...
def initial_secrets(dcid: Buffer) -> tuple[bytes, bytes]: ...
def next_secret(suite: int, secret: Buffer) -> bytes: ...
def retry_integrity_tag(odcid: Buffer, packet: Buffer) -> bytes: ...
def hmac_sha256(key: Buffer, data: Buffer) -> bytes: ...
def constant_time_equal(a: Buffer, b: Buffer) -> bool: ...
def backend() -> _BackendInfo: ...
def build_switches() -> _BuildSwitches: ...
def derive_many(count: int, suite: int) -> int: ...
