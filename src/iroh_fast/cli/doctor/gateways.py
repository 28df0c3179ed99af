"""``doctor port-map`` and ``doctor port-map-probe``: the gateway of this network."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...addr import SocketAddr
from ...errors import PortmapError
from .show import Failed, Out

if TYPE_CHECKING:
    from ...portmapper.model import Gateway, ProtocolName

__all__ = ["here", "port_map", "port_map_probe", "probed"]

NAMES = {"upnp": "UPnP", "nat_pmp": "PMP", "pcp": "PCP"}


def here(port: int = 9) -> Gateway:
    """The gateway of this network.

    Raises
    ------
    PortmapError : there is none to ask.
    """
    from ...net.monitor.read import read_network
    from ...portmapper import service

    return service.gateway_of(read_network(), SocketAddr.parse(f"0.0.0.0:{port}"))


async def probed(
    gateway: Gateway, names: Sequence[ProtocolName]
) -> dict[ProtocolName, PortmapError | None]:
    """Ask for protocols; None for each that the gateway speaks."""
    from ...portmapper.keeper import probe
    from ...portmapper.service import protocols_of

    protocols = protocols_of(names)
    try:
        return await probe(protocols, gateway)
    finally:
        for protocol in protocols:
            await protocol.close()


async def port_map(args: argparse.Namespace, out: Out) -> int:
    """Have one port mapped."""
    from ...portmapper.service import protocols_of

    if not 0 < args.port < 65536:
        raise Failed("a port is 1 to 65535")
    try:
        gateway = here(args.port)
        (protocol,) = protocols_of([args.protocol])
        try:
            async with asyncio.timeout(args.timeout_secs):
                lease = await protocol.map(gateway, args.port, None)
                text = f"Port mapping ready: {lease.external}"
                out.tell("mapped", text, external=str(lease.external), lifetime=lease.lifetime)
                if not args.keep:
                    await protocol.release(gateway, lease)
        finally:
            await protocol.close()
    except TimeoutError:
        raise Failed(f"no mapping within {args.timeout_secs:g} s") from None
    except PortmapError as error:
        raise Failed(str(error)) from error
    return 0


async def port_map_probe(args: argparse.Namespace, out: Out) -> int:
    """Tell which protocols there are; exit status 1 where one that was asked for is not."""
    chosen = [name for name in NAMES if getattr(args, f"enable_{name}")]
    names: list[ProtocolName] = [
        name for name in ("pcp", "nat_pmp", "upnp") if name in (chosen or NAMES)
    ]
    try:
        found = await probed(here(), names)
    except PortmapError as error:
        raise Failed(str(error)) from error
    there = {name: name in found and found[name] is None for name in NAMES}
    inside = ", ".join(f"{NAMES[name]}: {str(there[name]).lower()}" for name in NAMES)
    out.tell("portmap", f"portmap={{ {inside} }}", **there)
    return 1 if any(not there[name] for name in chosen) or not any(there.values()) else 0
