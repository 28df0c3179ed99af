"""Batched UDP: segmentation offload, aggregated receive, ECN marks and packet addresses."""

import socket
from typing import Self

from typing_extensions import Buffer, disjoint_base

@disjoint_base
class UdpSocket:
    def __init__(self, *args: object, **kwargs: object) -> None: ...
    @classmethod
    def bind(
        cls,
        address: tuple[str, int] | tuple[str, int, int, int],
        *,
        v6only: bool = True,
        buffer_bytes: int = ...,
    ) -> Self: ...
    @property
    def sock(self) -> socket.socket: ...
    @property
    def family(self) -> int: ...
    @property
    def gso(self) -> bool: ...
    @property
    def gro(self) -> bool: ...
    @property
    def may_fragment(self) -> bool: ...
    @property
    def max_segments(self) -> int: ...
    @property
    def last_errno(self) -> int: ...
    @property
    def blocked_errno(self) -> int: ...
    @property
    def local_address(self) -> tuple[str, int] | tuple[str, int, int, int]: ...
    def close(self) -> None: ...
    def fileno(self) -> int: ...
    def recv(
        self,
    ) -> list[tuple[bytes, int, int, tuple[str, int] | tuple[str, int, int, int], str | None]]: ...
    def sendto(
        self,
        data: Buffer,
        addr: tuple[str, int] | tuple[str, int, int, int],
        *,
        ecn: int = 0,
        segment: int = 0,
        src: str | None = None,
    ) -> int: ...
    def largest_to(
        self, addr: tuple[str, int] | tuple[str, int, int, int], *, src: str | None = None
    ) -> int: ...
    def sendmany(
        self, messages: list[tuple[bytes, tuple[str, int] | tuple[str, int, int, int], int]], *, ecn: int = 0
    ) -> list[int]: ...
    def stats(self) -> dict[str, int]: ...

def pump_send(
    sock: UdpSocket,
    addr: tuple[str, int] | tuple[str, int, int, int],
    total_bytes: int,
    segment: int,
    segments_per_call: int,
    *,
    deadline_s: float = 10.0,
) -> tuple[int, int, int, float]: ...
def pump_recv(
    sock: UdpSocket, total_bytes: int, *, deadline_s: float = 10.0, idle_s: float = 0.5
) -> tuple[int, int, int, float]: ...
