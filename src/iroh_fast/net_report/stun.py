"""Our address from STUN servers, where relays do not tell it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from ..addr import SocketAddr
from ..aio.tasks import Tasks
from ..errors import IrohError
from ..net.socket import Driver
from .config import stun_server
from .hosts import HostNames, addr_of, is_sane

__all__ = ["StunProbes"]

log = logging.getLogger("iroh_fast.net_report")

ASKED: Final = 2
"""Servers of which an answer is wanted, for each family: two tell what kind of NAT there is."""
NEXT_S: Final = 0.5
"""A server that is silent for so long is not the last hope."""


class StunProbes:
    """Asks STUN servers from the sockets of the endpoint.

    Parameters
    ----------
    servers : as in `NetReportConfig.stun_servers`; two of them at first, others where these do not answer.
    count : counts ``stun_probes``, ``stun_success``.
    """

    def __init__(
        self,
        driver: Driver,
        names: HostNames,
        servers: Sequence[str],
        count: Callable[[str], object],
    ) -> None:
        self._driver = driver
        self._names = names
        self._servers = servers
        self._count = count

    async def ask(self, family: int, found: Callable[[str, SocketAddr], object]) -> None:
        """Ask over one family; ends when there are two answers, or nobody is left to ask.

        Parameters
        ----------
        found : gets the server, as the user named it, and the address that it sees.
        """
        left = list(self._servers)
        asking = Tasks()
        pending: set[asyncio.Task[None]] = set()
        heard = 0

        async def one(server: str) -> None:
            nonlocal heard
            heard += await self._ask(server, family, found)

        try:
            while heard < ASKED and (left or pending):
                for _ in range(min(len(left), ASKED - heard - len(pending))):
                    pending.add(asking.start(one(left.pop(0))))
                done, pending = await asyncio.wait(
                    pending,
                    timeout=NEXT_S if left else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if left and not done:  # somebody is silent: do not wait for the end of that
                    pending.add(asking.start(one(left.pop(0))))
        finally:
            await asking.end()

    async def _ask(
        self, server: str, family: int, found: Callable[[str, SocketAddr], object]
    ) -> bool:
        self._count("stun_probes")
        try:
            addr = await addr_of(self._names, *stun_server(server), family)
            answer = await self._driver.stun(addr)
        except (IrohError, OSError) as error:
            log.debug("stun over IPv%d at %s: %s", family, server, error)
            return False
        if not is_sane(answer.mapped, addr):
            log.debug("stun at %s tells an impossible address: %s", server, answer.mapped)
            return False
        self._count("stun_success")
        found(server, answer.mapped)
        return True
