"""What both halves of a stream share."""

from __future__ import annotations

from typing import Literal, Protocol

from ..aio.owner import Owner
from ..keys import EndpointId
from ..quic._streams import QuicStream

__all__ = ["Half", "Owned", "StreamId", "peer"]


class Owned(Protocol):
    """What a half needs to know of its connection."""

    _owner: Owner

    @property
    def remote_id(self) -> EndpointId:
        """Who is at the other end."""


class StreamId(int):
    """Number of a stream within its connection (RFC 9000 §2.1)."""

    __slots__ = ()

    @property
    def index(self) -> int:
        """Position among the streams of the same kind, from 0."""
        return self >> 2

    @property
    def initiator(self) -> Literal["client", "server"]:
        """Which side opened the stream."""
        return "server" if self & 1 else "client"

    @property
    def dir(self) -> Literal["bi", "uni"]:
        """Whether both sides send, or only the initiator."""
        return "uni" if self & 2 else "bi"


def peer(conn: Owned) -> str:
    """Who is at the other end, as far as known."""
    try:
        return f"{conn.remote_id:short}"
    except RuntimeError:
        return "?"


class Half:
    """One direction of a stream; a thin handle of what the core has."""

    __slots__ = ("__weakref__", "_conn", "_owner", "_q")
    _conn: Owned
    _owner: Owner
    _q: QuicStream

    @property
    def id(self) -> StreamId:
        """Stream number."""
        return StreamId(self._q.id)

    @property
    def is_0rtt(self) -> bool:
        """True when the stream was used before the handshake was complete."""
        return self._q.is_0rtt
