"""Address discovery at several relays, from the sockets of the endpoint."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from ..addr import RelayUrl, SocketAddr
from ..aio.tasks import Tasks
from ..errors import IrohError
from ..net.socket import Driver
from ..quic.tls.trust import TrustRoots
from ..relay.client.qad import PROBE_TIMEOUT_S, QadClient
from ..relay.map import DEFAULT_QUIC_PORT, RelayConfig
from .hosts import HostNames, addr_of, ip_of, is_sane

__all__ = ["MAX_RELAYS", "Kept", "QadProbes", "Seen"]

log = logging.getLogger("iroh_fast.net_report")

MAX_RELAYS: Final = 5
"""Relays that are asked in one report."""
SETTLE_S: Final = 1.0  # changes told by one relay in less than that are one


@dataclass(frozen=True, slots=True)
class Seen:
    """What a relay told.

    Attributes
    ----------
    addr : where it sees us.
    latency : seconds of a round trip.
    """

    relay: RelayUrl
    addr: SocketAddr
    latency: float


@dataclass(slots=True, eq=False)
class Kept:
    """A connection that stays open, to hear of changes.

    Attributes
    ----------
    seen : what its relay told last.
    """

    client: QadClient
    server: SocketAddr
    seen: Seen
    watching: asyncio.Task[None] | None = None


class QadProbes:
    """Asks relays for our address, and keeps one connection of each family.

    Parameters
    ----------
    changed : called when a relay that is kept tells another address than before.
    stats : counts ``qad_probes``, ``qad_success``.

    Notes
    -----
    All packets leave through the sockets of the driver: only so the address is the one at which
    others reach them.
    """

    def __init__(
        self,
        driver: Driver,
        trust: TrustRoots,
        names: HostNames,
        *,
        changed: Callable[[Seen], object],
        count: Callable[[str], object],
    ) -> None:
        self._driver = driver
        self._trust = trust
        self._names = names
        self._changed = changed
        self._count = count
        self._kept: dict[int, Kept] = {}
        self._watching = Tasks()

    # --- what is kept

    def kept(self, family: int) -> Seen | None:
        """What the kept connection of a family says, with the round-trip time of now."""
        kept = self._kept.get(family)
        if kept is None:
            return None
        if kept.client.closed:
            self._let_go(family)
            return None
        return Seen(kept.seen.relay, kept.seen.addr, kept.client.latency)

    def forget(self) -> None:
        """Close what is kept: the network is another one, or a relay may be gone."""
        for family in tuple(self._kept):
            self._let_go(family)

    def _let_go(self, family: int) -> None:
        kept = self._kept.pop(family)
        if kept.watching is not None:
            kept.watching.cancel()
        kept.client.close()

    async def close(self) -> None:
        """End everything."""
        self.forget()
        await self._watching.end()

    # --- probes

    async def probe(
        self, relays: Sequence[RelayConfig], family: int, found: Callable[[Seen], object]
    ) -> None:
        """Ask the first relays over one family, all at once; ends when all have answered or not.

        Parameters
        ----------
        found : gets each answer.

        Notes
        -----
        Cancel-safe: probes that have not succeeded by then end.
        """
        there = [relay for relay in relays if relay.quic_port is not None][:MAX_RELAYS]
        asked = [r for r in there if (ip := ip_of(r.url.host)) is None or ip.version == family]
        probes = Tasks()
        try:
            started = [probes.start(self._probe(relay, family, found)) for relay in asked]
            if started:
                await asyncio.wait(started)
        finally:
            await probes.end()

    async def _probe(
        self, relay: RelayConfig, family: int, found: Callable[[Seen], object]
    ) -> None:
        self._count("qad_probes")
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                seen = await self._ask(relay, family)
        except (IrohError, OSError, TimeoutError) as error:
            log.debug(
                "qad over IPv%d at %s: %s", family, relay.url.host, error or "no answer in time"
            )
            return
        self._count("qad_success")
        found(seen)

    async def _ask(self, relay: RelayConfig, family: int) -> Seen:
        port = relay.quic_port or DEFAULT_QUIC_PORT
        server = await addr_of(self._names, relay.url.host, port, family)
        client = await QadClient.connect(
            self._driver, server, server_name=relay.url.host, trust=self._trust
        )
        try:
            report = await client.report()
            if not is_sane(report.addr, server):
                raise IrohError(f"it tells an impossible address: {report.addr}")
            seen = Seen(relay.url, report.addr, report.latency)
        except BaseException:
            client.close()
            raise
        self._keep(Kept(client, server, seen), family)
        return seen

    def _keep(self, kept: Kept, family: int) -> None:
        """Keep the first one of a family open, close the others."""
        if family in self._kept:
            kept.client.close()
            return
        self._kept[family] = kept
        kept.watching = self._watching.start(self._watch(kept))

    async def _watch(self, kept: Kept) -> None:
        told = kept.seen.addr
        while True:
            try:
                report = await kept.client.changed(told)
            except (IrohError, OSError) as error:
                log.debug("qad at %s ended: %s", kept.seen.relay.host, error)
                return
            told = report.addr
            if not is_sane(told, kept.server):
                log.debug("qad at %s tells an impossible address: %s", kept.seen.relay.host, told)
            else:
                kept.seen = Seen(kept.seen.relay, told, report.latency)
                self._changed(kept.seen)
            # A relay that tells new addresses all the time is not listened to all the time.
            await asyncio.sleep(SETTLE_S)
