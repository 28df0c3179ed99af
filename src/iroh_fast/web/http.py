"""A small HTTP/1.1 server: requests, answers, hand-over to another protocol.

Requests are read by `RequestReader`. There is no HTTP/2. An answer is made at once, or it comes
`Later`, or the connection is handed to another protocol.

A client gets one answer at a time: while it has not read the last one, or while the next one is
not there yet, not much more is read from it, and an answer that stays unread ends the connection.
All clients share half a millisecond per turn of the event loop (`Turns`), so that nobody keeps it
from its other work.
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias, cast

from .message import Headers, Later, Request, Response
from .reading import Refused, RequestReader

__all__ = ["Handler", "HttpCounters", "HttpProtocol", "Turns"]

HEAD_TIMEOUT_S: Final = 10.0
UNREAD_TIMEOUT_S: Final = 10.0  # for an answer that the client does not read
READ_BYTES: Final = 4096  # what is held of requests that wait for their turn
SLICE_S: Final = 0.0005
LINGER_S: Final = 2.0  # for a client to read why its body is not wanted
LINGER_BYTES: Final = 1024 * 1024

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

logger = logging.getLogger("iroh_fast.web.http")

Handler: TypeAlias = "Callable[[Request, HttpProtocol], Response | Later | None]"
"""Gives the answer, or None when it took the connection over by `HttpProtocol.upgrade`."""


@dataclass(slots=True)
class HttpCounters:
    """What the connections of a server count: for metrics."""

    requests: int = 0
    handler_errors: int = 0
    unread_timeouts: int = 0


class Turns:
    """Shares the event loop out among connections with requests.

    In each turn of the loop requests are answered for `SLICE_S`, one per connection in a circle;
    what is left waits for the next turn.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.counters = HttpCounters()
        # What connections read into, one after the other.
        self.scratch = memoryview(bytearray(READ_BYTES))
        self._loop = loop
        self._waiting: deque[HttpProtocol] = deque()
        self._scheduled = False

    def add(self, protocol: HttpProtocol) -> None:
        """Let a connection have its turn."""
        self._waiting.append(protocol)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._run)

    def _run(self) -> None:
        end = time.perf_counter() + SLICE_S
        waiting = self._waiting
        while waiting:
            waiting.popleft().step()
            if time.perf_counter() >= end:
                break
        self._scheduled = bool(waiting)
        if waiting:
            self._loop.call_soon(self._run)


class HttpProtocol(asyncio.BufferedProtocol):
    """One HTTP connection.

    Parameters
    ----------
    handler : callable
        Answers requests; what it raises is answered with status 500.
    turns : Turns
        Shared by the connections of a server.
    deadline : float
        Loop time at which the connection ends if nobody has taken it over.
    head_timeout : float
        Seconds for the first request, TLS included.
    idle_timeout : float, optional
        Seconds from an answer to the end of the next request. None: only `deadline` counts.
    max_body : int
        Bytes of a request's body; 0: none are read, and what has one is the last request.
    on_end : callable
        Called once when the connection is gone or was upgraded, with True if that was in order.
    peer : str
        IP address of the client.
    extra : sequence of (str, str)
        Headers added to errors found here.
    may_stay : bool
        False: one request per connection.
    main : bool
        For the owner.
    """

    transport: asyncio.Transport | None

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        handler: Handler,
        *,
        turns: Turns,
        deadline: float,
        on_end: Callable[[HttpProtocol, bool], None],
        head_timeout: float = HEAD_TIMEOUT_S,
        idle_timeout: float | None = None,
        max_body: int = 0,
        peer: str = "",
        extra: Headers = (),
        may_stay: bool = True,
        main: bool = False,
    ) -> None:
        self.loop = loop
        self.peer = peer
        self.main = main
        self.accepted_at = loop.time()
        self.plain_socket: socket.socket | None = None
        self.transport = None
        self.upgraded = False
        self.proven = False  # for the owner
        self._handler = handler
        self._turns = turns
        self._on_end: Callable[[HttpProtocol, bool], None] | None = on_end
        self._extra = extra
        self._reader = RequestReader(max_body=max_body, may_stay=may_stay)
        self._over = False  # nothing more is answered
        self._well = False
        self._queued = False
        self._blocked = False
        self._later: Later | None = None
        self._with_body = True  # of the answer that is being made
        self._reading = True
        self._at_end = False  # the client has sent its last byte
        self._is_last = False  # no request is read behind the next answer
        self._to_discard = 0
        self._unread: asyncio.TimerHandle | None = None
        self._deadline = deadline
        self._idle_timeout = math.inf if idle_timeout is None else idle_timeout
        self._due = min(deadline, loop.time() + head_timeout)  # of the request that is awaited
        self._timer_at = self._due
        self._timer = loop.call_at(self._due, self._expired)

    # --- transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        # Whatever the client has not taken stops reading: one answer waits at most.
        self.transport.set_write_buffer_limits(high=1, low=0)
        if self._over:
            self.transport.abort()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._turns.scratch

    def buffer_updated(self, nbytes: int) -> None:
        if self._over:
            self._discard(nbytes)
            return
        self._reader.feed(self._turns.scratch[:nbytes])
        if self._blocked or self._later is not None or self._reader.left >= READ_BYTES:
            self._set_reading(False)
        self._enqueue()

    def eof_received(self) -> bool:
        """Stay open for the answers that are due; TLS has no way to."""
        self._at_end = True
        return self.plain_socket is not None and (self._later is not None or self._reader.left > 0)

    def _set_reading(self, wanted: bool) -> None:
        transport = self.transport
        if wanted == self._reading or transport is None or transport.is_closing():
            return
        self._reading = wanted
        if wanted:
            transport.resume_reading()
        else:
            transport.pause_reading()

    def _enqueue(self) -> None:
        if not self._queued and self._later is None and not self._blocked:
            self._queued = True
            self._turns.add(self)

    def pause_writing(self) -> None:
        self._blocked = True
        self._unread = self.loop.call_later(UNREAD_TIMEOUT_S, self._not_read)

    def resume_writing(self) -> None:
        self._blocked = False
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
        if not self._over:
            self._enqueue()

    def _not_read(self) -> None:
        self._turns.counters.unread_timeouts += 1
        logger.debug("%s does not read its answer", self.peer)
        self.abort()

    # --- requests

    def step(self) -> None:
        """Called by `Turns`: go on to the end of the next head or body, and answer."""
        self._queued = False
        if self._over or self._blocked or self._later is not None:
            return
        reader = self._reader
        if reader.left:
            try:
                request = reader.read()
            except Refused as refused:
                self._refuse(refused)
                return
            if request is not None:
                self._answer(request)
                if self._over or self.upgraded or self._later is not None:
                    return
            elif reader.wants_continue:
                reader.wants_continue = False
                assert self.transport is not None
                self.transport.write(_CONTINUE)
        if reader.left:
            self._enqueue()
        elif not self._blocked:
            if self._at_end:
                self._close(True)
            else:
                self._set_reading(True)

    def _answer(self, request: Request) -> None:
        self._turns.counters.requests += 1
        self._with_body = request.method != "HEAD"
        try:
            response = self._handler(request, self)
        except Exception:
            self._failed(request)
            return
        if response is None:
            return
        if isinstance(response, Later):
            self._later = response
            response.then(self._send)
        else:
            self._send(response)

    def _failed(self, request: Request) -> None:
        self._turns.counters.handler_errors += 1
        logger.exception("a handler of %.100r failed", request.path)
        self._send(Response(500, b"Internal Server Error", self._extra))

    def _send(self, response: Response) -> None:
        """Answer the request that is open."""
        later, self._later = self._later, None
        transport = self.transport
        if self._over or transport is None:
            return
        is_last = self._is_last or (self._at_end and not self._reader.left)
        keep_alive = self._reader.keep_alive and not is_last
        try:
            answer = response.encode(keep_alive, self._with_body)
        except Exception:
            self._turns.counters.handler_errors += 1
            logger.exception("an answer cannot be sent")
            response = Response(500, b"Internal Server Error", self._extra)
            answer = response.encode(keep_alive, self._with_body)
        transport.write(answer)
        if not keep_alive:
            self._close(True)
            return
        self._due = min(self._deadline, self.loop.time() + self._idle_timeout)
        if self._due < self._timer_at:  # one that comes too early looks again
            self._timer.cancel()
            self._set_timer()
        if later is not None:
            if self._reader.left:
                self._enqueue()
            elif not self._blocked:
                self._set_reading(True)

    @property
    def has_early_data(self) -> bool:
        """Bytes came behind the head that is being answered."""
        return self._reader.left > 0

    def upgrade(self, response: Response, protocol: asyncio.BaseProtocol) -> None:
        """Answer and give the transport to another protocol, which reads on."""
        transport = self.transport
        assert transport is not None
        self.upgraded = True
        self._well = True
        self._end()
        transport.write(response.encode(True))
        # Loops look at the kind of the protocol when reading starts.
        self._set_reading(False)
        transport.set_protocol(protocol)
        transport.resume_reading()

    # --- the end

    def _refuse(self, refused: Refused) -> None:
        assert self.transport is not None
        response = Response(refused.status, str(refused).encode(), self._extra)
        self.transport.write(response.encode(False))
        if not refused.body_comes or self._at_end:
            self._close(False)
            return
        # Closing at once would throw the answer away together with what comes in.
        self._over = True
        self._reader.drop()
        self._to_discard = LINGER_BYTES
        self._deadline = self._due = self.loop.time() + LINGER_S
        self._timer.cancel()
        self._timer = self.loop.call_at(self._due, self.abort)
        self._set_reading(True)

    def _discard(self, nbytes: int) -> None:
        if self._to_discard:
            self._to_discard -= min(nbytes, self._to_discard)
            if not self._to_discard:
                self._close(False)

    def _close(self, well: bool) -> None:
        """End when the last answer is out; until then the connection counts."""
        self._over = True
        self._well = well
        assert self.transport is not None
        self.transport.close()

    def _set_timer(self) -> None:
        self._timer_at = self._due
        if self._due < math.inf:
            self._timer = self.loop.call_at(self._due, self._expired)

    def _expired(self) -> None:
        now = self.loop.time()
        if now < self._deadline:
            if self._later is not None:  # that it takes so long is not the client's fault
                self._due = min(self._deadline, now + HEAD_TIMEOUT_S)
            if now < self._due:
                self._set_timer()
                return
            if self.transport is not None and self._is_idle():
                self._close(True)
                return
        self.abort()

    def _is_idle(self) -> bool:
        """Everything was answered, and that nothing comes is in order."""
        may_idle = self._idle_timeout < math.inf
        return may_idle and self._reader.is_between and not self._blocked

    def finish(self) -> None:
        """Let the answer that is due go out, and end; without one at once."""
        self._is_last = True
        if self.transport is None:
            self.abort()
        elif not self._over and self._later is None and self._reader.is_between:
            self._close(True)

    def abort(self) -> None:
        """End the connection at once."""
        self._over = True
        self._well = False
        if self.transport is not None:
            self.transport.abort()
        else:
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._well = exc is None and (self._well or not self._over)
        self._end()

    def _end(self) -> None:
        self._over = True
        self._reader.drop()
        self._timer.cancel()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
        later, self._later = self._later, None
        if later is not None:
            later.abandon()
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(self, self._well)
