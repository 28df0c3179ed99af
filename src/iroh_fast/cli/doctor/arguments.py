"""What the commands of the doctor take; nothing of them is loaded for that."""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ["EPILOG", "add_arguments"]

EPILOG = (
    "The throughput test is that of iroh-doctor (n0/doctor/1), ping that of iroh-ping. "
    "IROH_FAST_LOG=DEBUG in the environment shows what happens inside."
)
PROTOCOLS = {"upnp": "UPnP", "nat_pmp": "NAT-PMP", "pcp": "PCP"}

Commands = argparse._SubParsersAction


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the commands of the doctor."""
    commands = parser.add_subparsers(dest="doctor", required=True, metavar="command")
    for add in (_report, _peers, _throughput, _gateways, _relays):
        add(commands)
    for command in commands.choices.values():
        command.add_argument(
            "--json", action="store_true", help="tell it in JSON, an object in each line"
        )


def _command(
    commands: Commands[argparse.ArgumentParser], name: str, work: str, text: str
) -> argparse.ArgumentParser:
    """Declare one.

    Parameters
    ----------
    work : module and function that do it.
    """
    command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    command.set_defaults(work=work)
    return command


def _add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what the endpoint is made of."""
    group = parser.add_argument_group("the endpoint")
    group.add_argument(
        "--relay-url",
        action="append",
        metavar="URL",
        help="use this relay, and with it nothing of number 0's; may be repeated",
    )
    group.add_argument(
        "--quic-port",
        type=int,
        default=7842,
        metavar="PORT",
        help="UDP port of address discovery at these relays (default: 7842)",
    )
    group.add_argument("--no-relay", action="store_true", help="use no relay at all")
    group.add_argument(
        "--disable-address-lookup", action="store_true", help="neither look up nor publish"
    )
    group.add_argument(
        "--pkarr", metavar="URL", help="look up and publish at this pkarr relay instead"
    )
    group.add_argument(
        "--dns-origin", metavar="NAME", help="look up in the DNS below this name instead"
    )
    group.add_argument("--dns-server", metavar="HOST:PORT", help="ask this name server")
    group.add_argument(
        "--no-port-map", action="store_true", help="ask no gateway for a port mapping"
    )
    group.add_argument(
        "--ca", type=Path, metavar="FILE", help="trust these certificates, too (PEM)"
    )
    group.add_argument(
        "--socket-addr",
        metavar="ADDR:PORT",
        help="bind this address, instead of a free port of its family",
    )
    group.add_argument(
        "--secret-key",
        default="random",
        metavar="random|HEX",
        help="the key of the endpoint (default: random)",
    )


def _add_target(parser: argparse.ArgumentParser) -> None:
    """Declare whom to reach."""
    parser.add_argument("id", metavar="ID", help="endpoint id or ticket")
    parser.add_argument(
        "--remote-endpoint",
        action="append",
        default=[],
        metavar="ADDR:PORT",
        help="an address of the other endpoint; may be repeated",
    )
    parser.add_argument(
        "--remote-relay", metavar="URL", help="the relay where the other endpoint is"
    )


def _report(commands: Commands[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    text = "tell what the network is like: public addresses, NAT, relays, what is blocked"
    one = _command(commands, "report", "network.report", text)
    for name, what in (
        ("quic-ipv4", "UDP over IPv4"),
        ("quic-ipv6", "UDP over IPv6"),
        ("https", "HTTPS"),
        ("port-map", "port mapping"),
    ):
        one.add_argument(f"--{name}", action="store_true", help=f"fail where {what} does not work")
    one.add_argument("--no-port-map-probe", action="store_true", help="do not ask the gateway")
    one.add_argument(
        "--stun", action="append", default=[], metavar="HOST:PORT", help="ask this STUN server, too"
    )
    one.add_argument("--watch", action="store_true", help="tell again whenever something changes")
    _add_options(one)


def _peers(commands: Commands[argparse.ArgumentParser]) -> None:
    """Declare the commands."""
    text = "ask an endpoint that speaks iroh-ping, such as `doctor accept`, for an answer"
    one = _command(commands, "ping", "peers.ping", text)
    _add_target(one)
    one.add_argument("--count", type=int, default=4, help="questions (default: 4)")
    one.add_argument(
        "--interval", type=float, default=1.0, help="seconds between them (default: 1)"
    )
    _add_options(one)

    text = "connect to an endpoint, and tell over which path, why, and with which packet size"
    two = _command(commands, "path", "peers.path", text)
    _add_target(two)
    two.add_argument(
        "--seconds",
        type=float,
        default=10.0,
        help="how long to wait for a direct path (default: 10)",
    )
    two.add_argument(
        "--require-direct", action="store_true", help="exit with 1 where there is no direct path"
    )
    _add_options(two)

    text = "look an endpoint up by its id, and tell what each service says"
    three = _command(commands, "lookup", "peers.lookup", text)
    _add_target(three)
    three.add_argument("--seconds", type=float, default=10.0, help="limit (default: 10)")
    _add_options(three)


def _throughput(commands: Commands[argparse.ArgumentParser]) -> None:
    """Declare the two commands."""
    text = "wait for `doctor connect`, and measure how fast data goes"
    one = _command(commands, "accept", "throughput.accept", text)
    one.add_argument(
        "--size", type=int, default=16 << 20, help="bytes of each test (default: 16 MiB)"
    )
    one.add_argument("--iterations", type=int, default=1, help="rounds of tests (default: 1)")
    one.add_argument("--once", action="store_true", help="end after the first connection")
    _add_options(one)
    text = "connect to `doctor accept`, of this library or of iroh-doctor"
    other = _command(commands, "connect", "throughput.connect", text)
    _add_target(other)
    _add_options(other)


def _gateways(commands: Commands[argparse.ArgumentParser]) -> None:
    """Declare the two commands."""
    text = "ask the gateway to map a UDP port, show where, and give it back"
    one = _command(commands, "port-map", "gateways.port_map", text)
    one.add_argument("protocol", choices=tuple(PROTOCOLS))
    one.add_argument("port", type=int, help="UDP port of this machine")
    one.add_argument("--timeout-secs", type=float, default=10.0, help="limit (default: 10)")
    one.add_argument("--keep", action="store_true", help="leave the mapping with the gateway")
    text = "find out by which protocols the gateway maps ports"
    two = _command(commands, "port-map-probe", "gateways.port_map_probe", text)
    for name in PROTOCOLS:
        option = f"--enable-{name.replace('_', '-')}"
        two.add_argument(
            option, action="store_true", help=f"ask for {PROTOCOLS[name]}, and fail without"
        )


def _relays(commands: Commands[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    text = "connect to each relay some times, and measure it"
    one = _command(commands, "relay-urls", "relays.relay_urls", text)
    one.add_argument("--count", type=int, default=5, help="rounds (default: 5)")
    _add_options(one)
