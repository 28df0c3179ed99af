"""One iterative search: whom to ask next, who answered, when it is over."""

from __future__ import annotations

from bisect import insort
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Final

from .ids import is_private, is_secure, may_name, number, place
from .krpc import Address, Node, Reply
from .routing import K

if TYPE_CHECKING:
    from ..signed_packet import SignedPacket

__all__ = ["Search"]

AT_ONCE: Final = 16  # requests that a search has open
MAX_REQUESTS: Final = 200  # of one search, all told
MAX_INSECURE: Final = 120  # of these to nodes that chose their ids
MAX_CANDIDATES: Final = 400  # that it knows
MAX_SEEDS: Final = 32
MAX_PENDING_OF_PLACE: Final = 4  # candidates in one place whose answers are not known
MAX_OF_HOST: Final = 9  # requests to one address, whatever ports and ids are named
CREDIT: Final = 6  # nodes of one source that may be dead or not have answered yet


class State(Enum):
    """What is known of a candidate."""

    NAMED = 0
    ASKED = 1
    ANSWERED = 2
    SILENT = 3  # for now
    USELESS = 4
    REFUSES = 5  # is there, but stores no items: the next one counts in its place


@dataclass(slots=True, eq=False)
class _Source:
    """A node, by those that it named: one that names dead ones is not believed for long."""

    dead: int = 0
    alive: int = 0
    asked: int = 0
    places: set[tuple[str, int]] = field(default_factory=set)

    @property
    def has_credit(self) -> bool:
        return self.dead + self.asked - 2 * self.alive < CREDIT


@dataclass(slots=True, eq=False)
class _Candidate:
    node: Node
    distance: int
    place: tuple[str, int]
    secure: bool
    by: list[_Source] = field(default_factory=list)
    state: State = State.NAMED
    token: bytes | None = None

    def __lt__(self, other: _Candidate) -> bool:
        return self.distance < other.distance

    @property
    def may_be_asked(self) -> bool:
        return self.state is State.NAMED and (
            not self.by or any(source.has_credit for source in self.by)
        )

    def becomes(self, state: State) -> None:
        for source in self.by:
            source.asked += (state is State.ASKED) - (self.state is State.ASKED)
            source.dead += _dead(state) - _dead(self.state)
            source.alive += _alive(state) - _alive(self.state)
        self.state = state


def _dead(state: State) -> bool:
    return state in (State.SILENT, State.USELESS)


def _alive(state: State) -> bool:
    return state in (State.ANSWERED, State.REFUSES)


class Search:
    """Ask nodes nearer and nearer to a target, until those nearest of all have answered.

    Two rankings are followed, in turn: the `K` nearest nodes, and the `K` nearest whose ids
    their addresses may have (`ids.is_secure`). Whoever crowds around a target with ids of his
    choice fills the first alone. Requests and candidates are bounded whatever nodes answer.

    Parameters
    ----------
    target : 20 bytes.
    key : public key whose item is wanted.
    seeds : nodes to begin with.
    avoid : addresses that are never asked, our own.

    Attributes
    ----------
    best : SignedPacket or None
        The newest item that was verified.
    requests : int
        How many were sent.
    waiting : bool
        More addresses to begin with may come: not over before somebody has answered.
    """

    def __init__(
        self,
        target: bytes,
        key: bytes,
        seeds: Iterable[Node] = (),
        *,
        avoid: Iterable[Address] = (),
    ) -> None:
        self.target = target
        self.key = key
        self.best: SignedPacket | None = None
        self.requests = 0
        self.waiting = False
        self._insecure = 0
        self._to = number(target)
        self._avoid = frozenset(avoid)
        self._seeds: deque[Address] = deque()
        self._seeded: set[Address] = set()
        self._known: dict[Address, _Candidate] = {}
        self._places: dict[tuple[str, int], list[_Candidate]] = {}
        self._hosts: Counter[str] = Counter()  # requests
        self._ranked: list[_Candidate] = []
        self._open: set[Address] = set()
        self._late: set[Address] = set()
        self._heard = False
        for node in seeds:
            self._add(node, None)

    # --- what comes in -------------------------------------------------------------------

    def seed(self, addresses: Iterable[Address]) -> None:
        """Begin with these, too, whose nodes nobody knows: they are asked for nodes alone."""
        for address in addresses:
            if len(self._seeded) < MAX_SEEDS and address not in self._seeded | self._avoid:
                self._seeded.add(address)
                self._seeds.append(address)

    def answered(self, address: Address, reply: Reply) -> bool:
        """A node answered; whether it is a good one: with the id it is known by.

        Another id counts when its address may have it, or when it is farther from the target: who
        is called names by others is found all the same, and who calls himself near is not.
        """
        self._hear(address)
        known = self._known.get(address)
        if known is not None and known.node.id != reply.id:
            farther = number(reply.id) ^ self._to > known.distance
            if known.state is State.NAMED or farther or is_secure(reply.id, address[0]):
                self._rename(known, reply.id)
        if known is None or known.state is State.NAMED:  # a seed, which may be near itself
            self._add(Node(reply.id, address), None)
            good = not reply.read_only
        else:
            good = known.node.id == reply.id and not reply.read_only
            self._settle(known, reply.token if good else None, good)
        source = _Source()
        for node in reply.nodes:
            at = node.address
            if at != address and (at in self._known or may_name(at, address)):
                self._add(node, source)
        return good

    def _settle(self, known: _Candidate, token: bytes | None, good: bool) -> None:
        """A candidate has answered; of one place one counts."""
        others = [c for c in self._places[known.place] if c is not known]
        if good and any(c.state is State.ANSWERED for c in others):
            known.becomes(State.REFUSES)
            return
        known.becomes(State.ANSWERED if good else State.USELESS)
        known.token = token
        if good:
            for other in others:
                if other.state is State.NAMED:
                    self._forget(other)

    def refused(self, address: Address) -> None:
        """A node is there, but does not do what we ask."""
        self._hear(address)
        known = self._known.get(address)
        if known is not None and known.state is not State.NAMED:
            known.becomes(State.REFUSES)

    def silent(self, address: Address) -> None:
        """A node did not answer in time; it still may."""
        self._open.discard(address)
        self._late.add(address)
        known = self._known.get(address)
        if known is not None and known.state is State.ASKED:
            known.becomes(State.SILENT)

    def lost(self, address: Address) -> None:
        """A node will not answer any more."""
        self._open.discard(address)
        self._late.discard(address)

    def _hear(self, address: Address) -> None:
        self.lost(address)
        self._heard = True

    # --- what goes out -------------------------------------------------------------------

    def next(self, room: int) -> list[tuple[Address, bool]]:
        """Whom to ask now, at most `room`: addresses, and whether for the item, too."""
        room = min(room, AT_ONCE - len(self._open), MAX_REQUESTS - self.requests)
        asked: list[tuple[Address, bool]] = []
        while len(asked) < room and self._seeds:
            address = self._seeds.popleft()
            if address not in self._known:
                asked.append((address, False))
        if len(asked) < room:
            for candidate in self._in_turn():
                if candidate.may_be_asked and candidate.node.address not in self._open:
                    if self._allowed(candidate):
                        candidate.becomes(State.ASKED)
                        self._insecure += not candidate.secure
                        self._hosts[candidate.node.address[0]] += 1
                        asked.append((candidate.node.address, True))
                        if len(asked) >= room:
                            break
        self._open.update(address for address, _ in asked)
        self.requests += len(asked)
        return asked

    @property
    def over(self) -> bool:
        """Whether nothing is left to ask, and nobody is asked."""
        if self._open:
            return False
        if not self._heard and (self.waiting or self._late):
            # Late: in a network so slow that every answer is, the first one tells.
            return False
        if self.requests >= MAX_REQUESTS:
            return True
        return not self._seeds and not any(
            c.may_be_asked and self._allowed(c) for c in self._in_turn()
        )

    def holders(self) -> list[tuple[Address, bytes]]:
        """Address and token of the nodes that an item belongs to, of both rankings."""
        able = (c for c in self._ranked if c.state is State.ANSWERED and c.token is not None)
        return [(c.node.address, c.token) for c in _in_turn(able) if c.token is not None]

    def _allowed(self, candidate: _Candidate) -> bool:
        host = candidate.node.address[0]
        if self._hosts[host] >= MAX_OF_HOST and not is_private(host):
            return False
        return candidate.secure or self._insecure < MAX_INSECURE

    def _in_turn(self) -> Iterator[_Candidate]:
        """Both rankings of the nodes that answered, are asked, or can be."""
        return _in_turn(
            c for c in self._ranked if c.state in (State.ASKED, State.ANSWERED) or c.may_be_asked
        )

    # --- candidates ----------------------------------------------------------------------

    def _add(self, node: Node, source: _Source | None) -> None:
        address = node.address
        known = self._known.get(address)
        if known is not None:
            self._name_again(known, node, source)
            return
        if address in self._avoid:
            return
        at = place(node.id, address[0])
        there = self._places.get(at, ())
        pending = sum(c.state in (State.NAMED, State.ASKED) for c in there)
        if pending >= MAX_PENDING_OF_PLACE or any(c.state is State.ANSWERED for c in there):
            return
        candidate = _Candidate(node, number(node.id) ^ self._to, at, at[1] >= 0)
        if source is not None:
            if at in source.places:
                return  # nobody is in one place twice
            source.places.add(at)
            candidate.by.append(source)
        if len(self._ranked) < MAX_CANDIDATES or self._make_room(candidate):
            self._insert(candidate)

    def _name_again(self, known: _Candidate, node: Node, source: _Source | None) -> None:
        """Somebody else names a candidate, maybe by another id: the one that is asked first counts."""
        if known.node.id != node.id:
            secure, distance = is_secure(node.id, node.address[0]), number(node.id) ^ self._to
            if known.state is not State.NAMED or (secure, -distance) < (
                known.secure,
                -known.distance,
            ):
                return
            self._rename(known, node.id)
        if source is not None and len(known.by) < K:
            known.by.append(source)
            source.asked += known.state is State.ASKED
            source.dead += _dead(known.state)
            source.alive += _alive(known.state)

    def _make_room(self, candidate: _Candidate) -> bool:
        """Forget the farthest that was not asked; False when the new one is no better."""
        for worst in reversed(self._ranked):
            if worst.state is State.NAMED and worst.secure <= candidate.secure:
                if worst.secure == candidate.secure and worst < candidate:
                    return False
                self._forget(worst)
                return True
        return False

    def _rename(self, known: _Candidate, id: bytes) -> None:
        """A candidate has another id than it was named by."""
        self._forget(known)
        at = place(id, known.node.address[0])
        known.node, known.place, known.secure = Node(id, known.node.address), at, at[1] >= 0
        known.distance = number(id) ^ self._to
        self._insert(known)

    def _insert(self, candidate: _Candidate) -> None:
        self._known[candidate.node.address] = candidate
        self._places.setdefault(candidate.place, []).append(candidate)
        insort(self._ranked, candidate)

    def _forget(self, candidate: _Candidate) -> None:
        self._ranked.remove(candidate)
        del self._known[candidate.node.address]
        there = self._places[candidate.place]
        there.remove(candidate)
        if not there:
            del self._places[candidate.place]


def _in_turn(ranked: Iterable[_Candidate]) -> Iterator[_Candidate]:
    """The `K` nearest, and the `K` nearest that are secure, one of each in turn."""
    nearest: list[_Candidate] = []
    secure: list[_Candidate] = []
    for candidate in ranked:
        if len(nearest) < K:
            nearest.append(candidate)
        if candidate.secure:
            secure.append(candidate)
            if len(secure) >= K:
                break
    both = dict.fromkeys(chain.from_iterable(zip_longest(secure, nearest)))
    both.pop(None, None)
    return iter(c for c in both if c is not None)
