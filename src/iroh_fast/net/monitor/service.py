"""Notices that the network of this machine changed, or that it slept, and tells its endpoint."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from ..local_addrs import NetworkState
from ..service import ServiceContext
from .changes import Change, Pace, RouteWait, change_between
from .listening import Listener, listen
from .read import read_network
from .sleep import SleepClock

__all__ = ["Monitor"]

log = logging.getLogger("iroh_fast.net.monitor")

TICK_S: Final = 5.0
SLEPT_S: Final = 5.0  # asleep for longer than this, much may be different
STOPPED_S: Final = 2 * TICK_S + 5.0  # without a tick: this process was stopped


class Monitor:
    """Service of an endpoint: follows the network of this machine.

    Parameters
    ----------
    changed : called with the new state at each change, as soon as it is known.
    usable : called with the state when it was called last and the one now, after a major change,
        or when somebody said that there was one, once packets can leave: at once when there is a
        way to the internet, or was none before, else up to 5 seconds later.  Not while there is
        no network, unless somebody said so.
    read, listen, clock : replace how the system is asked.

    Notes
    -----
    However often the network changes, it is read at most four times a second, and once a second
    when that goes on.
    """

    __slots__ = (
        *("_asked", "_changed", "_clock", "_counts", "_insisted", "_listen", "_listener"),
        *(
            "_look_handle",
            "_loop",
            "_pace",
            "_pending",
            "_read",
            "_route_handle",
            "_sleep",
            "_state",
        ),
        *("_tick_handle", "_ticked", "_usable", "_used", "_wait"),
    )
    name = "network monitor"

    def __init__(
        self,
        changed: Callable[[NetworkState], object],
        usable: Callable[[NetworkState, NetworkState], object],
        *,
        read: Callable[[], NetworkState] = read_network,
        listen: Callable[[asyncio.AbstractEventLoop, Callable[[], object]], Listener] = listen,
        clock: Callable[[], SleepClock] = SleepClock,
    ) -> None:
        self._changed = changed
        self._usable = usable
        self._read = read
        self._listen = listen
        self._clock = clock
        self._state: NetworkState | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listener: Listener | None = None
        self._asked = False  # to be told of even when nothing differs
        self._pending = False  # `usable` is to be told,
        self._insisted = False  # ... whatever there is
        self._used = NetworkState()  # when it was told last
        self._wait: RouteWait | None = None
        self._look_handle: asyncio.TimerHandle | None = None
        self._route_handle: asyncio.TimerHandle | None = None
        self._tick_handle: asyncio.TimerHandle | None = None
        self._counts = dict.fromkeys(("actor_link_change", "network_changes_major", "resumes"), 0)

    @property
    def state(self) -> NetworkState:
        """The network as it was read last."""
        if self._state is None:
            self._state = self._read()
        return self._state

    # --- as a service
    async def start(self, context: ServiceContext) -> None:
        """Read what there is, and begin to listen."""
        loop = self._loop = context.owner.loop
        self._pace = Pace(loop.time())
        self._listener = self._listen(loop, self.heard)
        self._state = self._read()
        self._used = self._state
        self._sleep = self._clock()
        self._ticked = loop.time()
        self._tick_handle = loop.call_later(TICK_S, self._tick)

    def network_changed(self, state: NetworkState) -> None:
        """It was the one who said so."""

    async def close(self) -> None:
        """Stop listening."""
        self._loop = None
        for handle in (self._look_handle, self._route_handle, self._tick_handle):
            if handle is not None:
                handle.cancel()
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    @property
    def metrics(self) -> Mapping[str, int]:
        """How often what was noticed."""
        return {f"socket:{name}": count for name, count in self._counts.items()}

    # --- what is heard
    def heard(self) -> None:
        """Something may have changed: look when no more is heard."""
        if self._loop is None:
            return
        self._pace.heard(self._loop.time())
        due = self._pace.due
        assert due is not None
        if self._look_handle is None:
            self._look_handle = self._loop.call_at(due, self._on_due)

    def _on_due(self) -> None:
        assert self._loop is not None
        self._look_handle = None
        due = self._pace.due
        if due is not None and due > self._loop.time():
            self._look_handle = self._loop.call_at(due, self._on_due)
        elif due is not None:
            self._look()

    def ask(self) -> None:
        """Somebody knows that the network changed: look now, and act as after a major change."""
        if self._loop is None:
            return
        self._asked = True
        if self._pace.may_look(self._loop.time()):
            self._look()
        else:
            self.heard()

    def _tick(self) -> None:
        assert self._loop is not None
        now = self._loop.time()
        since, self._ticked = now - self._ticked, now
        self._tick_handle = self._loop.call_later(TICK_S, self._tick)
        if self._has_slept() or since > STOPPED_S:
            log.info("back after a time asleep or stopped")
            self._counts["resumes"] += 1
            self.ask()

    def _has_slept(self) -> bool:
        # DIFFERS: iroh compares times of a clock that stands still meanwhile, so it never notices.
        return self._sleep.slept() > SLEPT_S

    # --- what is done about it
    def _look(self) -> None:
        assert self._loop is not None
        self._pace.looked(self._loop.time())
        new = self._read()
        change: Change | None = "major" if self._asked else change_between(self.state, new)
        self._insisted = self._insisted or self._asked
        self._asked = False
        if change is not None:
            self._tell(new, change)
        self._settle()

    def _tell(self, new: NetworkState, change: Change) -> None:
        self._counts["actor_link_change"] += 1
        self._counts["network_changes_major"] += change == "major"
        self._state = replace(new, major=change == "major")
        level = logging.INFO if change == "major" else logging.DEBUG
        route = new.default_route or "none"
        log.log(level, "%s change of the network; way to the internet: %s", change, route)
        self._pending = self._pending or change == "major"
        self._changed(self._state)

    def _settle(self) -> None:
        """Tell that the network can be used, or wait until it can."""
        if not self._pending or self._loop is None:
            return
        if self.state.default_route is None and self._used.default_route is not None:
            if self._wait is None:
                self._wait = RouteWait(self._loop.time())
                self._wait_on()
            return
        self._go()

    def _wait_on(self) -> None:
        assert self._loop is not None and self._wait is not None
        at = self._wait.next(self._loop.time())
        if at is None:
            self._go()
        else:
            self._route_handle = self._loop.call_at(at, self._on_route)

    def _on_route(self) -> None:
        assert self._loop is not None
        self._route_handle = None
        new = self._read()
        change = change_between(self.state, new)
        if change is not None:
            self._tell(new, change)
        self._settle()
        if self._wait is not None:
            self._wait_on()

    def _go(self) -> None:
        if self._route_handle is not None:
            self._route_handle.cancel()
            self._route_handle = None
        self._wait = None
        self._pending = False
        insisted, self._insisted = self._insisted, False
        if insisted or not self.state.is_cut_off:
            old, self._used = self._used, self.state
            self._usable(old, replace(self.state, major=True))
