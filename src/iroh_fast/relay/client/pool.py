"""The relays in use: one connection each, kept up, with the home relay among them."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import random
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

from ...addr import RelayUrl
from ...errors import RelayClientError
from ...keys import SecretKey
from ...web.ca import CaConfig
from ...web.proxy import Proxy
from ..map import RelayMap, RelayState, RelayStatus
from .connection import Backoff, ConnectionOwner, RelayConnection, connect_relay, fits, plain_ip
from .home import PATIENCE_S, Candidate, HomePolicy, ListOrder
from .link import Dialer, Target

__all__ = ["OnDatagrams", "RelayPool", "RelayStats"]

QUEUE_ITEMS: Final = 64
QUEUE_BYTES: Final = 1024 * 1024
INACTIVE_S: Final = 60.0
STALE_S: Final = 3.0
CLOSE_S: Final = 3.0
ESTABLISHED_S: Final = 1.0  # a connection that lived shorter counts as a failed attempt
MAX_RELAYS: Final = 64
MAX_PRESENT: Final = 4096  # endpoints remembered per relay
# Limits to what a relay may ask for when it announces a restart, and to our pace meanwhile.
RESTART_WAIT_S: Final = 32.0
RESTART_TRY_S: Final = 60.0
RESTART_PAUSE_S: Final = 1.0
# After a connection was lost: a relay that is restarted is back within seconds.
OUTAGE_S: Final = 15.0
OUTAGE_PAUSE_S: Final = 0.25

log = logging.getLogger("iroh_fast.relay.client")

OnDatagrams: TypeAlias = Callable[[RelayUrl, bytes, int, int, bytes], None]
"""``(relay, key of the source, ECN mark, segment size or 0, payload)``"""


@dataclass(slots=True)
class RelayStats:
    """Counters of a `RelayPool`, with the names of iroh where it has them.

    Parameters
    ----------
    relay_home_change : changes of the home relay
    relay_conns_success, relay_conns_failed : attempts to connect
    relay_conns_closed : connections that ended without our doing
    relay_conns_ratelimited : connections on which the relay slowed us down
    relay_conns_superseded : times that another endpoint with the same key took over
    send_relay, recv_data_relay : bytes of payload handed to and taken from connections
    send_relay_frames, recv_relay_frames : the same in frames
    send_relay_dropped_full : frames dropped because a relay is slower than we send
    send_relay_dropped_stale : frames dropped because a relay was not connected in time
    send_relay_dropped_size : frames that were empty or too large
    """

    relay_home_change: int = 0
    relay_conns_success: int = 0
    relay_conns_failed: int = 0
    relay_conns_closed: int = 0
    relay_conns_ratelimited: int = 0
    relay_conns_superseded: int = 0
    send_relay: int = 0
    recv_data_relay: int = 0
    send_relay_frames: int = 0
    recv_relay_frames: int = 0
    send_relay_dropped_full: int = 0
    send_relay_dropped_stale: int = 0
    send_relay_dropped_size: int = 0


class _ActiveRelay:
    """One relay in use: dials, serves, waits, dials again, until it is stopped or idle."""

    def __init__(self, pool: RelayPool, url: RelayUrl) -> None:
        self.pool = pool
        self.url = url
        self.loop = pool._loop
        self.connection: RelayConnection | None = None
        self.state: RelayState = "connecting"
        self.error: Exception | None = None
        self.present: dict[bytes, None] = {}
        self.queue: deque[tuple[bytes, int, int, bytes]] = deque()
        self.queued_bytes = 0
        self.used = self.loop.time()  # when a datagram was last handed in
        self.backoff = Backoff(pool._uniform)
        self.pause_over: asyncio.Event | None = None
        self.at_once = False  # the next attempt need not wait
        self.superseded = False
        self.since = self.loop.time()  # tried first, or connected last
        self.was_connected = False
        self.good_until = float("-inf")  # end of the last connection that lasted
        self.name = Target.of(url).host_header if url.host else str(url.scheme)
        self._idle_handle: asyncio.TimerHandle | None = None
        self._stale_handle: asyncio.TimerHandle | None = None
        self.task = self.loop.create_task(self.run(), name=f"relay {url.host}")
        self.watch_idle()

    # --- datagrams

    def send(self, dst: bytes, ecn: int, segment_size: int, payload: bytes) -> bool:
        self.used = self.loop.time()
        connection = self.connection
        stats = self.pool.stats
        if (
            connection is not None
            and not self.queue
            and connection.send(dst, ecn, segment_size, payload)
        ):
            stats.send_relay += len(payload)
            stats.send_relay_frames += 1
            return True
        if len(self.queue) >= QUEUE_ITEMS or self.queued_bytes + len(payload) > QUEUE_BYTES:
            stats.send_relay_dropped_full += 1
            return False
        self.queue.append((dst, ecn, segment_size, bytes(payload)))
        self.queued_bytes += len(payload)
        return True

    def on_writable(self) -> None:
        connection, queue, stats = self.connection, self.queue, self.pool.stats
        while connection is not None and queue:
            item = queue[0]
            if not connection.send(*item):
                return
            queue.popleft()
            size = len(item[3])
            self.queued_bytes -= size
            stats.send_relay += size
            stats.send_relay_frames += 1

    def on_datagrams(self, src: bytes, ecn: int, segment_size: int, payload: bytes) -> None:
        present = self.present
        if src not in present:
            if len(present) >= MAX_PRESENT:
                del present[next(iter(present))]
            present[src] = None
        stats = self.pool.stats
        stats.recv_data_relay += len(payload)
        stats.recv_relay_frames += 1
        self.pool._on_datagrams(self.url, src, ecn, segment_size, payload)

    def on_gone(self, endpoint: bytes) -> None:
        self.present.pop(endpoint, None)

    def on_rate_limited(self) -> None:
        self.pool.stats.relay_conns_ratelimited += 1

    def on_superseded(self, superseded: bool) -> None:
        if superseded:
            self.pool.stats.relay_conns_superseded += 1
        self.superseded = superseded
        self.pool._state_changed(self)

    def drop_queue(self) -> None:
        self.pool.stats.send_relay_dropped_stale += len(self.queue)
        self.queue.clear()
        self.queued_bytes = 0

    def _drop_stale(self) -> None:
        self.drop_queue()
        self._stale_handle = self.loop.call_later(STALE_S, self._drop_stale)

    # --- life

    async def run(self) -> None:
        restart_until: float | None = None
        while True:
            if self._stale_handle is None:
                self._stale_handle = self.loop.call_later(STALE_S, self._drop_stale)
            self.set_state("connecting", self.error)
            try:
                connection = await self.pool._connect(self)
            except Exception as err:
                if not isinstance(err, RelayClientError):
                    self.loop.call_exception_handler(
                        {"message": f"dialling the relay {self.url.host} failed", "exception": err}
                    )
                self.pool.stats.relay_conns_failed += 1
                level = logging.DEBUG if self.error is not None else logging.INFO
                log.log(level, "relay %s: no connection: %s", self.name, err)
                self.set_state("disconnected", err)
                if restart_until is not None and self.loop.time() >= restart_until:
                    restart_until = None
                    self.backoff.reset()
                delay = self.next_delay()
                if restart_until is not None:
                    delay = min(delay, RESTART_PAUSE_S)
                await self.pause(delay)
                continue

            since = self.loop.time()
            self.connection = connection
            self._stale_handle.cancel()
            self._stale_handle = None
            self.pool.stats.relay_conns_success += 1
            self.was_connected = True
            self.superseded = False
            log.info("relay %s: connected from %s", self.name, connection.local_ip)
            self.set_state("connected", None)
            connection.serve()
            self.on_writable()
            self.pool._on_connected(self.url)
            await asyncio.wait([connection.ended])
            self.connection = None
            self.present.clear()
            self.since = self.loop.time()
            self.superseded = False
            self.pool.stats.relay_conns_closed += 1
            log.info("relay %s: disconnected: %s", self.name, connection.error or "closed")
            self.set_state("disconnected", connection.error)

            lasted = connection.established and self.loop.time() - since >= ESTABLISHED_S
            if lasted:
                self.backoff.reset()
                self.good_until = self.since
            delay = 0.0 if lasted else self.next_delay()
            restart_until = None
            if connection.restarting is not None:
                reconnect_in, try_for = connection.restarting
                delay = max(delay, min(reconnect_in, RESTART_WAIT_S))
                restart_until = self.loop.time() + delay + min(try_for, RESTART_TRY_S)
            if delay:
                await self.pause(delay)

    def next_delay(self) -> float:
        """Seconds until the next attempt; few while a relay that was good may be restarting."""
        delay = self.backoff.next()
        if self.loop.time() < self.good_until + OUTAGE_S:
            delay = min(delay, OUTAGE_PAUSE_S * (1 + self.pool._uniform()))
        return delay

    async def pause(self, delay: float) -> None:
        """Wait, unless the network or the settings change."""
        if self.at_once:
            self.at_once = False
            return
        self.pause_over = asyncio.Event()
        try:
            async with asyncio.timeout(delay):
                await self.pause_over.wait()
        except TimeoutError:
            pass
        finally:
            self.pause_over = None

    def set_state(self, state: RelayState, error: Exception | None) -> None:
        self.state, self.error = state, error
        self.pool._state_changed(self)

    def retry_now(self) -> None:
        """Something that may have been in the way has changed."""
        self.backoff.reset()
        if self.pause_over is not None:
            self.pause_over.set()
        elif self.connection is None:
            self.at_once = True

    def candidate(self) -> Candidate:
        """How this relay does, for the choice of the home."""
        connected = self.state == "connected"
        return Candidate(
            state=self.state,
            home=self.pool._home == self.url,
            waiting=0.0 if connected else self.loop.time() - self.since,
            failed=self.error is not None,
            was_connected=self.was_connected,
        )

    def network_changed(
        self, local_ips: frozenset[ipaddress.IPv4Address | ipaddress.IPv6Address]
    ) -> None:
        connection = self.connection
        if connection is not None:
            ip = connection.local_ip
            if ip in local_ips or ip.is_loopback:
                connection.ping()
            else:
                connection.fail("network_changed", f"the local address {ip} is gone")
        elif self.pause_over is not None and local_ips:
            self.backoff.reset()
            self.pause_over.set()

    def watch_idle(self) -> None:
        """Look for inactivity when it may be due."""
        if self._idle_handle is not None:
            self._idle_handle.cancel()
        self._idle_handle = self.loop.call_at(self.used + INACTIVE_S, self._check_idle)

    def _check_idle(self) -> None:
        if self.pool.keeps(self.url):
            self.used = self.loop.time()
            self.watch_idle()
        elif self.loop.time() < self.used + INACTIVE_S:
            self.watch_idle()
        else:
            self.pool._remove(self)

    def stop(self) -> None:
        """End everything; a connection closes in good order, in the background."""
        for handle in (self._idle_handle, self._stale_handle):
            if handle is not None:
                handle.cancel()
        self.task.cancel()
        if self.connection is not None:
            self.on_writable()
            self.connection.close()
            self.connection = None
        self.drop_queue()


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
    ca, proxy, prefer_ipv6 : see `iroh_fast.web.dial.StreamDialer`
    loop : event loop, optional
        The running one by default.
    connector, uniform : optional
        Replace how a connection is made, and the random numbers of the backoff.
    home_policy : HomePolicy, optional
        Chooses the home relay once `follow_map` was called; default: `ListOrder`.
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
        prefer_ipv6: Callable[[], bool] = lambda: False,
        loop: asyncio.AbstractEventLoop | None = None,
        connector: Connector | None = None,
        uniform: Callable[[], float] = random.random,
        home_policy: HomePolicy | None = None,
        on_connected: Callable[[RelayUrl], None] = lambda url: None,
    ) -> None:
        self.stats = RelayStats()
        self._secret_key = secret_key
        self._relay_map = relay_map
        self._on_datagrams = on_datagrams
        self._on_home_status = on_home_status
        self._dialer = Dialer(ca=ca, proxy=proxy, prefer_ipv6=prefer_ipv6)
        self._loop = loop or asyncio.get_running_loop()
        self._connector = connector or self._dial
        self._uniform = uniform
        self._active: dict[RelayUrl, _ActiveRelay] = {}
        self._ending: set[asyncio.Future[None]] = set()
        self._home: RelayUrl | None = None
        self._home_status: RelayStatus | None = None
        self._closed = False
        self._on_connected = on_connected
        self._policy = home_policy
        self._patience: asyncio.TimerHandle | None = None
        self._tokens: dict[RelayUrl, str | None] = {}
        self._following: Callable[[], None] | None = None

    # --- datagrams

    def send(
        self, url: RelayUrl, dst_key: bytes, ecn: int, segment_size: int, payload: bytes
    ) -> bool:
        """Send one or several datagrams of equal size to an endpoint through a relay.

        Starts the connection when there is none, unless another connected relay has heard of
        the endpoint: then that one carries the datagrams.

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

    def _heard_of(self, key: bytes) -> _ActiveRelay | None:
        for active in self._active.values():
            if key in active.present:
                return active
        return None

    def _start(self, url: RelayUrl) -> _ActiveRelay | None:
        if len(self._active) >= MAX_RELAYS and url != self._home:
            return None
        active = self._active[url] = _ActiveRelay(self, RelayUrl(url))
        active.task.add_done_callback(lambda task: self._stopped(active, task))
        return active

    def _remove(self, active: _ActiveRelay) -> None:
        """Stop using a relay; what ends in the background is remembered until it has."""
        if self._active.get(active.url) is active:
            del self._active[active.url]
        connection = active.connection
        for end in (active.task, connection.lost if connection is not None else None):
            if end is not None and not end.done():
                self._ending.add(end)
                end.add_done_callback(self._ending.discard)
        active.stop()

    def _stopped(self, active: _ActiveRelay, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        self._loop.call_exception_handler(
            {"message": f"serving the relay {active.url.host} failed", "exception": error}
        )
        self._remove(active)
        if active.url == self._home:
            self._start(active.url)

    # --- connecting

    async def _connect(self, active: _ActiveRelay) -> RelayConnection:
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
            old.used = self._loop.time()
            old.watch_idle()
        if url is None:
            self._set_status(None)
            return
        active = self._active.get(url) or self._start(url)
        if active is not None:
            self._publish(active)

    def follow_map(self) -> None:
        """Choose the home relay from the map, now and at each change; use changed tokens at once."""
        if self._following is None and not self._closed:
            self._policy = self._policy or ListOrder()
            self._following = self._relay_map.subscribe(self._map_changed)
            self._map_changed()

    def _map_changed(self) -> None:
        tokens = {config.url: config.auth_token for config in self._relay_map.relays()}
        for url, token in tokens.items():
            active = self._active.get(url)
            if active is not None and self._tokens.get(url, token) != token:
                active.retry_now()
        self._tokens = tokens
        self._choose()

    def _choose(self) -> None:
        """Ask the policy for the home relay; again when somebody's patience may be over."""
        if self._following is None or self._closed or self._policy is None:
            return
        states = {url: active.candidate() for url, active in self._active.items()}
        self.set_home(self._policy.choose(self._relay_map, None, states))
        home = self._active.get(self._home) if self._home is not None else None
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        if home is not None and home.state != "connected":
            left = home.since + PATIENCE_S - self._loop.time()
            if left > 0:
                self._patience = self._loop.call_later(left + 0.001, self._choose)

    def keeps(self, url: RelayUrl) -> bool:
        """Whether a relay stays in use without traffic: the home, and while it is away all in the map."""
        if url == self._home:
            return True
        home = self._active.get(self._home) if self._home is not None else None
        return (
            self._following is not None
            and url in self._relay_map
            and home is not None
            and home.state != "connected"
        )

    def _state_changed(self, active: _ActiveRelay) -> None:
        if active.url == self._home:
            self._publish(active)
        self._loop.call_soon(self._choose)

    def _publish(self, active: _ActiveRelay) -> None:
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
        self, local_ips: Iterable[str | ipaddress.IPv4Address | ipaddress.IPv6Address]
    ) -> None:
        """Check all connections after a change of the network.

        Parameters
        ----------
        local_ips : iterable of addresses
            All that the interfaces have now.  A connection from another address is replaced at
            once, the others are pinged.  If there is any, relays that wait for their next
            attempt are dialled now.
        """
        ips = frozenset(plain_ip(str(ip)) for ip in local_ips)
        for active in tuple(self._active.values()):
            active.network_changed(ips)

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
        if self._following is not None:
            self._following()
            self._following = None
        if self._patience is not None:
            self._patience.cancel()
        connections = [a.connection for a in self._active.values() if a.connection is not None]
        for active in tuple(self._active.values()):
            self._remove(active)
        try:
            if self._ending:
                await asyncio.wait(tuple(self._ending), timeout=CLOSE_S)
        finally:
            for connection in connections:
                if not connection.lost.done():
                    connection.abort()
