"""How often one client may publish, and who a client behind a proxy is."""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Literal, TypeAlias

from ..errors import ConfigError
from ..web.message import Request

__all__ = ["Clients", "RateLimit", "RateLimiter"]

RateLimit: TypeAlias = Literal["disabled", "simple", "smart"]

BURST: Final = 2  # publishes at once
PERIOD_S: Final = 4.0  # for each further one
MAX_CLIENTS: Final = 1 << 17  # remembered; who came first is forgotten first

_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
_IP: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


class RateLimiter:
    """Lets `BURST` requests of a client pass at once, and one per `PERIOD_S` (GCRA).

    Parameters
    ----------
    clock : callable
        Gives seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # When a client has everything again that it may do at once. Old ones stand in front.
        self._full_at: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._full_at)

    def wait(self, client: str) -> float | None:
        """Take one; None, or the seconds until there is one again."""
        now = self._clock()
        known = self._full_at
        full_at = max(known.pop(client, now), now)
        early = full_at - now - (BURST - 1) * PERIOD_S
        if early > 0:
            known[client] = full_at
            return early
        known[client] = full_at + PERIOD_S
        self._forget(now)
        return None

    def _forget(self, now: float) -> None:
        """Drop two of those in front that need not be known any more: more than come in."""
        known = self._full_at
        for _ in range(2):
            first = next(iter(known))
            if known[first] > now and len(known) <= MAX_CLIENTS:
                return
            del known[first]


@functools.lru_cache(4096)
def _key(ip: str) -> str:
    """IPv4 addresses are clients, of IPv6 their /64: one client has all of that."""
    if ":" not in ip:
        return ip
    number = int(ipaddress.IPv6Address(ip)) >> 64
    return f"{number:x}/64"


def _plain(ip: _IP) -> _IP:
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return ip if mapped is None else mapped


def _address(text: str) -> _IP | None:
    """An IP address as proxies write it, with or without port, brackets and quotes."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return _plain(ipaddress.ip_address(text.partition("%")[0]))
    except ValueError:
        return None


class Clients:
    """Tells clients apart.

    Parameters
    ----------
    proxies : iterable of str
        Addresses or networks of proxies whose headers are believed; none: the peer of a
        connection is the client.

    Raises
    ------
    ConfigError
        One of them is no address.
    """

    def __init__(self, proxies: Iterable[str] = ()) -> None:
        self._proxies: list[_Network] = []
        for text in proxies:
            try:
                self._proxies.append(ipaddress.ip_network(text, strict=False))
            except ValueError:
                raise ConfigError(
                    f"trusted_proxies: {text[:80]!r} is neither an IP address nor a network "
                    "such as 10.0.0.0/8"
                ) from None
        self._is_proxy = functools.lru_cache(4096)(self._look)

    def key(self, request: Request, peer: str) -> str:
        """By what to count a request that came from `peer`."""
        if not self._proxies or not self._is_proxy(peer):
            return _key(peer)
        told = self._told(request)
        return _key(peer if told is None else str(told))

    def _look(self, ip: str) -> bool:
        address = _address(ip)
        return address is not None and self._trusts(address)

    def _trusts(self, address: _IP) -> bool:
        return any(address in network for network in self._proxies)

    def _told(self, request: Request) -> _IP | None:
        """What the proxies say, the nearest first: a client may have written the rest itself."""
        for addresses in (
            _split(request, "x-forwarded-for"),
            _split(request, "x-real-ip"),
            _forwarded(request),
        ):
            found = [address for address in map(_address, addresses) if address is not None]
            for address in reversed(found):
                if not self._trusts(address):
                    return address
            if found:
                return found[0]
        return None


def _split(request: Request, name: str) -> Iterator[str]:
    for key, value in request.headers:
        if key == name:
            yield from value.decode("latin-1").split(",")


def _forwarded(request: Request) -> Iterator[str]:
    """RFC 7239 §4."""
    for part in _split(request, "forwarded"):
        if (found := re.search(r'(?:^|;)\s*for\s*=\s*("[^"]*"|[^;]*)', part, re.I)) is not None:
            yield found[1]
