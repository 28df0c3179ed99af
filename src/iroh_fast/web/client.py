"""HTTP and HTTPS requests of an endpoint: its resolver, its roots, its proxy.

`aiohttp` speaks HTTP; it is loaded with the first request. What it would take from elsewhere
(the system's resolver in a thread, cookies, proxies of the environment, decompression) is off.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
import sys
import threading
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urljoin

from ..addr import RelayUrl
from ..aio.once import Once
from ..errors import HttpError, RelayUrlError, printable
from .ca import CaConfig, trusted
from .names import Names
from .proxy import Proxy

if TYPE_CHECKING:
    from ._aiohttp import Session

__all__ = ["HttpAnswer", "HttpClient"]

TIMEOUT_S: Final = 10.0
MAX_REDIRECTS: Final = 3
IDLE_S: Final = 15.0
_WITH_BODY_AGAIN: Final = (307, 308)  # RFC 9110 §15.4: the method stays
# What aiohttp imports, the larger parts.
_NEEDED_FIRST: Final = (
    *("idna", "multidict", "yarl", "attr", "email.message", "email.policy", "urllib.request"),
    *("http.cookies", "json", "platform", "pickle", "tempfile", "aiosignal", "aiohappyeyeballs"),
)
_FOR_ANYBODY: Final = ("accept", "content-type")  # headers that go along to another server
_REDIRECTS: Final = (301, 302, 303, *_WITH_BODY_AGAIN)


class HttpAnswer(NamedTuple):
    """What a server answered.

    Attributes
    ----------
    headers : first value of each, by lower-case name.
    body : only of success (2xx), if nothing else was asked for; empty otherwise.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


class HttpClient:
    """Makes HTTP requests; connections are kept for some seconds.

    Parameters
    ----------
    names : resolves hosts.
    ca : what to trust; None: the embedded roots.
    proxy : asked for a tunnel to ``https://`` servers, and to pass on requests to others.
        DIFFERS: iroh goes round a proxy whose scheme it does not know; that is never done here.

    Notes
    -----
    Cancelling a request ends its connection. No threads. `close` ends what is left; without it
    idle connections end by themselves.
    """

    def __init__(
        self,
        names: Names,
        *,
        ca: CaConfig | ssl.SSLContext | None = None,
        proxy: Proxy | str | None = None,
    ) -> None:
        self._names = names
        self._ca = ca
        self._proxy = Proxy.parse(proxy) if isinstance(proxy, str) else proxy
        self._session: Session | None = None
        self._left: list[Session] = []  # of another network, while requests are under way
        self._running = 0
        self._idle: asyncio.TimerHandle | None = None
        self._closed = False

    async def request(
        self,
        method: str,
        url: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        max_bytes: int = 65536,
        redirects: int = MAX_REDIRECTS,
        error_body: bool = False,
        timeout: float = TIMEOUT_S,  # noqa: ASYNC109 - one limit with an error that names it
    ) -> HttpAnswer:
        """Make a request, and follow redirects.

        A redirect is not followed from ``https://`` to anything else, nor where it would turn a
        request with a body into one without.

        Parameters
        ----------
        max_bytes : most bytes that the body of the answer may have.
        redirects : how many to follow; with 0 a redirect is an answer like another.
        error_body : read the body of an answer of any status, not of success alone.
        timeout : seconds for everything together.

        Raises
        ------
        HttpError : there is no complete answer. An answer of whatever status is none.
        """
        if self._closed:
            raise HttpError("connect", "the HTTP client is closed", url=_harmless(url))
        self._begin()
        try:
            async with asyncio.timeout(timeout):
                return await self._follow(
                    method, url, body, headers or {}, max_bytes, redirects, error_body
                )
        except TimeoutError as err:
            raise HttpError(
                "timeout",
                f"{_harmless(url)} did not answer within {timeout:g} s",
                url=_harmless(url),
            ) from err
        finally:
            self._end()

    async def _follow(
        self,
        method: str,
        url: str,
        body: bytes | None,
        headers: Mapping[str, str],
        max_bytes: int,
        redirects: int,
        error_body: bool,
    ) -> HttpAnswer:
        target = _parse(url)
        followed = 0
        while True:
            answer = await self._once(method, target, body, headers, max_bytes, error_body)
            location = answer.headers.get("location")
            if answer.status not in _REDIRECTS or location is None or not redirects:
                return answer
            followed += 1
            if followed > redirects:
                raise _refused(target, answer.status, f"more than {redirects} times")
            if body is not None and answer.status not in _WITH_BODY_AGAIN:
                raise _refused(target, answer.status, "which would lose what was to be sent")
            next_target = _redirected(target, location)
            if target.scheme == "https" and next_target.scheme != "https":
                raise _refused(target, answer.status, "to where nothing is encrypted")
            if (target.host, target.port) != (next_target.host, next_target.port):
                headers = {k: v for k, v in headers.items() if k.lower() in _FOR_ANYBODY}
            target = next_target

    async def _once(
        self,
        method: str,
        target: RelayUrl,
        body: bytes | None,
        headers: Mapping[str, str],
        max_bytes: int,
        error_body: bool,
    ) -> HttpAnswer:
        if self._session is None:
            session = await _session_class()
            if self._closed:
                raise HttpError("connect", "the HTTP client is closed", url=_harmless(target))
            if self._session is None:  # nobody else has made one meanwhile
                self._session = session(self._names, self._proxy, lambda: trusted(self._ca))
        shown = _harmless(target)
        return HttpAnswer(
            *await self._session.request(
                method, target, shown, body, headers, max_bytes, error_body=error_body
            )
        )

    # --- connections that nobody needs any more

    def _begin(self) -> None:
        self._running += 1
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _end(self) -> None:
        self._running -= 1
        if self._running:
            return
        while self._left:
            self._left.pop().drop()
        if self._closed:
            self._drop()
        elif self._session is not None:
            self._idle = asyncio.get_running_loop().call_later(IDLE_S, self._drop)

    def _drop(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        session, self._session, self._idle = self._session, None, None
        if session is not None:
            session.drop()

    def reset(self) -> None:
        """The network has changed: connections that are open may lead nowhere, use new ones."""
        if not self._running:
            self._drop()
        elif self._session is not None:
            self._left.append(self._session)
            self._session = None

    def retire(self) -> None:
        """Make no further requests, and end when those under way have their answer."""
        self._closed = True
        if not self._running:
            self._drop()

    async def close(self) -> None:
        """End all connections, and with them requests that are under way."""
        self._closed = True
        if self._idle is not None:
            self._idle.cancel()
        sessions = [*self._left, self._session]
        self._left, self._session = [], None
        for session in sessions:
            if session is not None:
                await session.close()


async def _session_class() -> type[Session]:
    """Load aiohttp, which takes a tenth of a second; the loop goes on in between."""
    for name in () if "aiohttp" in sys.modules else _NEEDED_FIRST:
        try:
            import_module(name)
        except ImportError:
            continue  # another release of aiohttp does without
        await asyncio.sleep(0)
    await _load_beside("aiohttp")
    from ._aiohttp import Session

    return Session


async def _load_beside(name: str) -> None:
    """Import what reads the system's certificates while it does, in one long piece."""
    if f"{__package__}._aiohttp" in sys.modules:
        return  # all is there; while another thread imports it, the name alone says nothing
    loop, loaded = asyncio.get_running_loop(), Once()

    def load() -> None:
        with contextlib.suppress(ImportError):  # whoever needs it says so
            import_module(name)
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(loaded.set)

    threading.Thread(target=load, daemon=True).start()  # one that ends, unlike those of an executor
    await loaded


def _parse(url: str) -> RelayUrl:
    try:
        target = RelayUrl(url)
    except RelayUrlError as err:
        raise HttpError("invalid_url", str(err), url=_harmless(url)) from None
    if target.scheme not in ("http", "https") or not target.host:
        raise HttpError("invalid_url", f"not an HTTP URL: {_harmless(url)}", url=_harmless(url))
    return target


def _redirected(target: RelayUrl, location: str) -> RelayUrl:
    """Where a redirect leads, without user and password."""
    try:
        return _parse(re.sub(r"(?<=//)[^/?#]*@", "", urljoin(target, location), count=1))
    except (HttpError, ValueError):
        raise HttpError(
            "redirect",
            f"{_harmless(target)} redirects to what is no HTTP URL: {printable(location, 80)}",
            url=_harmless(target),
        ) from None


def _refused(target: str, status: int, why: str) -> HttpError:
    url = _harmless(target)
    return HttpError("redirect", f"{url} redirects {why}", url=url, status=status)


def _harmless(url: str) -> str:
    """A URL as it may be shown: no user, password or query."""
    return re.sub(r"//[^/?#]*@", "//", url.partition("?")[0])[:200]
