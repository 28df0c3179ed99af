"""The relays in use: one connection each, kept up, with the home relay among them."""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, TypeAlias

from ...addr import RelayUrl
from ...errors import RelayClientError
from ...keys import SecretKey
from ...net.local_addrs import IpAddress, is_usable
from ...net_report.report import NetReport
from ...web.ca import CaConfig
from ...web.names import Names
from ...web.proxy import Proxy
from ...web.race import resolve, resolved_by
from ..map import RelayMap, RelayStatus
from .active import ActiveRelay, RelayStats
from .choosing import HomeChoice
from .connection import ConnectionOwner, RelayConnection, connect_relay, fits, plain_ip
from .home import HomePolicy
from .link import Dialer, Target

__all__ = ["OnDatagrams", "RelayPool", "RelayStats"]

CLOSE_S: Final = 3.0
MAX_RELAYS: Final = 64
HEARD_S: Final = 1.0  # a relay over which an endpoint was heard in that time reaches it

log = logging.getLogger("iroh_fast.relay.client")

OnDatagrams: TypeAlias = Callable[[RelayUrl, bytes, int, int, bytes], None]
"""``(relay, key of the source, ECN mark, segment size or 0, payload)``"""


Connector: TypeAlias = Callable[
    [RelayUrl, "str | None", ConnectionOwner], Awaitable[RelayConnection]
]
"""``(relay, auth token, owner)`` to an authenticated connection; raises `RelayClientError`."""


class RelayPool:
    """All relay connections of an endpoint.

    Parameters
    ----------
    secret_key : SecretKey
        Identity towards the relays.
    relay_map : RelayMap
        Asked for the token of a relay when it is dialled.  Relays outside of it are dialled
        too, without token.
    on_datagrams : callable
        Gets each frame that arrives, from within the event loop; must not block.  The segment
        size is 0 for a single datagram, else the payload holds datagrams of that size, of which
        the last may be shorter.
    on_home_status : callable, optional
        Gets the `RelayStatus` of the home relay at each change, None when there is none.
    ca, proxy : see `iroh_fast.web.dial.StreamDialer`
    loop : event loop, optional
        The running one by default.
    connector, uniform : optional
        Replace how a connection is made, and the random numbers of the backoff.
    home_policy : HomePolicy, optional
        Chooses the home relay once `follow_map` was called; default: `Nearest`.
    report_due : bool
        There will be a net report soon: among several relays the default policy waits for it.
    resolver : Names, optional
        Finds the addresses of relays; default: what the system is configured for.
    on_connected : callable, optional
        Gets the URL of each relay that is connected, again or for the first time.

    Attributes
    ----------
    stats : RelayStats

    Notes
    -----
    Relay input is hostile: a broken frame ends the connection it came from, memory is bounded
    per relay, and the number of relays is bounded.  Thread: that of the loop.
    """

    def __init__(
        self,
        *,
        secret_key: SecretKey,
        relay_map: RelayMap,
        on_datagrams: OnDatagrams,
        on_home_status: Callable[[RelayStatus | None], None] | None = None,
        ca: CaConfig | ssl.SSLContext | None = None,
        proxy: Proxy | str | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
        connector: Connector | None = None,
        uniform: Callable[[], float] = random.random,
        home_policy: HomePolicy | None = None,
        report_due: bool = False,
        resolver: Names | None = None,
        on_connected: Callable[[RelayUrl], None] = lambda url: None,
    ) -> None:
        self.stats = RelayStats()
        self._secret_key = secret_key
        self._relay_map = relay_map
        self.deliver = on_datagrams
        self._on_home_status = on_home_status
        self._dialer = Dialer(
            ca=ca,
            proxy=proxy,
            prefer_ipv6=lambda: self._choice.prefer_ipv6,
            resolve=resolve if resolver is None else resolved_by(resolver),
        )
        self.loop = loop or asyncio.get_running_loop()
        self._connector = connector or self._dial
        self.uniform = uniform
        self._active: dict[RelayUrl, ActiveRelay] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._home: RelayUrl | None = None
        self._home_status: RelayStatus | None = None
        self._closed = False
        self.connected_again = on_connected
        self._choice = HomeChoice(
            relay_map,
            self._active,
            lambda: self._home,
            self.set_home,
            policy=home_policy,
            report_due=report_due,
            loop=self.loop,
        )

    # --- datagrams

    def send(
        self, url: RelayUrl, dst_key: bytes, ecn: int, segment_size: int, payload: bytes
    ) -> bool:
        """Send one or several datagrams of equal size to an endpoint through a relay.

        Starts the connection when there is none, unless another connected relay has heard of
        the endpoint within a second: then that one carries the datagrams.

        Parameters
        ----------
        url : RelayUrl
            The home relay of the destination.
        dst_key : bytes
            Its key, 32 bytes.
        ecn : int
            ECN mark, 0 to 3.
        segment_size : int
            Size of each datagram in `payload`; 0 or the whole size for a single one.
        payload : bytes
            At most 65,500 bytes; copied.

        Returns
        -------
        bool
            False when the datagrams were dropped: queue full, nothing or too much in
            `payload`, too many relays in use, or the pool is closed.

        Notes
        -----
        Never blocks.  Per relay 64 frames or 1 MiB wait for a connection or for a slow relay.
        """
        if self._closed:
            return False
        if segment_size >= len(payload):
            segment_size = 0
        if not fits(segment_size, len(payload)):
            self.stats.send_relay_dropped_size += 1
            return False
        active = self._active.get(url)
        if active is None:
            active = self._heard_of(dst_key) or self._start(url)
            if active is None:
                self.stats.send_relay_dropped_full += 1
                return False
        return active.send(dst_key, ecn, segment_size, payload)

    def _heard_of(self, key: bytes) -> ActiveRelay | None:
        """A relay that carries datagrams of an endpoint now; one that did may be dead, or the endpoint gone from it."""
        earliest = self.loop.time() - HEARD_S
        for active in self._active.values():
            if active.present.get(key, earliest) > earliest:
                return active
        return None

    def _start(self, url: RelayUrl) -> ActiveRelay | None:
        if len(self._active) >= MAX_RELAYS and url != self._home:
            return None
        active = self._active[url] = ActiveRelay(self, RelayUrl(url))
        active.task.add_done_callback(lambda task: self._stopped(active, task))
        return active

    def remove(self, active: ActiveRelay) -> None:
        """Stop using a relay; what ends in the background is remembered until it has."""
        if self._active.get(active.url) is active:
            del self._active[active.url]
        self._choice.unused(active)
        end = self.loop.create_task(_ended(active.task, active.connection))
        self._ending.add(end)
        end.add_done_callback(self._ending.discard)
        active.stop()

    def _stopped(self, active: ActiveRelay, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        self.loop.call_exception_handler(
            {"message": f"serving the relay {active.url.host} failed", "exception": error}
        )
        self.remove(active)
        if active.url == self._home:
            self._start(active.url)

    # --- connecting

    async def connect(self, active: ActiveRelay) -> RelayConnection:
        relay = self._relay_map.get(active.url)
        token = None if relay is None else relay.auth_token
        return await self._connector(active.url, token, active)

    async def _dial(
        self, url: RelayUrl, auth_token: str | None, owner: ConnectionOwner
    ) -> RelayConnection:
        return await connect_relay(
            url,
            secret_key=self._secret_key,
            dialer=self._dialer,
            owner=owner,
            auth_token=auth_token,
        )

    # --- home relay

    @property
    def home_status(self) -> RelayStatus | None:
        """How the home relay is doing; None when there is none."""
        return self._home_status

    def set_home(self, url: RelayUrl | None) -> None:
        """Choose the relay to be reachable at: connect to it and stay connected."""
        if self._closed or url == self._home:
            return
        old = self._active.get(self._home) if self._home is not None else None
        self._home = url
        self.stats.relay_home_change += 1
        log.info("home relay: %s", "none" if url is None else Target.of(url).host_header)
        if old is not None:
            # Others may still use it as the home they know.
            old.used = self.loop.time()
            old.watch_idle()
        if url is None:
            self._set_status(None)
            return
        active = self._active.get(url) or self._start(url)
        if active is not None:
            self._publish(active)

    def follow_map(self) -> None:
        """Choose the home relay from the map, now and at each change; use changed tokens at once."""
        if not self._closed:
            self._choice.begin()

    def reported(self, report: NetReport | None) -> None:
        """Choose by what was measured; None: nothing was, and is not waited for any more."""
        self._choice.reported(report)

    def is_home(self, url: RelayUrl) -> bool:
        """Whether a relay is home now."""
        return url == self._home

    def keeps(self, url: RelayUrl) -> bool:
        """Whether a relay stays in use without traffic: the home, and while it is away all in the map."""
        if url == self._home:
            return True
        home = self._active.get(self._home) if self._home is not None else None
        return (
            self._choice.begun
            and url in self._relay_map
            and home is not None
            and home.state != "connected"
        )

    def state_changed(self, active: ActiveRelay) -> None:
        if active.url == self._home:
            self._publish(active)
        self.loop.call_soon(self._choice.again)

    def _publish(self, active: ActiveRelay) -> None:
        error = active.error
        denied = error.denied_reason if isinstance(error, RelayClientError) else None
        status = RelayStatus(active.url, active.state, error, denied, active.superseded)
        self._set_status(status)

    def _set_status(self, status: RelayStatus | None) -> None:
        if status != self._home_status:
            self._home_status = status
            if self._on_home_status is not None:
                self._on_home_status(status)

    # --- events from outside

    def network_changed(
        self,
        local_ips: Iterable[str | IpAddress],
        moved: Callable[[IpAddress, IpAddress], bool] = lambda local, remote: False,
    ) -> None:
        """Check all connections after a change of the network.

        Parameters
        ----------
        local_ips : iterable of addresses
            All that the interfaces have now.  If one of them leads beyond its link, a connection
            from another address is replaced at once, and relays that wait for their next
            attempt, or for a long one to succeed, are dialled now.  Other connections are pinged.
        moved : callable
            Whether packets from the first to the second address take another way than before:
            that connection is replaced as well.
        """
        ips = frozenset(plain_ip(str(ip)) for ip in local_ips)
        way_out = any(map(is_usable, ips))
        self._choice.network_changed()

        def stands(local: IpAddress, remote: IpAddress) -> bool:
            return local.is_loopback or (local in ips and not moved(local, remote))

        for active in tuple(self._active.values()):
            active.network_changed(stands, way_out=way_out)

    def connected(self) -> tuple[RelayUrl, ...]:
        """The relays that are connected now."""
        return tuple(url for url, active in self._active.items() if active.connection is not None)

    def latency(self, url: RelayUrl) -> float | None:
        """Last round trip of a ping on the connection to a relay, seconds."""
        active = self._active.get(url)
        connection = active.connection if active is not None else None
        return connection.pings.rtt if connection is not None else None

    async def close(self) -> None:
        """Close all connections in good order; takes at most 3 s.  May be called twice.

        Notes
        -----
        Cancel-safe: what is still open then is dropped.
        """
        self._closed = True
        self._home = None
        self._choice.end()
        connections = [a.connection for a in self._active.values() if a.connection is not None]
        for active in tuple(self._active.values()):
            self.remove(active)
        try:
            if self._ending:
                await asyncio.wait(tuple(self._ending), timeout=CLOSE_S)
        finally:
            for connection in connections:
                if not connection.lost.happened:
                    connection.abort()
            for end in self._ending:
                end.cancel()


async def _ended(task: asyncio.Task[None], connection: RelayConnection | None) -> None:
    """Wait until nothing is left of a relay that was in use."""
    if not task.done():
        await asyncio.wait({task})
    if connection is not None:
        await connection.lost
