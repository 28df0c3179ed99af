"""Waiting for streams: those that this side opens, and those that arrive."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Generic, Protocol, TypeVar

from ..aio._core_events import take, wait
from ..aio.owner import get_ident
from ..aio.pending import Entering
from ..errors import CloseReason, ConnectionLost
from ..quic._connection import WAIT_OPEN_BI, WAIT_OPEN_UNI, QuicConnection
from ..quic._streams import QuicStream
from .handles import BiStream, ConnectionLike, RecvStream, SendStream

__all__ = ["Arrivals", "OpeningBi", "OpeningUni", "both_halves", "is_graceful"]


class Opener(ConnectionLike, Protocol):
    """A connection as far as it opens streams."""

    _q: QuicConnection


_S = TypeVar("_S", BiStream, SendStream)


class _Opening(Entering[_S]):
    """Result of ``open_bi`` and ``open_uni``."""

    __slots__ = ("_conn",)

    def __init__(self, conn: Opener) -> None:
        self._conn = conn


class OpeningBi(_Opening[BiStream]):
    """Result of :meth:`Connection.open_bi`."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, Any, BiStream]:
        conn = self._conn
        if get_ident() != conn._owner.thread:
            conn._owner.wrong_thread()
        while (q := take(conn._q, WAIT_OPEN_BI)) is None:
            yield from wait(conn._q, WAIT_OPEN_BI)
        return BiStream(SendStream(conn, q), RecvStream(conn, q))


class OpeningUni(_Opening[SendStream]):
    """Result of :meth:`Connection.open_uni`."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, Any, SendStream]:
        conn = self._conn
        if get_ident() != conn._owner.thread:
            conn._owner.wrong_thread()
        while (q := take(conn._q, WAIT_OPEN_UNI)) is None:
            yield from wait(conn._q, WAIT_OPEN_UNI)
        return SendStream(conn, q)


def is_graceful(reason: CloseReason) -> bool:
    """True when the connection was closed on purpose and without an error code."""
    return reason.kind == "locally_closed" or (reason.kind == "application" and not reason.code)


_T = TypeVar("_T")


class Arrivals(Generic[_T]):
    """Iterator over what the peer sends, see :meth:`Connection.bi_streams`."""

    __slots__ = ("_conn", "_kind", "_make", "_raise")

    def __init__(
        self, conn: Opener, kind: int, make: Callable[[Any, Any], _T], raise_on_close: bool
    ) -> None:
        self._conn = conn  # keeps it open
        self._kind = kind  # what to wait for
        self._make = make  # of the connection and what the core gives
        self._raise = raise_on_close

    def __aiter__(self) -> Arrivals[_T]:
        return self

    async def __anext__(self) -> _T:
        conn, kind = self._conn, self._kind
        if get_ident() != conn._owner.thread:
            conn._owner.wrong_thread()
        try:
            while (core := take(conn._q, kind)) is None:
                await wait(conn._q, kind)
        except ConnectionLost as error:
            if self._raise or not is_graceful(error.close_reason):
                raise
            raise StopAsyncIteration from None
        return self._make(conn, core)


def both_halves(conn: Opener, q: QuicStream) -> BiStream:
    """The handle of a stream on which both sides send."""
    return BiStream(SendStream(conn, q), RecvStream(conn, q))
