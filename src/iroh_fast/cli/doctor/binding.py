"""The endpoint that the doctor looks at the world with, and whom it is to reach."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING, Any

from ... import Endpoint, EndpointAddr, EndpointId, EndpointTicket, SecretKey, presets
from ...addr import IpAddr, RelayAddr, RelayUrl, SocketAddr, TransportAddr
from ...aio.pending import Pending
from ...errors import IrohError
from ...relay.map import RelayConfig, relay_map
from .show import Failed, Out

if TYPE_CHECKING:
    from ...web.ca import CaConfig

__all__ = ["bind", "online", "relays_of", "settled", "target_of", "trust_of"]

ONLINE_S = 10.0
SETTLE_S = 3.0


def bind(args: argparse.Namespace, *, alpns: list[bytes], **options: Any) -> Pending[Endpoint]:
    """Make the endpoint that the options describe."""
    if args.no_relay and args.relay_url:
        raise Failed("--no-relay and --relay-url do not go together")
    own = bool(args.relay_url or args.no_relay or args.pkarr or args.dns_origin)
    options |= {"preset": presets.minimal if own else presets.n0, "alpns": alpns}
    if args.relay_url:
        options["relays"] = relays_of(args)
    elif own and not args.no_relay:
        options["relays"] = "default"
    if args.disable_address_lookup:
        options["address_lookup"] = ()
        if not own:
            options |= {"preset": presets.minimal, "relays": "default"}
    elif own:
        options["address_lookup"] = _lookups(args)
    if args.dns_server:
        from ...lookup import DnsResolver

        options["dns_resolver"] = DnsResolver([args.dns_server])
    options["ca"] = trust_of(args)
    if args.no_port_map:
        options["portmapper"] = False
    if args.socket_addr:
        addr = SocketAddr.parse(args.socket_addr)
        options["bind_addrs"] = [addr]
    if args.secret_key != "random":
        options["secret_key"] = SecretKey.parse(args.secret_key)
    return Endpoint.bind(**options)


def relays_of(args: argparse.Namespace) -> list[RelayConfig]:
    """The relays to use or to measure; not those that ``--no-relay`` leaves out."""
    if not args.relay_url:
        return list(relay_map("default").values())
    return [RelayConfig(RelayUrl(url), args.quic_port) for url in args.relay_url]


def trust_of(args: argparse.Namespace) -> CaConfig | None:
    """What to trust at relays and other servers; None: the usual."""
    if args.ca is None:
        return None
    from ...web.ca import CaConfig

    try:
        return CaConfig(extra=[args.ca.read_text("ascii")])
    except (OSError, ValueError) as error:
        raise Failed(f"cannot read {args.ca}: {error}") from error


def _lookups(args: argparse.Namespace) -> list[Any]:
    from ...lookup import DnsLookup, PkarrPublisher, PkarrResolver

    found: list[Any] = []
    if args.pkarr:
        found += [PkarrPublisher(args.pkarr), PkarrResolver(args.pkarr)]
    if args.dns_origin:
        found.append(DnsLookup(args.dns_origin))
    return found


def target_of(args: argparse.Namespace) -> EndpointAddr:
    """Whom to reach, as far as the arguments say."""
    try:
        if args.id.startswith("endpoint"):
            addr = EndpointTicket.parse(args.id).addr
        else:
            addr = EndpointAddr(EndpointId.parse(args.id))
        more: list[TransportAddr] = [
            IpAddr(SocketAddr.parse(text)) for text in args.remote_endpoint
        ]
        if args.remote_relay:
            more.append(RelayAddr(RelayUrl(args.remote_relay)))
    except (IrohError, ValueError) as error:
        raise Failed(str(error)) from error
    return addr.with_addrs(more) if more else addr


async def online(ep: Endpoint, args: argparse.Namespace) -> None:
    """Wait until the endpoint has a relay, if it is to have one.

    Raises
    ------
    Failed : none answers.
    """
    if (why := await _not_online(ep, args, ONLINE_S)) is not None:
        raise Failed(f"no relay within {ONLINE_S:g} s: {why}")


async def settled(ep: Endpoint, args: argparse.Namespace, out: Out) -> None:
    """Give the endpoint a moment to find its relay, which is not needed to reach others without one."""
    if args.remote_endpoint:
        return
    if (why := await _not_online(ep, args, SETTLE_S)) is not None:
        text = f"no relay within {SETTLE_S:g} s ({why}); going on without"
        out.tell("no_relay", text, error=why)


async def _not_online(ep: Endpoint, args: argparse.Namespace, limit: float) -> str | None:
    """Why there is no relay after some seconds; None if there is one, or is not to be one."""
    if args.no_relay:
        return None
    try:
        async with asyncio.timeout(limit):
            await ep.online()
    except TimeoutError:
        status = ep.watch_home_relay().value
        return str(status[0].last_error) if status and status[0].last_error else "none answers"
    return None
