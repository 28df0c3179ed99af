"""One node of the link: what comes in and the time make what goes out.  No socket, no clock, no loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Final

from ...keys import EndpointId
from ..info import EndpointData, EndpointInfo
from .budget import Budget
from .peers import Change, Peers
from .rounds import Rounds
from .wire import MAX_DATAGRAM, Names, encode_answer, encode_query, label_of, parse_told

__all__ = ["Counters", "Node", "Sender"]

FIRST_S: Final = 0.02  # after a change, at random: not all who start together speak at once
GAP_S: Final = 0.25  # between what is sent out of turn, of each kind
ASKED_AGAIN_S: Final = (1.0, 2.0, 4.0)  # for a peer that somebody waits for
MAX_WANTED: Final = 4  # of those, in one question
MAX_NAMED: Final = 8  # and with peers that were not heard of for long
EXPIRY_CHECKS: Final = 1.2345  # cadences between looking who is gone


@dataclass(frozen=True, slots=True)
class Sender:
    """Where a datagram came from.

    Attributes
    ----------
    ip : the address as text, with its scope.
    family : 4 or 6.
    scope_id : index of the interface, 0 when that is not known.
    local : it is an address of this machine.
    """

    ip: str
    family: int
    scope_id: int = 0
    local: bool = False


@dataclass(slots=True)
class Counters:
    """What a node did.

    Attributes
    ----------
    asked, answered : questions and answers sent, each to all interfaces.
    heard : datagrams of this service that were read.
    foreign : datagrams of other services.
    refused : datagrams too many, see `Budget`, or too large.
    """

    asked: int = 0
    answered: int = 0
    heard: int = 0
    foreign: int = 0
    refused: int = 0

    def as_dict(self) -> dict[str, int]:
        """By name."""
        return {item.name: getattr(self, item.name) for item in fields(self)}


class Node:
    """Asks, answers and remembers.

    Parameters
    ----------
    now : seconds on any clock that does not go back.
    random : uniform numbers from 0 to 1.

    Attributes
    ----------
    families : IP versions, 4 and 6, that there is a way to the link over; the better one first.
    out : (IP version, datagram) to send, in order; whoever sends takes them out.
    """

    __slots__ = (
        "_answer",
        "_asked_at",
        "_budget",
        "_cadence",
        "_expiry_at",
        "_names",
        "_random",
        "_rounds",
        "_soon",
        "_spoken_at",
        "_speak_at",
        "_speak_over",
        "_ask_at",
        "_tries",
        "_wanted",
        "counters",
        "families",
        "out",
        "peers",
    )

    def __init__(
        self,
        id: EndpointId,
        now: float,
        *,
        service_name: str,
        cadence: float,
        random: Callable[[], float],
    ) -> None:
        self._names = Names(service_name, id)
        self._cadence = cadence
        self._random = random
        self._rounds = Rounds(now, cadence=cadence, random=random, first=random() * FIRST_S)
        self._budget = Budget(now)
        self._answer: bytes | None = None
        self._wanted: dict[bytes, int] = {}  # label: how many wait
        self._asked_at = self._spoken_at = -math.inf
        self._ask_at = self._speak_at = math.inf
        self._speak_over: set[int] = set()
        self._tries = 0
        self._expiry_at = now + cadence * EXPIRY_CHECKS
        self.peers = Peers(self._names.peer, cadence)
        self.counters = Counters()
        self.families: tuple[int, ...] = (4, 6)
        self.out: list[tuple[int, bytes]] = []

    # ------------------------------------------------------------ what is told from here
    def publish(self, data: EndpointData, now: float) -> int:
        """Replace what this node tells; how many addresses do not fit into a message.

        DIFFERS: iroh's waits for the next question; this one tells at once.
        """
        answer, left_out = encode_answer(self._names, data)
        if answer != self._answer:
            self._answer = answer
            self._speak(now, self.families)
        return left_out

    def network_changed(self, now: float) -> None:
        """There may be others on the link now, or another link."""
        self._speak(now, self.families)
        self._tries = 0
        self._ask_soon(now)

    def _speak(self, now: float, over: tuple[int, ...]) -> None:
        """Answer without having been asked, soon."""
        if self._answer is not None:
            self._speak_over.update(over)
            due = max(now + self._random() * FIRST_S, self._spoken_at + GAP_S)
            self._speak_at = min(self._speak_at, due)

    def _ask_soon(self, now: float) -> None:
        self._ask_at = min(self._ask_at, max(now, self._asked_at + GAP_S))

    # ------------------------------------------------------------ who is waited for
    def want(self, id: EndpointId, now: float) -> EndpointInfo | None:
        """Somebody waits for this peer from now on; what is known of it.

        DIFFERS: iroh's waits for the rounds, in which a peer among many has its turn only after
        n/3 s; this one asks for it by name, which nodes of this kind answer at once.
        """
        label = label_of(id)
        self._wanted[label] = self._wanted.get(label, 0) + 1
        info = self.peers.info(label)
        if info is None:
            self._tries = 0
            self._ask_soon(now)
        return info

    def unwant(self, id: EndpointId) -> None:
        """One who waited does no more."""
        label = label_of(id)
        left = self._wanted[label] - 1
        if left:
            self._wanted[label] = left
        else:
            del self._wanted[label]

    def _missing(self) -> list[bytes]:
        """Who is waited for and not known, those first that are waited for last."""
        return [label for label in reversed(self._wanted) if self.peers.info(label) is None]

    # ------------------------------------------------------------ what comes in
    def receive(self, datagram: bytes, sender: Sender, now: float) -> list[Change]:
        """Take a datagram that came to the group; what it changes."""
        if len(datagram) > MAX_DATAGRAM:
            self.counters.refused += 1
            return []
        if not self._names.concerns(datagram):
            self.counters.foreign += 1
            return []
        if not self._budget.take(sender.ip, now):
            self.counters.refused += 1
            return []
        self.counters.heard += 1
        heard = self._names.read(datagram)
        if self._names.peer in heard.wanted:
            self._speak(now, (sender.family,))
        if heard.everybody:
            self._asked(now, sender.family)
        if not heard.peers:
            return []
        return self._take(heard.peers, sender, now)

    def _asked(self, now: float, family: int) -> None:
        """However often somebody asks, this node answers a few times a second."""
        self._rounds.asked(now, len(self.peers), family, not_before=self._spoken_at + GAP_S)

    def _take(
        self,
        told_of: list[tuple[bytes, list[tuple[bytes, int]], list[bytes]]],
        sender: Sender,
        now: float,
    ) -> list[Change]:
        changes: list[Change] = []
        peers = 0
        for label, addrs, strings in told_of:
            if not self.peers.knows(label) and not self._budget.take_new(now):
                continue
            told = parse_told(addrs, strings, scope_id=sender.scope_id, local=sender.local)
            changes += self.peers.put(label, sender.ip, told, now, wanted=label in self._wanted)
            peers += self.peers.knows(label)
        self._rounds.heard(now, len(self.peers), peers, sender.family)
        return changes

    # ------------------------------------------------------------ time
    @property
    def deadline(self) -> float:
        """When `tick` has something to do."""
        return min(self._rounds.deadline, self._ask_at, self._speak_at)

    def tick(self, now: float) -> list[Change]:
        """Do what is due; what it changes."""
        if now >= self._speak_at:
            self._say_unasked(now)
        if now >= self._ask_at:
            self._ask(now)
        while (action := self._rounds.due(now)) is not None:
            if action == "ask":
                self._ask(now)
            else:
                self._answer_round(now)
        if now < self._expiry_at:
            return []
        self._expiry_at = now + self._cadence * EXPIRY_CHECKS
        return self.peers.expire(now)

    def _ask(self, now: float) -> None:
        missing = self._missing()
        self._asked_at, self._ask_at = now, math.inf
        if missing and self._tries < len(ASKED_AGAIN_S):
            self._ask_at = now + ASKED_AGAIN_S[self._tries]
            self._tries += 1
        if not self.families:
            self._rounds.rest(now, len(self.peers))
            return
        named = [*missing[:MAX_WANTED], *self.peers.fading(now)][:MAX_NAMED]
        self.out.append((self.families[0], encode_query(self._names, named)))
        self.counters.asked += 1
        self._asked(now, self.families[0])

    def _answer_round(self, now: float) -> None:
        if self._answer is None:
            self._rounds.rest(now, len(self.peers))
            return
        for family in self._rounds.families:
            self._put_answer(family, now)
        self._rounds.answered(now, len(self.peers))

    def _say_unasked(self, now: float) -> None:
        over, self._speak_over = sorted(self._speak_over), set()
        self._speak_at = math.inf
        if self._answer is not None:
            for family in over:
                self._put_answer(family, now)
            self._rounds.answered(now, len(self.peers))

    def _put_answer(self, family: int, now: float) -> None:
        assert self._answer is not None
        self.out.append((family, self._answer))
        self.counters.answered += 1
        self._spoken_at = now
