"""What the reports of an endpoint are made with: its sockets, names, roots and proxy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..addr import RelayUrl
from ..net.service import ServiceContext
from ..quic.tls.trust import TrustRoots
from ..web.dial import StreamDialer
from .config import NetReportConfig
from .hosts import HostNames
from .http import captive_portal, https_latency
from .qad import QadProbes, Seen
from .report import NetReport
from .run import Means
from .stun import StunProbes

__all__ = ["Outside", "means_of"]


@dataclass(frozen=True, slots=True, eq=False)
class Outside:
    """What reports need of an endpoint, and whom they tell.

    Attributes
    ----------
    trust : what to trust at relays.
    names : finds the addresses of servers.
    dialer : opens streams to relays.
    published : gets every report.
    home : gets a first idea of things while no home relay is connected, None when nothing answers,
        and every report.
    """

    trust: Callable[[], TrustRoots]
    names: Callable[[], HostNames]
    dialer: Callable[[], StreamDialer]
    published: Callable[[NetReport], object]
    home: Callable[[NetReport | None], object]


def means_of(
    outside: Outside,
    config: NetReportConfig,
    context: ServiceContext,
    changed: Callable[[Seen], object],
    count: Callable[[str], object],
) -> Means:
    """Put them together.

    Parameters
    ----------
    changed : gets what a relay tells between reports.
    count : gets the name of a counter.
    """
    names, dialer = outside.names(), outside.dialer()

    async def https(relay: RelayUrl) -> float | None:
        count("https_probes")
        seconds = await https_latency(dialer, relay)
        if seconds is not None:
            count("https_success")
        return seconds

    async def captive(relay: RelayUrl) -> bool | None:
        count("captive_portal_checks")
        return await captive_portal(dialer, relay)

    qad = QadProbes(context.driver, outside.trust(), names, changed=changed, count=count)
    stun = StunProbes(context.driver, names, config.stun_servers, count)
    return Means(qad, https, captive, stun.ask if config.stun_servers else None)
