"""Net reports as a service of an endpoint: when one is made, and who gets to know of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Final

from ..addr import IpAddr, RelayUrl, SocketAddr
from ..aio.once import Once
from ..aio.tasks import Tasks
from ..net.local_addrs import NetworkState
from ..net.service import ServiceContext
from ..relay.map import RelayMap, RelayStatus
from .choice import History
from .config import NetReportConfig
from .hosts import families
from .means import Outside, means_of
from .qad import Seen
from .report import Draft, NetReport
from .run import MAX_HTTPS_RELAYS, Course, Means, Plan

__all__ = ["NetReports", "own_addrs"]

FULL_EVERY_S: Final = 300.0
PAUSE_S: Final = 1.0  # between the beginnings of two reports, whoever asks for them
UNSURE: Final = 3  # full reports in a row because only one of several relays told an address
AFTER_LOSS_S: Final = 5.0  # between reports that losing the home relay asks for
COUNTERS: Final = (
    *("reports", "reports_full", "qad_probes", "qad_success", "https_probes", "https_success"),
    *("captive_portal_checks", "stun_probes", "stun_success"),
)


class NetReports:
    """Service of an endpoint: looks at the network from time to time.

    Parameters
    ----------
    relay_map : the relays to measure.
    fixed_ports : see `own_addrs`.
    uniform : random numbers from 0 to 1.
    means : makes what reports are made with, as `means_of`.

    Attributes
    ----------
    last : NetReport or None
    """

    name = "net reports"

    def __init__(
        self,
        config: NetReportConfig,
        relay_map: RelayMap,
        outside: Outside,
        *,
        fixed_ports: Iterable[int] = (),
        uniform: Callable[[], float] = random.random,
        means: Callable[..., Means] = means_of,
    ) -> None:
        self._config = config
        self._relay_map = relay_map
        self._outside = outside
        self._fixed_ports = tuple(fixed_ports)
        self._uniform = uniform
        self._made_with = means
        self.last: NetReport | None = None
        self._history = History()
        self._counts = dict.fromkeys(COUNTERS, 0)
        self._context: ServiceContext | None = None
        self._means: Means | None = None
        self._families: frozenset[int] = frozenset()
        self._tasks = Tasks()
        self._course: asyncio.Task[None] | None = None
        self._due = Once()  # a report is wanted before its time
        self._full_wanted = True
        self._full_at = 0.0
        self._unsure = 0
        self._began = 0.0  # the latest report
        self._after_loss_at = 0.0
        self._home_is_up = False
        self._stopped = False
        self._unfollow: Callable[[], None] = lambda: None

    # --- as a service

    async def start(self, context: ServiceContext) -> None:
        """Make the first report, in the background."""
        self._context = context
        self._families = families(context.sockets, context.net.ips)
        self._means = self._made_with(
            self._outside, self._config, context, self._addr_changed, self._count
        )
        self._unfollow = self._relay_map.subscribe(lambda: self.refresh(full=True))
        self._tasks.start(self._run())

    def network_changed(self, state: NetworkState) -> None:
        """Look again, anew after a change that may have broken what was there."""
        if self._context is None:
            return
        self._families = families(self._context.sockets, state.ips)
        if state.major:
            self._history.forget()
            old = self._context.owner.loop.time() - self._began >= PAUSE_S
            if self._course is not None and old:  # young ones end: else none would in a storm
                self._course.cancel()  # it asks by ways that may not exist any more
        self.refresh(full=state.major)

    def home_changed(self, status: RelayStatus | None) -> None:
        """The home relay is another one, or its connection came up or broke.

        When it broke, others may be reachable where it is not.
        """
        lost = self._home_is_up and status is not None and not status.connected
        self._home_is_up = status is not None and status.connected
        if not lost or self._context is None or len(self._relay_map) < 2:
            return
        now = self._context.owner.loop.time()
        if now >= self._after_loss_at:
            self._after_loss_at = now + AFTER_LOSS_S
            self.refresh(full=True)

    def refresh(self, *, full: bool) -> None:
        """Make a report now, or when the present one ends."""
        self._full_wanted = self._full_wanted or full
        if full:
            self._unsure = 0
        self._due.set()

    def stop(self) -> None:
        """Make no more reports; what is open at relays ends."""
        self._stopped = True
        self._unfollow()
        self._due.set()
        if self._means is not None:
            self._means.qad.forget()

    async def close(self) -> None:
        """End everything."""
        self.stop()
        await self._tasks.end()
        if self._means is not None:
            await self._means.qad.close()

    @property
    def metrics(self) -> Mapping[str, int]:
        """Counters by full name."""
        return {f"net_report:{name}": value for name, value in self._counts.items()}

    def _count(self, name: str) -> None:
        self._counts[name] += 1

    # --- one report after the other

    async def _run(self) -> None:
        assert self._context is not None
        loop = self._context.owner.loop
        while not self._stopped:
            self._due = Once()
            began = self._began = loop.time()
            if self._relay_map or self._config.stun_servers:
                await self._report(began)
            low, high = self._config.interval
            try:
                async with asyncio.timeout(low + (high - low) * self._uniform()):
                    await self._due
            except TimeoutError:
                pass
            await asyncio.sleep(began + PAUSE_S - loop.time())

    async def _report(self, now: float) -> None:
        assert self._means is not None
        last = self.last
        full = self._is_full(now)
        if full:
            self._full_wanted = False
            self._full_at = now + FULL_EVERY_S
            self._means.qad.forget()
            self._count("reports_full")
        self._count("reports")
        relays = self._relay_map.relays()
        draft = Draft(
            tuple(relay.url for relay in relays[:MAX_HTTPS_RELAYS]),
            sum(relay.quic_port is not None for relay in relays),
            self._families,
            full,
        )
        unmeasured = last is None or not last.relay_latency
        plan = Plan(
            relays,
            https=self._config.https_probes and (full or unmeasured),
            captive=self._portal_relay() if full and self._config.captive_portal_check else None,
        )
        course = Course(self._means, draft, plan, lambda: self._news(draft))
        self._course = running = self._tasks.start(course.run())
        await asyncio.wait({running})
        self._course = None
        if running.cancelled():
            return
        running.result()
        report = draft.report(None if full else last)
        nearest = self._history.add(report, self._relay_map.urls(), now)
        self._publish(replace(report, preferred_relay=nearest))

    def _is_full(self, now: float) -> bool:
        last = self.last
        if last is not None and last.captive_portal and not last.has_udp:
            return True
        askable = sum(relay.quic_port is not None for relay in self._relay_map.relays())
        one_of_several = last is not None and last.has_udp and last.mapping_varies_by_dest is None
        if one_of_several and askable > 1 and self._unsure < UNSURE:
            self._unsure += 1
            return True
        return self._full_wanted or now >= self._full_at

    def _portal_relay(self) -> RelayUrl | None:
        urls = self._relay_map.urls()
        if self._history.preferred in urls:
            return self._history.preferred
        return urls[int(self._uniform() * len(urls)) % len(urls)] if urls else None

    # --- who gets to know

    def _news(self, draft: Draft) -> None:
        """Tell an address as soon as it is known; what is not known yet may still be as before."""
        now, last = draft.report(self.last), self.last or NetReport()
        v4, v6 = now.global_v4 or last.global_v4, now.global_v6 or last.global_v6
        self._put(replace(now, global_v4=v4, global_v6=v6))
        if not self._home_is_up and draft.first_idea():
            nearest = self._history.choose(now, self._relay_map.urls())
            known = None if nearest is None else replace(now, preferred_relay=nearest)
            self._outside.home(known)

    def _put(self, report: NetReport) -> None:
        """Have others try the addresses at which we are seen."""
        if self._context is None or self._stopped:
            return
        # What only STUN servers told is told as theirs.
        source, other = ("qad", "stun") if not report.stun else ("stun", "qad")
        addrs = self._context.addrs
        addrs.put(source, map(IpAddr, own_addrs(report, self._fixed_ports)))
        if addrs.of(other):
            addrs.put(other, ())

    def _publish(self, report: NetReport) -> None:
        if self._stopped:
            return
        self._put(report)
        self.last = report
        self._outside.published(report)
        self._outside.home(report)

    def _addr_changed(self, seen: Seen) -> None:
        """A relay tells, between reports, that we are seen elsewhere now."""
        last = self.last
        if last is None:
            return
        if seen.addr.ip.version == 4:
            self._publish(replace(last, udp_v4=True, global_v4=seen.addr))
        else:
            self._publish(replace(last, udp_v6=True, global_v6=seen.addr))
        if self._course is not None:
            self.refresh(full=False)  # what is being found out may be what was before


def own_addrs(report: NetReport, fixed_ports: Iterable[int] = ()) -> list[SocketAddr]:
    """Our addresses as others see them.

    Parameters
    ----------
    fixed_ports : UDP ports for IPv4 that the user chose. Somebody may have told the router to pass
        on what comes in there, which is all that helps where each destination sees another port.
    """
    found = [addr for addr in (report.global_v4, report.global_v6) if addr is not None]
    if report.global_v4 is not None and report.mapping_varies_by_dest_v4:
        found += [SocketAddr(report.global_v4.ip, port) for port in fixed_ports]
    return list(dict.fromkeys(found))
