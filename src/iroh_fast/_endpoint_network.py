"""Where an endpoint is, who finds it, and what it knows of the network: the face of its services."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ._check import kind_of
from ._later import Later
from ._option_checks import socket_addr
from .addr import CustomAddr, EndpointAddr, IpAddr, RelayUrl, SocketAddr, TransportAddr
from .aio.owner import Owner
from .errors import ConfigError, EndpointClosed, WatcherEnded
from .keys import EndpointId, PublicKey, SecretKey

if TYPE_CHECKING:
    from . import _assembly, _remote_info
    from . import _context as _context_
    from . import stats as _stats
    from . import ticket as _ticket
    from .aio import watcher as _watcher
    from .lookup import info as _info
    from .lookup import registry as _lookup
    from .net_report import report as _net_report
    from .relay import map as _relay
    from .web import resolver as _resolver
else:
    _assembly = Later("iroh_fast._assembly")
    _remote_info = Later("iroh_fast._remote_info")
    _context_ = Later("iroh_fast._context")
    _stats = Later("iroh_fast.stats")
    _ticket = Later("iroh_fast.ticket")
    _watcher = Later("iroh_fast.aio.watcher")
    _info = Later("iroh_fast.lookup.info")
    _lookup = Later("iroh_fast.lookup.registry")
    _net_report = Later("iroh_fast.net_report.report")
    _relay = Later("iroh_fast.relay.map")
    _resolver = Later("iroh_fast.web.resolver")

__all__ = ["EndpointNetwork"]

log = logging.getLogger("iroh_fast.endpoint")


class EndpointNetwork:
    """Identity, addresses, address lookup, relays and net reports of an endpoint."""

    __slots__ = ("_context", "_inside", "_owner")

    _context: _context_.Context
    _inside: _assembly.Inside
    _owner: Owner

    # --- identity and addresses

    @property
    def id(self) -> EndpointId:
        """Public key, by which others dial this endpoint."""
        return self._context.id

    @property
    def secret_key(self) -> SecretKey:
        """The key behind :attr:`id`."""
        return self._inside.secret_key

    @property
    def bound_sockets(self) -> tuple[SocketAddr, ...]:
        """Local addresses of the UDP sockets; still answers after :meth:`close`."""
        return self._context.sockets

    @property
    def custom_addrs(self) -> tuple[CustomAddr, ...]:
        """Where this endpoint is reached over its custom transports, now.

        :attr:`addr` and lookups do not tell of them: ``ep.addr.with_addrs(ep.custom_addrs)`` does.
        """
        custom = self._inside.custom
        return () if custom is None else custom.local_addrs

    @property
    def addr(self) -> EndpointAddr:
        """Id and addresses, to give to others."""
        return self._inside.addrs.value.get()

    @property
    def ticket(self) -> _ticket.EndpointTicket:
        """:attr:`addr` as a ticket; ``str()`` of it is text to copy and paste."""
        return _ticket.EndpointTicket(self.addr)

    def watch_addr(self) -> _watcher.Watcher[EndpointAddr]:
        """Follow :attr:`addr`; ends when the endpoint closes."""
        return self._inside.addrs.value.watch()

    async def add_external_addr(self, addr: str | SocketAddr, /) -> None:
        """Advertise one more address at which this endpoint can be reached."""
        self._owner.check_loop()
        self._change_external({IpAddr(socket_addr(addr, "addr"))}, set())

    async def remove_external_addr(self, addr: str | SocketAddr, /) -> None:
        """Stop advertising an address given before."""
        self._owner.check_loop()
        self._change_external(set(), {IpAddr(socket_addr(addr, "addr"))})

    def _change_external(self, more: set[TransportAddr], fewer: set[TransportAddr]) -> None:
        addrs = self._inside.addrs
        addrs.put(_assembly.USER, (addrs.of(_assembly.USER) | more) - fewer)

    async def network_change(self) -> None:
        """Say that the network may have changed, for systems that do not tell.

        The own addresses are read again, relays are checked, every path is probed.  On Linux the
        kernel tells; elsewhere the network is looked at every two seconds.  Calls in quick
        succession are gathered: four a second, one when that goes on.
        """
        self._owner.check_loop()
        if not self._context.closing:
            self._inside.monitor.ask()

    async def remote_info(self, id: EndpointId | str, /) -> _stats.RemoteInfo | None:
        """What is known about a remote from connections and lookups; None if nothing.

        Kept for a minute after the last connection.
        """
        self._owner.check_loop()
        if not isinstance(id, (PublicKey, str)):
            raise TypeError(f"id is an EndpointId or its text, not {kind_of(id)}")
        return _remote_info.remote_info(self._context, EndpointId(id))

    # --- address lookup

    @property
    def address_lookup(self) -> _lookup.AddressLookupServices:
        """The services that find endpoints by their id and publish this one; more can be added.

        Raises
        ------
        EndpointClosed : the endpoint is closed.
        """
        if self._context.closing:
            raise EndpointClosed()
        return self._context.lookups.services

    @property
    def dns_resolver(self) -> _resolver.DnsResolver:
        """What is asked for names of servers; the option of that name, or one of its own.

        Raises
        ------
        EndpointClosed : the endpoint is closed.
        """
        if self._context.closing:
            raise EndpointClosed()
        return self._inside.host.dns_resolver

    @property
    def user_data(self) -> str | None:
        """Text that is published with the own addresses."""
        return self._inside.lookup.user_data

    def set_user_data(self, user_data: str | None, /) -> None:
        """Publish another text with the own addresses, or none.

        Raises
        ------
        UserDataTooLong : more than 245 bytes of UTF-8.
        """
        self._owner.check_loop()
        user_data = _info.check_user_data(user_data)
        if self._context.closing:
            log.warning("%s: set_user_data on a closed endpoint is ignored", f"{self.id:short}")
            return
        self._inside.lookup.user_data = user_data

    # --- relays

    async def online(self) -> None:
        """Wait until the home relay is connected.  Bound the wait with ``asyncio.timeout``.

        With ``relays=[]`` it waits for a relay of :meth:`insert_relay`.

        Raises
        ------
        ConfigError : the endpoint was bound without relays, so it never would be.
        EndpointClosed : the endpoint was closed meanwhile.

        Notes
        -----
        Cancel-safe.
        """
        self._owner.check_loop()
        if not self._context.closing:
            self._with_relays()  # DIFFERS: iroh waits for ever
        try:
            await self._inside.home.watch().wait_for(lambda all: any(one.connected for one in all))
        except WatcherEnded:
            raise EndpointClosed() from None

    def watch_home_relay(self) -> _watcher.Watcher[tuple[_relay.RelayStatus, ...]]:
        """Follow the state of the home relay: empty without one; ends at :meth:`close`."""
        return self._inside.home.watch()

    async def insert_relay(self, config: _relay.RelayConfig | str, /) -> _relay.RelayConfig | None:
        """Add or replace a relay; the previous configuration of its URL is returned.

        Raises
        ------
        ConfigError : the endpoint was bound without relays.
        """
        self._owner.check_loop()
        return self._with_relays().insert(config)

    async def remove_relay(self, url: RelayUrl | str, /) -> _relay.RelayConfig | None:
        """Forget a relay; its configuration is returned, or None if it was unknown."""
        self._owner.check_loop()
        return self._with_relays().remove(url)

    def _with_relays(self) -> _relay.RelayMap:
        relay = self._context.relay
        if relay is None:
            raise ConfigError(
                "this endpoint was bound without relays; give bind() relays=[url, ...], "
                "or relays=[] to add some later"
            )
        return relay.relay_map

    # --- the network

    @property
    def net_report(self) -> _net_report.NetReport | None:
        """What was found out last about the network; None before the first report.

        Without relays, or with ``net_report=False``, there is never any.
        """
        return self._inside.reports.get()

    def watch_net_report(self) -> _watcher.Watcher[_net_report.NetReport | None]:
        """Follow :attr:`net_report`; ends at :meth:`close`."""
        return self._inside.reports.watch()
