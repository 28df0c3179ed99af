"""Bounded in-memory stores for resumption: tickets and address-validation tokens.

Everything here belongs to one endpoint and therefore to the thread of its event loop;
nothing is shared between endpoints and nothing is written to disk. Times are wall-clock
seconds as float and always come from the caller.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container
from dataclasses import dataclass
from typing import NamedTuple

from ..parameters import TransportParameters

SERVER_TICKET_LIFETIME_S = 86_400  # what iroh announces
MAX_TICKET_AGE_SKEW_S = 60.0  # 0-RTT is refused beyond this, as rustls does
MAX_TOKEN_BYTES = 1024  # NEW_TOKEN tokens longer than this are not worth keeping


@dataclass(slots=True, frozen=True)
class ResumptionTicket:
    """What a client needs to resume a session with one peer, once.

    Attributes
    ----------
    peer : bytes
        The 32-byte identity of the server that issued the ticket.
    suite : int
        TLS cipher suite of the session (0x1301, 0x1302 or 0x1303).
    identity : bytes
        The opaque ticket.
    psk : bytes
        Resumption secret, as long as the hash of the suite.
    alpn : bytes
        Application protocol of the session; 0-RTT data is only possible under the same one.
    transport_parameters : bytes
        The server's parameters as received; see :meth:`remembered_parameters`.
    issued_s, lifetime_s : float, int
        When the ticket arrived (wall clock) and how long it is valid, in seconds.
    age_add : int
        Added to the age on the wire, modulo 2**32.
    max_early_data : int
        0 (no 0-RTT) or 0xffffffff (RFC 9001 §4.6.1).
    """

    peer: bytes
    suite: int
    identity: bytes
    psk: bytes
    alpn: bytes
    transport_parameters: bytes
    issued_s: float
    lifetime_s: int
    age_add: int
    max_early_data: int

    def __repr__(self) -> str:  # the default one would print the secret
        return f"<ResumptionTicket peer={self.peer[:5].hex()} suite={self.suite:#06x}>"

    def is_valid(self, now_s: float) -> bool:
        """Tell whether the ticket may still be offered at `now_s` (wall clock)."""
        return 0 <= now_s - self.issued_s < self.lifetime_s

    def remembered_parameters(self) -> TransportParameters:
        """Return the server's parameters as far as they may be used for 0-RTT.

        Raises
        ------
        ParameterError
            The stored parameters do not parse.
        """
        return TransportParameters.decode(
            self.transport_parameters, from_server=True
        ).remembered_for_zero_rtt()


class ClientSessionCache:
    """Tickets and address-validation tokens of the peers last dialled.

    Keeps at most `max_peers` peers (least recently used ones go first), each with at most
    `tickets_per_peer` tickets and `tokens_per_peer` tokens (oldest go first). Whatever is
    taken is gone: tickets and tokens are single use.
    """

    __slots__ = ("_max_peers", "_peers", "_tickets_per_peer", "_tokens_per_peer")

    def __init__(
        self, max_peers: int = 32, tickets_per_peer: int = 8, tokens_per_peer: int = 2
    ) -> None:
        self._max_peers = max_peers
        self._tickets_per_peer = tickets_per_peer
        self._tokens_per_peer = tokens_per_peer
        self._peers: OrderedDict[bytes, tuple[list[ResumptionTicket], list[bytes]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._peers)

    def _touch(self, peer: bytes) -> tuple[list[ResumptionTicket], list[bytes]]:
        entry = self._peers.get(peer)
        if entry is None:
            entry = self._peers[peer] = ([], [])
            if len(self._peers) > self._max_peers:
                self._peers.popitem(last=False)
        else:
            self._peers.move_to_end(peer)
        return entry

    def put_ticket(self, ticket: ResumptionTicket) -> None:
        """Store a ticket under its peer."""
        tickets = self._touch(ticket.peer)[0]
        tickets.append(ticket)
        if len(tickets) > self._tickets_per_peer:
            del tickets[0]

    def take_ticket(
        self, peer: bytes, now_s: float, alpns: Container[bytes] | None = None
    ) -> ResumptionTicket | None:
        """Remove and return the newest valid ticket of `peer`, or None.

        With `alpns`, a ticket of one of these protocols is preferred, because only such a
        ticket allows 0-RTT. Expired tickets are dropped on the way.
        """
        entry = self._peers.get(peer)
        if entry is None:
            return None
        self._peers.move_to_end(peer)
        tickets = entry[0]
        tickets[:] = [ticket for ticket in tickets if ticket.is_valid(now_s)]
        found = None
        if tickets:
            at = len(tickets) - 1
            if alpns is not None:
                at = next(
                    (i for i in range(at, -1, -1) if tickets[i].alpn in alpns), at
                )
            found = tickets.pop(at)
        self._drop_if_empty(peer, entry)
        return found

    def put_token(self, peer: bytes, token: bytes) -> None:
        """Store an address-validation token (RFC 9000 §8.1.3); useless ones are ignored."""
        if not 0 < len(token) <= MAX_TOKEN_BYTES:
            return
        tokens = self._touch(peer)[1]
        if token in tokens:
            return
        tokens.append(token)
        if len(tokens) > self._tokens_per_peer:
            del tokens[0]

    def take_token(self, peer: bytes) -> bytes | None:
        """Remove and return the newest token of `peer`, or None."""
        entry = self._peers.get(peer)
        if entry is None:
            return None
        self._peers.move_to_end(peer)
        token = entry[1].pop() if entry[1] else None
        self._drop_if_empty(peer, entry)
        return token

    def _drop_if_empty(
        self, peer: bytes, entry: tuple[list[ResumptionTicket], list[bytes]]
    ) -> None:
        if not entry[0] and not entry[1]:
            del self._peers[peer]


class ServerTicket(NamedTuple):
    """What a server remembers of a session it issued a ticket for."""

    client: bytes  # 32-byte identity proven in the full handshake
    suite: int
    psk: bytes
    alpn: bytes
    transport_parameters: bytes  # ours, as sent in that session
    age_add: int
    issued_s: float

    def __repr__(self) -> str:
        return f"<ServerTicket client={self.client[:5].hex()} suite={self.suite:#06x}>"


class ServerTicketStore:
    """Sessions that may be resumed: bounded, oldest out first, each ticket good for one use.

    A stateful store is what makes 0-RTT data not replayable against the same endpoint: the
    second ClientHello with the same ticket gets a full handshake.
    """

    __slots__ = ("_capacity", "_tickets")

    def __init__(self, capacity: int = 256) -> None:
        self._capacity = capacity
        self._tickets: OrderedDict[bytes, ServerTicket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._tickets)

    def put(self, identity: bytes, ticket: ServerTicket) -> None:
        """Store `ticket` under its 32-byte wire identity."""
        self._tickets[identity] = ticket
        if len(self._tickets) > self._capacity:
            self._tickets.popitem(last=False)

    def take(self, identity: bytes, now_s: float) -> ServerTicket | None:
        """Remove and return the session behind `identity`; None if unknown or expired."""
        ticket = self._tickets.pop(identity, None)
        if ticket is None or not 0 <= now_s - ticket.issued_s < SERVER_TICKET_LIFETIME_S:
            return None
        return ticket
