"""The receiving half of a stream."""

from __future__ import annotations

from collections import deque
from typing import Self

from .._check import Buffer, check_code, kind_of
from ..aio._core_events import wait_read, wait_reset
from ..aio._waiters import Turn
from ..aio.owner import get_ident
from ..errors import FinishedEarly, StreamClosed, StreamTooLong
from ..quic._streams import QuicStream
from .half import Half, Owned, peer

__all__ = ["Reading", "UnorderedChunks"]

READ_SIZE = 65536  # the size of the chunks in which the core hands over stream data


MAX_SIZE = 2**62  # more than any memory; the core counts in 63 bits


def _size(n: object) -> int:
    """What the core takes for a number of bytes that it refused."""
    if isinstance(n, int):
        return min(n, MAX_SIZE)
    raise TypeError(f"n is an integer, the number of bytes, not {kind_of(n)}")


class Reading(Half):
    """Reads from a stream; :class:`RecvStream` but for its connection."""

    __slots__ = ("_ended", "_kept", "_turn")

    def __init__(self, conn: Owned, q: QuicStream) -> None:
        self._q = q
        self._conn = conn
        self._owner = conn._owner
        # Bytes a cancelled readexactly() or read_to_end() had taken out of the core.
        self._kept: deque[bytes] | None = None
        self._turn: Turn | None = None  # of the calls that take several pieces
        self._ended = 0  # 1: stop() was called; 2: the data was longer than allowed

    def __del__(self) -> None:
        try:
            q = self._q
            if not q.recv_finished:
                self._owner.defer(q.drop_recv)
        except AttributeError:  # the constructor failed
            pass

    @property
    def bytes_read(self) -> int:
        """Offset in the stream of the next byte a read returns."""
        kept = self._kept
        return self._q.bytes_read - (sum(map(len, kept)) if kept else 0)

    @property
    def receive_window(self) -> int:
        """Bytes by which the peer may be ahead of the reader now; see ``stream_receive_window``."""
        return self._q.receive_window

    def _end(self) -> bytes:
        """Answer a read on a stream that takes no more reads."""
        if self._ended == 1:
            return b""
        raise StreamClosed(
            f"{self._name()} has no more data: it was longer than a read_to_end() allowed"
        )

    def _name(self) -> str:
        return f"stream {self._q.id} from {peer(self._conn)}"

    def _short(self, partial: bytes, wanted: int) -> FinishedEarly:
        return FinishedEarly(
            partial,
            wanted,
            f"{self._name()} finished early ({len(partial)} bytes read, {wanted} wanted)",
        )

    def _turns(self) -> Turn:
        """For those that take several pieces: one after the other."""
        if (turn := self._turn) is None:
            turn = self._turn = Turn()
        return turn

    async def _behind(self, turn: Turn) -> None:
        """Let the calls that came before end: they may leave something."""
        await turn.wait()
        turn.release()

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
        turn = self._turn
        if turn is not None and turn.taken:
            await self._behind(turn)
        try:
            if self._kept and n > 0:
                return self._take_kept(n)
            nothing = n <= 0
        except TypeError:
            raise TypeError(f"n is an integer, the number of bytes, not {kind_of(n)}") from None
        if nothing:
            if n < 0:
                raise ValueError("cannot read a negative number of bytes; see read_to_end()")
            return b""
        if self._ended:
            return self._end()
        q = self._q
        try:
            data = q.read(n)
        except (TypeError, OverflowError):
            n = _size(n)
            data = q.read(n)
        while data is None:
            await wait_read(q)
            data = q.read(n)
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
        turn = self._turn
        if turn is not None and turn.taken:
            await self._behind(turn)
        return await self._into(buffer)

    async def _into(self, buffer: Buffer) -> int:
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
        if get_ident() != self._owner.thread:
            self._owner.wrong_thread()
        with memoryview(buffer) as whole, whole.cast("B") as view:
            turn = self._turns()
            if not turn.take():
                await turn.wait()
            try:
                await self._fill(view)
            finally:
                turn.release()

    async def _fill(self, view: memoryview) -> None:
        size, done = len(view), 0
        try:
            while done < size:
                with view[done:] as rest:
                    taken = await self._into(rest)
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
            raise self._short(bytes(view[:done]), size)

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
        try:
            nothing = n <= 0
        except TypeError:
            raise TypeError(f"n is an integer, the number of bytes, not {kind_of(n)}") from None
        if nothing:
            if n < 0:
                raise ValueError("cannot read a negative number of bytes")
            return b""
        turn = self._turn
        if not self._kept and not self._ended and (turn is None or not turn.taken):
            try:
                data = self._q.read(n)
            except (TypeError, OverflowError):
                n = _size(n)
                data = self._q.read(n)
            if data is not None and len(data) == n:
                return data
            if self._kept is None:
                self._kept = deque()
            if data:
                self._kept.append(data)
        turn = self._turns()
        if not turn.take():
            await turn.wait()
        try:
            q = self._q
            kept = self._kept
            if kept is None:
                kept = self._kept = deque()
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
                    raise self._short(partial, n)
                kept.append(data)
                size += len(data)
            data = kept[0] if len(kept) == 1 else b"".join(kept)
            kept.clear()
            if size > n:
                kept.append(data[n:])
                return data[:n]
            return data
        finally:
            turn.release()

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
            raise TypeError(f"limit is an integer, the number of bytes, not {kind_of(limit)}")
        if limit < 0:
            raise ValueError("the limit is a number of bytes, not negative")
        turn = self._turn
        if not self._kept and not self._ended and (turn is None or not turn.taken):
            # Mostly all of it is there at once: that needs no turn.
            data = self._q.read(limit + 1 if limit < 1048576 else 1048576)
            if data is not None:
                if self._q.recv_finished and len(data) <= limit:
                    return data
                self._kept = deque((data,))
        turn = self._turns()
        if not turn.take():
            await turn.wait()
        try:
            kept = self._kept
            q = self._q
            if not kept and not self._ended:
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
                raise StreamTooLong(limit, f"{self._name()} is longer than {limit} bytes")
            data = kept[0] if len(kept) == 1 else b"".join(kept)
            kept.clear()
            return data
        finally:
            turn.release()

    def unordered(self, limit: int = 2**20, /) -> UnorderedChunks:
        """Iterate over ``(offset, data)`` pieces in the order of arrival.

        Each byte is given once.  Do not mix with the ordered reads after the first piece.
        """
        if isinstance(limit, bool) or not isinstance(limit, int):
            raise TypeError(f"limit is an integer, the number of bytes, not {kind_of(limit)}")
        if limit < 1:
            raise ValueError(f"limit is at least one byte, not {limit}")
        return UnorderedChunks(self, min(limit, MAX_SIZE))

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
            why = "stopped here" if self._ended == 1 else "longer than a read_to_end() allowed"
            raise StreamClosed(f"{self._name()} cannot be stopped again: it was {why}")
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

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if data := await self.read(1048576):
            return data
        raise StopAsyncIteration

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
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
        return f"<RecvStream {q.id} from {peer(self._conn)} {state} {self.bytes_read} bytes>"


class UnorderedChunks:
    """Iterator of :meth:`RecvStream.unordered`."""

    __slots__ = ("_limit", "_recv")

    def __init__(self, recv: Reading, limit: int) -> None:
        self._recv = recv
        self._limit = limit

    def __aiter__(self) -> UnorderedChunks:
        return self

    async def __anext__(self) -> tuple[int, bytes]:
        recv = self._recv
        if get_ident() != recv._owner.thread:
            recv._owner.wrong_thread()
        turn = recv._turn
        if turn is not None and turn.taken:
            await recv._behind(turn)
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
