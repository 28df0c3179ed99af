"""A small HTTP/1.1 server: request heads, plain answers, hand-over to another protocol.

Heads are parsed by `httptools`. There are no request bodies, no HTTP/2, and nothing that waits:
an answer is made at once or the connection is handed to another protocol.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from typing import Final, TypeAlias, cast
from urllib.parse import parse_qsl

import httptools

__all__ = [
    "MAX_HEADERS",
    "MAX_HEAD_BYTES",
    "HttpProtocol",
    "Request",
    "Response",
    "query_pairs",
]

MAX_HEAD_BYTES: Final = 16 * 1024
MAX_HEADERS: Final = 64
HEAD_TIMEOUT_S: Final = 10.0


@dataclass(slots=True)
class Request:
    """The head of a request; names of headers are in lower case, values as they came."""

    method: str = ""
    target: str = ""
    headers: list[tuple[str, bytes]] = field(default_factory=list)

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> str | None:
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

    def encode(self, *, keep_alive: bool, with_body: bool = True) -> bytes:
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


@functools.lru_cache(1)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)


def query_pairs(request: Request) -> list[tuple[str, str]]:
    """The query, form-decoded (WHATWG URL, application/x-www-form-urlencoded)."""
    try:
        return parse_qsl(request.query or "", keep_blank_values=True, max_num_fields=100)
    except ValueError:
        return []


Handler: TypeAlias = "Callable[[Request, HttpProtocol], Response | None]"
"""Gives the answer, or None when it took the connection over by `HttpProtocol.upgrade`."""


class HttpProtocol(asyncio.Protocol):
    """One HTTP connection.

    Parameters
    ----------
    handler : callable
        Answers requests.
    deadline : float
        Loop time at which the connection ends if nobody has taken it over.
    head_timeout : float
        Seconds for the first request head, TLS included.
    on_end : callable
        Called once with True when the connection ended in a proper way (also: was upgraded).
    peer : str
        IP address of the client.
    extra : sequence of (str, str)
        Headers added to errors found here.
    main : bool
        For the owner.
    """

    __slots__ = (
        "_answered",
        "_buffer",
        "_done",
        "_extra",
        "_fed",
        "_handler",
        "_keep_alive",
        "_on_end",
        "_parser",
        "_request",
        "_timer",
        "accepted_at",
        "loop",
        "main",
        "peer",
        "plain_socket",
        "transport",
        "upgraded",
    )
    transport: asyncio.Transport

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        handler: Handler,
        *,
        deadline: float,
        on_end: Callable[[HttpProtocol, bool], None],
        head_timeout: float = HEAD_TIMEOUT_S,
        peer: str = "",
        extra: tuple[tuple[str, str], ...] = (),
        main: bool = False,
    ) -> None:
        self.loop = loop
        self.peer = peer
        self.main = main
        self.accepted_at = loop.time()
        self.plain_socket: socket.socket | None = None
        self.upgraded = False
        self._handler = handler
        self._on_end: Callable[[HttpProtocol, bool], None] | None = on_end
        self._extra = extra
        self._done = False
        self._answered = False
        self._timer = loop.call_at(
            min(deadline, loop.time() + head_timeout), self._expired, deadline
        )
        self._reset(b"")

    def _reset(self, rest: bytes) -> None:
        self._buffer = rest
        self._fed = 0
        self._request = Request()
        self._keep_alive = False
        self._parser = httptools.HttpRequestParser(self)

    # --- parser

    def on_url(self, url: bytes) -> None:
        self._request.target += url.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._request.headers.append((name.decode("latin-1").lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        # Later the parser has forgotten about this request.
        self._request.method = self._parser.get_method().decode("ascii")
        self._keep_alive = self._parser.should_keep_alive() and not any(
            name == "transfer-encoding" or (name == "content-length" and value != b"0")
            for name, value in self._request.headers
        )

    # --- transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if self._done:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while not self._done and self._buffer:
            end = self._buffer.find(b"\r\n\r\n", max(0, self._fed - 3))
            stop = len(self._buffer) if end < 0 else end + 4
            if stop > MAX_HEAD_BYTES:
                self._refuse(431, b"Request Header Fields Too Large")
                return
            try:
                self._parser.feed_data(self._buffer[self._fed : stop])
            except httptools.HttpParserUpgrade:
                pass
            except httptools.HttpParserError:
                self._refuse(400, b"Bad Request")
                return
            self._fed = stop
            if len(self._request.headers) > MAX_HEADERS:
                self._refuse(431, b"Request Header Fields Too Large")
                return
            if end < 0:
                return
            self._answer(stop)

    def _answer(self, head_size: int) -> None:
        request, keep_alive = self._request, self._keep_alive
        rest = self._buffer[head_size:]
        self._reset(rest)
        self._answered = True
        response = self._handler(request, self)
        if response is None or self._done:
            return
        self.transport.write(
            response.encode(keep_alive=keep_alive, with_body=request.method != "HEAD")
        )
        if not keep_alive:
            self._finish(True)
            self.transport.close()

    @property
    def has_early_data(self) -> bool:
        """Bytes came behind the head that is being answered."""
        return bool(self._buffer)

    def upgrade(self, response: Response, protocol: asyncio.BaseProtocol) -> None:
        """Answer and give the transport to another protocol."""
        self.upgraded = True
        self._finish(True)
        transport = self.transport
        transport.write(response.encode(keep_alive=True))
        # Loops look at the kind of the protocol when reading starts.
        transport.pause_reading()
        transport.set_protocol(protocol)
        transport.resume_reading()

    def _refuse(self, status: int, text: bytes) -> None:
        self.transport.write(Response(status, text, self._extra).encode(keep_alive=False))
        self._finish(False)
        self.transport.close()

    def _expired(self, deadline: float) -> None:
        if self.loop.time() < deadline and self._answered and not self._fed:
            # Between requests only the end of its life counts.
            self._timer = self.loop.call_at(deadline, self._expired, deadline)
            return
        self.abort()

    def abort(self) -> None:
        """End the connection at once."""
        self._finish(False)
        if (transport := getattr(self, "transport", None)) is not None:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._finish(exc is None)

    def _finish(self, well: bool) -> None:
        self._done = True
        self._timer.cancel()
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(self, well)
