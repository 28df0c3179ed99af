"""Counters and state of connections and paths."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

from .addr import TransportAddr
from .errors import CloseReason
from .keys import EndpointId

__all__ = [
    "Closed",
    "ConnectionStats",
    "FrameStats",
    "ObservedAddr",
    "PathClosed",
    "PathEvent",
    "PathInfo",
    "PathOpened",
    "PathSelected",
    "PathStats",
    "PathStatusChanged",
    "PathsLagged",
    "RemoteInfo",
    "TransportAddrInfo",
    "UdpStats",
]

_T = TypeVar("_T")


def _fill(cls: type[_T], values: Mapping[str, Any] | None) -> _T:
    """Make `cls` from the counters of the core; ones it does not count stay 0."""
    if not values:
        return cls()
    names = {item.name for item in dataclasses.fields(cls)}  # type: ignore[arg-type]
    return cls(**{name: value for name, value in values.items() if name in names})


@dataclass(frozen=True, slots=True)
class UdpStats:
    """UDP payload in one direction."""

    datagrams: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class FrameStats:
    """Frames in one direction, by type."""

    acks: int = 0
    path_acks: int = 0
    ack_frequency: int = 0
    crypto: int = 0
    connection_close: int = 0
    data_blocked: int = 0
    datagram: int = 0
    handshake_done: int = 0
    immediate_ack: int = 0
    max_data: int = 0
    max_stream_data: int = 0
    max_streams_bidi: int = 0
    max_streams_uni: int = 0
    new_connection_id: int = 0
    path_new_connection_id: int = 0
    new_token: int = 0
    path_challenge: int = 0
    path_response: int = 0
    ping: int = 0
    reset_stream: int = 0
    retire_connection_id: int = 0
    path_retire_connection_id: int = 0
    stream_data_blocked: int = 0
    streams_blocked_bidi: int = 0
    streams_blocked_uni: int = 0
    stop_sending: int = 0
    stream: int = 0
    observed_addr: int = 0
    path_abandon: int = 0
    path_status_available: int = 0
    path_status_backup: int = 0
    max_path_id: int = 0
    paths_blocked: int = 0
    path_cids_blocked: int = 0
    add_address: int = 0
    reach_out: int = 0
    remove_address: int = 0


def _common(values: Mapping[str, Any]) -> dict[str, Any]:
    rest = dict(values)
    for name, kind in (
        ("udp_tx", UdpStats),
        ("udp_rx", UdpStats),
        ("frame_tx", FrameStats),
        ("frame_rx", FrameStats),
    ):
        rest[name] = _fill(kind, values.get(name))
    return rest


@dataclass(frozen=True, slots=True)
class ConnectionStats:
    """Counters of a connection, summed over all paths it ever had, and its windows now.

    Attributes
    ----------
    send_window : bytes that all streams together may keep until they are acknowledged.
    send_buffered : bytes that they keep now.
    stream_receive_window : the largest window of an open stream: so far the peer may be ahead of
        its reader.
    window_growth : bytes by which windows are larger than at first, as they count for the
        ``window_budget`` of the endpoint.
    """

    udp_tx: UdpStats = UdpStats()
    udp_rx: UdpStats = UdpStats()
    frame_tx: FrameStats = FrameStats()
    frame_rx: FrameStats = FrameStats()
    lost_packets: int = 0
    lost_bytes: int = 0
    send_window: int = 0
    send_buffered: int = 0
    stream_receive_window: int = 0
    window_growth: int = 0

    @classmethod
    def from_core(cls, values: Mapping[str, Any]) -> ConnectionStats:
        """Convert what the core reports."""
        return _fill(cls, _common(values))


@dataclass(frozen=True, slots=True)
class PathStats:
    """Counters and state of one path.

    ``rtt`` is seconds, ``cwnd`` and sizes are bytes.  ``congestion_mode`` is what BBR is doing, ``bandwidth`` what it
    believes the path delivers; "" and 0 with other controllers.  ``pacing_rate`` is 0 while nothing paces.  Both in
    bytes per second.
    """

    udp_tx: UdpStats = UdpStats()
    udp_rx: UdpStats = UdpStats()
    frame_tx: FrameStats = FrameStats()
    frame_rx: FrameStats = FrameStats()
    lost_packets: int = 0
    lost_bytes: int = 0
    rtt: float = 0.0
    cwnd: int = 0
    congestion_events: int = 0
    spurious_congestion_events: int = 0
    sent_plpmtud_probes: int = 0
    lost_plpmtud_probes: int = 0
    black_holes_detected: int = 0
    current_mtu: int = 0
    congestion_mode: str = ""
    bandwidth: float = 0.0
    pacing_rate: float = 0.0

    @classmethod
    def from_core(cls, values: Mapping[str, Any] | None) -> PathStats:
        """Convert what the core reports."""
        return _fill(cls, _common(values or {}))


@dataclass(frozen=True, slots=True)
class PathInfo:
    """One network path of a connection at the time of asking.

    Attributes
    ----------
    id : number of the path within the connection.
    remote_addr, local_addr : where it leads and starts; the latter None when unknown, and the
        relay again for a relayed path.
    status : "available", or "backup" for use when nothing else works.
    is_selected : the path that carries application data; of all paths one, but for a moment when
        it has just died.
    validated : the peer proved that it receives at this address.
    rtt : smoothed round-trip time, seconds.
    cwnd, mtu : congestion window and largest UDP payload, bytes.
    """

    id: int
    remote_addr: TransportAddr
    local_addr: TransportAddr | None
    status: Literal["available", "backup"]
    is_selected: bool
    validated: bool
    rtt: float
    cwnd: int
    mtu: int
    stats: PathStats

    @property
    def is_ip(self) -> bool:
        """True for a direct path."""
        return self.remote_addr.is_ip

    @property
    def is_relay(self) -> bool:
        """True for a path through a relay server."""
        return self.remote_addr.is_relay


@dataclass(frozen=True, slots=True)
class PathOpened:
    """A path can be used."""

    id: int
    remote_addr: TransportAddr
    local_addr: TransportAddr | None


@dataclass(frozen=True, slots=True)
class PathClosed:
    """A path is gone; ``last_stats`` are its final counters."""

    id: int
    remote_addr: TransportAddr
    local_addr: TransportAddr | None
    reason: str
    last_stats: PathStats


@dataclass(frozen=True, slots=True)
class PathSelected:
    """Data goes over this path from now on."""

    id: int
    remote_addr: TransportAddr
    local_addr: TransportAddr | None


@dataclass(frozen=True, slots=True)
class PathStatusChanged:
    """The peer wishes the path to be used normally or only as a backup."""

    id: int
    status: Literal["available", "backup"]


@dataclass(frozen=True, slots=True)
class ObservedAddr:
    """The peer told from which address our packets come."""

    id: int
    addr: TransportAddr


@dataclass(frozen=True, slots=True)
class PathsLagged:
    """The consumer was too slow: that many events were dropped.  :attr:`Connection.paths` tells what is true now."""

    missed: int


PathEvent = (
    PathOpened | PathClosed | PathSelected | PathStatusChanged | ObservedAddr | PathsLagged
)


AddrStatus: TypeAlias = Literal["active", "inactive", "unknown", "unusable"]


@dataclass(frozen=True, slots=True)
class Closed:
    """What is left of a connection: why it ended, and its final counters."""

    reason: CloseReason
    stats: ConnectionStats
    path_stats: tuple[PathStats, ...]


@dataclass(frozen=True, slots=True)
class TransportAddrInfo:
    """An address of a remote endpoint and whether a connection uses it now.

    Attributes
    ----------
    sources : who told of it: names of address lookup services, "app" for whoever dialed it,
        "connection" for a peer that was there.
    status : "active" while some path leads there, "inactive" when one did, "unusable" when none
        came about, "unknown" otherwise.
    last_told : of those `sources` that are known longer than a lookup is kept, how many seconds ago.
    """

    addr: TransportAddr
    sources: tuple[str, ...] = ()
    status: AddrStatus = "unknown"
    last_told: Mapping[str, float] = dataclasses.field(default_factory=dict, hash=False)

    @property
    def usage(self) -> Literal["active", "inactive"]:
        """ "active" while some path leads there, as iroh tells."""
        return "active" if self.status == "active" else "inactive"


@dataclass(frozen=True, slots=True)
class RemoteInfo:
    """What the endpoint knows about a remote."""

    id: EndpointId
    addrs: tuple[TransportAddrInfo, ...]
