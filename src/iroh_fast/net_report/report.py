"""What a report says of the network, and how it is put together while answers come in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from ..addr import RelayUrl, SocketAddr

__all__ = ["Draft", "NetReport", "Probe"]

Probe: TypeAlias = Literal["https", "qad_v4", "qad_v6"]
"""How a latency was measured: a whole HTTPS request, or the round trip of QUIC over IPv4, IPv6."""

_PROBES: Final[tuple[Probe, ...]] = ("https", "qad_v4", "qad_v6")


@dataclass(frozen=True, slots=True)
class NetReport:
    """What an endpoint found out about the network that it is in.

    Attributes
    ----------
    udp_v4, udp_v6 : bool
        A relay, or a STUN server, was heard over UDP of that family.
    global_v4, global_v6 : SocketAddr or None
        Where packets of this endpoint seem to come from, as others see it.
    mapping_varies_by_dest_v4, mapping_varies_by_dest_v6 : bool or None
        Whether different servers see different addresses: then a NAT picks another port for each
        destination ("symmetric"), and hardly anybody can be reached through it directly. None:
        fewer than two saw us.
    preferred_relay : RelayUrl or None
        The relay that is nearest.
    relay_latency : mapping
        From kind of probe to relay to seconds. Those of "https" count the whole request.
    captive_portal : bool or None
        Whether something in between answers in the place of relays; None: not known.
    stun : mapping
        From STUN server to the address that it saw.
    """

    udp_v4: bool = False
    udp_v6: bool = False
    global_v4: SocketAddr | None = None
    global_v6: SocketAddr | None = None
    mapping_varies_by_dest_v4: bool | None = None
    mapping_varies_by_dest_v6: bool | None = None
    preferred_relay: RelayUrl | None = None
    relay_latency: Mapping[Probe, Mapping[RelayUrl, float]] = field(default_factory=dict)
    captive_portal: bool | None = None
    stun: Mapping[str, SocketAddr] = field(default_factory=dict)

    @property
    def has_udp(self) -> bool:
        """Whether UDP works at all."""
        return self.udp_v4 or self.udp_v6

    @property
    def mapping_varies_by_dest(self) -> bool | None:
        """Whether it does for either family; None when that is known of neither."""
        both = (self.mapping_varies_by_dest_v4, self.mapping_varies_by_dest_v6)
        return True if True in both else False if False in both else None

    def latency(self, relay: str, /) -> float | None:
        """The lowest latency of a relay, in seconds; None when it did not answer."""
        found = [by_relay[relay] for by_relay in self.relay_latency.values() if relay in by_relay]  # type: ignore[index]
        return min(found, default=None)

    def latencies(self) -> dict[RelayUrl, float]:
        """The lowest latency of each relay that answered, in seconds."""
        found: dict[RelayUrl, float] = {}
        for _, relay, seconds in self:
            found[relay] = min(seconds, found.get(relay, seconds))
        return found

    def __iter__(self) -> Iterator[tuple[Probe, RelayUrl, float]]:
        """Every latency, as kind of probe, relay, seconds."""
        for probe, by_relay in self.relay_latency.items():
            for relay, seconds in by_relay.items():
                yield probe, relay, seconds


@dataclass(slots=True)
class _Family:
    """What is known of UDP over one family."""

    addr: SocketAddr | None = None
    varies: bool | None = None
    heard: bool = False

    def saw(self, addr: SocketAddr) -> None:
        """Somebody sees us at `addr`."""
        self.heard = True
        if self.addr is None:
            self.addr = addr
        elif addr != self.addr:
            self.varies = True
        elif self.varies is None:
            self.varies = False


@dataclass(slots=True)
class Draft:
    """A report that is not finished.

    Parameters
    ----------
    relays : tuple of RelayUrl
        Those that are measured.
    askable : int
        How many of them can tell an address over UDP.
    families : frozenset of int
        4, 6: those that are asked for addresses.
    full : bool
        More answers are wanted then.

    Attributes
    ----------
    late : bool
        It is time for a first idea.
    settled : bool
        What has not been heard over UDP by now is not waited for, where something was.
    https_over : set
        Relays of which no answer over HTTPS is to come any more.
    """

    relays: tuple[RelayUrl, ...]
    askable: int
    families: frozenset[int]
    full: bool
    late: bool = False
    settled: bool = False
    captive_portal: bool | None = None
    stun: dict[str, SocketAddr] = field(default_factory=dict)
    https_over: set[RelayUrl] = field(default_factory=set)
    _latency: dict[Probe, dict[RelayUrl, float]] = field(default_factory=dict)
    _seen: dict[int, _Family] = field(default_factory=dict)
    _over: set[int] = field(default_factory=set)

    # --- answers

    def https(self, relay: RelayUrl, seconds: float) -> None:
        """A relay answered an HTTPS request."""
        self._fastest("https", relay, seconds)

    def qad(self, relay: RelayUrl, addr: SocketAddr, seconds: float) -> None:
        """A relay told the address that it sees."""
        self._of(addr).saw(addr)
        self._fastest("qad_v4" if addr.ip.version == 4 else "qad_v6", relay, seconds)

    def told_by_stun(self, server: str, addr: SocketAddr) -> None:
        """A STUN server told the address that it sees."""
        self._of(addr).saw(addr)
        self.stun[server] = addr

    def over(self, family: int) -> None:
        """Nobody is left that could tell an address of this family."""
        self._over.add(family)

    def _of(self, addr: SocketAddr) -> _Family:
        return self._seen.setdefault(addr.ip.version, _Family())

    def _fastest(self, probe: Probe, relay: RelayUrl, seconds: float) -> None:
        by_relay = self._latency.setdefault(probe, {})
        by_relay[relay] = min(seconds, by_relay.get(relay, seconds))

    # --- what is known by now

    def answered(self, probe: Probe, relay: RelayUrl) -> bool:
        """Whether a relay answered a kind of probe."""
        return relay in self._latency.get(probe, ())

    def addr(self, family: int) -> SocketAddr | None:
        """Our address in a family."""
        seen = self._seen.get(family)
        return None if seen is None else seen.addr

    @property
    def has_udp(self) -> bool:
        """Whether anything was heard over UDP."""
        return any(family.heard for family in self._seen.values())

    def first_idea(self) -> bool:
        """Whether every relay has answered somehow, or will not for now: time to be somewhere."""
        answered = {relay for by_relay in self._latency.values() for relay in by_relay}
        return self.late or all(url in answered or url in self.https_over for url in self.relays)

    def enough(self) -> bool:
        """Whether it is worth waiting for more.

        UDP is waited for until it is heard, or until all who could be heard are silent: a report
        that calls it blocked has to be right. DIFFERS: iroh asks for two relays also where there
        is one, and for IPv6 as long as IPv6 may take.
        """
        if not all(self._family_done(family) for family in self.families):
            return False
        by_udp = any(self._latency.get(probe) for probe in ("qad_v4", "qad_v6"))
        return by_udp or len(self._latency.get("https", ())) >= len(self.relays)

    def _family_done(self, family: int) -> bool:
        if family in self._over or self.settled and self.has_udp:
            return True
        wanted = max(1, min(2, self.askable)) if self.full else 1
        v4, v6 = (len(self._latency.get(probe, ())) for probe in ("qad_v4", "qad_v6"))
        if family == 4:
            return v4 >= wanted
        # Which relays are near is known from the other family then.
        return v6 >= (1 if 4 in self.families and v4 >= wanted else wanted)

    def report(self, last: NetReport | None = None) -> NetReport:
        """The report of what is known by now.

        Parameters
        ----------
        last : NetReport or None
            The one before, where that still says something about this network.
        """
        v4, v6 = (self._seen.get(family, _Family()) for family in (4, 6))
        varies_v4, varies_v6 = v4.varies, v6.varies
        if last is not None:
            varies_v4 = last.mapping_varies_by_dest_v4 if varies_v4 is None else varies_v4
            varies_v6 = last.mapping_varies_by_dest_v6 if varies_v6 is None else varies_v6
        latency: dict[Probe, dict[RelayUrl, float]] = {
            probe: dict(self._latency[probe]) for probe in _PROBES if probe in self._latency
        }
        return NetReport(
            udp_v4=v4.heard,
            udp_v6=v6.heard,
            global_v4=v4.addr,
            global_v6=v6.addr,
            mapping_varies_by_dest_v4=varies_v4,
            mapping_varies_by_dest_v6=varies_v6,
            relay_latency=latency,
            captive_portal=self.captive_portal,
            stun=dict(self.stun),
        )
