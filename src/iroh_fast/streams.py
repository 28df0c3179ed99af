"""Streams of a connection: ordered bytes, one or both ways.

The objects here are thin handles.  As long as data, window or stream credit is there,
no call waits, makes a future or touches the event loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Iterable
from itertools import chain
from types import TracebackType
from typing import Literal, NamedTuple, Protocol

from ._check import Buffer, check_code, kind_of
from .aio._waiters import Turn, wait_read, wait_reset, wait_stopped, wait_write
from .aio.owner import Owner, get_ident
from .errors import CloseReason, FinishedEarly, StreamClosed, StreamTooLong
from .keys import EndpointId
from .quic._streams import QuicStream

__all__ = ["BiStream", "ConnectionLike", "RecvStream", "SendStream", "StreamId", "UnorderedChunks"]

READ_SIZE = 65536  # the size of the chunks in which the core hands over stream data


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


def _peer(conn: ConnectionLike) -> str:
    """Who is at the other end, as far as known."""
    try:
        return f"{conn.remote_id:short}"
    except RuntimeError:
        return "?"


class SendStream:
    """The sending half of a stream.

    Letting go of the last reference of a stream that was not finished resets it with code 0:
    what is not complete must not look complete.  Used as ``async with``, leaving the block
    finishes it, or resets it with code 0 when an exception passes through.

    Tasks that write to one stream at the same time are served one after the other, first
    come, first served; what one call writes is never torn apart.
    """

    __slots__ = ("__weakref__", "_conn", "_owner", "_q", "_turn")

    def __init__(self, conn: ConnectionLike, q: QuicStream) -> None:
        self._q = q
        self._conn = conn
        self._owner = conn._owner
        self._turn: Turn | None = None  # of the calls that had to wait

    def __del__(self) -> None:
        try:
            q = self._q
            if q.send_state == "ready":
                # DIFFERS: iroh finishes it, and a sender that failed looks complete.
                self._owner.defer(q.drop_send)
        except AttributeError:  # the constructor failed
            pass

    @property
    def id(self) -> StreamId:
        """Stream number."""
        return StreamId(self._q.id)

    @property
    def is_0rtt(self) -> bool:
        """True when the stream was opened before the handshake was complete."""
        return self._q.is_0rtt

    @property
    def connection(self) -> ConnectionLike:
        """The connection this stream belongs to; kept open while the stream is alive."""
        return self._conn

    @property
    def priority(self) -> int:
        """Streams with a higher number send first; equal ones take turns.  Default 0."""
        return self._q.priority

    @priority.setter
    def priority(self, value: int) -> None:
        if get_ident() != self._owner.thread:
            self._owner.wrong_thread()
        self._q.priority = value

    async def write(self, data: Buffer, /, *, copy: bool = True) -> int:
        """Send the beginning of `data`, waiting until at least one byte fits.

        Parameters
        ----------
        data : any C-contiguous buffer; ``bytes`` are kept by reference, others copied.
        copy : False sends other buffers without a copy too.  They stay pinned (a bytearray
            cannot be resized) until the peer acknowledged the data, and must not be changed
            so long: see :meth:`stopped`.

        Returns
        -------
        int
            Bytes taken, at least 1 unless `data` is empty.

        Raises
        ------
        StreamStopped : the peer does not want the data.
        StreamClosed : the stream is finished or reset.
        ConnectionLost, ZeroRttRejected

        Notes
        -----
        Cancel-safe: a cancelled call has sent nothing.
        """
        if get_ident() != self._owner.thread:
            self._owner.wrong_thread()
        turn = self._turn
        if turn is None or not turn.taken:
            taken = self._q.write(data, 0, copy)
            if taken:
                return taken
        if not memoryview(data).nbytes:
            return 0
        return await self._write_some(data, copy)

    async def write_all(self, data: Buffer, /, *, copy: bool = True) -> None:
        """Send all of `data`, waiting for window as needed.

        Parameters and errors as for :meth:`write`.  Not cancel-safe: an unknown part may have
        been sent.
        """
        if get_ident() != self._owner.thread:
            self._owner.wrong_thread()
        turn = self._turn
        taken = self._q.write(data, 0, copy) if turn is None or not turn.taken else 0
        if taken != (len(data) if type(data) is bytes else memoryview(data).nbytes):
            await self._write_rest((data,), taken, copy)

    async def writelines(self, buffers: Iterable[Buffer], /, *, copy: bool = True) -> None:
        """Send several buffers one after the other, as if they were one: see :meth:`write_all`."""
        if get_ident() != self._owner.thread:
            self._owner.wrong_thread()
        rest = iter(buffers)
        turn = self._turn
        if turn is None or not turn.taken:
            write = self._q.write
            for data in rest:
                taken = write(data, 0, copy)
                if taken != (len(data) if type(data) is bytes else memoryview(data).nbytes):
                    break
            else:
                return
            await self._write_rest(chain((data,), rest), taken, copy)
        else:
            await self._write_rest(rest, 0, copy)

    async def _my_turn(self) -> Turn:
        turn = self._turn
        if turn is None:
            turn = self._turn = Turn()
        if not turn.take():
            await turn.wait()
        return turn

    def _next_turn(self, turn: Turn) -> None:
        if not turn.release():
            self._turn = None

    async def _write_some(self, data: Buffer, copy: bool) -> int:
        q = self._q
        turn = await self._my_turn()
        try:
            while not (taken := q.write(data, 0, copy)):
                await wait_write(q)
            return taken
        finally:
            self._next_turn(turn)

    async def _write_rest(self, buffers: Iterable[Buffer], done: int, copy: bool) -> None:
        """Write `buffers`, of the first of which `done` bytes are gone, before anybody else."""
        q = self._q
        turn = await self._my_turn()
        try:
            for data in buffers:
                size = memoryview(data).nbytes
                while done < size:
                    taken = q.write(data, done, copy)
                    if taken:
                        done += taken
                    else:
                        await wait_write(q)
                done = 0
        finally:
            self._next_turn(turn)

    def finish(self) -> None:
        """Say that no more data follows.  Does not wait, not even for delivery.

        Raises
        ------
        StreamClosed : the stream is finished or reset already; harmless.
        """
        if get_ident() != self._owner.thread:
            self._owner.wrong_thread()
        self._q.finish()

    def reset(self, code: int = 0) -> None:
        """Abandon the stream: data not yet delivered is dropped, the peer sees `code`.

        Raises
        ------
        StreamClosed : the stream is reset already, or all of it was delivered.
        """
        if get_ident() != self._owner.thread:
            self._owner.wrong_thread()
        self._q.reset(check_code(code))

    async def stopped(self) -> int | None:
        """Wait until the peer stops the stream or has received all of it.

        Returns
        -------
        int or None
            The peer's code, or None once everything up to the end is acknowledged (or the
            stream was reset by us).  Acknowledged means received by the peer's QUIC layer,
            not read by its application.

        Notes
        -----
        Cancel-safe.
        """
        if get_ident() != self._owner.thread:
            self._owner.wrong_thread()
        q = self._q
        while True:
            if (code := q.stop_code) is not None:
                return code
            if q.send_state in ("reset", "acked"):
                return None
            if (reason := q.connection.close_reason) is not None:
                raise reason.to_error()
            await wait_stopped(q)

    async def __aenter__(self) -> SendStream:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leave(kind is not None)

    def _leave(self, failed: bool) -> None:
        if get_ident() != self._owner.thread:
            self._owner.wrong_thread()
        try:
            if failed:
                self._q.reset(0)
            else:
                self._q.finish()
        except StreamClosed:
            pass

    def __repr__(self) -> str:
        q = self._q
        return f"<SendStream {q.id} to {_peer(self._conn)} {q.send_state} {q.bytes_written} bytes>"


class RecvStream:
    """The receiving half of a stream.

    Letting go of the last reference tells the peer to stop, unless the end was seen.  Used
    as ``async with``, leaving the block does the same at once.  Iterating gives the data
    in chunks of arbitrary size.  One task may read at a time.
    """

    __slots__ = ("__weakref__", "_conn", "_ended", "_kept", "_owner", "_q")

    def __init__(self, conn: ConnectionLike, q: QuicStream) -> None:
        self._q = q
        self._conn = conn
        self._owner = conn._owner
        # Bytes a cancelled readexactly() or read_to_end() had taken out of the core.
        self._kept: deque[bytes] | None = None
        self._ended = 0  # 1: stop() was called; 2: the data was longer than allowed

    def __del__(self) -> None:
        try:
            q = self._q
            if not q.recv_finished:
                self._owner.defer(q.drop_recv)
        except AttributeError:  # the constructor failed
            pass

    @property
    def id(self) -> StreamId:
        """Stream number."""
        return StreamId(self._q.id)

    @property
    def is_0rtt(self) -> bool:
        """True when the data came, or may come, before the handshake was complete."""
        return self._q.is_0rtt

    @property
    def connection(self) -> ConnectionLike:
        """The connection this stream belongs to; kept open while the stream is alive."""
        return self._conn

    @property
    def bytes_read(self) -> int:
        """Offset in the stream of the next byte a read returns."""
        kept = self._kept
        return self._q.bytes_read - (sum(map(len, kept)) if kept else 0)

    def _end(self) -> bytes:
        """Answer a read on a stream that takes no more reads."""
        if self._ended == 1:
            return b""
        raise StreamClosed()

    def _take_kept(self, limit: int) -> bytes:
        kept = self._kept
        assert kept
        chunk = kept.popleft()
        if len(chunk) > limit:
            kept.appendleft(chunk[limit:])
            chunk = chunk[:limit]
        return chunk

    async def read(self, n: int = READ_SIZE, /) -> bytes:
        """Read what is there, at most `n` bytes; wait if nothing is.

        Returns
        -------
        bytes
            ``b""`` at the end of the stream, every time, and after :meth:`stop`.

        Raises
        ------
        StreamReset : the peer abandoned the stream.
        StreamClosed : a reset or :class:`StreamTooLong` was reported before.
        ConnectionLost, ZeroRttRejected

        Notes
        -----
        Cancel-safe.
        """
        if get_ident() != self._owner.thread:
            self._owner.wrong_thread()
        try:
            if self._kept and n > 0:
                return self._take_kept(n)
            nothing = n <= 0
        except TypeError:
            raise TypeError(f"n is a number of bytes, not {kind_of(n)}") from None
        if nothing:
            if n < 0:
                raise ValueError("cannot read a negative number of bytes; see read_to_end()")
            return b""
        if self._ended:
            return self._end()
        q = self._q
        while (data := q.read(n)) is None:
            await wait_read(q)
        return data

    async def read_chunk(self, limit: int = 2**20, /) -> bytes | None:
        """Read the next piece as the core holds it, at most `limit` bytes.

        Returns
        -------
        bytes or None
            None at the end of the stream.  Raises and cancels as :meth:`read`.
        """
        return await self.read(limit) or None

    async def readinto(self, buffer: Buffer, /) -> int:
        """Read into memory of the caller, as much as is there.

        Returns
        -------
        int
            Bytes written to `buffer`; 0 at the end of the stream, and at once when `buffer` is
            empty.  Raises and cancels as :meth:`read`.
        """
        if get_ident() != self._owner.thread:
            self._owner.wrong_thread()
        if self._kept:
            with memoryview(buffer) as whole, whole.cast("B") as view:
                data = self._take_kept(len(view))
                view[: len(data)] = data
                return len(data)
        if self._ended:
            return len(self._end())
        q = self._q
        while (size := q.readinto(buffer)) < 0:
            await wait_read(q)
        return size

    async def readinto_exactly(self, buffer: Buffer, /) -> None:
        """Fill memory of the caller.

        Raises
        ------
        FinishedEarly : the stream ended before; ``.partial`` has what there was.
        StreamReset, StreamClosed, ConnectionLost, ZeroRttRejected

        Notes
        -----
        Cancel-safe: bytes taken so far stay in this object for the next read.
        """
        with memoryview(buffer) as whole, whole.cast("B") as view:
            size, done = len(view), 0
            try:
                while done < size:
                    with view[done:] as rest:
                        taken = await self.readinto(rest)
                    if not taken:
                        break
                    done += taken
            except BaseException:
                if done:
                    kept = self._kept
                    if kept is None:
                        kept = self._kept = deque()
                    kept.appendleft(bytes(view[:done]))
                raise
            if done < size:
                raise FinishedEarly(bytes(view[:done]), size)

    async def readexactly(self, n: int, /) -> bytes:
        """Read exactly `n` bytes.

        Raises
        ------
        FinishedEarly : the stream ended before; ``.partial`` has what there was.
        StreamReset, StreamClosed, ConnectionLost, ZeroRttRejected

        Notes
        -----
        Cancel-safe: bytes taken so far stay in this object for the next read.
        """
        if get_ident() != self._owner.thread:
            self._owner.wrong_thread()
        if n <= 0:
            if n < 0:
                raise ValueError("cannot read a negative number of bytes")
            return b""
        q = self._q
        kept = self._kept
        if not kept and not self._ended:
            data = q.read(n)
            if data is not None and len(data) == n:
                return data
            if kept is None:
                kept = self._kept = deque()
            if data:
                kept.append(data)
        elif kept is None:
            kept = deque()
        size = sum(map(len, kept))
        while size < n:
            if self._ended:
                data = self._end()
            else:
                while (data := q.read(n - size)) is None:
                    await wait_read(q)
            if not data:
                partial = b"".join(kept)
                kept.clear()
                raise FinishedEarly(partial, n)
            kept.append(data)
            size += len(data)
        if size > n:
            whole = b"".join(kept)
            kept.clear()
            kept.append(whole[n:])
            return whole[:n]
        data = kept[0] if len(kept) == 1 else b"".join(kept)
        kept.clear()
        return data

    async def read_to_end(self, limit: int, /) -> bytes:
        """Read the rest of the stream.

        Parameters
        ----------
        limit : int
            Largest number of bytes to accept.

        Raises
        ------
        StreamTooLong : there is more; the data is dropped and the peer told to stop.
        StreamReset, StreamClosed, ConnectionLost, ZeroRttRejected

        Notes
        -----
        Cancel-safe: bytes taken so far stay in this object for the next read.
        """
        if get_ident() != self._owner.thread:
            self._owner.wrong_thread()
        if not isinstance(limit, int):
            raise TypeError(f"limit is a number of bytes, not {kind_of(limit)}")
        if limit < 0:
            raise ValueError("the limit is a number of bytes, not negative")
        kept = self._kept
        q = self._q
        if not kept and not self._ended:
            # Mostly all of it is there at once.
            room = limit + 1
            while (data := q.read(room if room < 1048576 else 1048576)) is None:
                await wait_read(q)
            if q.recv_finished and len(data) <= limit:
                return data
            kept = self._kept = deque((data,))
        elif kept is None:
            kept = self._kept = deque()
        size = sum(map(len, kept))
        if self._ended:
            kept.append(self._end())
        else:
            while size <= limit:
                room = limit + 1 - size
                while (data := q.read(room if room < 1048576 else 1048576)) is None:
                    await wait_read(q)
                if not data:
                    break
                kept.append(data)
                size += len(data)
        if size > limit:
            kept.clear()
            self._ended = 2
            q.stop(0)
            raise StreamTooLong(limit)
        data = kept[0] if len(kept) == 1 else b"".join(kept)
        kept.clear()
        return data

    def unordered(self, limit: int = 2**20, /) -> UnorderedChunks:
        """Iterate over ``(offset, data)`` pieces in the order of arrival.

        Each byte is given once.  Do not mix with the ordered reads after the first piece.
        """
        return UnorderedChunks(self, limit)

    def stop(self, code: int = 0) -> None:
        """Tell the peer that the rest is not wanted; later reads give ``b""``.

        Raises
        ------
        StreamClosed : the stream was stopped before.
        """
        if get_ident() != self._owner.thread:
            self._owner.wrong_thread()
        check_code(code)
        if self._ended:
            raise StreamClosed()
        self._q.stop(code)
        self._ended = 1
        self._kept = None

    async def received_reset(self) -> int | None:
        """Wait until the peer abandons the stream.

        Returns
        -------
        int or None
            The peer's code, or None when the stream ended in another way.

        Notes
        -----
        Cancel-safe.  Data must be read at the same time for the end to be noticed.
        """
        if get_ident() != self._owner.thread:
            self._owner.wrong_thread()
        q = self._q
        while True:
            if (code := q.reset_code) is not None:
                return code
            if q.recv_finished or self._ended:
                return None
            if (reason := q.connection.close_reason) is not None:
                raise reason.to_error()
            await wait_reset(q)

    def __aiter__(self) -> RecvStream:
        return self

    async def __anext__(self) -> bytes:
        if data := await self.read(1048576):
            return data
        raise StopAsyncIteration

    async def __aenter__(self) -> RecvStream:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        if not self._q.recv_finished and not self._ended:
            self.stop(0)

    def __repr__(self) -> str:
        q = self._q
        if q.reset_code is not None:
            state = f"reset {q.reset_code}"
        elif self._ended:
            state = "stopped"
        else:
            state = "ended" if q.recv_finished else "open"
        return f"<RecvStream {q.id} from {_peer(self._conn)} {state} {self.bytes_read} bytes>"


class UnorderedChunks:
    """Iterator of :meth:`RecvStream.unordered`."""

    __slots__ = ("_limit", "_recv")

    def __init__(self, recv: RecvStream, limit: int) -> None:
        self._recv = recv
        self._limit = limit

    def __aiter__(self) -> UnorderedChunks:
        return self

    async def __anext__(self) -> tuple[int, bytes]:
        recv = self._recv
        if get_ident() != recv._owner.thread:
            recv._owner.wrong_thread()
        if recv._kept:
            offset = recv.bytes_read
            return offset, recv._take_kept(self._limit)
        if recv._ended:
            recv._end()
            raise StopAsyncIteration
        q = recv._q
        while (piece := q.read_unordered(self._limit)) is None:
            await wait_read(q)
        if not piece[1]:
            raise StopAsyncIteration
        return piece


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

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.send._leave(kind is not None)
        self.recv._leave()

    def __repr__(self) -> str:
        send, recv = self.send, self.recv
        return (
            f"<BiStream {send._q.id} with {_peer(send._conn)} {send._q.send_state}"
            f" {send._q.bytes_written} bytes out {recv.bytes_read} in>"
        )
