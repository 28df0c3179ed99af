import logging
from collections.abc import Callable, Sequence
from typing import Final, Self, final

from typing_extensions import Buffer, disjoint_base

from iroh_fast.quic._admission import AdmissionHost
from iroh_fast.quic._connection import QuicConnection
from iroh_fast.quic.config import QuicTransportConfig
from iroh_fast.quic.tls import Identity
from iroh_fast.quic.tls.sessions import ClientSessionCache, ServerTicketStore
from iroh_fast.quic.tls.x509 import ClientTls, ServerTls

_Address = tuple[str, int] | tuple[str, int, int, int]

logger: logging.Logger
MAX_OUTGOING: Final[int]

@disjoint_base
class Waker: ...

@final
class QuicEndpoint(AdmissionHost):
    interface_limit: int
    @property
    def window_budget(self) -> int: ...
    @window_budget.setter
    def window_budget(self, value: int) -> None: ...
    @property
    def window_budget_used(self) -> int: ...
    @property
    def window_budget_refused(self) -> int: ...
    @property
    def max_incoming(self) -> int: ...
    @max_incoming.setter
    def max_incoming(self, value: int) -> None: ...
    @property
    def incoming_buffer(self) -> int: ...
    @incoming_buffer.setter
    def incoming_buffer(self, value: int) -> None: ...
    @property
    def incoming_total(self) -> int: ...
    @incoming_total.setter
    def incoming_total(self, value: int) -> None: ...
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
        window_budget: int = ...,
    ) -> Self: ...
    @property
    def held_probes(self) -> int: ...
    @property
    def identity(self) -> Identity: ...
    @property
    def connections(self) -> dict[int, QuicConnection]: ...
    def fresh_cid(self) -> bytes: ...
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
    # without sockets
    def receive_datagram(
        self,
        data: Buffer,
        remote: _Address,
        now: int,
        local: _Address | None = None,
        ecn: int = 0,
    ) -> None: ...
    def too_big(self, conn: QuicConnection, remote: _Address, size: int, now: int) -> None: ...
    def transmit(
        self, conn: QuicConnection, now: int, max_segments: int = 1
    ) -> tuple[_Address, _Address | None, int, int, bytes, list[_Address]] | None: ...
    def take_replies(self) -> list[tuple[_Address, _Address, bytes]]: ...
    def timeout(self, conn: QuicConnection) -> int | None: ...
    def handle_timeout(self, conn: QuicConnection, now: int) -> None: ...
    def known_ids(self) -> int: ...
