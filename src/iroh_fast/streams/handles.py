"""Streams as users hold them: halves that know their connection, and both together."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Literal, NamedTuple, Protocol

from .._check import Buffer
from ..aio.owner import Owner
from ..errors import CloseReason
from ..keys import EndpointId
from .half import StreamId, peer
from .reading import Reading
from .writing import Writing

__all__ = ["BiStream", "ConnectionLike", "RecvStream", "SendStream"]


class ConnectionLike(Protocol):
    """What a stream says of its connection, which is a :class:`~iroh_fast.Connection`."""

    _owner: Owner

    @property
    def remote_id(self) -> EndpointId:
        """Who is at the other end."""

    @property
    def alpn(self) -> bytes:
        """The protocol that was agreed on."""

    @property
    def side(self) -> Literal["client", "server"]:
        """Which side this is."""

    @property
    def stable_id(self) -> int:
        """Number of the connection within its endpoint."""

    @property
    def close_reason(self) -> CloseReason | None:
        """Why the connection ended; None while it is open."""

    def close(self, code: int = 0, reason: bytes = b"") -> None:
        """End the connection at once."""

    async def wait_closed(self) -> CloseReason:
        """Wait until the connection ends."""

    def open_bi(self) -> Awaitable[BiStream]:
        """Open a stream on which both sides send."""

    def open_uni(self) -> Awaitable[SendStream]:
        """Open a stream on which only this side sends."""

    def send_datagram(self, data: Buffer, /) -> None:
        """Send an unreliable message."""


class SendStream(Writing):
    """The sending half of a stream.

    Letting go of the last reference of a stream that was not finished resets it with code 0:
    what is not complete must not look complete.  Used as ``async with``, leaving the block
    finishes it, or resets it with code 0 when an exception passes through.

    Tasks that write to one stream at the same time are served one after the other, first
    come, first served; what one call writes is never torn apart.
    """

    __slots__ = ()
    _conn: ConnectionLike

    @property
    def connection(self) -> ConnectionLike:
        """The connection this stream belongs to; kept open while the stream is alive."""
        return self._conn


class RecvStream(Reading):
    """The receiving half of a stream.

    Letting go of the last reference tells the peer to stop, unless the end was seen.  Used
    as ``async with``, leaving the block does the same at once.  Iterating gives the data
    in chunks of arbitrary size.  Tasks that read at the same time are served one
    after the other; a piece, or what one call wants exactly, goes to one of them.
    """

    __slots__ = ()
    _conn: ConnectionLike

    @property
    def connection(self) -> ConnectionLike:
        """The connection this stream belongs to; kept open while the stream is alive."""
        return self._conn


class BiStream(NamedTuple):
    """Both halves of a bidirectional stream; unpacks to ``send, recv``.

    Used as ``async with``, leaving the block treats both halves as theirs would.
    """

    send: SendStream
    recv: RecvStream

    @property
    def id(self) -> StreamId:
        """Stream number, the same for both halves."""
        return self.send.id

    @property
    def connection(self) -> ConnectionLike:
        """The connection this stream belongs to."""
        return self.send._conn

    async def __aenter__(self) -> BiStream:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.send._leave(kind is not None)
        self.recv._leave()

    def __repr__(self) -> str:
        send, recv = self.send, self.recv
        return (
            f"<BiStream {send._q.id} with {peer(send._conn)} {send._q.send_state}"
            f" {send._q.bytes_written} bytes out {recv.bytes_read} in>"
        )
