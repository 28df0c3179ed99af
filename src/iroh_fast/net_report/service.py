"""Net reports as a service of an endpoint: when one is made, and who gets to know of it."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Final

from ..addr import IpAddr, SocketAddr
from ..aio.once import Once
from ..aio.tasks import Tasks
from ..aio.watcher import Watchable
from ..net.local_addrs import NetworkState
from ..net.service import ServiceContext
from ..quic.tls.trust import TrustRoots
from ..relay.map import RelayMap
from .config import NetReportConfig
from .hosts import HostNames, families
from .qad import QadProbes, Seen
from .report import Draft, NetReport
from .run import Course, Means

__all__ = ["NetReports"]

log = logging.getLogger("iroh_fast.net_report")

FULL_EVERY_S: Final = 300.0
COUNTERS: Final = ("reports", "reports_full", "qad_probes", "qad_success")


class NetReports:
    """Service of an endpoint: looks at the network from time to time.

    Parameters
    ----------
    relay_map : the relays to measure.
    trust : what to trust at them.
    names : finds their addresses.
    reports : Watchable
        Gets every report.
    fixed_ports : see `own_addrs`.
    uniform : random numbers from 0 to 1, for the times between reports.
    """

    name = "net reports"

    def __init__(
        self,
        config: NetReportConfig,
        relay_map: RelayMap,
        trust: Callable[[], TrustRoots],
        names: Callable[[], HostNames],
        reports: Watchable[NetReport | None],
        *,
        fixed_ports: Iterable[int] = (),
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self._config = config
        self._relay_map = relay_map
        self._trust = trust
        self._names = names
        self.reports = reports
        self._fixed_ports = tuple(fixed_ports)
        self._uniform = uniform
        self._counts = dict.fromkeys(COUNTERS, 0)
        self._context: ServiceContext | None = None
        self._means: Means | None = None
        self._families: frozenset[int] = frozenset()
        self._tasks = Tasks()
        self._due = Once()  # a report is wanted before its time
        self._full_wanted = True
        self._full_at = 0.0
        self._stopped = False
        self._unfollow: Callable[[], None] = lambda: None

    # --- as a service

    async def start(self, context: ServiceContext) -> None:
        """Make the first report, in the background."""
        self._context = context
        self._families = families(context.sockets, context.net.ips)
        qad = QadProbes(
            context.driver,
            self._trust(),
            self._names(),
            changed=self._addr_changed,
            count=self._count,
        )
        self._means = Means(qad)
        self._unfollow = self._relay_map.subscribe(lambda: self.refresh(full=True))
        self._tasks.start(self._run())

    def network_changed(self, state: NetworkState) -> None:
        """Look again, anew after a change that may have broken what was there."""
        if self._context is None:
            return
        self._families = families(self._context.sockets, state.ips)
        self.refresh(full=state.major)

    def refresh(self, *, full: bool) -> None:
        """Make a report now, or when the present one ends."""
        self._full_wanted = self._full_wanted or full
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
        while not self._stopped:
            self._due = Once()
            if self._relay_map:
                await self._report()
            low, high = self._config.interval
            try:
                async with asyncio.timeout(low + (high - low) * self._uniform()):
                    await self._due
            except TimeoutError:
                pass

    async def _report(self) -> None:
        assert self._context is not None and self._means is not None
        now = self._context.owner.loop.time()
        full = self._full_wanted or now >= self._full_at
        if full:
            self._full_wanted = False
            self._full_at = now + FULL_EVERY_S
            self._means.qad.forget()
            self._count("reports_full")
        self._count("reports")
        relays = self._relay_map.relays()
        draft = Draft(len(relays), self._families, full)
        await Course(self._means, draft, relays, lambda: self._news(draft)).run()
        last = None if full else self.reports.get()
        self._publish(draft.report(last))

    # --- who gets to know

    def _news(self, draft: Draft) -> None:
        """Tell an address as soon as it is known; what is not known yet may still be as before."""
        now, last = draft.report(None), self.reports.get() or NetReport()
        self._put(
            replace(
                now,
                global_v4=now.global_v4 or last.global_v4,
                global_v6=now.global_v6 or last.global_v6,
            )
        )

    def _put(self, report: NetReport) -> None:
        """Have others try the addresses at which we are seen."""
        if self._context is not None and not self._stopped:
            self._context.addrs.put("qad", map(IpAddr, own_addrs(report, self._fixed_ports)))

    def _publish(self, report: NetReport) -> None:
        if self._stopped:
            return
        self._put(report)
        log.debug("net report: %s", report)
        self.reports.set(report)

    def _addr_changed(self, seen: Seen) -> None:
        """A relay tells, between reports, that we are seen elsewhere now."""
        last = self.reports.get()
        if last is None:
            return
        if seen.addr.ip.version == 4:
            self._publish(replace(last, udp_v4=True, global_v4=seen.addr))
        else:
            self._publish(replace(last, udp_v6=True, global_v6=seen.addr))


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
