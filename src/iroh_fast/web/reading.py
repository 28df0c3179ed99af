"""Requests out of the bytes that a client sends, one at a time."""

from __future__ import annotations

from typing import Final

import httptools

from .._check import Buffer
from .message import Request

__all__ = ["MAX_HEADERS", "MAX_HEAD_BYTES", "Refused", "RequestReader"]

MAX_HEAD_BYTES: Final = 16 * 1024
MAX_HEADERS: Final = 64
CHUNK_OVERHEAD: Final = 4  # bytes sent for each byte of a body in chunks


class Refused(Exception):
    """A request that is not read any further.

    Parameters
    ----------
    status : int
        Of the answer that tells it.
    body_comes : bool
        The client is about to send what nobody reads.
    """

    def __init__(self, status: int, text: str, *, body_comes: bool = False) -> None:
        super().__init__(text)
        self.status = status
        self.body_comes = body_comes


class RequestReader:
    """Reads requests: heads by `httptools`, bodies up to a bound.

    Parameters
    ----------
    max_body : int
        Bytes of a body. 0: none are read, and what has one is the last request.
    may_stay : bool
        False: one request per connection.

    Attributes
    ----------
    keep_alive : bool
        Of the request that was read last: whether another one may follow.
    wants_continue : bool
        The client waits for ``100 Continue`` before it sends a body (RFC 9110 §10.1.1).
    """

    def __init__(self, *, max_body: int = 0, may_stay: bool = True) -> None:
        self.keep_alive = False
        self.wants_continue = False
        self._max_body = max_body
        self._may_stay = may_stay
        self._held = b""  # received and not parsed
        self._at = 0
        self._begin()

    def _begin(self) -> None:
        self._request = Request()
        self._head_size = 0
        self._tail = b""  # the last bytes parsed, for an end of the head across two reads
        self._has_head = False
        self._missing = 0  # bytes of the body
        self._in_chunks = False
        self._body: bytearray | None = None
        self._fed = 0
        self._is_whole = False  # of a body in chunks
        self._parser = httptools.HttpRequestParser(self)

    # --- parser

    def on_url(self, url: bytes) -> None:
        if not self._has_head:
            self._request.target += url.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._has_head:  # no fields behind the body
            self._request.headers.append((name.decode("latin-1").lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        if self._has_head:
            return
        self._has_head = True
        # Later the parser has forgotten about this request.
        self._request.method = self._parser.get_method().decode("ascii")
        self.keep_alive = self._may_stay and self._parser.should_keep_alive()

    def on_body(self, data: bytes) -> None:
        if self._in_chunks and not self._is_whole:
            assert self._body is not None
            self._body += data

    def on_message_complete(self) -> None:
        if self._in_chunks:
            self._is_whole = True

    # --- for the protocol

    @property
    def left(self) -> int:
        """Bytes received and not read."""
        return len(self._held) - self._at

    @property
    def is_between(self) -> bool:
        """Nothing of a further request has come."""
        return not self._head_size and not self.left

    def feed(self, data: Buffer) -> None:
        """Take what a client sent."""
        self._held = self._held[self._at :] + bytes(data)
        self._at = 0

    def drop(self) -> None:
        """Forget what was received."""
        self._held, self._at = b"", 0

    def read(self) -> Request | None:
        """Go on to the end of the next head or body; gives a request that is whole.

        Raises
        ------
        Refused
        """
        if not self._has_head:
            if not self._read_head():
                return None
            self._look_for_body()
        if self._in_chunks:
            self._read_chunks()
            if not self._is_whole:
                return None
        elif self._missing and not self._read_rest():
            return None
        request = self._request
        if self._body is not None:
            request.body = bytes(self._body)
        self._begin()
        return request

    def _read_head(self) -> bool:
        """Feed the parser up to the next end of a head; tells whether one was there."""
        seen = self._tail + self._held[self._at :]
        end = seen.find(b"\r\n\r\n")
        size = len(seen) if end < 0 else end + 4
        piece = seen[len(self._tail) : size]
        self._head_size += len(piece)
        if self._head_size > MAX_HEAD_BYTES:
            raise Refused(431, "Request Header Fields Too Large")
        self._parse(piece)
        self._at += len(piece)
        self._tail = seen[:size][-3:]
        if len(self._request.headers) > MAX_HEADERS:
            raise Refused(431, "Request Header Fields Too Large")
        # Empty lines before a request are no request (RFC 9112 §2.2).
        return end >= 0 and self._has_head

    def _parse(self, piece: bytes) -> None:
        try:
            self._parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserError:
            if not self._is_whole:
                raise Refused(400, "Bad Request") from None

    # --- bodies

    def _look_for_body(self) -> None:
        request = self._request
        length = request.get("content-length")
        in_chunks = request.get("transfer-encoding") is not None
        if not in_chunks and (length is None or length == b"0"):
            return
        if not self._max_body:
            self.keep_alive = False
            return
        if in_chunks:
            # Where it ends the parser does not tell: nothing may follow.
            self.keep_alive = False
            self._in_chunks = True
        else:
            assert length is not None
            if not length.isdigit():
                raise Refused(400, "Bad Request")
            if len(length) > 18 or int(length) > self._max_body:
                raise Refused(413, "Payload Too Large", body_comes=True)
            self._missing = int(length)
        self._body = bytearray()
        expected = request.get("expect")
        if expected is not None and not self.left:
            if expected.lower() != b"100-continue":
                raise Refused(417, "Expectation Failed")
            self.wants_continue = True

    def _read_rest(self) -> bool:
        assert self._body is not None
        piece = self._held[self._at : self._at + self._missing]
        self._at += len(piece)
        self._missing -= len(piece)
        self._body += piece
        return not self._missing

    def _read_chunks(self) -> None:
        piece = self._held[self._at :]
        self._fed += len(piece)
        self._at = len(self._held)
        self._parse(piece)
        assert self._body is not None
        if len(self._body) > self._max_body or (
            not self._is_whole and self._fed > CHUNK_OVERHEAD * self._max_body + MAX_HEAD_BYTES
        ):
            raise Refused(413, "Payload Too Large", body_comes=True)
