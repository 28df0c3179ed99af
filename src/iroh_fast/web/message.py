"""Requests and answers of the HTTP/1.1 server."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, TypeAlias
from urllib.parse import parse_qsl

__all__ = ["Headers", "Later", "Request", "Response", "query_pairs"]

Headers: TypeAlias = tuple[tuple[str, str], ...]

MAX_FIELDS: Final = 100  # of a query


@dataclass(slots=True)
class Request:
    """A request; names of headers are in lower case, values as they came.

    `body` is empty where the server takes none.
    """

    method: str = ""
    target: str = ""
    headers: list[tuple[str, bytes]] = field(default_factory=list)
    body: bytes = b""

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
        for key, value in self.headers:
            if key == name:
                return value
        return None


def query_pairs(request: Request) -> list[tuple[str, str]]:
    """The query, form-decoded (WHATWG URL, application/x-www-form-urlencoded)."""
    try:
        return parse_qsl(request.query or "", keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        return []


@dataclass(frozen=True, slots=True)
class Response:
    """An answer; ``content-length`` and ``date`` are added."""

    status: int
    body: bytes = b""
    headers: Headers = ()

    def encode(self, keep_alive: bool, with_body: bool = True) -> bytes:
        """The bytes of the answer; `with_body` is False for HEAD."""
        status, body = self.status, self.body
        parts = [_head(status, self.headers, keep_alive)]
        if status not in (101, 204):
            parts.append(b"content-length: %d\r\n" % len(body))
        parts.append(_date(int(time.time())))
        if with_body:
            parts.append(body)
        return b"".join(parts)


@functools.lru_cache(256)
def _head(status: int, headers: Headers, keep_alive: bool) -> bytes:
    """The lines of a head that are the same in many answers."""
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers]
    if status != 101 and not keep_alive:
        lines.append("connection: close")
    return "\r\n".join([*lines, ""]).encode("latin-1", "replace")


# strftime would follow the locale, and email.utils takes long to load.
_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = tuple("Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split())


@functools.lru_cache(1)
def _date(second: int) -> bytes:
    """The line of a date as RFC 9110 §5.6.7 has it, and the end of a head."""
    t = time.gmtime(second)
    clock = f"{t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02}"
    day = f"{_DAYS[t.tm_wday]}, {t.tm_mday:02} {_MONTHS[t.tm_mon - 1]} {t.tm_year}"
    return f"date: {day} {clock} GMT\r\n\r\n".encode("ascii")


class Later:
    """An answer that is not there yet.

    A handler returns one, and calls `set` when it knows the answer: once, on the loop of the
    server. Nothing else is answered on that connection before. When the client has gone, `set`
    does nothing, and `on_gone` was called if somebody had put a function there.
    """

    __slots__ = ("_observer", "_response", "_taker", "on_gone")

    def __init__(self) -> None:
        self.on_gone: Callable[[], object] | None = None
        self._observer: Callable[[Response], object] | None = None
        self._response: Response | None = None
        self._taker: Callable[[Response], None] | None = None

    def set(self, response: Response) -> None:
        """Give the answer; a second one is ignored."""
        if self._response is None:
            self._response = response
            if self._taker is not None:
                self._taker(response)
            if self._observer is not None:
                self._observer(response)

    def observe(self, observer: Callable[[Response], object]) -> None:
        """Have `observer` told of the answer, when it was given or now."""
        self._observer = observer
        if self._response is not None:
            observer(self._response)

    def then(self, taker: Callable[[Response], None]) -> None:
        """Have the answer given to `taker`: now, or when it is there."""
        self._taker = taker
        if self._response is not None:
            taker(self._response)

    def abandon(self) -> None:
        """Nobody waits any more."""
        self._taker = None
        on_gone, self.on_gone = self.on_gone, None
        if on_gone is not None and self._response is None:
            on_gone()
