"""DNS over TCP (RFC 7766): messages with their length in front, answered in order.

A connection holds one query that is not complete and, over 64 KiB, no answer that its client does not read: it is read from
only while it may be answered. One that completes no query within a second, or takes no answer, is ended.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Final, cast

from ..aio.once import Once
from ..web.limits import Admission, Seldom
from .answers import Answers

__all__ = ["TcpServer"]

logger = logging.getLogger("iroh_fast.dns_server.dns")

IDLE_S: Final = 1.0
QUERIES_PER_TURN: Final = 32
_ROOM: Final = 2 + 4096  # of a connection; longer queries get room of their own, in all:
LONG_ROOM: Final = 16 << 20
WRITE_HIGH: Final = 64 << 10


class TcpServer:
    """Accepts connections of one listening socket and answers what comes.

    Parameters
    ----------
    admission : Admission
        Who may connect.
    idle : float
        Seconds that a connection may last without a complete query.
    """

    def __init__(
        self, sock: socket.socket, answers: Answers, admission: Admission, *, idle: float = IDLE_S
    ) -> None:
        self._sock = sock
        self.answers = answers
        self.admission = admission
        self.idle = idle
        self.long_room = LONG_ROOM
        self.loop = asyncio.get_running_loop()
        self.streams: set[DnsStream] = set()
        self._server: asyncio.Server | None = None
        self._all_gone = Once()  # after the listener
        self._seldom = Seldom(self.loop.time)
        self._counts = {"dns_tcp_connections": 0, "dns_tcp_refused": 0, "dns_tcp_timeouts": 0}

    async def start(self) -> None:
        """Begin to accept."""
        self._server = await self.loop.create_server(lambda: DnsStream(self), sock=self._sock)

    async def close(self) -> None:
        """End the listener and all connections. May be called again."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self._sock.close()
        for stream in tuple(self.streams):
            stream.abort()
        if self.streams:
            await self._all_gone

    def gone(self, stream: DnsStream) -> None:
        """A connection ended."""
        self.streams.discard(stream)
        if not self.streams and self._server is None:
            self._all_gone.set()

    def count(self, name: str) -> None:
        self._counts[name] += 1

    def refused(self, ip: str, reason: str) -> None:
        self.count("dns_tcp_refused")
        if count := self._seldom.count():
            logger.info("%d DNS connections refused, the last from %s: %s", count, ip, reason)

    def counters(self) -> dict[str, int]:
        """Values of the metrics that begin with ``dns_tcp_``."""
        return {**self._counts, "dns_tcp_open": len(self.streams)}


class DnsStream(asyncio.BufferedProtocol):
    """One connection."""

    def __init__(self, server: TcpServer) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._ip = ""
        self._buffer = bytearray(_ROOM)
        self._long = 0  # of the server's room for long queries
        self._begin = 0
        self._end = 0
        self._asked = False  # an answer is awaited
        self._full = False  # the client does not read
        self._reading = True
        self._eof = False
        self._again: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = 0.0

    # --- what the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # those of uvloop are not of that class
        server = self._server
        peer = transport.get_extra_info("peername") or ("",)
        self._ip = peer[0].removeprefix("::ffff:")
        if (reason := server.admission.refusal(self._ip)) is not None:
            server.refused(self._ip, reason)
            transport.abort()
            return
        self._transport = transport
        server.admission.enter(self._ip)
        server.streams.add(self)
        server.count("dns_tcp_connections")
        transport.set_write_buffer_limits(WRITE_HIGH)
        self._deadline = server.loop.time() + server.idle
        self._timer = server.loop.call_at(self._deadline, self._due)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is None:
            return
        self._transport = None
        self._server.admission.leave(self._ip)
        self._server.gone(self)
        self._server.long_room += self._long
        self._long = 0
        for handle in (self._timer, self._again):
            if handle is not None:
                handle.cancel()

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self._buffer)[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        self._end += nbytes
        self._advance()

    def eof_received(self) -> bool:
        """What was asked is still answered."""
        self._eof = True
        self._finish_if_done()
        return True

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._advance()

    # --- queries

    def _advance(self) -> None:
        """Answer complete queries, in order and not too many in one turn; read on when there is room."""
        transport = self._transport
        if transport is None or self._again is not None:
            return
        for _ in range(QUERIES_PER_TURN):
            if self._asked or self._full or (query := self._next()) is None:
                break
            self._deadline = self._server.loop.time() + self._server.idle
            answer = self._server.answers.ask(query, "tcp", self._ip, self._answered)
            if answer is None:
                self._asked = True
            else:
                self._send(answer)
        else:
            self._again = self._server.loop.call_soon(self._go_on)
        self._make_room()
        self._finish_if_done()

    def _go_on(self) -> None:
        self._again = None
        self._advance()

    def _answered(self, answer: bytes) -> None:
        self._asked = False
        self._deadline = self._server.loop.time() + self._server.idle
        if self._transport is not None:
            self._send(answer)
            self._advance()

    def _send(self, answer: bytes) -> None:
        assert self._transport is not None
        if answer:
            self._transport.write(len(answer).to_bytes(2, "big") + answer)

    def _length(self) -> int | None:
        """Of the next query with the two bytes in front, if these are there."""
        if self._end - self._begin < 2:
            return None
        return 2 + int.from_bytes(self._buffer[self._begin : self._begin + 2], "big")

    def _next(self) -> bytes | None:
        length = self._length()
        if length is None or self._end - self._begin < length:
            return None
        query = bytes(self._buffer[self._begin + 2 : self._begin + length])
        self._begin += length
        return query

    def _make_room(self) -> None:
        """Have room for the rest of the next query, and read only while there is some."""
        transport = self._transport
        if transport is None:
            return
        wanted = max(self._length() or 0, _ROOM)
        kept = self._end - self._begin
        if wanted != len(self._buffer) and (wanted > len(self._buffer) or kept <= wanted):
            if not self._take_room(wanted):
                return
            replaced = bytearray(wanted)
            replaced[:kept] = self._buffer[self._begin : self._end]
            self._buffer = replaced
        elif self._begin:
            self._buffer[:kept] = self._buffer[self._begin : self._end]
        self._begin, self._end = 0, kept
        busy = self._asked or self._full or self._again is not None
        self._read_on(kept < len(self._buffer) and not busy)

    def _read_on(self, wanted: bool) -> None:
        if self._transport is None or wanted == self._reading or self._transport.is_closing():
            return
        self._reading = wanted
        if wanted:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def _take_room(self, wanted: int) -> bool:
        more = max(wanted - _ROOM, 0) - self._long
        if more > self._server.long_room:
            self._server.refused(self._ip, "too many long queries")
            self.abort()
            return False
        self._server.long_room -= more
        self._long += more
        return True

    # --- end

    def _finish_if_done(self) -> None:
        if self._eof and not self._asked and self._again is None and self._transport is not None:
            length = self._length()
            if length is None or self._end - self._begin < length:
                self._transport.close()

    def _due(self) -> None:
        now = self._server.loop.time()
        if self._asked:
            self._deadline = now + self._server.idle
        if now < self._deadline:
            self._timer = self._server.loop.call_at(self._deadline, self._due)
            return
        if self._end > self._begin or self._full:
            self._server.count("dns_tcp_timeouts")
        self.abort()

    def abort(self) -> None:
        """End at once."""
        if self._transport is not None:
            self._transport.abort()
