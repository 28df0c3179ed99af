"""Names of the metrics of a DNS server.

Those of iroh's server have the prefix ``dns_server_``; what only this server counts has the prefix
``iroh_fast_dns_server_``.
"""

from __future__ import annotations

from typing import Final

from ..web.exposition import Family

__all__ = ["FAMILIES"]

# Of iroh's server: name here, text.
_COUNTERS: Final = {
    "pkarr_publish_update": "Packets published that replaced the one that was kept, or were the first",
    "pkarr_publish_noop": "Packets published that were not newer than the one that is kept",
    "dns_requests": "DNS queries",
    "dns_requests_udp": "DNS queries over UDP",
    "dns_requests_https": "DNS queries over HTTPS",
    "dns_lookup_success": "DNS answers with records",
    "dns_lookup_notfound": "DNS answers without records, or that the name does not exist",
    "dns_lookup_error": "DNS answers that tell of an error",
    "http_requests": "HTTP requests to routes that exist",
    "http_requests_success": "HTTP requests that were answered with status 2xx",
    "http_requests_error": "HTTP requests that were answered with another status",
    "http_requests_duration_ms": "Time that answering HTTP requests took, added up",
    "store_packets_inserted": "Packets of keys that had none",
    "store_packets_removed": "Packets removed: always 0",
    "store_packets_updated": "Packets replaced by newer ones",
    "store_packets_expired": "Packets that went because of their age",
}
_GAUGES: Final = {
    "cache_zones": "Zones in memory",
    "cache_zones_dht": "Zones in memory that came from the DHT",
}
_OWN_COUNTERS: Final = {
    "pkarr_publish_invalid": "Packets refused: bad key, signature, records or time",
    "pkarr_publish_ratelimited": "Packets refused because their client published too often",
    "pkarr_publish_failed": "Packets that the store could not keep",
    "http_connections": "HTTP connections accepted",
    "http_connections_closed": "HTTP connections that ended well",
    "http_connections_errored": "HTTP connections that failed",
    "http_handler_errors": "HTTP requests whose handler failed: answered with status 500",
    "http_unread_timeouts": "HTTP connections ended because their answer was not read",
    "connections_refused": "TCP connections of HTTP refused by a limit",
    "dns_requests_tcp": "DNS queries over TCP",
    "dns_ignored": "Messages that are no DNS query and get no answer",
    "dns_truncated": "DNS answers over UDP that tell to ask over TCP for the rest",
    "dns_cache_misses": "DNS queries for keys that were not in memory",
    "dns_lookups_refused": "DNS queries refused because too many waited for the store",
    "dns_store_errors": "Reads of the store that failed",
    "dns_fallback_lookups": "Keys that the DHT was asked for",
    "dns_udp_unanswerable": "Datagrams whose source cannot be answered",
    "dns_udp_limited": "DNS queries over UDP beyond the rate of their network",
    "dns_udp_dropped": "DNS answers over UDP that could not be sent",
    "dns_udp_overflow": "DNS queries over UDP that found no place to wait",
    "dns_tcp_connections": "DNS connections over TCP",
    "dns_tcp_refused": "DNS connections over TCP refused by a limit",
    "dns_tcp_timeouts": "DNS connections over TCP ended because they were idle",
    "cache_evictions": "Zones that left memory for others",
    "store_packets_evicted": "Packets that left the store for others",
    "store_commits": "Writes of groups of packets",
}
_OWN_GAUGES: Final = {
    "tcp_connections": "TCP connections of HTTP that are open",
    "dns_tcp_open": "DNS connections over TCP that are open",
    "dns_waiting": "DNS queries that wait for the store",
    "cache_bytes": "Memory of zones",
    "store_records": "Packets in the store",
}

FAMILIES: Final = (
    *(Family(f"dns_server_{name}", text, name) for name, text in _COUNTERS.items()),
    *(Family(f"dns_server_{name}", text, name, "gauge") for name, text in _GAUGES.items()),
    *(Family(f"iroh_fast_dns_server_{name}", text, name) for name, text in _OWN_COUNTERS.items()),
    *(
        Family(f"iroh_fast_dns_server_{name}", text, name, "gauge")
        for name, text in _OWN_GAUGES.items()
    ),
    Family(
        "iroh_fast_dns_server_http_request_seconds",
        "Time that answering HTTP requests took",
        "http_request_seconds",
        "histogram",
    ),
)
