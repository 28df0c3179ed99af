"""The end of an endpoint: what was finished arrives, peers are told, services end."""

from __future__ import annotations

import asyncio
import logging

from ._assembly import Inside
from .aio._core_events import wait
from .aio.once import Once
from .net.socket import Driver
from .quic._connection import WAIT_DRAINED, WAIT_FINISHED

__all__ = ["delivered", "end"]

log = logging.getLogger("iroh_fast.endpoint")

CLOSE_TIMEOUT_S = 3.0  # how long to wait for peers that do not answer


async def delivered(driver: Driver, linger: float | None, name: str) -> None:
    """Wait until what was finished on any connection is acknowledged, or lost, or it is late.

    Parameters
    ----------
    name : of the endpoint, for the log.
    """
    try:
        async with asyncio.timeout(linger):
            for q in list(driver.endpoint.connections.values()):
                while q.unconfirmed_streams and q.close_reason is None:
                    await wait(q, WAIT_FINISHED)
    except TimeoutError:
        log.warning(
            "%s: closing: some finished streams were not acknowledged within %g s", name, linger
        )


async def _peers_told(driver: Driver) -> None:
    """Wait until the peers of connections that this side closed have answered, or it is late.

    The others are over on both sides: nothing has to be sent for them any more.  A handshake
    that was not complete leaves nobody who could miss the news; it is sent, once.
    """
    await asyncio.sleep(0)  # what is to be sent leaves in the loop's next turn
    while True:
        for q in driver.endpoint.connections.values():
            reason = q.close_reason
            if not q.handshake_complete or q.draining:
                continue
            if q.peer_id is None:  # with a relay, for our address
                continue
            if reason is None or reason.kind == "locally_closed":
                await wait(q, WAIT_DRAINED)
                break
        else:
            return


async def end(inside: Inside, code: int, closed: Once) -> None:
    """Close the connections with `code`, then the services and sockets."""
    context = inside.context
    driver = context.driver
    try:
        driver.accepting = False
        context.lookups.services.stop()
        context.lookups.stop()
        if inside.net_reports is not None:
            inside.net_reports.stop()
        driver.close_all(code, b"")
        for value in (inside.addrs.value, inside.alpns, inside.home, inside.reports):
            value.close()
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await _peers_told(driver)
        except TimeoutError:
            log.debug("%s: closing: some peers did not answer", f"{context.id:short}")
        await inside.services.close()
    finally:
        context.remotes.stop()
        driver.stop()
        context.events.close()
        log.info("%s: endpoint closed", f"{context.id:short}")
        closed.set()
