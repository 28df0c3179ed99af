"""Address lookup through pkarr relays: signed packets over HTTP."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable
from typing import Final

from .._check import check_integer, check_seconds
from ..addr import RelayUrl
from ..aio._waiters import WaitQueue
from ..errors import (
    EndpointInfoError,
    HttpError,
    IrohError,
    PkarrError,
    RelayUrlError,
    SignedPacketError,
)
from ..keys import EndpointId
from ..web.client import HttpAnswer, HttpClient
from .filters import AddrFilter, AddrFilterLike, as_filter
from .info import EndpointData, EndpointInfo
from .n0 import n0_pkarr_relay
from .services import LookupAnswer, LookupFailure, LookupHost, LookupItem
from .signed_packet import SignedPacket, fitting

__all__ = ["PkarrPublisher", "PkarrPublisherService", "PkarrResolver", "PkarrResolverService"]

log = logging.getLogger("iroh_fast.lookup.pkarr")

TTL_S: Final = 30
REPUBLISH_S: Final = 300.0
MAX_RETRY_S: Final = 300.0
JITTER: Final = 0.1
TIMEOUT_S: Final = 10.0
MAX_PAYLOAD: Final = 1072  # a signed packet without its key
MAX_ANSWER: Final = 4096  # of a server that has nothing to say


# --- one relay -----------------------------------------------------------------------------


class _Relay:
    """The HTTP interface of a pkarr relay."""

    def __init__(self, http: HttpClient, url: str) -> None:
        self._http = http
        self._base, mark, query = url.partition("?")
        self._query = mark + query
        self.url = str(RelayUrl(url).without_credentials())

    async def put(self, packet: SignedPacket) -> None:
        """Publish a packet.

        Raises
        ------
        PkarrError : with `status` and, as its cause, what the server said about trying again.
        """
        id = EndpointId(packet.public_key)
        answer = await self._request("PUT", id, packet.relay_payload, MAX_ANSWER)
        self._check(answer)

    async def get(self, id: EndpointId) -> SignedPacket:
        """Fetch the packet of an endpoint and verify it.

        Raises
        ------
        PkarrError
        """
        answer = await self._request("GET", id, None, MAX_PAYLOAD)
        self._check(answer)
        try:
            return SignedPacket.from_relay_payload(id, answer.body)
        except SignedPacketError as error:
            raise PkarrError("Verify", f"{self.url}: {error}", url=self.url) from error

    async def _request(
        self, method: str, id: EndpointId, body: bytes | None, max_bytes: int
    ) -> HttpAnswer:
        # INTEROP: the URL of iroh's client would have two slashes after a base that ends with one.
        target = f"{self._base.rstrip('/')}/{id.to_z32()}{self._query}"
        try:
            return await self._http.request(
                method, target, body=body, max_bytes=max_bytes, timeout=TIMEOUT_S
            )
        except HttpError as error:
            payload = error.kind == "too_large" or error.status is not None
            raise PkarrError(
                "HttpPayload" if payload else "HttpSend",
                str(error),
                url=self.url,
                status=error.status,
            ) from error

    def _check(self, answer: HttpAnswer) -> None:
        if 200 <= answer.status <= 299:
            return
        raise PkarrError(
            "HttpRequest",
            f"{self.url} answered with HTTP status {answer.status}",
            url=self.url,
            status=answer.status,
            retry_after=_seconds(answer.headers.get("retry-after")),
        )


def _seconds(text: str | None) -> float | None:
    """What a server says about when to come again, in the form of seconds."""
    if text is None or not (text.isascii() and text.isdigit()):
        return None
    return float(min(int(text[:9]), MAX_RETRY_S))


def _check_url(url: str | None) -> str:
    """The URL of a relay, as it is used.

    Raises
    ------
    PkarrError : it cannot be one.
    """
    try:
        relay = RelayUrl(n0_pkarr_relay() if url is None else url)
    except (RelayUrlError, TypeError) as error:
        raise PkarrError("InvalidRelayUrl", f"the URL of a pkarr relay: {error}") from None
    bare, _, _ = relay.partition("#")
    shown = str(relay.without_credentials())
    if relay.scheme not in ("http", "https") or not relay.host:
        raise PkarrError(
            "InvalidRelayUrl", f"a pkarr relay has a URL with https://, not {shown}", url=shown
        )
    return bare


# --- publishing ----------------------------------------------------------------------------


class PkarrPublisher:
    """Publishes the addresses of an endpoint through a pkarr relay, as iroh does.

    Give it to ``address_lookup`` of an endpoint, or of several.

    Parameters
    ----------
    url : of the relay; None is number 0's.
    ttl : seconds for which resolvers may keep the records.
    republish_interval : seconds after which unchanged addresses are published again.
    addr_filter : which addresses: a function, "relay_only", "ip_only" or "unfiltered". The
        default keeps IP addresses from the public.

    Raises
    ------
    PkarrError, ConfigError : an option is wrong.
    """

    provenance = "pkarr"

    def __init__(
        self,
        url: str | None = None,
        *,
        ttl: int = TTL_S,
        republish_interval: float = REPUBLISH_S,
        addr_filter: AddrFilterLike = "relay_only",
    ) -> None:
        _check_url(url)
        self._url = url
        check_integer("ttl", ttl, 0, 2**31 - 1)
        self.ttl = ttl
        interval = check_seconds("republish_interval", republish_interval)
        assert interval is not None
        self.republish_interval = interval
        self.addr_filter: AddrFilter | None = as_filter(addr_filter, "addr_filter")

    @property
    def url(self) -> str:
        """The relay, with user and password if it has them."""
        return _check_url(self._url)

    def into_address_lookup(self, endpoint: LookupHost, /) -> PkarrPublisherService:
        """Make the service of an endpoint: signed with its key, through its HTTP client."""
        return PkarrPublisherService(self, endpoint)

    def __repr__(self) -> str:
        return f"PkarrPublisher({str(RelayUrl(self.url).without_credentials())!r})"


class PkarrPublisherService:
    """What `PkarrPublisher` makes for an endpoint: publishes at each change and every few minutes.

    Attributes
    ----------
    published, failed : how often.
    """

    provenance = "pkarr"

    def __init__(
        self,
        options: PkarrPublisher,
        host: LookupHost,
        *,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self._options = options
        self._host = host
        self._relay: _Relay | None = None
        self._uniform = uniform
        self._data: EndpointData | None = None
        self._due = False  # something changed since the last attempt began
        self._changed = WaitQueue()
        self._task: asyncio.Task[None] | None = None
        self._failures = 0  # in a row
        self._trimmed = False
        self._closed = False
        self.published = 0
        self.failed = 0

    def publish(self, data: EndpointData, /) -> None:
        """Publish from now on what the filter leaves of this."""
        data = data.filtered(self._options.addr_filter)
        if self._closed or data == self._data:
            return
        self._data = data
        self._hurry()
        if self._task is None:
            self._task = self._host.owner.loop.create_task(self._run())

    def network_changed(self) -> None:
        """What could not be published may work now."""
        if self._failures:
            self._hurry()

    def _hurry(self) -> None:
        self._due = True
        self._changed.wake_all()

    def resolve(self, id: EndpointId, /) -> None:
        """Nothing: see `PkarrResolver`."""

    async def close(self) -> None:
        """Stop publishing; what is published stays where it is until it is too old."""
        self._closed = True
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    # --- the task

    async def _run(self) -> None:
        while True:
            self._due = False
            assert self._data is not None
            try:
                await self._publish(self._data)
            except IrohError as error:
                await self._after(error)
            except Exception as error:  # a fault of ours must not end publishing for good
                log.exception("%s: publishing failed", f"{self._host.id:short}")
                await self._after(error)
            else:
                self.published += 1
                if self._failures:
                    log.info("%s: published again", f"{self._host.id:short}")
                self._failures = 0
                await self._wait(self._options.republish_interval)

    async def _publish(self, data: EndpointData) -> None:
        info = EndpointInfo(self._host.id, data)
        kept = fitting(info)
        if kept is not info and not self._trimmed:
            self._trimmed = True
            log.info(
                "%s: %d of %d addresses fit into a signed packet and are published",
                f"{self._host.id:short}",
                len(kept.data.addrs),
                len(data.addrs),
            )
        try:
            packet = SignedPacket.from_endpoint_info(
                kept, self._host.secret_key, ttl=self._options.ttl
            )
        except SignedPacketError as error:
            raise PkarrError("Encoding", f"cannot publish: {error}") from error
        if self._relay is None:
            self._relay = _Relay(self._host.http, self._options.url)
        await self._relay.put(packet)
        log.debug(
            "%s: published %d addresses at %s",
            f"{self._host.id:short}",
            len(kept.data.addrs),
            self._relay.url,
        )

    async def _after(self, error: Exception) -> None:
        """Wait for the next attempt: n seconds after the n-th failure in a row."""
        self.failed += 1
        self._failures += 1
        delay = min(self._failures, MAX_RETRY_S) * (1 - JITTER + 2 * JITTER * self._uniform())
        status = pause = None
        if isinstance(error, PkarrError):
            status, pause = error.status, error.retry_after
        if status == 400:  # the relay holds our packet for a broken one
            level = logging.ERROR
        else:
            level = logging.INFO if self._failures == 1 else logging.DEBUG
        log.log(level, "%s: not published: %s", f"{self._host.id:short}", error)
        if status == 429 and pause:  # DIFFERS: iroh does not look at Retry-After
            await asyncio.sleep(pause)
            delay -= pause
        await self._wait(delay)

    async def _wait(self, seconds: float) -> None:
        """Until something changes, or so long."""
        try:
            async with asyncio.timeout(seconds):
                while not self._due:
                    await self._changed.wait()
        except TimeoutError:
            pass


# --- resolving -----------------------------------------------------------------------------


class PkarrResolver:
    """Finds endpoints through a pkarr relay: what it gives is signed by the endpoint itself.

    Give it to ``address_lookup`` of an endpoint, or of several.

    Parameters
    ----------
    url : of the relay; None is number 0's.

    Raises
    ------
    PkarrError : the URL cannot be one of a relay.
    """

    provenance = "pkarr"

    def __init__(self, url: str | None = None) -> None:
        _check_url(url)
        self._url = url

    @property
    def url(self) -> str:
        """The relay, with user and password if it has them."""
        return _check_url(self._url)

    def into_address_lookup(self, endpoint: LookupHost, /) -> PkarrResolverService:
        """Make the service of an endpoint: through its HTTP client."""
        return PkarrResolverService(endpoint, self.url)

    def __repr__(self) -> str:
        return f"PkarrResolver({str(RelayUrl(self.url).without_credentials())!r})"


class PkarrResolverService:
    """What `PkarrResolver` makes for an endpoint."""

    provenance = "pkarr"

    def __init__(self, host: LookupHost, url: str) -> None:
        self._host = host
        self._url = url

    def publish(self, data: EndpointData, /) -> None:
        """Nothing: see `PkarrPublisher`."""

    async def resolve(self, id: EndpointId, /) -> AsyncIterator[LookupAnswer]:
        """What the relay has, or why that cannot be used."""
        relay = _Relay(self._host.http, self._url)
        try:
            info = (await relay.get(id)).endpoint_info()
        except EndpointInfoError as error:
            failure = PkarrError("Verify", f"{relay.url}: {error}", url=relay.url)
            failure.__cause__ = error
            yield LookupFailure(self.provenance, failure)
        except PkarrError as error:
            yield LookupFailure(self.provenance, error)
        else:
            yield LookupItem(info, self.provenance)
