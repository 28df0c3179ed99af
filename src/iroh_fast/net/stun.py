"""Asking STUN servers (RFC 8489) from the endpoint's own sockets what our address looks like to them."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Protocol

from iroh_fast._probe import Message, encode_binding_request, parse
from iroh_fast.addr import SocketAddr
from iroh_fast.aio._waiters import Handoff
from iroh_fast.errors import StunDecodeError, StunError, printable
from iroh_fast.net.transport import SockAddr, is_private

__all__ = ["StunAnswer", "StunClient", "StunSockets"]

log = logging.getLogger("iroh_fast.net")

# DIFFERS: RFC 8489 sends 7 times within 31.5 s and waits for 8 s more.
WAITS_S = (0.2, 0.4, 2.4)  # after each time
TIMEOUT_S = 3.0  # for one server, also one that it names in its place
MAX_WAITING = 16  # questions at a time
SOFTWARE = b"iroh_fast"
TRY_ALTERNATE = 300
BINDING = 1


class StunSockets(Protocol):
    """What questions leave by, and answers come back through."""

    @property
    def waiting(self) -> dict[bytes, Callable[[bytes, SockAddr], object]]:
        """Who takes the answer to a transaction; called with the datagram and its source."""
        ...

    def send_datagram(self, to: SockAddr, data: bytes) -> bool:
        """Send; False when there is no socket for it."""
        ...


@dataclass(frozen=True, slots=True)
class StunAnswer:
    """What a server said.

    Attributes
    ----------
    server : that answered.
    mapped : our address and port as it sees them, not to be believed without reason.
    latency : seconds from the first question to the answer.
    """

    server: SocketAddr
    mapped: SocketAddr
    latency: float


class StunClient:
    """Questions to STUN servers, each with an end.

    Parameters
    ----------
    sockets : of the endpoint.
    random : gives that many unpredictable bytes.
    """

    __slots__ = ("_loop", "_random", "_sockets")

    def __init__(
        self,
        sockets: StunSockets,
        loop: asyncio.AbstractEventLoop,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._sockets = sockets
        self._loop = loop
        self._random = random

    async def ask(self, server: SocketAddr) -> StunAnswer:
        """Ask one server, and at most one other that it names.

        Never for an address that came from a peer.

        Raises
        ------
        StunError : there is no answer, or none of use; its `kind` says why.
        """
        began = self._loop.time()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                message = await self._question(server)
                if message.kind == "error" and (other := _alternate(message, server)) is not None:
                    log.debug("STUN server %s sends us to %s", server, other)
                    server = other
                    began = self._loop.time()
                    message = await self._question(server)
        except TimeoutError:
            raise StunError(
                "timeout", f"STUN server {server} did not answer in {TIMEOUT_S:g} s"
            ) from None
        return StunAnswer(server, _mapped(message, server), self._loop.time() - began)

    async def _question(self, server: SocketAddr) -> Message:
        """Send until there is an answer."""
        waiting = self._sockets.waiting
        if len(waiting) >= MAX_WAITING:
            raise StunError("busy", f"{MAX_WAITING} STUN servers are being asked already")
        transaction = self._random(12)
        request = encode_binding_request(transaction, software=SOFTWARE)
        answers: Handoff[Message] = Handoff()

        def received(data: bytes, source: SockAddr) -> None:
            if not len(answers) and (message := _read(data, source, server)) is not None:
                answers.put(message)

        waiting[transaction] = received
        try:
            for wait in WAITS_S:
                if not self._sockets.send_datagram(server.as_tuple(), request):
                    raise StunError("closed", f"no socket for STUN server {server}")
                try:
                    async with asyncio.timeout(wait):
                        if (message := await answers.wait()) is not None:
                            return message
                except TimeoutError:
                    pass  # ask again
        finally:
            del waiting[transaction]
        raise TimeoutError


def _read(data: bytes, source: SockAddr, server: SocketAddr) -> Message | None:
    """The answer in a datagram that names our transaction; None when it is none."""
    if SocketAddr.from_tuple(source) != server:
        return None
    try:
        message = parse(data)
    except StunDecodeError as error:
        log.debug("datagram from STUN server %s: %s", server, error)
        return None  # anybody can send one like that: go on waiting
    # What has to be understood and is not counts as no answer.
    if message.method != BINDING or message.kind not in ("success", "error") or message.unknown:
        return None
    return message


def _alternate(message: Message, server: SocketAddr) -> SocketAddr | None:
    """The server that an error response names in its place, when we may ask that."""
    error, other = message.error, message.alternate
    if error is None or error[0] != TRY_ALTERNATE or other is None:
        return None
    found = SocketAddr(ip_address(other[0]), other[1])
    return found if found != server and _plausible(found, server) else None


def _mapped(message: Message, server: SocketAddr) -> SocketAddr:
    """Our address, from a message that has one."""
    if message.kind == "error":
        code, reason = message.error or (0, "")
        raise StunError("rejected", f"STUN server {server}: error {code} {printable(reason)}")
    if message.mapped is None:
        raise StunError("bad_answer", f"STUN server {server} did not tell an address")
    ip, port = message.mapped
    found = SocketAddr(ip_address(ip), port)
    if not _plausible(found, server):
        raise StunError("bad_answer", f"STUN server {server} told {found}, which cannot be ours")
    return found


def _plausible(addr: SocketAddr, server: SocketAddr) -> bool:
    """Whether what a server told can be the address of a host that it talks with."""
    ip = addr.ip
    if addr.port == 0 or ip.version != server.ip.version or is_private(addr.as_tuple()):
        return False
    if ip.is_loopback and not server.ip.is_loopback:
        return False
    broadcast = ip.version == 4 and ip.packed == b"\xff\xff\xff\xff"
    return not (ip.is_multicast or ip.is_unspecified or ip.is_link_local or broadcast)
