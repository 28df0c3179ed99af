from collections.abc import Callable, Sequence
from typing import Final, final

from typing_extensions import disjoint_base

from iroh_fast.quic._connection import QuicConnection
from iroh_fast.quic._core import Host
from iroh_fast.quic.config import QuicTransportConfig

_Address = tuple[str, int] | tuple[str, int, int, int]

DEFAULT_MAX_INCOMING: Final[int]
DEFAULT_INCOMING_BUFFER: Final[int]
DEFAULT_INCOMING_TOTAL: Final[int]

@final
class QuicIncoming:
    @property
    def remote(self) -> _Address: ...
    @property
    def local(self) -> _Address | None: ...
    @property
    def validated(self) -> bool: ...
    @property
    def decided(self) -> bool: ...
    @property
    def alpns(self) -> list[bytes] | None: ...
    def accept(
        self, alpns: Sequence[bytes], transport: QuicTransportConfig, now: int = 0
    ) -> QuicConnection: ...
    def refuse(self) -> None: ...
    def ignore(self) -> None: ...
    def retry(self) -> None: ...

@disjoint_base
class AdmissionHost(Host):
    accepting: bool
    on_incoming: Callable[[QuicIncoming], object] | None
    counters: dict[str, int]

@final
class Admission:
    def __new__(
        cls, random_source: Callable[[int], bytes], wall_clock: Callable[[], float]
    ) -> Admission: ...
