"""Queries to one server over HTTPS (RFC 8484)."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from typing import Final

from ...errors import HttpError
from ..client import HttpAnswer, HttpClient
from .config import NameserverConfig
from .message import MAX_MESSAGE_BYTES, Query
from .stream import LIFETIME_S

__all__ = ["Https"]

_TYPE: Final = "application/dns-message"
_HEADERS: Final = {"Accept": _TYPE, "Content-Type": _TYPE}


class _Fixed:
    """The name of the server is at its address, whatever others say."""

    def __init__(self, ip: str) -> None:
        self._ip = ip

    async def lookup(self, host: str, family: int, /) -> list[str]:
        return [self._ip] if (":" in self._ip) == (family == socket.AF_INET6) else []


class Https:
    """One server that is asked over HTTPS.

    Parameters
    ----------
    tls : gives the context; the certificate has to be for the name of `server`.
    """

    def __init__(self, server: NameserverConfig, tls: Callable[[], ssl.SSLContext]) -> None:
        name = server.server_name
        host = f"[{name}]" if ":" in name else name
        self._url = f"https://{host}:{server.port}/dns-query"
        self._ip = server.ip
        self._tls = tls
        self._client: HttpClient | None = None

    async def ask(self, query: Query) -> bytes:
        """Send a query.

        Raises
        ------
        OSError, ValueError : the server cannot be reached, or breaks the rules.
        """
        client = self._client
        if client is None:
            client = self._client = HttpClient(_Fixed(self._ip), ca=self._tls())
            answer = await self._post(client, query)
        else:
            try:
                answer = await self._post(client, query)
            except ConnectionResetError:  # the server had closed it meanwhile
                answer = await self._post(client, query)
        if answer.status != 200:
            raise ValueError(f"HTTP status {answer.status}")
        if not query.is_answered_by(answer.body):
            raise ValueError("an answer to another question")
        return answer.body

    async def _post(self, client: HttpClient, query: Query) -> HttpAnswer:
        try:
            return await client.request(
                "POST",
                self._url,
                body=query.wire,
                headers=_HEADERS,
                max_bytes=MAX_MESSAGE_BYTES,
                timeout=LIFETIME_S,
            )
        except HttpError as error:
            kind = ConnectionResetError if error.kind == "protocol" else OSError
            raise kind(str(error)) from error

    def retire(self) -> None:
        """End the connections when nothing is under way."""
        if self._client is not None:
            self._client.retire()

    async def close(self) -> None:
        """End the connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()
