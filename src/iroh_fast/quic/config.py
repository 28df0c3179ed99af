"""QUIC parameters of a connection.

All classes here are plain data.  Values are checked when an object is made, so a wrong
option fails at the line that wrote it and not in the middle of a handshake.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from typing import Any, Literal

from .._check import VARINT_MAX, check_flag, check_integer, check_seconds, shown
from ..errors import ConfigError

__all__ = ["AckFrequencyConfig", "MtuDiscoveryConfig", "QuicTransportConfig"]

STREAM_RECEIVE_WINDOW = 1_250_000  # iroh's: 100 Mbit/s at 100 ms
# A window is between two and four times bandwidth times round trip: 1 Gbit/s at 130 ms, 400 Mbit/s at 330 ms.
MAX_STREAM_RECEIVE_WINDOW = 32 << 20
WINDOW_BUDGET = 256 << 20  # two connections at full speed take half, others find the rest
MAX_STREAMS = 2**60  # RFC 9000 §4.6: a larger stream count cannot be encoded as an id
MAX_PATHS = 256
MIN_UDP_PAYLOAD = 1200  # RFC 9000 §14: every QUIC path carries at least this
MAX_UDP_PAYLOAD = 65527


@dataclass(frozen=True, slots=True, kw_only=True)
class MtuDiscoveryConfig:
    """How a path looks for a larger datagram size (RFC 8899).

    A search begins when data flow.  It tries what the interface on the way takes, where the
    system tells (1452 bytes where it does not, and over relays), and what remains below that if
    the path carries less.  Nothing larger is ever sent than the peer announces; one that announces
    1472 bytes, as iroh does, is sent 1452 at most.

    Parameters
    ----------
    interval : seconds between two searches on a path that has reached its limit.
    upper_bound : largest UDP payload tried, bytes; the peer is told the same as what this side
        takes (at least 1472).
    black_hole_cooldown : seconds to wait after large datagrams stopped arriving; what Ethernet
        carries is searched for again at once.
    minimum_change : stop searching when the remaining interval is below this, bytes.
    """

    interval: float = 600.0
    upper_bound: int = 65_487
    black_hole_cooldown: float = 60.0
    minimum_change: int = 20

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "interval", check_seconds("mtu_discovery.interval", self.interval))
        check_integer("mtu_discovery.upper_bound", self.upper_bound, MIN_UDP_PAYLOAD, MAX_UDP_PAYLOAD)
        put(
            self,
            "black_hole_cooldown",
            check_seconds("mtu_discovery.black_hole_cooldown", self.black_hole_cooldown),
        )
        check_integer("mtu_discovery.minimum_change", self.minimum_change, 1, MAX_UDP_PAYLOAD)


@dataclass(frozen=True, slots=True, kw_only=True)
class AckFrequencyConfig:
    """What to ask of the peer's acknowledgements (QUIC ACK frequency draft).

    Parameters
    ----------
    ack_eliciting_threshold : packets the peer may receive without acknowledging at once.
    max_ack_delay : seconds the peer may wait, or None for its own announced delay.
    reordering_threshold : gap in packet numbers that asks for an immediate answer; 0 never.
    """

    ack_eliciting_threshold: int = 1
    max_ack_delay: float | None = None
    reordering_threshold: int = 2

    def __post_init__(self) -> None:
        check_integer("ack_frequency.ack_eliciting_threshold", self.ack_eliciting_threshold, 0)
        object.__setattr__(
            self,
            "max_ack_delay",
            check_seconds("ack_frequency.max_ack_delay", self.max_ack_delay, none=True),
        )
        check_integer("ack_frequency.reordering_threshold", self.reordering_threshold, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuicTransportConfig:
    """QUIC parameters of a connection.

    Defaults are iroh's.  Durations are seconds (a ``timedelta`` is accepted and stored as
    seconds), sizes are bytes.  Use :func:`dataclasses.replace` or :meth:`replace` to derive
    a changed copy.

    ``stream_receive_window`` is how far the peer may be ahead of the reader of a stream.  None
    begins with iroh's 1,250,000 bytes and doubles whenever the application reads a quarter of it
    within a round trip, up to ``max_stream_receive_window`` (None: 32 MiB, enough for 1 Gbit/s
    at 130 ms; less than 1,250,000 is what it begins with, too).  A number is fixed, unless
    ``max_stream_receive_window`` says how far it may grow from there.
    ``receive_window_growth`` is what the windows of a connection's streams may have together
    beyond what each began with, and ``receive_window`` a fixed limit of what all of them
    together hold unread; none by default, as in iroh: the windows of the streams are the limit.

    ``send_window`` is what all streams of a connection together may keep until it is
    acknowledged; beyond it ``write`` waits.  None follows the congestion window: four times
    that, beyond iroh's 10,000,000 bytes twice, at least 1 MiB, at most ``max_send_window``.
    A number is fixed.

    What windows have beyond their beginning (1,250,000 bytes, and 1 MiB for sending) is counted
    by the endpoint's ``window_budget``, fixed windows are not.

    Raises
    ------
    ConfigError : a value has the wrong type, is out of range, or is one that iroh would
        silently ignore (fewer paths, longer path timeouts or fewer NAT traversal addresses
        than hole punching needs).
    """

    max_concurrent_bidi_streams: int = 100
    max_concurrent_uni_streams: int = 100
    max_idle_timeout: float | None = 30.0
    stream_receive_window: int | None = None
    max_stream_receive_window: int | None = None
    receive_window_growth: int = 64 << 20
    receive_window: int = VARINT_MAX
    send_window: int | None = None
    max_send_window: int = 64 << 20
    send_fairness: bool = True
    packet_threshold: int = 3
    time_threshold: float = 1.125
    initial_rtt: float = 0.333
    initial_mtu: int = 1200
    min_mtu: int = 1200
    mtu_discovery: MtuDiscoveryConfig | None = field(default_factory=MtuDiscoveryConfig)
    pad_to_mtu: bool = False
    ack_frequency: AckFrequencyConfig | None = None
    persistent_congestion_threshold: int = 3
    keep_alive_interval: float | None = 5.0
    crypto_buffer_size: int = 16 * 1024
    allow_spin: bool = True
    datagram_receive_buffer_size: int | None = 1_250_000
    datagram_send_buffer_size: int = 1024 * 1024
    congestion_controller: Literal["bbr", "cubic", "newreno"] = "bbr"
    enable_segmentation_offload: bool = True
    send_observed_address_reports: bool = False
    receive_observed_address_reports: bool = False
    max_concurrent_multipath_paths: int = 8
    default_path_max_idle_timeout: float = 15.0
    default_path_keep_alive_interval: float = 5.0
    max_remote_nat_traversal_addresses: int = 32
    qlog_dir: str | None = None
    qlog_prefix: str = ""

    def __post_init__(self) -> None:
        put = object.__setattr__
        for name in ("max_concurrent_bidi_streams", "max_concurrent_uni_streams"):
            check_integer(name, getattr(self, name), 0, MAX_STREAMS)
        for name in ("max_idle_timeout", "keep_alive_interval"):
            put(self, name, check_seconds(name, getattr(self, name), none=True))
        for name in ("receive_window", "max_send_window"):
            check_integer(name, getattr(self, name), 1)
        for name in ("stream_receive_window", "max_stream_receive_window", "send_window"):
            check_integer(name, getattr(self, name), 1, none=True)
        check_integer("receive_window_growth", self.receive_window_growth, 0)
        first, most = self.stream_receive_window, self.max_stream_receive_window
        if first is not None and most is not None and most < first:
            raise ConfigError(
                f"max_stream_receive_window {most} is below stream_receive_window {first}: "
                "a window cannot start with more than it may become"
            )
        for name in (
            "send_fairness",
            "pad_to_mtu",
            "allow_spin",
            "enable_segmentation_offload",
            "send_observed_address_reports",
            "receive_observed_address_reports",
        ):
            check_flag(name, getattr(self, name))
        # RFC 9002 §6.1.1: below three, ordinary reordering counts as loss.
        check_integer("packet_threshold", self.packet_threshold, 3)
        factor = self.time_threshold
        if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 1 < factor < 100:
            raise ConfigError(
                f"time_threshold is a multiple of the round-trip time above 1, not {shown(factor)}"
            )
        put(self, "initial_rtt", check_seconds("initial_rtt", self.initial_rtt))
        check_integer("min_mtu", self.min_mtu, MIN_UDP_PAYLOAD, MAX_UDP_PAYLOAD)
        check_integer("initial_mtu", self.initial_mtu, MIN_UDP_PAYLOAD, MAX_UDP_PAYLOAD)
        if self.initial_mtu < self.min_mtu:
            raise ConfigError(
                f"initial_mtu {self.initial_mtu} is below min_mtu {self.min_mtu}: "
                "a path cannot start with less than its guaranteed size"
            )
        mtu = self.mtu_discovery
        if mtu is not None and not isinstance(mtu, MtuDiscoveryConfig):
            raise ConfigError(f"mtu_discovery is a MtuDiscoveryConfig or None, not {shown(mtu)}")
        frequency = self.ack_frequency
        if frequency is not None and not isinstance(frequency, AckFrequencyConfig):
            raise ConfigError(f"ack_frequency is an AckFrequencyConfig or None, not {shown(frequency)}")
        check_integer("persistent_congestion_threshold", self.persistent_congestion_threshold, 1, 2**31)
        # RFC 9000 §7.5: an endpoint must be able to buffer 4096 bytes of handshake data.
        check_integer("crypto_buffer_size", self.crypto_buffer_size, 4096, 2**31)
        check_integer(
            "datagram_receive_buffer_size", self.datagram_receive_buffer_size, 1, 2**62, none=True
        )
        check_integer("datagram_send_buffer_size", self.datagram_send_buffer_size, 1)
        if self.congestion_controller not in ("bbr", "cubic", "newreno"):
            raise ConfigError(
                f'congestion_controller is "bbr", "cubic" or "newreno", not {shown(self.congestion_controller)}'
            )
        # Every path id has connection ids from the start, and every packet looks along the paths.
        check_integer(
            "max_concurrent_multipath_paths", self.max_concurrent_multipath_paths, 0, MAX_PATHS
        )
        if self.max_concurrent_multipath_paths < 8:
            raise ConfigError(
                "max_concurrent_multipath_paths must be at least 8, "
                f"not {self.max_concurrent_multipath_paths}: hole punching needs that many"
            )
        for name, limit in (
            ("default_path_max_idle_timeout", 15.0),
            ("default_path_keep_alive_interval", 5.0),
        ):
            seconds = check_seconds(name, getattr(self, name))
            assert seconds is not None
            if seconds > limit:
                raise ConfigError(
                    f"{name} must be at most {limit:g} seconds, not {seconds:g}: "
                    "dead paths would hold up the switch to a working one"
                )
            put(self, name, seconds)
        check_integer(
            "max_remote_nat_traversal_addresses", self.max_remote_nat_traversal_addresses, 0, 255
        )
        if self.max_remote_nat_traversal_addresses < 8:
            raise ConfigError(
                "max_remote_nat_traversal_addresses must be at least 8, "
                f"not {self.max_remote_nat_traversal_addresses}: hole punching needs that many"
            )
        if self.qlog_dir is not None:
            directory: object = self.qlog_dir
            if isinstance(directory, os.PathLike):
                directory = os.fspath(directory)
            if not isinstance(directory, str) or not directory:
                raise ConfigError(f"qlog_dir is a path as text or None, not {shown(directory)}")
            put(self, "qlog_dir", directory)
        if not isinstance(self.qlog_prefix, str):
            raise ConfigError(f"qlog_prefix is text, not {shown(self.qlog_prefix)}")

    def replace(self, **changes: Any) -> QuicTransportConfig:
        """Return a copy with some fields changed; the copy is checked like a new object."""
        return dataclasses.replace(self, **changes)

    def with_qlog_from_env(self, prefix: str = "") -> QuicTransportConfig:
        """Return a copy that writes qlog files into ``$QLOGDIR``, or self when it is unset."""
        directory = os.environ.get("QLOGDIR")
        if not directory:
            return self
        return dataclasses.replace(self, qlog_dir=directory, qlog_prefix=prefix)
