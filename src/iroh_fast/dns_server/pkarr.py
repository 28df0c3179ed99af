"""Publishing and fetching signed packets over HTTP: ``/pkarr/<key>``."""

from __future__ import annotations

import functools
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from ..errors import KeyParsingError, PacketStoreError, SignedPacketError
from ..keys import PublicKey
from ..lookup import z32
from ..lookup.signed_packet import SignedPacket
from ..web.message import Headers, Later, Request, Response
from .answering import ANY_ORIGIN, NO_CONTENT, failure
from .rate import Clients, RateLimiter
from .store import PacketStore

__all__ = ["PacketRoutes", "PublishCounters"]

logger = logging.getLogger("iroh_fast.dns_server.http")

_PACKET: Final[Headers] = (("content-type", "application/x-pkarr-signed-packet"), *ANY_ORIGIN)
_NOT_FOUND: Final = failure(404)
_NO_POINT: Final = failure(400, "invalid key: Invalid public key")
KEY_SYMBOLS: Final = 52


@dataclass(slots=True)
class PublishCounters:
    """What becomes of packets that are published."""

    pkarr_publish_update: int = 0
    pkarr_publish_noop: int = 0
    pkarr_publish_invalid: int = 0
    pkarr_publish_ratelimited: int = 0
    pkarr_publish_failed: int = 0


class PacketRoutes:
    """The routes of signed packets.

    Parameters
    ----------
    store : PacketStore
    limiter : RateLimiter or None
        For publishing.
    max_future : float
        Seconds that the timestamp of a packet may be ahead of this machine's clock.
    now : callable
        Seconds since 1970.
    """

    def __init__(
        self,
        store: PacketStore,
        *,
        limiter: RateLimiter | None,
        clients: Clients,
        max_future: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.counters = PublishCounters()
        self._store = store
        self._read: Callable[[bytes], bytes | None] | None = getattr(store, "read", None)
        self._limiter = limiter
        self._clients = clients
        self._max_future = max_future
        self._now = now

    def get(self, name: str) -> Response | Any:
        """The packet of a key: an answer, or an awaitable of one."""
        key = _decode(name)
        if key is None:
            return _no_z32()
        if self._read is not None:
            return _found(key, self._read(key))
        return self._fetch(key)

    async def _fetch(self, key: bytes) -> Response:
        try:
            return _found(key, await self._store.fetch(key))
        except PacketStoreError as err:
            return _store_failed(err)

    def put(self, request: Request, peer: str, name: str) -> Response | Later:
        """Verify a packet and keep it: answered when that is durable."""
        limiter = self._limiter
        if limiter is not None:
            wait = limiter.wait(self._clients.key(request, peer))
            if wait is not None:
                self.counters.pkarr_publish_ratelimited += 1
                return _too_many(wait)
        key = _decode(name)
        if key is None:
            self.counters.pkarr_publish_invalid += 1
            return _no_z32()
        try:
            packet = SignedPacket.from_relay_payload(key, request.body)
        except SignedPacketError as err:
            self.counters.pkarr_publish_invalid += 1
            return _invalid(len(request.body), err)
        # DIFFERS: iroh's server takes any time, and such a packet blocks its owner until then.
        if packet.timestamp > (self._now() + self._max_future) * 1e6:
            self.counters.pkarr_publish_invalid += 1
            limit = math.floor(self._max_future)
            detail = f"invalid body payload: its timestamp is more than {limit} s in the future"
            return failure(400, detail)
        later = Later()
        self._store.submit(
            packet, functools.partial(self._stored, later), functools.partial(later.set, NO_CONTENT)
        )
        return later

    def _stored(self, later: Later, outcome: bool | PacketStoreError) -> None:
        if outcome is True:
            self.counters.pkarr_publish_update += 1
            later.set(NO_CONTENT)
        elif outcome is False:
            self.counters.pkarr_publish_noop += 1
            later.set(NO_CONTENT)
        else:
            self.counters.pkarr_publish_failed += 1
            later.set(_store_failed(outcome))


def _decode(name: str) -> bytes | None:
    if len(name) != KEY_SYMBOLS:
        return None
    try:
        return z32.decode(name)
    except ValueError:
        return None


def _no_z32() -> Response:
    return failure(400, "invalid key: invalid z-base-32 encoding")


def _found(key: bytes, packet: bytes | None) -> Response:
    if packet is not None:
        return Response(200, packet[32:], _PACKET)
    return _NOT_FOUND if _is_point(key) else _NO_POINT


def _is_point(key: bytes) -> bool:
    try:
        PublicKey(key)
    except KeyParsingError:
        return False
    return True


def _store_failed(error: PacketStoreError) -> Response:
    if error.kind == "unavailable":
        return failure(503, "the store cannot be reached", (("retry-after", "1"),))
    logger.debug("the store failed: %s", error)
    return failure(500, "the store failed")


def _invalid(size: int, error: SignedPacketError) -> Response:
    """Tell what is wrong in the words of iroh's server."""
    if error.kind == "InvalidKey":
        return _NO_POINT
    texts = {
        "TooShort": f"Signed packet too short: {32 + size} bytes (min 104)",
        "TooLarge": f"Signed packet too large: {32 + size} bytes (max 1104)",
        "SignatureError": "Invalid signature",
    }
    return failure(400, f"invalid body payload: {texts.get(error.kind, str(error))}")


def _too_many(wait: float) -> Response:
    seconds = str(math.floor(wait))
    text = f"Too Many Requests! Wait for {seconds}s"
    # INTEROP: as from iroh's server, without content type and for the same origin alone.
    headers = (("retry-after", seconds), ("x-ratelimit-after", seconds))
    return Response(429, text.encode(), headers)
