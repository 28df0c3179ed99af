"""What is known about one remote endpoint while there are connections with it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from iroh_fast.net.transport import SockAddr, is_private, is_relay

from .counters import PathCounters
from .facts import facts
from .inventory import Inventory, Status
from .lifetimes import Lifetimes
from .opening import MAX_OPEN_RETRIES, Opening
from .punching import Punching
from .selection import Chooser, by_rtt
from .silence import PATH_UNSTABLE, Silences
from .stranded import Stranded
from .upgrades import Upgrades
from .usage import Usage
from .users import Followed, PathUser

__all__ = ["RemoteState"]

logger = logging.getLogger("iroh_fast.net")

RELAY_PATH_IDLE_S = 30.0
REOPEN_S = 5.0  # after the last direct path died
RECHECK_S = 60.0  # everything is looked at this often
GOOD_ENOUGH_S = 0.010  # a direct path that is as fast needs no better one


class RemoteState:
    """What is known about one remote endpoint while there are connections with it.

    Whatever happens on one connection costs the same however many there are, unless it changes
    something for all of them: a new address, another selection.

    Parameters
    ----------
    time : gives the time in seconds, of a clock that never goes back.
    inventory : what was known before.
    choose : which of the addresses in use carries data.
    search : called to look the remote up again.
    """

    __slots__ = (
        "_choose",
        "_counters",
        "_lifetimes",
        "_look_at",
        "_lost",
        "_opening",
        "_silences",
        "_stranded",
        "_time",
        "_upgrades",
        "_usage",
        "addrs",
        "conns",
        "local",
        "punching",
        "selected",
    )

    def __init__(
        self,
        time: Callable[[], float],
        inventory: Inventory | None = None,
        *,
        counters: PathCounters | None = None,
        choose: Chooser = by_rtt,
        search: Callable[[], object] | None = None,
    ) -> None:
        self._time = time
        self._counters = counters or PathCounters()
        self._choose = choose
        self._look_at: float | None = None  # everything is looked at again
        self._upgrades = Upgrades()
        self.conns: dict[PathUser, Followed] = {}
        self.addrs = Inventory(self._counters) if inventory is None else inventory
        self.selected: SockAddr | None = None
        self.local: Sequence[SockAddr] = ()  # our candidates, the most useful first
        self.punching = Punching()
        self._opening = Opening(self.addrs)
        self._stranded = Stranded(search)
        self._lifetimes = Lifetimes()
        self._silences = Silences()
        self._lost: set[PathUser] = set()  # those that dialed and have no path that works
        self._usage = Usage(self.conns)

    # ---------------------------------------------------------------- addresses
    def learn(self, addrs: Iterable[SockAddr], source: str = "app") -> bool:
        """Remember addresses of the remote; whether any is new."""
        return self.addrs.learn(addrs, source, self._time())

    def learn_more(self, addrs: Iterable[SockAddr], source: str = "app") -> None:
        """The same while there are connections: they try what is new."""
        if self.learn(addrs, source):
            self._open_missing_everywhere()

    def moved_to(self, addrs: Collection[SockAddr]) -> None:
        """A lookup has told of all these: relays that it does not name are given up, once they are silent."""
        if not any(map(is_relay, addrs)):
            return
        for addr in self.addrs.relays():
            if addr not in addrs:
                self.addrs.forget(addr)
        for conn, state in self.conns.items():
            self._close_forsaken(conn, state)

    def _close_forsaken(self, conn: PathUser, state: Followed) -> None:
        """Close the paths that do not answer and that nobody tells of, where another one works."""
        if not conn.is_client or conn.close_reason is not None:
            return
        for id in state.silent & state.paths.keys():
            addr = state.paths[id]
            if self.addrs.is_forsaken(addr) and any(map(state.works, state.paths)):
                conn.close_path(id)
                del state.paths[id]
                self._leave(conn, addr)

    # ---------------------------------------------------------------- connections
    def add(self, conn: PathUser, *, relay_only: bool = False) -> None:
        """Take care of the paths of a connection whose handshake is complete."""
        self.conns.setdefault(conn, Followed(relay_only))
        self.refresh(conn)
        self._open_missing(conn)
        if not self._is_direct():
            self.punch(follow_up=True)
            self._look_again(REOPEN_S)
        self._look_again(RECHECK_S)

    def adopt(self, conn: PathUser, id: int, addr: SockAddr) -> None:
        """Take care of a connection that had one path until now; that is the present choice."""
        now = self._time()
        direct = not is_private(addr)
        self.conns[conn] = Followed(paths={id: addr}, was_direct=direct)
        self.addrs.adopt(addr, now)
        self._usage.add(addr, conn, id)
        if direct:
            self._lifetimes.works(addr, now)
        if self.selected is None:
            self.selected = addr
        self.add(conn)

    def remove(self, conn: PathUser) -> None:
        """The connection is over."""
        state = self.conns.pop(conn, None)
        self._opening.leave(conn)
        self._lost.discard(conn)
        self._silences.left(conn)
        if state is not None:
            for addr in state.paths.values():
                self._leave(conn, addr)
        if not self.conns:
            self.selected = self._look_at = None
            self._opening.take_blocked()
            self.punching.stop()
        else:
            if self.selected not in self._usage:
                self._select_for_all()
            if conn.is_client and not self._is_direct():
                self.punch(follow_up=True)  # another connection's turn
        self._stranded.update(self._time(), bool(self._lost))
        self._lifetimes.plan(self.selected, self._time())

    def refresh(self, conn: PathUser) -> None:
        """Compare a connection with what was known of it; act on differences."""
        state = self.conns.get(conn)
        if state is None:
            return
        news = self._take_candidates(conn, state)
        worked = state.works_directly()
        self._take_paths(conn, state)
        if worked and not state.works_directly():
            self._look_again(REOPEN_S)
            self.punching.hopeful()
            news = True
        if news:
            self.punch()
        if conn.is_client and state.paths and not any(map(state.works, state.paths)):
            self._lost.add(conn)
        else:
            self._lost.discard(conn)
        self._stranded.update(self._time(), bool(self._lost))
        self._lifetimes.plan(self.selected, self._time())

    def _take_candidates(self, conn: PathUser, state: Followed) -> bool:
        """Look where the peer may be reached; whether a round of hole punching should try that."""
        if not conn.is_client or state.relay_only or not conn.has_nat_traversal:
            return False
        before, state.candidates = state.candidates, frozenset(conn.nat_addresses())
        if state.candidates == before:
            return False
        self._upgrades.hopeful()
        # What works well needs nothing better, unless the peer seems to move away.
        return not (before <= state.candidates and self._is_satisfied())

    def _take_paths(self, conn: PathUser, state: Followed) -> None:
        paths: dict[int, SockAddr] = {}
        trying: dict[int, SockAddr] = {}
        for id, remote, validated, *_ in conn.path_states():
            (paths if validated else trying)[id] = remote
        self._give_up(state, paths, trying)
        silent = frozenset(id for id in paths if conn.path_silent(id))
        if paths == state.paths and silent == state.silent:
            if state.blocked:
                self._open_missing(conn)  # a path that never worked may have made room
            return
        fresh = [(id, addr) for id, addr in paths.items() if state.paths.get(id) != addr]
        for id, addr in state.paths.items():
            if paths.get(id) != addr:
                self._leave(conn, addr)
        before, state.paths, state.silent = state.silent, paths, silent
        first = [self._register(conn, state, id, addr) for id, addr in fresh]
        self._take_silence(conn, state, before)
        if not self._select_for_all():
            self._apply(conn)
        if silent:
            self._close_forsaken(conn, state)
        if any(first):
            self._open_missing_everywhere()
        elif fresh:
            self._open_missing(conn)

    def _give_up(
        self, state: Followed, paths: dict[int, SockAddr], trying: dict[int, SockAddr]
    ) -> None:
        """Mark the addresses to which a path did not come about."""
        for id, addr in state.trying.items():
            if id not in paths and id not in trying and addr not in self._usage:
                self.addrs.failed(addr, self._time())
        state.trying = trying

    def _register(self, conn: PathUser, state: Followed, id: int, addr: SockAddr) -> bool:
        """A path is established; whether it is the first one that leads there."""
        now = self._time()
        self._counters.established(addr)
        first = self.addrs.opened(addr, now)
        state.tries.pop(addr, None)
        self._usage.add(addr, conn, id)
        if is_relay(addr):
            conn.set_path_max_idle(id, RELAY_PATH_IDLE_S)
        elif not is_private(addr):
            self._lifetimes.works(addr, now)
            self.punching.hopeful()
            self._upgrades.direct(now)
            if not state.was_direct:
                state.was_direct = True
                self._counters.became_direct()
        return first

    def _take_silence(self, conn: PathUser, state: Followed, before: frozenset[int]) -> None:
        """Some paths stopped to answer, or answer again."""
        for id in before ^ state.silent:
            addr = state.paths.get(id)
            if addr is None or id not in state.silent:
                self._silences.ended(conn, id)
            if addr is None or is_private(addr):
                continue
            logger.debug(
                "path to %s %s", addr, "is silent" if id in state.silent else "answers again"
            )
            if id in state.silent:
                self._silences.began(conn, state, id, self._time())
                self._lifetimes.died(addr, self._time())
            else:
                self._lifetimes.works(addr, self._time())

    def _leave(self, conn: PathUser, addr: SockAddr) -> None:
        if self._usage.remove(addr, conn):
            self.addrs.left(addr, self._time())
            self._lifetimes.left(addr)

    # ---------------------------------------------------------------- selection
    def _select_for_all(self) -> bool:
        """Choose the address for all connections, and have them use it; whether that changed anything."""
        found = self._usage.choices()
        if not found:
            return False
        chosen = self._choose(self.selected, found)
        if chosen is None or chosen == self.selected:
            return False
        self.selected = chosen
        for conn in self.conns:
            self._apply(conn)
        return True

    def _apply(self, conn: PathUser) -> None:
        """Make a connection use the selected address, if it can."""
        state = self.conns.get(conn)
        chosen = self.selected
        if chosen is None or state is None or conn.close_reason is not None:
            return
        if state.relay_only and not is_relay(chosen):
            chosen = next((addr for addr in state.paths.values() if is_relay(addr)), chosen)
        direct = sum(not is_private(addr) for addr in state.paths.values())
        spare = 2 if self._lifetimes.ends_soon(chosen, self._time()) else 1
        may_close = conn.is_client and chosen in state.paths.values()
        for id, addr, _, _, available, announced in conn.path_states():
            if state.paths.get(id) != addr:
                continue
            wanted = addr == chosen
            if wanted or not may_close or is_private(addr) or direct <= spare:
                if available != wanted or (not announced and conn.has_multipath):
                    conn.set_path_status(id, wanted)
            else:
                # One direct path is enough; only the side that dialed closes the others.
                direct -= 1
                conn.close_path(id)
                del state.paths[id]
                self._leave(conn, addr)

    # ---------------------------------------------------------------- opening and punching
    def _open_missing(self, conn: PathUser, *, blind: bool = False) -> None:
        state = self.conns.get(conn)
        if state is not None:
            self._opening.missing(conn, state, self.selected, self._time(), blind=blind)

    def _open_missing_everywhere(self) -> None:
        for conn in list(self.conns):
            self._open_missing(conn)

    def _puncher(self) -> PathUser | None:
        """The connection that rounds run on: the first that can, the others follow it."""
        for conn, state in self.conns.items():
            if conn.is_client and not state.relay_only and conn.has_nat_traversal:
                if conn.close_reason is None:
                    return conn
        return None

    def punch(self, *, follow_up: bool = False) -> None:
        """Begin a round of hole punching, or plan one for when it may begin; `follow_up`: if it is needed then."""
        conn = self._puncher()
        if conn is None or not self.local:
            # Nobody to tell, or nothing: a connection or an address of ours comes first.
            self.punching.stop()
            return
        now = self._time()
        ours, theirs = frozenset(self.local), self.conns[conn].candidates
        if not self.punching.may_start(now, ours, theirs, follow_up=follow_up):
            return
        conn.set_nat_addresses(self.local)
        if conn.start_nat_round():
            self._counters.punched()
            self.punching.started(now, ours, theirs)
        else:
            self.punching.refused(now)

    def _is_direct(self) -> bool:
        """Whether some direct path works."""
        return bool(self._lifetimes.alive)

    def _is_satisfied(self) -> bool:
        """Whether the path in use is as good as we want."""
        chosen = self.selected
        if chosen is None or is_private(chosen) or chosen not in self._lifetimes.alive:
            return False
        rtt = self._usage.rtt(chosen)
        return rtt is not None and rtt <= GOOD_ENOUGH_S

    def set_local(self, addrs: Sequence[SockAddr]) -> None:
        """Our own candidates changed."""
        before, self.local = self.local, addrs
        if self.conns and set(before) != set(addrs):
            self.punching.hopeful()
            self._upgrades.hopeful()
            self.punch()

    def network_changed(self, major: bool) -> None:
        """The network of this machine changed."""
        self._lifetimes.moved(self._time())
        if major:
            self.punching.hopeful()
            self._upgrades.hopeful()
            self._open_missing_everywhere()
            self.punch()

    # ---------------------------------------------------------------- time
    @property
    def deadline(self) -> float | None:
        """When `expire` is due, None for never."""
        known = (
            self._opening.retry_at,
            self._look_at,
            self.punching.due,
            self._stranded.due,
            self._lifetimes.due,
            self._silences.due,
        )
        return min((when for when in known if when is not None), default=None)

    def _look_again(self, delay: float) -> None:
        when = self._time() + delay
        if self._look_at is None or when < self._look_at:
            self._look_at = when

    def expire(self) -> None:
        """Do what is due."""
        now = self._time()
        if _is_due(self._stranded.due, now):
            self._stranded.expire(now)
        if _is_due(self._silences.due, now):
            for conn, id in self._silences.given_up(self.conns, now):
                if conn.close_reason is None:
                    conn.close_path(id, PATH_UNSTABLE)
        if _is_due(self._lifetimes.due, now):
            self._lifetimes.plan(self.selected, now)
            self.punch()
        if _is_due(self.punching.due, now):
            self.punching.stop()
            if not (self.punching.is_follow_up and self._is_direct()):
                self.punch()
        if _is_due(self._look_at, now):
            self._look(now)
        elif _is_due(self._opening.retry_at, now):
            for conn in self._opening.take_blocked():
                self._open_missing(conn)

    def _look(self, now: float) -> None:
        """Look at every connection: what failed may work by now, something better may be there."""
        self._look_at = now + RECHECK_S if self.conns else None
        self._opening.take_blocked()
        for conn, state in list(self.conns.items()):
            if state.blocked > MAX_OPEN_RETRIES:
                state.blocked = 0
            self._open_missing(conn, blind=True)
        if self._is_satisfied():
            return
        puncher = self._puncher()
        candidates = () if puncher is None else self.conns[puncher].candidates
        if self._is_direct() and not self._upgrades.is_due(now, candidates, self.addrs):
            return
        if not self.punching.is_recent(now):
            self.punch()

    # ---------------------------------------------------------------- what others see
    def inventory(self) -> list[tuple[SockAddr, Status, dict[str, float]]]:
        """Each known address: its status, and who told of it when (seconds of the loop's clock)."""
        return list(self.addrs.listed())

    def why(self) -> dict[str, Any]:
        """What decides whether there is a direct path, see `facts`; ``direct``: one works."""
        found = facts(self.conns, self._puncher(), self.punching, self.local, self._time())
        return {"direct": self._is_direct(), **found}


def _is_due(when: float | None, now: float) -> bool:
    return when is not None and when <= now
