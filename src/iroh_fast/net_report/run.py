"""The course of one report: which probes start when, and when it is enough."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from ..aio._waiters import WaitQueue
from ..aio.tasks import Tasks
from ..relay.map import RelayConfig
from .qad import QadProbes, Seen
from .report import Draft

__all__ = ["LIMIT_S", "Course", "Means"]

LIMIT_S: Final = 5.0


@dataclass(frozen=True, slots=True, eq=False)
class Means:
    """What reports are made with."""

    qad: QadProbes


class Course:
    """One report under way.

    Parameters
    ----------
    draft : Draft
        Where the answers go.
    relays : sequence of RelayConfig
        Those to measure, in order.
    news : called after each answer.
    """

    def __init__(
        self,
        means: Means,
        draft: Draft,
        relays: Sequence[RelayConfig],
        news: Callable[[], object] = lambda: None,
    ) -> None:
        self._means = means
        self._draft = draft
        self._relays = relays
        self._news = news
        self._wake = WaitQueue()

    async def run(self) -> None:
        """Probe until the draft holds enough, everything has ended, or it is late.

        Notes
        -----
        Cancel-safe: no probe is left.
        """
        probes = Tasks()
        try:
            running = [probes.start(self._qad(family)) for family in sorted(self._draft.families)]
            async with asyncio.timeout(LIMIT_S):
                while not (self._draft.enough() or all(probe.done() for probe in running)):
                    await self._wake.wait()
        except TimeoutError:
            pass
        finally:
            await probes.end()

    def _told(self) -> None:
        self._news()
        self._wake.wake_all()

    async def _qad(self, family: int) -> None:
        """Addresses of one family: of what is kept, else of the first relays."""
        try:
            if not self._draft.full and (seen := self._means.qad.kept(family)) is not None:
                self._seen(seen)
            else:
                await self._means.qad.probe(self._relays, family, self._seen)
        finally:
            self._draft.over(family)
            self._told()

    def _seen(self, seen: Seen) -> None:
        self._draft.qad(seen.relay, seen.addr, seen.latency)
        self._told()
