"""Metrics of a relay server in the OpenMetrics format.

The names are those of iroh's relay (prefix ``relayserver_``); what only this server counts has
the prefix ``iroh_fast_relay_``.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from typing import Final

from ...web.exposition import Family
from ...web.exposition import exposition as make_exposition

__all__ = ["UniqueKeys", "exposition"]

# Of iroh's relay: name here, text.
_COUNTERS: Final = {
    "bytes_sent": "Bytes of datagram contents sent",
    "bytes_recv": "Bytes of datagram contents received",
    "send_packets_sent": "Datagram frames sent",
    "send_packets_recv": "Datagram frames received",
    "send_packets_dropped": "Datagram frames for nobody, or lost with their client",
    "other_packets_sent": "Not used",
    "other_packets_recv": "Not used",
    "other_packets_dropped": "Not used",
    "unknown_frames": "Not used: unknown frames end a connection",
    "got_ping": "Pings received",
    "sent_pong": "Pongs sent",
    "bytes_rx_ratelimited": "Bytes read at the moments when a rate limit set in",
    "conns_rx_ratelimited": "Connections that met their rate limit",
    "accepts": "Clients let in",
    "disconnects": "Clients let in that left",
    "unique_client_keys": "Different keys per UTC day, added up",
    "clients_inactive_added": "Connections pushed aside by a newer one of the same key",
    "clients_inactive_removed": "Connections that were pushed aside and ended or took over again",
    "qad_incoming": "QUIC address discovery: attempts",
    "qad_incoming_error": "QUIC address discovery: failed attempts",
    "qad_connections": "QUIC address discovery: connections",
    "qad_connections_closed": "QUIC address discovery: connections that ended well",
    "qad_connections_errored": "QUIC address discovery: connections that failed",
    "http_connections": "HTTP connections accepted",
    "http_connections_closed": "HTTP connections that ended well or became relay connections",
    "http_connections_errored": "HTTP connections that failed",
}
_OWN_COUNTERS: Final = {
    "queue_full": "Datagram frames dropped because too many waited for their client",
    "unusable_datagrams": "Datagram frames dropped because no relay may send them",
    "write_timeouts": "Clients dropped because they read nothing",
    "ping_timeouts": "Clients dropped because they did not answer a ping",
    "text_messages": "Text messages ignored",
    "connections_refused": "TCP connections refused by a limit",
    "access_denied": "Clients refused by access control",
    "establish_timeouts": "TCP connections that proved no key in time",
    "http_requests": "HTTP requests answered, upgrades included",
    "http_handler_errors": "HTTP requests whose handler failed: answered with status 500",
    "http_unread_timeouts": "HTTP connections ended because their answer was not read",
    "handshake_floods": "Clients dropped because they sent too much before they were let in",
}
_OWN_GAUGES: Final = {
    "connections": "Clients connected",
    "keys": "Different keys connected",
    "unauthenticated": "TCP connections that have not proven a key yet",
    "tcp_connections": "TCP connections open, clients included",
    "out_buffer_bytes": "Memory of output buffers in use",
    "pooled_bytes": "Memory of output buffers kept for reuse",
}


FAMILIES: Final = (
    *(Family(f"relayserver_{name}", text, name) for name, text in _COUNTERS.items()),
    *(Family(f"iroh_fast_relay_{name}", text, name) for name, text in _OWN_COUNTERS.items()),
    *(Family(f"iroh_fast_relay_{name}", text, name, "gauge") for name, text in _OWN_GAUGES.items()),
)


class UniqueKeys:
    """Counts different keys of each UTC day; the sum never goes down."""

    def __init__(self, limit: int = 1 << 18) -> None:
        self.count = 0
        self._limit = limit  # beyond it a key may count twice
        self._day = datetime.date.min
        self._seen: set[bytes] = set()

    def add(self, key: bytes) -> None:
        today = datetime.datetime.now(datetime.timezone.utc).date()
        if today != self._day or len(self._seen) >= self._limit:
            self._day = today
            self._seen = set()
        if key not in self._seen:
            self._seen.add(key)
            self.count += 1


def exposition(snapshot: Callable[[], Mapping[str, int]]) -> Callable[[], bytes]:
    """Make a function that gives the text of all metrics.

    Parameters
    ----------
    snapshot : callable
        Gives values by name.
    """
    return make_exposition(FAMILIES, snapshot)
