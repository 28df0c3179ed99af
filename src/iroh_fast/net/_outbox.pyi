import logging
from asyncio import AbstractEventLoop
from collections.abc import Callable
from typing import Self, final

from typing_extensions import disjoint_base

from iroh_fast._batch import UdpSocket

logger: logging.Logger

@disjoint_base
class OutboxOwner: ...

@final
class Outbox:
    def __new__(cls, owner: OutboxOwner, loop: AbstractEventLoop) -> Self: ...
    @property
    def sockets(self) -> list[UdpSocket]: ...
    @property
    def blocked(self) -> int: ...
    def close(self) -> None: ...
    def add_socket(self, sock: UdpSocket, prefix: int, default_route: bool) -> None: ...
    def add_transport(
        self,
        subnet: bytes,
        kind: str,
        max_segments: int,
        max_datagram: int,
        send: Callable[..., object],
    ) -> None: ...
    def on_writable(self, index: int) -> None: ...
    def counters(self) -> dict[str, int]: ...
