"""The sending half of a stream."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Self

from .._check import Buffer, check_code, kind_of
from ..aio._core_events import wait_stopped, wait_write
from ..aio._waiters import Turn
from ..aio.owner import get_ident
from ..errors import StreamClosed
from ..quic._streams import QuicStream
from .half import Half, Owned, peer

__all__ = ["Writing"]


class Writing(Half):
    """Writes to a stream, and ends it; :class:`SendStream` but for its connection."""

    __slots__ = ("_turn",)

    def __init__(self, conn: Owned, q: QuicStream) -> None:
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
    def priority(self) -> int:
        """Streams with a higher number send first; equal ones take turns.  Default 0."""
        return self._q.priority

    @priority.setter
    def priority(self, value: int) -> None:
        if get_ident() != self._owner.thread:
            self._owner.wrong_thread()
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"priority is an integer, not {kind_of(value)}")
        if not -(2**31) <= value < 2**31:
            raise ValueError(f"priority has 32 bits, which {value:#x} has not")
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
        try:
            rest = iter(buffers)
        except TypeError:
            raise TypeError(
                f"writelines takes a list of bytes-like objects, not {kind_of(buffers)}"
            ) from None
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

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
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
        return f"<SendStream {q.id} to {peer(self._conn)} {q.send_state} {q.bytes_written} bytes>"
