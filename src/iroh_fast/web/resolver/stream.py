"""Queries to one server over TCP or TLS, on connections that are kept for a while."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final

from ..tcp import connect
from .message import MAX_MESSAGE_BYTES, Query

__all__ = ["LIFETIME_S", "Streams"]

LIFETIME_S: Final = 5.0  # of one query, connecting included
IDLE_S: Final = 10.0
MAX_IDLE: Final = 2


class _Stream:
    """One connection, for one query at a time."""

    __slots__ = ("_reader", "_writer", "expiry")

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.expiry: asyncio.TimerHandle | None = None

    async def ask(self, query: Query) -> bytes:
        self._writer.write(len(query.wire).to_bytes(2, "big") + query.wire)
        length = int.from_bytes(await self._reader.readexactly(2), "big")
        if length > MAX_MESSAGE_BYTES:
            raise ValueError(f"an answer of {length} bytes, at most {MAX_MESSAGE_BYTES}")
        data = await self._reader.readexactly(length)
        if not query.is_answered_by(data):
            raise ValueError("an answer to another question")
        return data

    @property
    def is_open(self) -> bool:
        return not (self._reader.at_eof() or self._writer.transport.is_closing())

    def abort(self) -> None:
        if self.expiry is not None:
            self.expiry.cancel()
        self._writer.transport.abort()


class Streams:
    """The connections to one server.

    Parameters
    ----------
    ip, port, family, scope : of the server.
    tls : for TLS: makes the context; the certificate has to be for `server_name`.
    """

    def __init__(
        self,
        ip: str,
        port: int,
        family: socket.AddressFamily,
        scope: int,
        *,
        tls: Callable[[], ssl.SSLContext] | None = None,
        server_name: str = "",
    ) -> None:
        self._where = (ip, port, family, scope)
        self._tls = tls
        self._server_name = server_name
        self._idle: list[_Stream] = []
        self._closed = False

    async def ask(self, query: Query) -> bytes:
        """Send a query, on a connection that is there or on a new one.

        Raises
        ------
        OSError, EOFError, ValueError : the server cannot be reached, or breaks the rules.
        """
        async with asyncio.timeout(LIFETIME_S):
            while (stream := self._take()) is not None:
                try:
                    return await self._on(stream, query)
                except (OSError, EOFError):
                    continue  # the server had closed it meanwhile
            return await self._on(await self._open(), query)

    async def _on(self, stream: _Stream, query: Query) -> bytes:
        try:
            data = await stream.ask(query)
        except BaseException:
            stream.abort()
            raise
        self._keep(stream)
        return data

    async def _open(self) -> _Stream:
        ip, port, family, scope = self._where
        options: dict[str, Any] = {}
        if self._tls is not None:
            options = {"ssl": self._tls(), "server_hostname": self._server_name}
        sock = await connect(ip, port, family, scope=scope)
        try:
            reader, writer = await asyncio.open_connection(sock=sock, **options)
        except BaseException:
            sock.close()
            raise
        return _Stream(reader, writer)

    def _take(self) -> _Stream | None:
        while self._idle:
            stream = self._idle.pop()
            if stream.is_open:
                if stream.expiry is not None:
                    stream.expiry.cancel()
                return stream
            stream.abort()
        return None

    def _keep(self, stream: _Stream) -> None:
        if self._closed or len(self._idle) >= MAX_IDLE or not stream.is_open:
            stream.abort()
            return
        loop = asyncio.get_running_loop()
        stream.expiry = loop.call_later(IDLE_S, self._expire, stream)
        self._idle.append(stream)

    def _expire(self, stream: _Stream) -> None:
        if stream in self._idle:
            self._idle.remove(stream)
            stream.abort()

    def close(self) -> None:
        """End the idle connections; those in use end after their query."""
        self._closed = True
        for stream in self._idle:
            stream.abort()
        self._idle.clear()
