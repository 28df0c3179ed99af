"""When to ask the link who is there, and when to answer: pure, times come in and a deadline goes out.

All nodes of a link share one rhythm: somebody asks, a few answer, the others keep quiet.  The more
there are, the further they spread their answers, so that a round is over when enough were heard.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, Literal, TypeAlias

__all__ = ["Action", "Rounds", "cutoff_of", "grace_s"]

Action: TypeAlias = Literal["ask", "answer"]

ANSWERS_PER_S: Final = 2.5
SPREAD_S: Final = 0.1
MAX_DELAYS: Final = 10  # of SPREAD_S, for one that answered the last round
# Beyond that many nodes answers are spread no further.  DIFFERS: iroh's has no limit, so whoever
# forges a thousand of them makes each answer take a minute.  64 spread them well for 1,000 nodes.
MAX_SWARM: Final = 64


def cutoff_of(cadence: float) -> int:
    """How many answers end a round."""
    return max(1, math.ceil(round(cadence * ANSWERS_PER_S, 6)))


def grace_s(cadence: float, peers: int) -> float:
    """Seconds after which a peer that was not heard of is gone, where `peers` are known."""
    return 3.0 * peers * cadence / min(cutoff_of(cadence), max(1, peers))


class Rounds:
    """The rhythm of one node.

    Parameters
    ----------
    cadence : seconds between rounds, at least.
    random : uniform numbers from 0 to 1.
    now : seconds on any clock; the first question is due `first` seconds later.

    Attributes
    ----------
    deadline : when `due` has something to do.
    """

    __slots__ = (
        "_answered",
        "_answering",
        "_cadence",
        "_cutoff",
        "_extra",
        "_heard",
        "_random",
        "deadline",
    )

    def __init__(
        self, now: float, *, cadence: float, random: Callable[[], float], first: float = 0.0
    ) -> None:
        self._cadence = cadence
        self._cutoff = cutoff_of(cadence)
        self._random = random
        self._answering = False
        self._answered = False
        self._extra = 0.0
        self._heard: dict[int, int] = {}  # IP version of the question: answers
        self.deadline = now + first

    @property
    def families(self) -> tuple[int, ...]:
        """Over which IP versions an answer is due: those of the questions, 4 or 6."""
        return tuple(self._heard)

    def asked(self, now: float, swarm: int, family: int, *, not_before: float = -math.inf) -> None:
        """Somebody asked, perhaps this node.

        Parameters
        ----------
        not_before : an answer has to wait until then in any case.
        """
        if self._answering:
            # DIFFERS: iroh's has no ear for it, and nodes with one IP version wait in vain.
            self._heard.setdefault(family, 0)
            return
        swarm = min(max(swarm, 1), MAX_SWARM)
        # For fairness: who has answered the last round lets others go first.
        if self._answered:
            self._extra = SPREAD_S * min(swarm // self._cutoff, MAX_DELAYS)
        else:
            self._extra = max(0.0, self._extra - SPREAD_S)
        self._answering, self._answered = True, False
        self._heard = {family: 0}
        wait = self._random() * SPREAD_S * swarm / self._cutoff + self._extra
        self.deadline = max(now + wait, not_before)

    def heard(self, now: float, swarm: int, peers: int, family: int) -> None:
        """An answer told of that many peers."""
        if self._answering and family in self._heard:
            self._heard[family] += peers
            if self._heard[family] >= self._cutoff:
                del self._heard[family]
                if not self._heard:
                    self.rest(now, swarm)

    def answered(self, now: float, swarm: int) -> None:
        """The answer of this round is out."""
        if self._answering:
            self.rest(now, swarm)
            self._answered = True

    def due(self, now: float) -> Action | None:
        """What to do now.

        After ``"ask"`` say `asked` with the way it went, after ``"answer"`` `answered`; or `rest`,
        where there is no way, and nothing to tell.
        """
        if now < self.deadline:
            return None
        return "answer" if self._answering else "ask"

    def rest(self, now: float, swarm: int) -> None:
        """Wait for the next question."""
        swarm = min(max(swarm, 1), MAX_SWARM)
        self._answering = False
        self._heard.clear()
        self.deadline = now + self._cadence * (1.0 + self._random() * swarm / 10)
