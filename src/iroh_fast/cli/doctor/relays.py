"""``doctor relay-urls``: whether relays can be reached, and how far they are."""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import TYPE_CHECKING

from ... import SecretKey
from ...addr import RelayUrl
from ...errors import RelayClientError
from ...relay.map import RelayConfig
from .binding import bind, relays_of, trust_of
from .show import Failed, Out, milliseconds

if TYPE_CHECKING:
    from ...relay.client.link import Dialer

__all__ = ["relay_urls"]

STEP_S = 2.0
POLL_S = 0.002


class _Nobody:
    """Whose connection it is: what comes over it is of no interest."""

    def on_datagrams(self, src: bytes, ecn: int, segment_size: int, payload: bytes) -> None: ...
    def on_gone(self, endpoint: bytes) -> None: ...
    def on_rate_limited(self) -> None: ...
    def on_superseded(self, superseded: bool) -> None: ...
    def on_writable(self) -> None: ...


async def measure(config: RelayConfig, dialer: Dialer) -> tuple[float, float]:
    """Connect once; seconds for that, and for one ping.

    Raises
    ------
    RelayClientError, TimeoutError : a step failed, or took more than two seconds.
    """
    from ...relay.client.connection import connect_relay

    began = time.perf_counter()
    async with asyncio.timeout(STEP_S):
        connection = await connect_relay(
            config.url,
            secret_key=SecretKey.generate(),  # another one than that of an endpoint in use
            dialer=dialer,
            owner=_Nobody(),
            auth_token=config.auth_token,
        )
    connected = time.perf_counter() - began
    connection.serve()  # its first ping leaves at once
    try:
        async with asyncio.timeout(STEP_S):
            while connection.pings.rtt is None:
                if connection.error is not None:
                    raise connection.error
                await asyncio.sleep(POLL_S)
    finally:
        connection.close()
    return connected, connection.pings.rtt


async def relay_urls(args: argparse.Namespace, out: Out) -> int:
    """Measure every relay, round by round; exit status 1 where one never answered."""
    from ...relay.client.link import Dialer
    from ...web.race import resolved_by

    if args.count < 1:
        raise Failed("--count is at least 1")
    relays = relays_of(args)
    failed: dict[RelayUrl, str] = {}
    answered: set[RelayUrl] = set()
    args.no_relay, args.relay_url, args.disable_address_lookup = True, None, True
    async with bind(args, alpns=[]) as ep:  # for its key and its resolver of names
        dialer = Dialer(ca=trust_of(args), resolve=resolved_by(ep.dns_resolver))
        for number in range(1, args.count + 1):
            for config in relays:
                url = config.url
                try:
                    connected, rtt = await measure(config, dialer)
                except (RelayClientError, TimeoutError) as error:
                    failed[url] = str(error) or f"no answer within {STEP_S:g} s"
                    facts = {"round": number, "relay": str(url), "error": failed[url]}
                    out.tell("relay", f"{number}: {url}: {failed[url]}", **facts)
                    continue
                answered.add(url)
                text = f"{number}: {url}: connected in {milliseconds(connected)}, ping {milliseconds(rtt)}"
                facts = {
                    "round": number,
                    "relay": str(url),
                    "connect_seconds": connected,
                    "rtt": rtt,
                }
                out.tell("relay", text, **facts)
    never = [str(url) for url in failed if url not in answered]
    if never:
        out.tell("summary", f"never answered: {', '.join(never)}", failed=never)
    return 1 if never else 0
