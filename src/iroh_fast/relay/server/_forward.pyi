"""Forwarding of a relay server: from the bytes of one client to the socket of another."""

import asyncio
from typing import final

from typing_extensions import Buffer

from ._connection import RelayConnection

HEALTH_DUPLICATE: bytes
HEALTH_RESTORED: bytes

@final
class Forwarder:
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        key_cache: int = ...,
        max_packets: int = ...,
        max_bytes: int = ...,
        write_timeout: float = ...,
        ping_interval: float = ...,
        ping_jitter: int = ...,
    ) -> None: ...
    def __len__(self) -> int: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
    @property
    def connections(self) -> list[RelayConnection]: ...
    def counters_snapshot(self) -> dict[str, int]: ...
    def set_client_rate(self, burst: int, refill: int) -> None: ...
    def take_id(self) -> int: ...
    def find(self, key: Buffer) -> list[RelayConnection]: ...
    def register(self, conn: RelayConnection, key: Buffer, connection_id: int) -> None: ...
