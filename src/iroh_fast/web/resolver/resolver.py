"""The resolver of an endpoint: calls with a limit of time, both families, staggered, restarted."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final, Protocol, Self, TypeVar, cast

from ..._check import check_seconds, kind_of, shown
from ...aio.once import Once, seen
from ...errors import (
    ConfigError,
    DnsTimeout,
)
from ..ca import CaConfig, trusted
from .config import Fallback, NameserverConfig
from .config import nameservers as read_nameservers
from .results import IpAddress, host_of, literal, of_both, outcome, some
from .stagger import DNS_STAGGER_S, staggered

__all__ = ["DNS_TIMEOUT_S", "DnsResolver", "Resolver", "as_resolver"]

T = TypeVar("T")

DNS_TIMEOUT_S: Final = 3.0
_METHODS: Final = ("lookup_ipv4", "lookup_ipv6", "lookup_txt", "clear_cache", "reset")
_FALLBACKS: Final = ("never", "if_system_empty", "deferred", "eager")


class Resolver(Protocol):
    """What a resolver of your own has; give it to :meth:`DnsResolver.custom`."""

    async def lookup_ipv4(self, host: str, /) -> Iterable[IPv4Address]:
        """IPv4 addresses; an exception when there are none."""
        ...

    async def lookup_ipv6(self, host: str, /) -> Iterable[IPv6Address]:
        """IPv6 addresses; an exception when there are none."""
        ...

    async def lookup_txt(self, host: str, /) -> Iterable[Sequence[bytes]]:
        """TXT records: of each its character-strings."""
        ...

    def clear_cache(self) -> None:
        """Forget what was found."""
        ...

    def reset(self) -> Resolver:
        """A resolver for the network as it is now, without input or output here."""
        ...


class DnsResolver:
    """Finds addresses and texts of names; for :meth:`Endpoint.bind` and by itself.

    Before any name server is asked, ``localhost``, the system's table of hosts, and answers that
    are still good count; that there is no such name is not remembered. A name with a last dot is
    complete, others are looked for in the system's search domains as well. Changes of the
    system's configuration are noticed. No threads are used.

    Parameters
    ----------
    nameservers : whom to ask: IP addresses as text (``"192.0.2.53"``, ``"192.0.2.53:5353"``) for
        DNS over UDP, or :class:`NameserverConfig`. None: those of the system.
    system : use the system's configuration. None: only without `nameservers`. With both, its
        servers come first.
    fallback : when others are asked: "never"; "if_system_empty", when there is nobody else to
        ask (then Google's, as iroh does); "deferred", when all others failed; "eager", together
        with them. The last two ask Cloudflare, Google and Quad9, which learn what is looked up.
    fallback_nameservers : those others.
    ca : what to trust with DNS over TLS and HTTPS; None: the `ca` of the endpoint that uses this
        resolver, or the embedded roots.
    timeout : seconds for one call.

    Raises
    ------
    ConfigError : an option is wrong.

    Notes
    -----
    Made anywhere, used on one event loop at a time. Endpoints share one if they are given the
    same. Leave with `close`, or ``async with``, when no endpoint closes it.
    """

    def __init__(
        self,
        nameservers: Iterable[NameserverConfig | str] = (),
        *,
        system: bool | None = None,
        fallback: Fallback = "if_system_empty",
        fallback_nameservers: Iterable[NameserverConfig | str] | None = None,
        ca: CaConfig | ssl.SSLContext | None = None,
        timeout: float = DNS_TIMEOUT_S,
    ) -> None:
        servers = read_nameservers("nameservers", nameservers)
        others = None
        if fallback_nameservers is not None:
            others = read_nameservers("fallback_nameservers", fallback_nameservers)
        if fallback not in _FALLBACKS:
            raise ConfigError(f"fallback is one of {', '.join(_FALLBACKS)}, not {shown(fallback)}")
        if system not in (None, True, False):
            raise ConfigError(f"system is True, False or None, not {kind_of(system)}")
        if ca is not None and not isinstance(ca, (CaConfig, ssl.SSLContext)):
            raise ConfigError(f"ca is a CaConfig, an ssl.SSLContext or None, not {kind_of(ca)}")
        self._ca = ca
        self._set_up(check_seconds("timeout", timeout) or DNS_TIMEOUT_S)
        use_system = not servers if system is None else system

        def make() -> Resolver:
            from .stub import Stub  # late: only needed for names
            from .system import SystemSource

            source = SystemSource() if use_system else None
            return Stub(servers, source, fallback, others, self._tls)

        self._make: Callable[[], Resolver] = make

    @classmethod
    def custom(cls, resolver: Resolver, *, timeout: float = DNS_TIMEOUT_S) -> Self:
        """Use a resolver of your own, with the times, families and repeats of this class.

        What it raises becomes :exc:`DnsResolveFailed`, unless it is a :exc:`DnsError`.
        """
        missing = _missing(resolver)
        if missing or isinstance(resolver, type):
            raise ConfigError(
                f"a resolver is an object with {', '.join(_METHODS)}; {shown(resolver)} "
                + (f"lacks {', '.join(missing)}" if missing else "is a class")
            )
        self = cls.__new__(cls)
        self._ca = None
        self._set_up(check_seconds("timeout", timeout) or DNS_TIMEOUT_S)
        self._make = lambda: resolver
        return self

    def _set_up(self, timeout: float) -> None:
        self._timeout = timeout
        self._inner: Resolver | None = None
        self._waiting: set[Once] = set()  # of calls, for a change of the network
        self._users = 0

    # --- single lookups

    async def lookup_ipv4(self, host: str) -> list[IPv4Address]:
        """IPv4 addresses of a host, at least one.

        Raises
        ------
        DnsError : there is none; DnsTimeout when that took too long.
        """

        async def ask(resolver: Resolver) -> list[IPv4Address]:
            return [IPv4Address(ip) for ip in await resolver.lookup_ipv4(host)]

        return some(host, await self._call(host, ask), "A")

    async def lookup_ipv6(self, host: str) -> list[IPv6Address]:
        """IPv6 addresses of a host, at least one; as `lookup_ipv4`."""

        async def ask(resolver: Resolver) -> list[IPv6Address]:
            return [IPv6Address(ip) for ip in await resolver.lookup_ipv6(host)]

        return some(host, await self._call(host, ask), "AAAA")

    async def lookup_txt(self, host: str) -> list[list[bytes]]:
        """TXT records of a name, at least one: of each its character-strings.

        Raises
        ------
        DnsError : there is none; DnsTimeout when that took too long.
        """

        async def ask(resolver: Resolver) -> list[list[bytes]]:
            return [list(map(bytes, strings)) for strings in await resolver.lookup_txt(host)]

        return some(host, await self._call(host, ask), "TXT")

    async def lookup(self, host: str, family: int, /) -> list[str]:
        """Addresses of one family, ``socket.AF_INET`` or ``AF_INET6``, as text."""
        if family == socket.AF_INET6:
            return [str(ip) for ip in await self.lookup_ipv6(host)]
        return [str(ip) for ip in await self.lookup_ipv4(host)]

    async def lookup_ipv4_ipv6(self, host: str) -> list[IpAddress]:
        """Addresses of both families, IPv4 first; each has its own time.

        Raises
        ------
        DnsResolveBoth : there is no address.
        """
        ipv4, ipv6 = await asyncio.gather(
            self.lookup_ipv4(host), self.lookup_ipv6(host), return_exceptions=True
        )
        return of_both(host, ipv4, ipv6)

    # --- of URLs

    async def resolve_host(self, url: str, *, prefer_ipv6: bool = False) -> IpAddress:
        """One address of the host of a URL; an IP address is taken as it is.

        Raises
        ------
        DnsMissingHost : the URL has no host.
        DnsResolveBoth : the host has no address.
        """
        host = host_of(url)
        if (given := literal(host)) is not None:
            return given
        found = await self.lookup_ipv4_ipv6(host)
        wanted = 6 if prefer_ipv6 else 4
        return next((ip for ip in found if ip.version == wanted), found[0])

    async def resolve_host_all(self, url: str) -> AsyncIterator[IpAddress]:
        """All addresses of the host of a URL, each family as soon as it is there.

        Raises
        ------
        DnsMissingHost : the URL has no host.
        DnsResolveBoth : the host has no address.
        """
        host = host_of(url)
        if (given := literal(host)) is not None:
            yield given
            return
        ipv4 = asyncio.ensure_future(self.lookup_ipv4(host))
        ipv6 = asyncio.ensure_future(self.lookup_ipv6(host))
        waiting: set[asyncio.Future[Any]] = {ipv4, ipv6}
        failed: dict[asyncio.Future[Any], BaseException] = {}
        try:
            while waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in sorted(done, key=lambda task: task is ipv6):
                    if (error := task.exception()) is not None:
                        failed[task] = error
                        continue
                    for address in task.result():
                        yield address
        finally:
            for task in waiting:
                task.cancel()
        if len(failed) == 2:
            of_both(host, failed[ipv4], failed[ipv6])

    # --- staggered

    async def lookup_ipv4_staggered(
        self, host: str, delays: Sequence[float] = DNS_STAGGER_S
    ) -> list[IPv4Address]:
        """`lookup_ipv4` now and again after each delay (seconds from now, changed by up to a fifth).

        The first success counts and ends the other calls.

        Raises
        ------
        DnsStaggered : all calls failed.
        """
        return await staggered(lambda: self.lookup_ipv4(host), delays, what=host)

    async def lookup_ipv6_staggered(
        self, host: str, delays: Sequence[float] = DNS_STAGGER_S
    ) -> list[IPv6Address]:
        """`lookup_ipv6` several times, see `lookup_ipv4_staggered`."""
        return await staggered(lambda: self.lookup_ipv6(host), delays, what=host)

    async def lookup_ipv4_ipv6_staggered(
        self, host: str, delays: Sequence[float] = DNS_STAGGER_S
    ) -> list[IpAddress]:
        """`lookup_ipv4_ipv6` several times, see `lookup_ipv4_staggered`."""
        return await staggered(lambda: self.lookup_ipv4_ipv6(host), delays, what=host)

    async def lookup_txt_staggered(
        self, host: str, delays: Sequence[float] = DNS_STAGGER_S
    ) -> list[list[bytes]]:
        """`lookup_txt` several times, see `lookup_ipv4_staggered`."""
        return await staggered(lambda: self.lookup_txt(host), delays, what=host)

    # --- one call

    async def _call(self, host: str, ask: Callable[[Resolver], Awaitable[T]]) -> T:
        """Ask with a limit of time; begins anew, with new time, when the network has changed."""
        while True:
            task = asyncio.ensure_future(ask(self._resolver()))
            reset = Once()
            self._waiting.add(reset)
            waiter = reset.waiter()
            try:
                either: set[asyncio.Future[Any]] = {task, waiter.future}
                await asyncio.wait(
                    either, timeout=self._timeout, return_when=asyncio.FIRST_COMPLETED
                )
                # What is there counts, whatever else happened in the same moment.
                if task.done():
                    return outcome(host, task)
                if not reset.happened:
                    raise self._timed_out(host)
            finally:
                self._waiting.discard(reset)
                waiter.close()
                task.cancel()
                task.add_done_callback(seen)  # nobody may be left to ask for it

    def _timed_out(self, host: str) -> DnsTimeout:
        asked = ", ".join(map(str, self.nameservers[:3]))
        return DnsTimeout(
            f"{host}: no answer within {self._timeout:g} s{asked and f' from {asked}'}", host=host
        )

    def _resolver(self) -> Resolver:
        if self._inner is None:
            self._inner = self._make()
        return self._inner

    # --- life

    @property
    def nameservers(self) -> tuple[NameserverConfig, ...]:
        """Those that are asked now; empty for a resolver of your own.  On the event loop."""
        return tuple(getattr(self._resolver(), "servers", list)())

    def clear_cache(self) -> None:
        """Forget all answers."""
        if self._inner is not None:
            self._inner.clear_cache()

    def reset(self) -> None:
        """The network has changed: look at its configuration again, with new connections.

        Calls under way begin anew.  Answers that are known stay.
        """
        if self._inner is not None:
            self._inner = self._inner.reset()
            for reset in self._waiting:
                reset.set()

    def attach(self, ca: CaConfig | ssl.SSLContext | None) -> None:
        """An endpoint begins to use this; its `ca` counts unless there is one.  See `detach`."""
        self._users += 1
        if self._ca is None:
            self._ca = ca

    async def detach(self) -> None:
        """An endpoint does not use this any more; the last one closes it."""
        self._users -= 1
        if self._users <= 0:
            await self.close()

    async def close(self) -> None:
        """End the connections to name servers; the next lookup would open new ones."""
        close = getattr(self._inner, "close", None)
        if close is not None:
            await close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _tls(self) -> ssl.SSLContext:
        return trusted(self._ca)


def _missing(resolver: object) -> list[str]:
    return [name for name in _METHODS if not callable(getattr(resolver, name, None))]


def as_resolver(name: str, value: object) -> DnsResolver:
    """Read an option that is a resolver.

    Raises
    ------
    ConfigError : it is none; the message names the option.
    """
    if isinstance(value, DnsResolver):
        return value
    if isinstance(value, type) or _missing(value):
        raise ConfigError(
            f"{name} is a DnsResolver, or an object with {', '.join(_METHODS)}; not {shown(value)}"
        )
    return DnsResolver.custom(cast(Resolver, value))
