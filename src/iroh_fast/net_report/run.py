"""The course of one report: which probes start when, and when it is enough."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ..addr import RelayUrl, SocketAddr
from ..aio._waiters import WaitQueue
from ..aio.tasks import Tasks
from ..relay.map import RelayConfig
from .qad import QadProbes, Seen
from .report import Draft

__all__ = ["LIMIT_S", "MAX_HTTPS_RELAYS", "Course", "Means", "Plan"]

LIMIT_S: Final = 5.0
LATE_S: Final = 1.0
"""UDP that has not been heard by then is not waited for where other answers are there."""
MORE_S: Final = 0.3
"""But that long after the first one: on slow ways all are slow."""
HTTP_AT_S: Final = 0.2
"""TCP waits for UDP that long, which is faster where it works."""
ATTEMPTS_S: Final = (0.0, 0.1, 0.2)
MAX_HTTPS_RELAYS: Final = 16


@dataclass(frozen=True, slots=True, eq=False)
class Means:
    """What reports are made with.

    Attributes
    ----------
    https : seconds of a request to a relay, None without an answer.
    captive : whether something else answers for it.
    stun : asks servers over one family, and gives a function the answers, by server; None where
        there is nobody to ask.
    """

    qad: QadProbes
    https: Callable[[RelayUrl], Awaitable[float | None]]
    captive: Callable[[RelayUrl], Awaitable[bool | None]]
    stun: Callable[[int, Callable[[str, SocketAddr], object]], Awaitable[None]] | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What one report does.

    Attributes
    ----------
    https : measure by HTTPS.
    captive : the relay in whose place something else may answer; None does not look.
    """

    relays: Sequence[RelayConfig]
    https: bool
    captive: RelayUrl | None = None


class Course:
    """One report under way.

    Parameters
    ----------
    draft : Draft
        Where the answers go.
    news : called after each answer, and when the time for a first idea of things has come.
    """

    def __init__(
        self, means: Means, draft: Draft, plan: Plan, news: Callable[[], object] = lambda: None
    ) -> None:
        self._means = means
        self._draft = draft
        self._plan = plan
        self._news = news
        self._wake = WaitQueue()
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._timers: list[asyncio.TimerHandle] = []

    async def run(self) -> None:
        """Probe until the draft holds enough, everything has ended, or it is late.

        Notes
        -----
        Cancel-safe: no probe is left.
        """
        probes = Tasks()
        self._timers = [self._loop.call_at(self._began + LATE_S, self._is_late)]
        try:
            running = [probes.start(work) for work in self._probes()]
            async with asyncio.timeout_at(self._began + LIMIT_S):
                while not (self._draft.enough() or all(probe.done() for probe in running)):
                    await self._wake.wait()
        except TimeoutError:
            pass
        finally:
            for timer in self._timers:
                timer.cancel()
            await probes.end()

    def _probes(self) -> Sequence[Coroutine[Any, Any, None]]:
        plan = self._plan
        work = [self._family(family) for family in sorted(self._draft.families)]
        if plan.https:
            work += [self._https(relay.url) for relay in plan.relays[:MAX_HTTPS_RELAYS]]
        if plan.captive is not None:
            work.append(self._captive(plan.captive))
        return work

    def _told(self) -> None:
        if self._draft.has_udp and len(self._timers) == 1:
            at = max(self._began + LATE_S, self._loop.time() + MORE_S)
            self._timers.append(self._loop.call_at(at, self._is_settled))
        self._news()
        self._wake.wake_all()

    def _is_late(self) -> None:
        self._draft.late = True
        self._told()

    def _is_settled(self) -> None:
        self._draft.settled = True
        self._told()

    async def _tcp(self, seconds: float) -> None:
        """Wait until TCP may begin, and so much longer."""
        if self._draft.families and self._draft.askable:
            seconds += HTTP_AT_S
        await asyncio.sleep(self._began + seconds - self._loop.time())

    # --- single probes

    async def _family(self, family: int) -> None:
        """Addresses of one family: from relays, else from STUN servers."""
        asking = Tasks()
        try:
            qad = asking.start(self._qad(family))
            if self._means.stun is not None:
                await asyncio.wait({qad}, timeout=LATE_S)
                if self._draft.addr(family) is None:
                    await self._means.stun(family, self._mapped)
            await asyncio.wait({qad})
        finally:
            await asking.end()
            self._draft.over(family)
            self._told()

    async def _qad(self, family: int) -> None:
        """What is kept says it, else the first relays are asked."""
        if not self._draft.full and (seen := self._means.qad.kept(family)) is not None:
            self._seen(seen)
        else:
            await self._means.qad.probe(self._plan.relays, family, self._seen)

    def _mapped(self, server: str, addr: SocketAddr) -> None:
        self._draft.told_by_stun(server, addr)
        self._told()

    def _seen(self, seen: Seen) -> None:
        self._draft.qad(seen.relay, seen.addr, seen.latency)
        self._told()

    async def _https(self, relay: RelayUrl) -> None:
        """Up to three requests, which do not wait for each other; the first answer counts."""
        attempts = Tasks()
        try:
            waiting = {attempts.start(self._https_once(relay, at)) for at in ATTEMPTS_S}
            while waiting and not self._draft.answered("https", relay):
                _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await attempts.end()
        self._draft.https_over.add(relay)
        self._told()

    async def _https_once(self, relay: RelayUrl, at: float) -> None:
        await self._tcp(at)
        if (seconds := await self._means.https(relay)) is not None:
            self._draft.https(relay, seconds)

    async def _captive(self, relay: RelayUrl) -> None:
        await self._tcp(0.0)
        self._draft.captive_portal = await self._means.captive(relay)
        self._told()
