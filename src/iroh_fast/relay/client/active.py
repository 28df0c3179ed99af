"""One relay in use: dialled, served, and dialled again."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from ...addr import RelayUrl
from ...aio.once import Once
from ...errors import RelayClientError
from ...net.local_addrs import IpAddress
from ..map import RelayState
from .connection import Backoff, RelayConnection
from .home import Candidate
from .link import Target

__all__ = ["ActiveRelay", "Keeper", "RelayStats"]

QUEUE_ITEMS: Final = 64
QUEUE_BYTES: Final = 1024 * 1024
INACTIVE_S: Final = 60.0
STALE_S: Final = 3.0
ESTABLISHED_S: Final = 1.0  # one that lived shorter and brought nothing counts as failed
MAX_PRESENT: Final = 4096  # endpoints remembered per relay
# Limits to what a relay may ask for when it announces a restart, and to our pace meanwhile.
RESTART_WAIT_S: Final = 32.0
RESTART_TRY_S: Final = 60.0
RESTART_PAUSE_S: Final = 1.0
# After a connection was lost: a relay that is restarted is back within seconds.
OUTAGE_S: Final = 15.0
OUTAGE_PAUSE_S: Final = 0.25
# An attempt younger than this may well be one over the new network.
HOPEFUL_S: Final = 1.0

log = logging.getLogger("iroh_fast.relay.client")


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


class Keeper(Protocol):
    """What an active relay asks of the pool it belongs to."""

    stats: RelayStats

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...

    def uniform(self) -> float:
        """A random number from 0 to 1, for the backoff."""
        ...

    def deliver(
        self, url: RelayUrl, src: bytes, ecn: int, segment_size: int, payload: bytes, /
    ) -> None:
        """Take a frame of datagrams."""
        ...

    async def connect(self, active: ActiveRelay) -> RelayConnection:
        """Make an authenticated connection."""
        ...

    def state_changed(self, active: ActiveRelay) -> None:
        """Note another state of the connection."""
        ...

    def connected_again(self, url: RelayUrl, /) -> None:
        """Note that datagrams flow."""
        ...

    def is_home(self, url: RelayUrl) -> bool: ...

    def keeps(self, url: RelayUrl) -> bool:
        """Whether the relay stays in use without traffic."""
        ...

    def remove(self, active: ActiveRelay) -> None:
        """Stop using the relay."""
        ...


class ActiveRelay:
    """One relay in use: dials, serves, waits, dials again, until it is stopped or idle."""

    def __init__(self, pool: Keeper, url: RelayUrl) -> None:
        self.pool = pool
        self.url = url
        self.loop = pool.loop
        self.connection: RelayConnection | None = None
        self.state: RelayState = "connecting"
        self.error: Exception | None = None
        self.present: dict[bytes, float] = {}  # who sent datagrams over it, and when last
        self.queue: deque[tuple[bytes, int, int, bytes]] = deque()
        self.queued_bytes = 0
        self.used = self.loop.time()  # when a datagram was last handed in
        self.backoff = Backoff(pool.uniform)
        self.pause_over: Once | None = None
        self.at_once = False  # the next attempt need not wait
        self.attempt: asyncio.Timeout | None = None  # the one under way,
        self.tried = float("-inf")  # ... since
        self.superseded = False
        self.since = self.loop.time()  # tried first, or connected last
        self.was_connected = False
        self.good_until = float("-inf")  # end of the last connection that was good for something
        self.useful = False  # a datagram came over this connection
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
        self.useful = True
        present = self.present
        if src not in present:
            if len(present) >= MAX_PRESENT:
                del present[next(iter(present))]
        present[src] = self.loop.time()
        stats = self.pool.stats
        stats.recv_data_relay += len(payload)
        stats.recv_relay_frames += 1
        self.pool.deliver(self.url, src, ecn, segment_size, payload)

    def on_gone(self, endpoint: bytes) -> None:
        self.present.pop(endpoint, None)

    def on_rate_limited(self) -> None:
        self.pool.stats.relay_conns_ratelimited += 1

    def on_superseded(self, superseded: bool) -> None:
        if superseded:
            self.pool.stats.relay_conns_superseded += 1
        self.superseded = superseded
        self.pool.state_changed(self)

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
                connection = await self.connect()
            except TimeoutError:
                continue  # the network changed under it
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
            self.useful = False
            self.superseded = False
            log.info("relay %s: connected from %s", self.name, connection.local_ip)
            self.set_state("connected", None)
            connection.serve()
            self.on_writable()
            self.pool.connected_again(self.url)
            await connection.ended
            self.connection = None
            self.present.clear()
            self.since = self.loop.time()
            self.superseded = False
            self.pool.stats.relay_conns_closed += 1
            log.info("relay %s: disconnected: %s", self.name, connection.error or "closed")
            self.set_state("disconnected", connection.error)

            lasted = connection.established and (
                self.useful or self.loop.time() - since >= ESTABLISHED_S
            )
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

    async def connect(self) -> RelayConnection:
        """Make a connection; `attempt` can be ended meanwhile, which raises TimeoutError."""
        self.tried = self.loop.time()
        try:
            async with asyncio.timeout(None) as self.attempt:
                try:
                    return await self.pool.connect(self)
                except TimeoutError as err:  # of a connector
                    raise RelayClientError("timeout", "the relay did not answer in time") from err
        finally:
            self.attempt = None

    def next_delay(self) -> float:
        """Seconds until the next attempt; few while a relay that was good may be restarting."""
        if self.loop.time() < self.good_until + OUTAGE_S:
            return self.backoff.next(OUTAGE_PAUSE_S * (1 + self.pool.uniform()))
        return self.backoff.next()

    async def pause(self, delay: float) -> None:
        """Wait, unless the network or the settings change."""
        if self.at_once:
            self.at_once = False
            return
        self.pause_over = Once()
        try:
            async with asyncio.timeout(delay):
                await self.pause_over
        except TimeoutError:
            pass
        finally:
            self.pause_over = None

    def set_state(self, state: RelayState, error: Exception | None) -> None:
        self.state, self.error = state, error
        self.pool.state_changed(self)

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
            home=self.pool.is_home(self.url),
            waiting=0.0 if connected else self.loop.time() - self.since,
            failed=self.error is not None,
            was_connected=self.was_connected,
        )

    def network_changed(
        self,
        stands: Callable[[IpAddress, IpAddress], bool],
        *,
        way_out: bool,
    ) -> None:
        connection = self.connection
        if connection is not None:
            ip = connection.local_ip
            if stands(ip, connection.remote_ip):
                connection.ping()
            elif way_out:  # without one the address may be back before TCP gives up
                connection.fail("network_changed", f"the way from {ip} is gone")
        elif way_out and self.pause_over is not None:
            self.backoff.reset()
            self.pause_over.set()
        elif way_out and self.attempt is not None and self.loop.time() >= self.tried + HOPEFUL_S:
            self.backoff.reset()
            self.attempt.reschedule(self.loop.time())

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
            self.pool.remove(self)

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
