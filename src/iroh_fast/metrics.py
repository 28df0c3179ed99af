"""Counters of an endpoint, and their form for Prometheus."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

__all__ = ["EndpointMetrics"]

# Name of iroh where it has one -> what it counts, with the unit.
COUNTERS: dict[str, str] = {
    "socket:send_ipv4": "Bytes of UDP payload sent over IPv4",
    "socket:send_ipv6": "Bytes of UDP payload sent over IPv6",
    "socket:recv_data_ipv4": "Bytes of UDP payload received over IPv4",
    "socket:recv_data_ipv6": "Bytes of UDP payload received over IPv6",
    "socket:send_relay": "Bytes of datagrams sent through relays",
    "socket:recv_data_relay": "Bytes of datagrams received through relays",
    "socket:send_custom": "Bytes of datagrams sent through custom transports",
    "socket:recv_data_custom": "Bytes of datagrams received through custom transports",
    "socket:recv_custom_dropped_full": "Datagrams of custom transports dropped because too many were waiting",
    "socket:recv_datagrams": "Datagrams received",
    "socket:recv_gro_datagrams": "Batches of datagrams that the system joined for receiving",
    "socket:recv_stun": "Datagrams received that answer questions to STUN servers",
    "socket:recv_foreign": "Datagrams received that are of other protocols than QUIC, dropped",
    "socket:dropped_batches": "Batches of datagrams not sent because a socket stayed full",
    "socket:rebinds": "Times a UDP socket was opened again",
    "socket:timer_wakes": "Times the timer of the connections fired",
    "socket:accepted_handshakes": "Handshakes begun for others who dialed",
    "socket:outgoing_handshakes": "Handshakes begun by dialing",
    "socket:refused_handshakes": "Connection attempts of others that were refused",
    "socket:ignored_handshakes": "Connection attempts of others that were not answered",
    "socket:dropped_datagrams": "Datagrams received that belong to no connection",
    "socket:window_budget_refused": "Times a window did not grow as it wanted because of the budget",
    "socket:held_probes": "Probes of hole punching that did not leave because their address had enough",
    "socket:num_conns_opened": "Connections opened, of both directions",
    "socket:num_conns_closed": "Connections that ended",
    "socket:num_conns_direct": "Connections that had a direct path, from the start or later",
    "socket:num_accepts_failed": "Connection attempts of others that failed or were rejected by a hook",
    "socket:actor_link_change": "Changes of the network that were noticed or told",
    "socket:network_changes_major": "Those of them that connections had to be told of",
    "socket:resumes": "Times the machine was asleep, or the process stopped",
    "socket:holepunch_attempts": "Rounds of hole punching begun, by the side that dialed",
    "socket:paths_direct": "Paths of connections that came about directly",
    "socket:paths_relay": "Paths of connections that came about over a relay",
    "socket:paths_custom": "Paths of connections that came about over transports of the application",
    "socket:transport_ip_paths_added": "Direct addresses of remotes that came into use",
    "socket:transport_ip_paths_removed": "Direct addresses of remotes that are no longer used",
    "socket:transport_relay_paths_added": "Relays of remotes that came into use",
    "socket:transport_relay_paths_removed": "Relays of remotes that are no longer used",
    "socket:transport_custom_paths_added": "Addresses of remotes in transports of the application that came into use",
    "socket:transport_custom_paths_removed": "Addresses of remotes in transports of the application that are no longer used",
    "socket:relay_home_change": "Times the home relay became another one",
    "socket:relay_conns_success": "Connections to relays that were authenticated",
    "socket:relay_conns_failed": "Connections to relays that did not come about",
    "socket:relay_conns_closed": "Connections to relays that ended",
    "socket:relay_conns_ratelimited": "Times a relay told that it limits the rate",
    "socket:relay_conns_superseded": "Times a relay told that the same key connected elsewhere",
    "socket:send_relay_frames": "Frames sent to relays",
    "socket:recv_relay_frames": "Frames received from relays",
    "socket:send_relay_dropped_full": "Datagrams for relays dropped because the queue was full",
    "socket:send_relay_dropped_stale": "Datagrams for relays dropped with their connection",
    "socket:send_relay_dropped_size": "Datagrams for relays dropped because they were too large",
    "net_report:reports": "Reports made about the network",
    "net_report:reports_full": "Those that asked all relays anew",
    "net_report:qad_probes": "Questions to relays for the own address",
    "net_report:qad_success": "Answers to these",
    "net_report:https_probes": "Requests to relays over HTTPS that measure how far they are",
    "net_report:https_success": "Answers to these",
    "net_report:captive_portal_checks": "Looks for something that answers in the place of relays",
    "net_report:stun_probes": "Questions to STUN servers for the own address",
    "net_report:stun_success": "Answers to these",
    "portmap:probes_started": "Times a gateway was asked for what protocols it speaks",
    "portmap:mapping_attempts": "Times a gateway was asked for a port mapping",
    "portmap:mapping_failures": "Times it gave none",
    "portmap:renewals": "Times a port mapping was to be renewed",
    "portmap:external_address_updated": "Times the mapped address became another one",
    "portmap:upnp_probes": "Searches for UPnP gateways",
    "portmap:upnp_probes_failed": "Searches that found no UPnP gateway",
    "portmap:upnp_available": "Searches that found a UPnP gateway",
    "portmap:pcp_probes": "Questions whether a gateway speaks PCP",
    "portmap:pcp_available": "Times a gateway spoke PCP",
    "portmap:nat_pmp_probes": "Questions whether a gateway speaks NAT-PMP",
    "portmap:nat_pmp_available": "Times a gateway spoke NAT-PMP",
    "address_lookup:lookups": "Lookups of an endpoint by its id",
    "address_lookup:lookups_failed": "Lookups that ended without finding anything",
    "address_lookup:service_results": "Answers of an address lookup service",
    "address_lookup:service_errors": "Failures of an address lookup service",
}

# The same of what rises and falls.
GAUGES: dict[str, str] = {
    "socket:window_budget": "Bytes by which the windows of all connections may grow",
    "socket:window_budget_used": "Bytes by which the windows of all connections have grown now",
}


class EndpointMetrics:
    """Counters and gauges of an endpoint.  Names are those of iroh's metrics, ``group:name``."""

    __slots__ = ("_read", "accept_failed", "opened")

    def __init__(
        self, read: Callable[[], tuple[Mapping[str, int], int, Mapping[str, int]]]
    ) -> None:
        self._read = read  # counters of sockets, connections open now, counters of services
        self.opened = 0
        self.accept_failed = 0

    def snapshot(self) -> dict[str, int]:
        """Read all counters and gauges.

        Returns
        -------
        dict
            For example ``{"socket:recv_datagrams": 17}``; only counters of parts that
            exist in this version, those of relays only for an endpoint with relays.  Those of
            address lookup services have a label:
            ``address_lookup:service_results{service="dns"}``.
        """
        driver, live, services = self._read()
        values = {f"socket:{name}": int(value) for name, value in driver.items()}
        values["socket:num_conns_opened"] = self.opened
        values["socket:num_conns_closed"] = max(0, self.opened - live)
        values["socket:num_accepts_failed"] = self.accept_failed
        values.update(services)
        return values

    def openmetrics(self, labels: Mapping[str, str] | None = None) -> str:
        """Format :meth:`snapshot` as OpenMetrics text, for Prometheus to scrape.

        Parameters
        ----------
        labels : put on every counter, for example the name of the endpoint.

        Raises
        ------
        TypeError, ValueError : `labels` maps no names of labels to text.
        """
        if labels is not None:
            _check_labels(labels)
        inside = ",".join(f'{name}="{_escaped(value)}"' for name, value in (labels or {}).items())
        lines: list[str] = []
        last = ""
        for key, value in self.snapshot().items():
            family, _, own = key.partition("{")  # of some counters a label is part of the name
            name = family.replace(":", "_")
            gauge = family in GAUGES
            if family != last:
                last = family
                words = COUNTERS.get(family) or GAUGES.get(family)
                words = words or f"{family.partition(':')[2].replace('_', ' ')}, a count"
                lines.append(f"# HELP {name} {words}.")
                lines.append(f"# TYPE {name} {'gauge' if gauge else 'counter'}")
            together = ",".join(filter(None, (inside, own.removesuffix("}"))))
            suffix = f"{{{together}}}" if together else ""
            lines.append(f"{name}{'' if gauge else '_total'}{suffix} {value}")
        lines.append("# EOF\n")
        return "\n".join(lines)


def _check_labels(labels: object) -> None:
    if not isinstance(labels, Mapping):
        raise TypeError(f"labels maps names to text, not {type(labels).__name__}")
    for name, value in labels.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"labels maps text to text, not {name!r:.40} to {value!r:.40}")
        if not re.fullmatch(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*", name):
            raise ValueError(f"labels has a name that Prometheus does not take: {name!r:.40}")


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
