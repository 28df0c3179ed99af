from collections.abc import Iterable
from typing import Final

CLIENT_HELLO: Final = 1
SERVER_HELLO: Final = 2
NEW_SESSION_TICKET: Final = 4
ENCRYPTED_EXTENSIONS: Final = 8
CERTIFICATE: Final = 11
CERTIFICATE_REQUEST: Final = 13
CERTIFICATE_VERIFY: Final = 15
FINISHED: Final = 20
MESSAGE_NAMES: Final[dict[int, str]]
MAX_EARLY_DATA: Final = 0xFFFFFFFF
MAX_TICKET_LIFETIME_S: Final = 604800
CERTIFICATE_REQUEST_MESSAGE: Final[bytes]

class ClientHello:
    random: bytes
    session_id: bytes
    suite: int
    share: bytes
    parameters: bytes
    alpn: bytes | None
    alpns: tuple[bytes, ...]
    tickets_wanted: bool
    early_data: bool
    identity: bytes | None
    binder: bytes | None
    age: int
    binders_size: int

def read_client_hello(message: bytes, accepted: tuple[bytes, ...]) -> ClientHello: ...
def read_server_hello(
    message: bytes, retry_random: bytes, suites: tuple[int, ...], psk_offered: bool
) -> tuple[int, bytes, bool]: ...
def read_encrypted_extensions(
    message: bytes, offered: tuple[bytes, ...], early_offered: bool
) -> tuple[bytes, bytes, bool]: ...
def check_certificate_request(message: bytes) -> None: ...
def read_ticket(message: bytes) -> tuple[int, int, bytes, bytes, int]: ...
def read_certificate(message: bytes) -> list[bytes]: ...
def read_certificate_verify(message: bytes) -> bytes: ...
def message(kind: int, content: bytes) -> bytes: ...
def vector8(value: bytes) -> bytes: ...
def vector16(value: bytes) -> bytes: ...
def vector24(value: bytes) -> bytes: ...
def extension(kind: int, value: bytes) -> bytes: ...
def alpn_extension(names: Iterable[bytes]) -> bytes: ...
def write_client_hello(
    random: bytes,
    share: bytes,
    suites: bytes,
    alpns: bytes,
    parameters: bytes,
    tickets: bool,
    early: bool,
    noise: bytes,
    psk: bytes = b"",
) -> bytes: ...
def write_server_hello(
    random: bytes, session_id: bytes, suite: int, share: bytes, resumed: bool
) -> bytes: ...
def write_encrypted_extensions(alpn: bytes | None, parameters: bytes, early: bool) -> bytes: ...
def write_certificate_verify(signature: bytes) -> bytes: ...
def write_ticket(lifetime: int, age_add: bytes, nonce: bytes, identity: bytes) -> bytes: ...
