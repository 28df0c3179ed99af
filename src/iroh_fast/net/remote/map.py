"""The remote endpoints an endpoint has connections with, on its event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from iroh_fast.aio._core_events import on_paths
from iroh_fast.net.transport import SockAddr, is_relay

from .counters import PathCounters
from .inventory import Inventory, Status
from .resting import Resting
from .selection import Chooser, by_rtt
from .state import GOOD_ENOUGH_S, RemoteState

if TYPE_CHECKING:
    from iroh_fast.quic._connection import QuicConnection

__all__ = ["MAX_CANDIDATES", "RemoteMap"]

MAX_CANDIDATES = 32  # addresses of ours that a peer hears of: as many as it takes


class RemoteMap:
    """The remote endpoints an endpoint has connections with.

    A connection without a choice of paths costs nothing here: state appears with a second
    address or path, and with a direct path that hole punching may find a better one for.

    Parameters
    ----------
    observer : is told when paths change, and at the end of each connection.
    live : gives all connections that are open.
    search : called with the key of a remote that has to be looked up again.
    choose : which of the addresses in use carries data.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        observer: Callable[[QuicConnection], object] | None = None,
        *,
        live: Callable[[], Iterable[QuicConnection]] = tuple,
        search: Callable[[bytes], object] | None = None,
        choose: Chooser = by_rtt,
    ) -> None:
        self._loop = loop
        self._observer = observer
        self._live = live
        self._search = search
        self._choose = choose
        self._counters = PathCounters()
        self._candidates: tuple[SockAddr, ...] = ()
        self._remotes: dict[bytes, RemoteState] = {}
        self._timers: dict[bytes, asyncio.TimerHandle] = {}
        self._resting = Resting(loop)
        self._simple: set[QuicConnection] = set()  # those without state

    @property
    def counters(self) -> Mapping[str, int]:
        """What happened to the paths of all connections, by iroh's names."""
        return self._counters.snapshot()

    def get(self, key: bytes) -> RemoteState | None:
        """The state of a remote, if there is any."""
        return self._remotes.get(key)

    def inventory(self, key: bytes) -> list[tuple[SockAddr, Status, dict[str, float]]]:
        """The addresses of a remote: status, and who told of them when; also some time after the last connection."""
        state = self._remotes.get(key)
        known = self._resting.get(key) if state is None else state.addrs
        return [] if known is None else list(known.listed())

    def selected(self, key: bytes) -> SockAddr | None:
        """The address that the connections with a remote use, where there is a choice."""
        state = self._remotes.get(key)
        return None if state is None else state.selected

    # ---------------------------------------------------------------- connections
    def attach(
        self,
        conn: QuicConnection,
        addrs: Iterable[SockAddr] = (),
        *,
        told: Mapping[SockAddr, str] | None = None,
        relay_only: bool = False,
    ) -> None:
        """Follow the paths of a connection whose handshake is complete.

        Parameters
        ----------
        addrs : lead to its peer.
        told : who did of them, "app" for those that are not in it.
        relay_only : the connection is to have no direct path.
        """
        key = conn.peer_id
        if key is None or conn.close_reason is not None:
            return  # over already: nothing would ever take its state away again
        on_paths(conn, self)
        if not relay_only:
            self._tell_candidates(conn)
        known = list(addrs)
        state = self._remotes.get(key)
        if state is None:
            if not relay_only and self._is_simple(conn, known):
                self._begin_simple(conn)
                return
            state = self._new(key)
        for addr in known:
            state.learn([addr], (told or {}).get(addr, "app"))
        state.add(conn, relay_only=relay_only)
        self._arm(key, state)

    def learn(
        self, conn: QuicConnection, addrs: Iterable[SockAddr], source: str = "lookup"
    ) -> None:
        """Further addresses of the peer of a connection that is followed."""
        key = conn.peer_id
        if key is None or conn.close_reason is not None:
            return
        state = self._remotes.get(key)
        if state is None or conn not in state.conns:
            state = self._complicate(key, conn)
        state.learn_more(addrs, source)
        self._arm(key, state)

    def found(self, key: bytes, addrs: Iterable[SockAddr], source: str) -> None:
        """A lookup that was asked for tells where a remote is."""
        state = self._remotes.get(key)
        if state is not None:
            state.learn_more(addrs, source)
            self._arm(key, state)

    def moved_to(self, key: bytes, addrs: Collection[SockAddr]) -> None:
        """That lookup is over: these are all the addresses it found."""
        state = self._remotes.get(key)
        if state is not None:
            state.moved_to(addrs)
            self._arm(key, state)

    def __call__(self, conn: QuicConnection) -> None:
        """The paths of a connection changed, or it ended.

        It is itself what all connections call: a bound method each is much among thousands.
        """
        key = conn.peer_id
        if key is not None:
            if conn.close_reason is None:
                self._follow(key, conn)
            else:
                self._end(key, conn)
        if self._observer is not None:
            self._observer(conn)

    def _follow(self, key: bytes, conn: QuicConnection) -> None:
        state = self._remotes.get(key)
        if state is None:
            if self._is_simple(conn):
                return
            state = self._complicate(key, conn)
        elif conn in state.conns:
            state.refresh(conn)
        else:
            self._complicate(key, conn)
        self._arm(key, state)

    def _end(self, key: bytes, conn: QuicConnection) -> None:
        state = self._remotes.get(key)
        if state is not None and conn in state.conns:
            state.remove(conn)
            if not state.conns:
                del self._remotes[key]
                self._resting.put(key, state.addrs)
            self._arm(key, state)
        elif conn in self._simple:
            self._end_simple(key, conn)

    # ---------------------------------------------------------------- connections without a choice
    def _is_simple(self, conn: QuicConnection, known: Sequence[SockAddr] = ()) -> bool:
        """Whether there is nothing to decide: one path, that is direct and hardly to be bettered."""
        ids = conn.path_ids()
        first = conn.path_remote(ids[0]) if ids else None
        if len(known) > 1 or len(ids) != 1 or first is None or is_relay(first):
            return False
        if not (conn.is_client and conn.has_nat_traversal):
            return True
        rtt = conn.path_rtt(ids[0])
        return rtt is None or rtt <= GOOD_ENOUGH_S or not conn.nat_addresses()

    def _begin_simple(self, conn: QuicConnection) -> None:
        addr = conn.path_remote(conn.path_ids()[0])
        if addr is not None:
            self._simple.add(conn)
            self._counters.simple(addr, begins=True)

    def _end_simple(self, key: bytes, conn: QuicConnection) -> None:
        """A connection without a choice is over: its address is known for some time."""
        self._simple.discard(conn)
        ids = conn.path_ids()
        addr = conn.path_remote(ids[0]) if ids else None
        if addr is not None:
            self._counters.simple(addr, begins=False)
            inventory = self._resting.take(key) or Inventory(self._counters)
            inventory.worked(addr, self._loop.time())
            self._resting.put(key, inventory)

    def _complicate(self, key: bytes, conn: QuicConnection) -> RemoteState:
        """State begins for a connection, or it joins the others."""
        state = self._remotes.get(key) or self._new(key)
        ids = conn.path_ids()
        addr = conn.path_remote(ids[0]) if ids else None
        if conn in self._simple and addr is not None:
            self._simple.discard(conn)
            state.adopt(conn, ids[0], addr)
        else:
            state.add(conn)
        return state

    # ---------------------------------------------------------------- this machine
    def set_candidates(self, addrs: Sequence[SockAddr]) -> None:
        """Where this endpoint may be reached directly changed; the most useful first."""
        candidates = tuple(addrs[:MAX_CANDIDATES])
        if candidates == self._candidates:
            return
        self._candidates = candidates
        for conn in list(self._live()):
            self._tell_candidates(conn)
        for key, state in list(self._remotes.items()):
            state.set_local(candidates)
            self._arm(key, state)

    def _tell_candidates(self, conn: QuicConnection) -> None:
        # The side that dialed tells of them with each round.
        if not conn.is_client and conn.has_nat_traversal:
            conn.set_nat_addresses(self._candidates)

    def network_changed(self, major: bool) -> None:
        """The network of this machine changed; `major`: addresses, interfaces or the default route did."""
        if major:
            for conn in list(self._simple):
                key = conn.peer_id
                if key is not None and conn.is_client and conn.close_reason is None:
                    self._complicate(key, conn)
        for key, state in list(self._remotes.items()):
            state.network_changed(major)
            self._arm(key, state)

    # ---------------------------------------------------------------- state and time
    def _new(self, key: bytes) -> RemoteState:
        search = self._search
        state = self._remotes[key] = RemoteState(
            self._loop.time,
            self._resting.take(key),
            counters=self._counters,
            choose=self._choose,
            search=None if search is None else lambda: search(key),
        )
        state.local = self._candidates
        return state

    def _arm(self, key: bytes, state: RemoteState) -> None:
        timer, due = self._timers.get(key), state.deadline
        if timer is not None:
            if due is not None and timer.when() <= due:
                return  # looks again when it fires
            timer.cancel()
            del self._timers[key]
        if due is not None:
            self._timers[key] = self._loop.call_at(due, self._on_timer, key)

    def _on_timer(self, key: bytes) -> None:
        self._timers.pop(key, None)
        state = self._remotes.get(key)
        if state is not None:
            state.expire()
            self._arm(key, state)

    def stop(self) -> None:
        """Cancel every timer."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._remotes.clear()
        self._simple.clear()
        self._resting.stop()
