from collections.abc import Callable, Iterable
from typing import Final, Literal, TypedDict, final, type_check_only

from typing_extensions import Buffer

from iroh_fast.quic._core import Connection
from iroh_fast.quic._streams import QuicStream

_Address = tuple[str, int] | tuple[str, int, int, int]

WAIT_HANDSHAKE: Final[int]
WAIT_CONFIRMED: Final[int]
WAIT_ALPN: Final[int]
WAIT_CLOSED: Final[int]
WAIT_DRAINED: Final[int]
WAIT_DATAGRAM: Final[int]
WAIT_DATAGRAM_SPACE: Final[int]
WAIT_ACCEPT_BI: Final[int]
WAIT_ACCEPT_UNI: Final[int]
WAIT_OPEN_BI: Final[int]
WAIT_OPEN_UNI: Final[int]
WAIT_FINISHED: Final[int]
WAIT_PATHS: Final[int]
FRAME_NAMES: Final[tuple[str, ...]]
STATE_NAMES: Final[tuple[str, ...]]

@type_check_only
class _Udp(TypedDict):
    datagrams: int
    bytes: int

@type_check_only
class _Stats(TypedDict):
    udp_tx: _Udp
    udp_rx: _Udp
    frame_tx: dict[str, int]
    frame_rx: dict[str, int]
    lost_packets: int
    lost_bytes: int

@type_check_only
class _PathStats(_Stats):
    rtt: float
    cwnd: int
    congestion_events: int
    spurious_congestion_events: int
    sent_plpmtud_probes: int
    lost_plpmtud_probes: int
    black_holes_detected: int
    current_mtu: int
    congestion_mode: str
    bandwidth: float
    pacing_rate: float

@type_check_only
class _ControllerInfo(TypedDict):
    mode: str
    bandwidth: float
    pacing_rate: float
    min_rtt: float
    inflight_longterm: int | None
    inflight_shortterm: int | None
    own_loss: float

@type_check_only
class _PathInfo(TypedDict):
    id: int
    remote: _Address
    local: _Address | None
    status: Literal["available", "backup"]
    validated: bool
    announced: bool
    rtt: float
    cwnd: int
    mtu: int
    in_flight: int
    controller: _ControllerInfo
    stats: _PathStats

@type_check_only
class _Candidate(TypedDict):
    addr: _Address
    probes: int
    answered: bool
    barred: bool

@type_check_only
class _NatState(TypedDict):
    round: int
    probing: bool
    own: list[_Address]
    candidates: list[_Candidate]
    waiting: list[_Address]
    probes: int
    answers: int
    refused: int
    held: int

@final
class QuicConnection(Connection):
    @property
    def handshake_confirmed(self) -> bool: ...
    @property
    def unconfirmed_streams(self) -> int: ...
    def poll_events(self) -> tuple[int, list[tuple[QuicStream, int]]]: ...
    @property
    def handshake_complete(self) -> bool: ...
    @property
    def draining(self) -> bool: ...
    @property
    def drained(self) -> bool: ...
    @property
    def closing(self) -> bool: ...
    @property
    def resumed(self) -> bool: ...
    @property
    def has_0rtt(self) -> bool: ...
    @property
    def has_multipath(self) -> bool: ...
    # streams and datagrams
    def open_stream(self, bidi: bool) -> QuicStream | None: ...
    def accept_stream(self, bidi: bool) -> QuicStream | None: ...
    def read_datagram(self) -> bytes | None: ...
    def send_datagram(self, data: Buffer, drop_oldest: bool = True) -> bool: ...
    @property
    def max_datagram_size(self) -> int | None: ...
    @property
    def datagram_send_buffer_space(self) -> int: ...
    # the connection as a whole
    def close(self, code: int = 0, reason: bytes = b"") -> None: ...
    def abandon_handle(self) -> None: ...
    def ping(self) -> None: ...
    def force_key_update(self) -> None: ...
    def lower_key_limits(
        self, *, update_at: int | None = None, seal: int | None = None, open: int | None = None
    ) -> None: ...
    def network_changed(
        self, keep: Callable[[_Address | None, _Address], bool] | None = None
    ) -> None: ...
    def path_works_again(self, path_id: int | None = None) -> None: ...
    def set_max_concurrent(self, bidi: int | None = None, uni: int | None = None) -> None: ...
    def set_receive_window(self, window: int) -> None: ...
    def stats(self) -> _Stats: ...
    # paths
    def path_states(self) -> list[tuple[int, _Address, bool, float, bool, bool]]: ...
    def path_rtt(self, id: int) -> float | None: ...
    def path_ids(self) -> list[int]: ...
    def path_remote(self, id: int) -> tuple[object, ...] | None: ...
    def path_silent(self, id: int) -> bool: ...
    def path_info(self, id: int) -> _PathInfo | None: ...
    def path_events(self) -> list[tuple[object, ...]]: ...
    def record_paths(self, on: bool) -> None: ...
    def dial_more(self, remotes: Iterable[_Address]) -> int: ...
    def expect_addresses(self, more: bool) -> None: ...
    def open_path(
        self, remote: _Address, local: _Address | None = None, backup: bool = False
    ) -> int: ...
    @property
    def has_nat_traversal(self) -> bool: ...
    def set_nat_addresses(self, addrs: Iterable[_Address]) -> None: ...
    def nat_addresses(self) -> list[_Address]: ...
    def start_nat_round(self) -> bool: ...
    def nat_state(self) -> _NatState: ...
    def close_path(self, id: int, code: int = 0x3E) -> None: ...
    def set_path_status(self, id: int, available: bool) -> None: ...
    def set_path_max_idle(self, id: int, seconds: float | None) -> None: ...
