"""``doctor report``: what the network of this machine is like, in words and as a picture."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ... import Endpoint
from ...addr import RelayUrl
from ...errors import PortmapError, RelayClientError
from ...net.local_addrs import NetworkState
from ...net.monitor.read import read_network
from ...net_report import NetReport, NetReportConfig
from ...portmapper.model import ProtocolName
from .binding import bind, relays_of, trust_of
from .drawing import picture
from .gateways import NAMES, here, probed
from .relays import measure
from .show import Out, milliseconds

__all__ = ["Findings", "report", "words"]

REPORT_S = 12.0
MAX_RELAYS = 32  # that are measured one by one


@dataclass
class Findings:
    """All that was found out.

    Parameters
    ----------
    relays : relay to seconds of a ping, or why there was none.
    portmap : protocol to why it is not there; None: it is. Empty where nobody was asked.
    """

    network: NetworkState
    report: NetReport | None
    home: RelayUrl | None
    relays: dict[RelayUrl, float | str] = field(default_factory=dict)
    portmap: Mapping[ProtocolName, PortmapError | None] = field(default_factory=dict)
    no_portmap: str = ""
    addrs: list[str] = field(default_factory=list)
    local: list[str] = field(default_factory=list)


async def report(args: argparse.Namespace, out: Out) -> int:
    """Find everything out, and tell it; exit status 1 where what was asked for does not work."""
    options = {"net_report": NetReportConfig(stun_servers=args.stun), "portmapper": False}
    async with bind(args, alpns=[], **options) as ep:
        found = await _find_out(ep, args)
        _tell(found, out)
        if args.watch:
            async for new in ep.watch_net_report():
                if new is not None and new != found.report:
                    found.report, found.network = new, read_network()
                    found.addrs = sorted(map(str, ep.addr.addrs))
                    _tell(found, out)
    return 1 if _failed(found, args, out) else 0


async def _find_out(ep: Endpoint, args: argparse.Namespace) -> Findings:
    found = Findings(read_network(), None, None)
    found.local = [str(addr) for addr in sorted(ep.addr.ip_addrs)]
    async with asyncio.TaskGroup() as group:
        if not args.no_relay:
            group.create_task(_report_of(ep, found))
            group.create_task(_measure_relays(ep, args, found))
        if not args.no_port_map_probe:
            group.create_task(_ask_gateway(found))
    found.addrs = sorted(map(str, ep.addr.addrs))
    return found


async def _report_of(ep: Endpoint, found: Findings) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(REPORT_S):
            found.report = await ep.watch_net_report().wait_for(lambda report: report is not None)
            await ep.online()
    statuses = ep.watch_home_relay().value
    found.home = statuses[0].url if statuses and statuses[0].connected else None


async def _measure_relays(ep: Endpoint, args: argparse.Namespace, found: Findings) -> None:
    """Ping every relay, one after the other so that they do not slow each other down."""
    from ...relay.client.link import Dialer
    from ...web.race import resolved_by

    dialer = Dialer(ca=trust_of(args), resolve=resolved_by(ep.dns_resolver))
    for config in relays_of(args)[:MAX_RELAYS]:
        try:
            _, found.relays[config.url] = await measure(config, dialer)
        except (RelayClientError, TimeoutError) as error:
            found.relays[config.url] = str(error) or "no answer"


async def _ask_gateway(found: Findings) -> None:
    try:
        found.portmap = await probed(here(), ["pcp", "nat_pmp", "upnp"])
    except PortmapError as error:
        found.no_portmap = str(error)


# ---------------------------------------------------------------- telling
def _tell(found: Findings, out: Out) -> None:
    lines = words(found)
    drawn = ["", *picture(found.report, found.local, _relay_lines(found)), ""]
    out.tell("report", [*lines, *drawn], **facts(found))


def _relay_lines(found: Findings) -> list[str]:
    """The relays, the nearest first: URL and latency."""
    nearest: dict[RelayUrl, float] = {}
    for url, rtt in found.relays.items():
        known = found.report.latency(url) if found.report else None
        answers = [seconds for seconds in (rtt, known) if isinstance(seconds, float)]
        nearest[url] = min(answers, default=float("inf"))
    return [
        f"{url} {milliseconds(seconds if seconds < float('inf') else None)}"
        f"{' (home)' if url == found.home else ''}"
        for url, seconds in sorted(nearest.items(), key=lambda item: item[1])
    ]


def facts(found: Findings) -> dict[str, Any]:
    """The same for programs."""
    report, network = found.report, found.network
    return {
        "network": {
            "default_route": network.default_route,
            "gateway": network.gateway,
            "have_v4": network.have_v4,
            "have_v6": network.have_v6,
            "ips": sorted(map(str, network.ips)),
        },
        "report": None
        if report is None
        else {
            "udp_v4": report.udp_v4,
            "udp_v6": report.udp_v6,
            "global_v4": report.global_v4 and str(report.global_v4),
            "global_v6": report.global_v6 and str(report.global_v6),
            "mapping_varies_by_dest_v4": report.mapping_varies_by_dest_v4,
            "mapping_varies_by_dest_v6": report.mapping_varies_by_dest_v6,
            "captive_portal": report.captive_portal,
            "preferred_relay": report.preferred_relay,
            "relay_latency": {
                probe: dict(by_relay) for probe, by_relay in report.relay_latency.items()
            },
            "stun": {server: str(addr) for server, addr in report.stun.items()},
        },
        "home_relay": found.home,
        "relays": found.relays,
        "portmap": {name: error is None for name, error in found.portmap.items()},
        "addrs": found.addrs,
    }


def words(found: Findings) -> list[str]:
    """What was found, a sentence in each line."""
    network, report = found.network, found.report
    route = network.default_route
    lines = [
        f"this machine: {'to the internet by ' + route if route else 'no way to the internet'}"
        f"{f', gateway {network.gateway}' if network.gateway else ''}; "
        f"IPv4: {_yes(network.have_v4)}, IPv6: {_yes(network.have_v6)}"
    ]
    if report is None:
        lines.append("no report about the network: no relay answered, or none was asked")
    else:
        lines += _report_words(report)
    for url, rtt in found.relays.items():
        home = ", home relay" if url == found.home else ""
        said = f"ping {milliseconds(rtt)}" if isinstance(rtt, float) else rtt
        measured = _measured(report, url) if report else ""
        lines.append(f"relay {url}: {said}{measured}{home}")
    if found.portmap:
        there = [NAMES[name] for name, error in found.portmap.items() if error is None]
        lines.append(f"port mapping: {', '.join(there) or 'the gateway knows none'}")
    elif found.no_portmap:
        lines.append(f"port mapping: {found.no_portmap}")
    lines.append(f"addresses of this endpoint: {', '.join(found.addrs) or 'none'}")
    return lines


def _report_words(report: NetReport) -> list[str]:
    lines = []
    if not report.has_udp:
        lines.append("UDP is blocked, or no relay answers over it: everything goes over relays")
    for name, works, addr, varies in (
        ("IPv4", report.udp_v4, report.global_v4, report.mapping_varies_by_dest_v4),
        ("IPv6", report.udp_v6, report.global_v6, report.mapping_varies_by_dest_v6),
    ):
        if not works:
            if report.has_udp:
                lines.append(f"UDP over {name} does not work")
            continue
        nat = {
            True: "another port for each destination (symmetric NAT): few can reach us directly",
            False: "the same for everybody: others can reach us directly",
            None: "only one server saw it, so what others see is not known",
        }[varies]
        lines.append(f"UDP over {name} works; seen from outside as {addr}, {nat}")
    for server, addr in report.stun.items():
        lines.append(f"STUN server {server} sees {addr}")
    if report.captive_portal:
        lines.append("something in between answers in the place of relays: log in to this network")
    return lines


def _measured(report: NetReport, url: RelayUrl) -> str:
    kinds = {"https": "HTTPS", "qad_v4": "QUIC over IPv4", "qad_v6": "QUIC over IPv6"}
    parts = [
        f"{kinds[probe]} {milliseconds(seconds)}"
        for probe, relay, seconds in report
        if relay == url
    ]
    return f" ({', '.join(parts)})" if parts else ""


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _failed(found: Findings, args: argparse.Namespace, out: Out) -> list[str]:
    """What was asked for and does not work; without a wish: everything at once."""
    report = found.report or NetReport()
    works = {
        "quic_ipv4": report.udp_v4,
        "quic_ipv6": report.udp_v6,
        "https": bool(report.relay_latency.get("https"))
        or any(isinstance(rtt, float) for rtt in found.relays.values()),
        "port_map": any(error is None for error in found.portmap.values()),
    }
    chosen = [name for name in works if getattr(args, name)]
    failed = [name for name in chosen if not works[name]]
    if not chosen and not args.no_relay and not any(works.values()):
        failed = ["everything"]
    if failed:
        out.tell("failed", f"does not work: {', '.join(failed)}", failed=failed)
    return failed
