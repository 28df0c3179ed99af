"""A small HTTP/1.1 server: request heads, plain answers, hand-over to another protocol.

Heads are parsed by `httptools`. There are no request bodies, no HTTP/2, and nothing that waits:
an answer is made at once or the connection is handed to another protocol.

A client gets one answer at a time: while it has not read the last one, nothing more is read from
it, and an answer that stays unread ends the connection. All clients share half a millisecond per
turn of the event loop (`Turns`), so that nobody keeps it from its other work.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, TypeAlias, cast
from urllib.parse import parse_qsl

import httptools

__all__ = [
    "MAX_HEADERS",
    "MAX_HEAD_BYTES",
    "HttpCounters",
    "HttpProtocol",
    "Request",
    "Response",
    "Turns",
    "query_pairs",
]

MAX_HEAD_BYTES: Final = 16 * 1024
MAX_HEADERS: Final = 64
HEAD_TIMEOUT_S: Final = 10.0
UNREAD_TIMEOUT_S: Final = 10.0  # for an answer that the client does not read
READ_BYTES: Final = 4096  # what is held of requests that wait for their turn
SLICE_S: Final = 0.0005

logger = logging.getLogger("iroh_fast.web.http")


@dataclass(slots=True)
class Request:
    """The head of a request; names of headers are in lower case, values as they came."""

    method: str = ""
    target: str = ""
    headers: list[tuple[str, bytes]] = field(default_factory=list)

    @property
    def path(self) -> str:
        """What stands before the question mark of :attr:`target`."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str | None:
        """What stands behind it, as it came; None without a question mark."""
        path, mark, query = self.target.partition("?")
        return query if mark else None

    def get(self, name: str) -> bytes | None:
        """The first value of a header."""
        return next((value for key, value in self.headers if key == name), None)


@dataclass(frozen=True, slots=True)
class Response:
    """An answer; ``content-length`` and ``date`` are added."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()

    def encode(self, keep_alive: bool, with_body: bool = True) -> bytes:
        """The bytes of the answer; `with_body` is False for HEAD."""
        lines = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        if self.status != 101:
            if self.status != 204:
                lines.append(f"content-length: {len(self.body)}")
            if not keep_alive:
                lines.append("connection: close")
        lines.append(f"date: {_date(int(time.time()))}")
        head = "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n"
        return head + self.body if with_body else head


# strftime would follow the locale, and email.utils takes long to load.
_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = tuple("Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split())


@functools.lru_cache(1)
def _date(second: int) -> str:
    """A date as RFC 9110 §5.6.7 has it."""
    t = time.gmtime(second)
    clock = f"{t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02}"
    day = f"{_DAYS[t.tm_wday]}, {t.tm_mday:02} {_MONTHS[t.tm_mon - 1]} {t.tm_year}"
    return f"{day} {clock} GMT"


def query_pairs(request: Request) -> list[tuple[str, str]]:
    """The query, form-decoded (WHATWG URL, application/x-www-form-urlencoded)."""
    try:
        return parse_qsl(request.query or "", keep_blank_values=True, max_num_fields=100)
    except ValueError:
        return []


Handler: TypeAlias = "Callable[[Request, HttpProtocol], Response | None]"
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
        Seconds for the first request head, TLS included.
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
        peer: str = "",
        extra: tuple[tuple[str, str], ...] = (),
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
        self._handler = handler
        self._turns = turns
        self._on_end: Callable[[HttpProtocol, bool], None] | None = on_end
        self._extra = extra
        self._may_stay = may_stay
        self._over = False  # nothing more is answered
        self._well = False
        self._queued = False
        self._blocked = False
        self._reading = True
        self._unread: asyncio.TimerHandle | None = None
        self._deadline = deadline
        self._head_due: float | None = min(deadline, loop.time() + head_timeout)
        self._timer = loop.call_at(self._head_due, self._expired)
        self._held = b""  # received and not parsed
        self._at = 0
        self._begin_head()

    def _begin_head(self) -> None:
        self._request = Request()
        self._head_size = 0
        self._tail = b""  # the last bytes parsed, for an end of the head across two reads
        self._keep_alive = False
        self._is_whole = False
        self._parser = httptools.HttpRequestParser(self)

    # --- parser

    def on_url(self, url: bytes) -> None:
        self._request.target += url.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._request.headers.append((name.decode("latin-1").lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        self._is_whole = True
        # Later the parser has forgotten about this request.
        self._request.method = self._parser.get_method().decode("ascii")
        self._keep_alive = (
            self._may_stay
            and self._parser.should_keep_alive()
            and not any(
                name == "transfer-encoding" or (name == "content-length" and value != b"0")
                for name, value in self._request.headers
            )
        )

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
            return
        self._held = self._held[self._at :] + bytes(self._turns.scratch[:nbytes])
        self._at = 0
        self._set_reading(False)
        self._enqueue()

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
        if not self._queued:
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
        """Called by `Turns`: go on to the end of the next head, and answer it."""
        self._queued = False
        if self._over or self._blocked:
            return
        if self._at < len(self._held) and self._parse():
            self._answer()
            if self._over or self.upgraded:
                return
        if self._at < len(self._held):
            if not self._blocked:
                self._enqueue()
            return
        self._held, self._at = b"", 0
        if not self._blocked:
            self._set_reading(True)

    def _parse(self) -> bool:
        """Feed the parser up to the next end of a head; tells whether one was there."""
        seen = self._tail + self._held[self._at :]
        end = seen.find(b"\r\n\r\n")
        size = len(seen) if end < 0 else end + 4
        piece = seen[len(self._tail) : size]
        self._head_size += len(piece)
        if self._head_size > MAX_HEAD_BYTES:
            self._refuse(431, b"Request Header Fields Too Large")
            return False
        try:
            self._parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserError:
            self._refuse(400, b"Bad Request")
            return False
        self._at += len(piece)
        self._tail = seen[:size][-3:]
        if len(self._request.headers) > MAX_HEADERS:
            self._refuse(431, b"Request Header Fields Too Large")
            return False
        # Empty lines before a request are no request (RFC 9112 §2.2).
        return end >= 0 and self._is_whole

    def _answer(self) -> None:
        request, keep_alive = self._request, self._keep_alive
        self._head_due = None
        self._begin_head()
        self._turns.counters.requests += 1
        with_body = request.method != "HEAD"
        try:
            response = self._handler(request, self)
            answer = b"" if response is None else response.encode(keep_alive, with_body)
        except Exception:
            self._turns.counters.handler_errors += 1
            logger.exception("a handler of %.100r failed", request.path)
            response = Response(500, b"Internal Server Error", self._extra)
            answer = response.encode(keep_alive, with_body)
        if response is None or self._over or self.transport is None:
            return
        self.transport.write(answer)
        if not keep_alive:
            self._close(True)

    @property
    def has_early_data(self) -> bool:
        """Bytes came behind the head that is being answered."""
        return self._at < len(self._held)

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

    def _refuse(self, status: int, text: bytes) -> None:
        assert self.transport is not None
        self.transport.write(Response(status, text, self._extra).encode(False))
        self._close(False)

    def _close(self, well: bool) -> None:
        """End when the last answer is out; until then the connection counts."""
        self._over = True
        self._well = well
        assert self.transport is not None
        self.transport.close()

    def _expired(self) -> None:
        if self.loop.time() < self._deadline and self._head_due is None:
            # After the first request only the end of its life counts.
            self._timer = self.loop.call_at(self._deadline, self._expired)
            return
        self.abort()

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
        self._held, self._at = b"", 0
        self._timer.cancel()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(self, self._well)
