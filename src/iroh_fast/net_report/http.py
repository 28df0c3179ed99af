"""Probes over TCP: how far a relay is by HTTPS, and whether something answers in its place."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Final

from ..addr import RelayUrl
from ..errors import IrohError
from ..relay.client.link import Target
from ..web.dial import Link, StreamDialer, parse_head

__all__ = ["CAPTIVE_TIMEOUT_S", "HTTPS_TIMEOUT_S", "captive_portal", "https_latency"]

log = logging.getLogger("iroh_fast.net_report")

HTTPS_TIMEOUT_S: Final = 3.0
CAPTIVE_TIMEOUT_S: Final = 2.0
MAX_CHALLENGE: Final = 63  # a relay does not echo more


async def _request(
    dialer: StreamDialer, target: Target, path: str, headers: tuple[str, ...] = ()
) -> tuple[int, dict[str, str]]:
    """Status and headers of a GET on a connection of its own, which ends with the headers."""
    link = Link()
    try:
        name = target.server_name if target.tls else None
        await dialer.open(link, target.host, target.port, server_name=name)
        assert link.transport is not None
        lines = (
            f"GET {path} HTTP/1.1",
            f"Host: {target.host_header}",
            "Connection: close",
            *headers,
        )
        link.transport.write(("\r\n".join(lines) + "\r\n\r\n").encode("ascii"))
        return parse_head(await link.read_head())
    finally:
        link.abort()


async def https_latency(dialer: StreamDialer, relay: RelayUrl) -> float | None:
    """Seconds for ``/ping`` of a relay, with name, TCP and TLS; None when it does not work.

    A relay whose URL is ``http`` is asked without TLS.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        async with asyncio.timeout(HTTPS_TIMEOUT_S):
            status, _ = await _request(dialer, Target.of(relay), "/ping")
        if 200 <= status <= 299:
            return loop.time() - began
        log.debug("https at %s: HTTP status %d", relay.host, status)
    except (IrohError, OSError, ValueError, TimeoutError) as error:
        log.debug("https at %s: %s", relay.host, str(error) or "no answer in time")
    return None


async def captive_portal(dialer: StreamDialer, relay: RelayUrl) -> bool | None:
    """Whether something in between answers in the place of a relay; None when nothing answers.

    Notes
    -----
    Plain HTTP on port 80, whatever the URL says: that is what portals take over. Wire: the relay
    answers 204 with an echo of the challenge. DIFFERS: a challenge that the relay would not echo
    is changed; iroh then sees a portal.
    """
    host = relay.host
    target = Target(host, 80, False, "", f"[{host}]" if ":" in host else host)
    challenge = re.sub(r"[^A-Za-z0-9._-]", "_", f"ts_{host}")[:MAX_CHALLENGE]
    try:
        async with asyncio.timeout(CAPTIVE_TIMEOUT_S):
            status, headers = await _request(
                dialer, target, "/generate_204", (f"X-Iroh-Challenge: {challenge}",)
            )
    except (IrohError, OSError, ValueError, TimeoutError) as error:
        log.debug("captive portal check at %s: %s", host, str(error) or "no answer in time")
        return None
    return status != 204 or headers.get("x-iroh-response") != f"response {challenge}"
