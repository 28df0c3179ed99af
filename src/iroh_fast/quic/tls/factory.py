"""Where the TLS sessions of endpoints come from."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import lru_cache

from ._schedule import KDF
from .client import RawKeyClient
from .identity import Identity
from .rawkey import Handshake
from .server import RawKeyServer
from .session import DEFAULT_SUITES
from .sessions import ResumptionTicket, ServerTicketStore

__all__ = ["TlsSession"]


@lru_cache(64)
def _check_alpns(names: tuple[bytes, ...]) -> None:
    """ValueError where a name cannot be sent; an endpoint uses the same few lists all the time."""
    for name in names:
        if not 1 <= len(name) <= 255:
            raise ValueError("an ALPN has 1 to 255 bytes")
    if sum(map(len, names)) + len(names) > 0xFFFF:
        raise ValueError("the ALPN list is too long")


def _checked_alpns(alpns: Sequence[bytes]) -> tuple[bytes, ...]:
    names = tuple(map(bytes, alpns))
    _check_alpns(names)
    return names


class TlsSession:
    """Makes the sessions endpoints have with each other, proving raw public keys both ways."""

    @staticmethod
    def client(
        identity: Identity,
        *,
        expected_peer: bytes,
        alpns: Sequence[bytes],
        transport_parameters: bytes,
        ticket: ResumptionTicket | None = None,
        random: Callable[[int], bytes] = os.urandom,
        on_ticket: Callable[[ResumptionTicket], None] | None = None,
        keylog: Callable[[str], None] | None = None,
        suites: Sequence[int] = DEFAULT_SUITES,
        now: Callable[[], float] = time.time,
    ) -> RawKeyClient:
        """Prepare the dialling side.

        Parameters
        ----------
        identity : Identity
            Our key.
        expected_peer : bytes
            32-byte EndpointId the server must prove.
        alpns : sequence of bytes
            At least one protocol, preferred first, each 1 to 255 bytes.
        transport_parameters : bytes
            Encoded QUIC transport parameters.
        ticket : ResumptionTicket, optional
            Offered for resumption, and for 0-RTT if its protocol is among `alpns`; it is
            used up by this call. Ignored if expired, of another peer or of a suite not in `suites`.
        random : callable
            ``random(n)`` returns n unpredictable bytes.
        on_ticket : callable, optional
            Called with each new ticket, inside :meth:`receive`; None asks for no tickets.
        keylog : callable, optional
            Called with each NSS key-log line.
        suites : sequence of int
            Cipher suites to offer, preferred first.
        now : callable
            Wall clock in seconds, only for ticket ages.

        Raises
        ------
        ValueError
            An argument is out of range.
        """
        if len(expected_peer) != 32:
            raise ValueError("an endpoint id has 32 bytes")
        if not suites or any(suite not in KDF for suite in suites):
            raise ValueError("no or unknown cipher suites")
        names = _checked_alpns(alpns)
        if not names:
            raise ValueError("at least one ALPN is needed")
        if ticket is not None and (
            ticket.peer != expected_peer or ticket.suite not in suites or not ticket.is_valid(now())
        ):
            ticket = None
        return RawKeyClient(
            identity,
            Handshake(names, bytes(transport_parameters)),
            random,
            keylog,
            now,
            expected_peer=bytes(expected_peer),
            suites=tuple(suites),
            ticket=ticket,
            on_ticket=on_ticket,
        )

    @staticmethod
    def server(
        identity: Identity,
        *,
        alpns: Sequence[bytes],
        transport_parameters: bytes,
        ticket_store: ServerTicketStore | None = None,
        random: Callable[[int], bytes] = os.urandom,
        keylog: Callable[[str], None] | None = None,
        now: Callable[[], float] = time.time,
    ) -> RawKeyServer:
        """Prepare the accepting side.

        Parameters
        ----------
        alpns : sequence of bytes
            Accepted protocols, preferred first. With an empty list only a client that offers
            none is accepted, and `alpn` stays None.
        ticket_store : ServerTicketStore, optional
            Where sessions are remembered; None turns resumption off.

        The other parameters are those of :meth:`client`.

        Raises
        ------
        ValueError
            An ALPN is empty or longer than 255 bytes.
        """
        handshake = Handshake(_checked_alpns(alpns), bytes(transport_parameters))
        return RawKeyServer(identity, handshake, random, keylog, now, ticket_store=ticket_store)
