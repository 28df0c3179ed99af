"""Who may use a relay server.

Access control governs relaying only: the plain HTTP routes are open.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from ..._check import check_integer, check_items, check_seconds, check_text, kind_of
from ...errors import ConfigError, KeyParsingError
from ...keys import EndpointId, PublicKey

if TYPE_CHECKING:
    import aiohttp

__all__ = [
    "ALLOW",
    "AccessControl",
    "AccessRequest",
    "AllowList",
    "Decision",
    "DenyList",
    "Everyone",
    "HttpAccess",
    "SharedToken",
]

logger = logging.getLogger("iroh_fast.relay.server")

NOT_AUTHORIZED: Final = "not authorized"


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether an endpoint may use the relay.

    Parameters
    ----------
    allowed : bool
    reason : str
        Told to an endpoint that may not.
    """

    allowed: bool
    reason: str = NOT_AUTHORIZED


ALLOW: Final = Decision(True)
DENY: Final = Decision(False)


@dataclass(frozen=True, slots=True)
class AccessRequest:
    """An endpoint that has proven its key and asks to use the relay.

    Attributes
    ----------
    endpoint_id : EndpointId
    connection_id : int
        Unique in this server.
    protocol_version : int
        1 or 2.
    uri : str
        Request target, path and query.
    query : tuple of (str, str)
        Decoded pairs of the query.
    headers : tuple of (str, bytes)
        Of the request; names in lower case.
    auth_token : str or None
        Bearer token of the header, else ``token`` of the query. Do not log it.
    """

    endpoint_id: EndpointId
    connection_id: int
    protocol_version: int
    uri: str
    query: tuple[tuple[str, str], ...]
    headers: tuple[tuple[str, bytes], ...]
    auth_token: str | None


class AccessControl:
    """Decides about each connection. Derive from it for rules of your own."""

    def on_connect(self, request: AccessRequest) -> Decision | Awaitable[Decision]:
        """Decide, at once or later; an exception denies.

        The answer has to come within the time limit for establishing a connection.
        """
        return ALLOW

    def on_disconnect(self, endpoint_id: EndpointId, connection_id: int) -> None:
        """Called once for each connection that was allowed, after it ended."""

    def still_allowed(self, endpoint_id: EndpointId) -> bool:
        """Whether a client may stay; asked about each when the rules are exchanged."""
        return True

    async def close(self) -> None:
        """Release what the rules hold; the server calls it when it stops."""


class Everyone(AccessControl):
    """Lets every endpoint in."""


def _ids(endpoint_ids: Iterable[EndpointId | str]) -> frozenset[EndpointId]:
    """Read a list of ids; what is none must not become a rule that fits nobody."""
    found = []
    for value in check_items("endpoint_ids", endpoint_ids, "endpoint ids"):
        if not isinstance(value, (PublicKey, str)):
            raise ConfigError(f"an endpoint id is an EndpointId or its text, not {kind_of(value)}")
        try:
            found.append(EndpointId(value))
        except KeyParsingError as err:
            raise ConfigError(f"{str(value)[:80]!r} is not an endpoint id: {err}") from err
    return frozenset(found)


class AllowList(AccessControl):
    """Lets the given endpoints in, by their ids as objects or text; ConfigError for other things."""

    def __init__(self, endpoint_ids: Iterable[EndpointId | str]) -> None:
        self._ids = _ids(endpoint_ids)

    def on_connect(self, request: AccessRequest) -> Decision:
        return ALLOW if request.endpoint_id in self._ids else DENY

    def still_allowed(self, endpoint_id: EndpointId) -> bool:
        return endpoint_id in self._ids


class DenyList(AccessControl):
    """Lets every endpoint in but the given ones; takes what `AllowList` takes."""

    def __init__(self, endpoint_ids: Iterable[EndpointId | str]) -> None:
        self._ids = _ids(endpoint_ids)

    def on_connect(self, request: AccessRequest) -> Decision:
        return DENY if request.endpoint_id in self._ids else ALLOW

    def still_allowed(self, endpoint_id: EndpointId) -> bool:
        return endpoint_id not in self._ids


class SharedToken(AccessControl):
    """Lets in who knows one of the tokens.

    Raises
    ------
    ConfigError
        There are no tokens, or one is empty.
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        if isinstance(tokens, str):
            raise ConfigError("tokens is a list of text: write [token]")
        given = check_items("tokens", tokens, "text")
        if not all(isinstance(token, str) for token in given):
            raise ConfigError("tokens is a list of text")
        if not given or not all(given):
            raise ConfigError("access by shared token needs tokens, and none of them empty")
        self._tokens = tuple(token.encode() for token in given)

    def on_connect(self, request: AccessRequest) -> Decision:
        given = (request.auth_token or "").encode()
        # Every token is compared, so that the time tells nothing.
        matches = [hmac.compare_digest(given, token) for token in self._tokens]
        return ALLOW if any(matches) else DENY


class HttpAccess(AccessControl):
    """Asks an HTTP service about each connection.

    ``POST`` with an empty body and the header ``X-Iroh-Endpoint-Id``; status 200 and the body
    ``true`` let the endpoint in, everything else does not, errors and redirects included.

    Parameters
    ----------
    url : str
    bearer_token : str, optional
        Sent as ``Authorization: Bearer``.
    timeout : float
        Seconds for one question.
    concurrency : int
        Questions at the same time; more wait.
    """

    def __init__(
        self,
        url: str,
        bearer_token: str | None = None,
        *,
        timeout: float = 5.0,
        concurrency: int = 64,
    ) -> None:
        check_text("url", url)
        check_text("bearer_token", bearer_token, none=True)
        check_seconds("timeout", timeout)
        check_integer("concurrency", concurrency, 1, 2**16)
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"the access service needs an http or https URL, not {url[:80]!r}")
        self.url = url
        self._token = bearer_token
        self._timeout = timeout
        self._concurrency = concurrency
        self._session: aiohttp.ClientSession | None = None

    async def on_connect(self, request: AccessRequest) -> Decision:
        import aiohttp

        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=self._timeout),
                connector=aiohttp.TCPConnector(limit=self._concurrency),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        # INTEROP: until 1.4 iroh's relay sent the second name alone; services may look for it.
        endpoint_id = str(request.endpoint_id)
        headers = {"X-Iroh-Endpoint-Id": endpoint_id, "X-Iroh-NodeId": endpoint_id}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        try:
            async with self._session.post(
                self.url, headers=headers, allow_redirects=False
            ) as response:
                if response.status != 200:
                    return DENY
                body = b""
                while len(body) <= 4 and (part := await response.content.read(5 - len(body))):
                    body += part
                return ALLOW if body == b"true" else DENY
        except (aiohttp.ClientError, TimeoutError, OSError) as err:
            logger.warning("the access service failed: %s", type(err).__name__)
            return DENY

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None
