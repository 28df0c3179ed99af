import logging
from collections.abc import Callable, Sequence
from typing import Final, Self, final

from typing_extensions import Buffer, disjoint_base

from iroh_fast.config import QuicTransportConfig
from iroh_fast.quic._connection import QuicConnection
from iroh_fast.quic._state import Host
from iroh_fast.quic.tls import Identity
from iroh_fast.quic.tls.sessions import ClientSessionCache, ServerTicketStore
from iroh_fast.quic.tls.tokens import TokenKey
from iroh_fast.quic.tls.x509 import ClientTls, ServerTls

_Address = tuple[str, int] | tuple[str, int, int, int]

logger: logging.Logger
DEFAULT_MAX_INCOMING: Final[int]
DEFAULT_INCOMING_BUFFER: Final[int]
DEFAULT_INCOMING_TOTAL: Final[int]
MAX_OUTGOING: Final[int]

@disjoint_base
class Waker: ...

@final
class QuicIncoming:
    @property
    def remote(self) -> _Address: ...
    @property
    def local(self) -> _Address | None: ...
    @property
    def validated(self) -> bool: ...
    @property
    def alpns(self) -> list[bytes] | None: ...
    def accept(
        self, alpns: Sequence[bytes], transport: QuicTransportConfig, now: int = 0
    ) -> QuicConnection: ...
    def refuse(self) -> None: ...
    def ignore(self) -> None: ...
    def retry(self) -> None: ...

@final
class QuicEndpoint(Host):
    on_incoming: Callable[[QuicIncoming], object] | None
    accepting: bool
    max_incoming: int
    incoming_buffer: int
    incoming_total: int
    counters: dict[str, int]
    def __new__(
        cls,
        identity: Identity,
        *,
        random: Callable[[int], bytes] = ...,
        session_cache: ClientSessionCache | None = None,
        server_tickets: ServerTicketStore | None = None,
        keylog: Callable[[str], object] | None = None,
        wall_clock: Callable[[], float] = ...,
        clock: Callable[[], int] | None = None,
        tls: ClientTls | ServerTls | None = None,
    ) -> Self: ...
    @property
    def identity(self) -> Identity: ...
    @property
    def connections(self) -> dict[int, QuicConnection]: ...
    def count(self, name: str) -> None: ...
    def closed_for_new(self) -> bool: ...
    def fresh_cid(self) -> bytes: ...
    def seal_retry(self, ip16: bytes, port: int, odcid: bytes) -> bytes: ...
    def tokens(self) -> TokenKey: ...
    def connect(
        self,
        remotes: Sequence[_Address],
        *,
        expected_peer: bytes | None = None,
        alpns: Sequence[bytes],
        transport: QuicTransportConfig,
        now: int = 0,
        resume: bool = True,
        tls: ClientTls | None = None,
    ) -> QuicConnection: ...
    def accept(
        self, i: QuicIncoming, alpns: Sequence[bytes], transport: QuicTransportConfig, now: int
    ) -> QuicConnection: ...
    # without sockets
    def receive_datagram(
        self,
        data: Buffer,
        remote: _Address,
        now: int,
        local: _Address | None = None,
        ecn: int = 0,
    ) -> None: ...
    def transmit(
        self, c: QuicConnection, now: int, max_segments: int = 1
    ) -> tuple[_Address, _Address | None, int, int, bytes, list[_Address]] | None: ...
    def take_replies(self) -> list[tuple[_Address, _Address, bytes]]: ...
    def timeout(self, c: QuicConnection) -> int | None: ...
    def handle_timeout(self, c: QuicConnection, now: int) -> None: ...
    def known_ids(self) -> int: ...

class AddressTokenSink:
    __slots__ = ("cache", "peer")
    cache: ClientSessionCache
    peer: bytes
    def __init__(self, cache: ClientSessionCache, peer: bytes) -> None: ...
    def __call__(self, token: bytes) -> None: ...

def peek_alpns(dcid: bytes, datagrams: list[bytes]) -> list[bytes]: ...
def client_hello_alpns(m: bytes) -> list[bytes]: ...
