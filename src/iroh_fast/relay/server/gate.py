"""From a request for a WebSocket to a registered client: proof of the key, access control."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ...keys import EndpointId, PublicKey
from ...web.http import HttpProtocol
from ...web.limits import Admission, Seldom
from ...web.message import Request, Response, query_pairs
from ..wire import AUTH_HEADER, Exporter, RelayHandshakeError, ServerHandshake, accept_value
from ._connection import RelayConnection, RelayProtocol
from ._forward import Forwarder
from .access import AccessControl, AccessRequest, Decision
from .metrics import UniqueKeys
from .routes import SECURITY_HEADERS, Upgrade, auth_token

__all__ = ["Gate", "GateCounters"]

logger = logging.getLogger("iroh_fast.relay.server")


@dataclass(slots=True)
class GateCounters:
    """What is counted of clients that want to be let in."""

    establish_timeouts: int = 0
    access_denied: int = 0


class _Pending:
    """What is known of a connection that has not been let in yet."""

    __slots__ = ("decision", "handshake", "ip", "request", "timer")

    def __init__(
        self, request: Request, handshake: ServerHandshake, ip: str, timer: asyncio.TimerHandle
    ) -> None:
        self.request = request
        self.handshake = handshake
        self.ip = ip
        self.timer = timer
        self.decision: asyncio.Task[None] | None = None


class Gate:
    """Lets clients in, and keeps the books about them.

    Parameters
    ----------
    forwarder : Forwarder
        Where they are registered.
    access : AccessControl
        Who may use the relay; may be replaced while the server runs.
    admission : Admission
        Told when a client has proven its key, and when it leaves.
    establish_timeout : float
        Seconds from the TCP connection to the end of the access check.
    exporter : callable, optional
        Gives an exporter of TLS keying material for a transport, or None.
    """

    def __init__(
        self,
        forwarder: Forwarder,
        access: AccessControl,
        admission: Admission,
        *,
        establish_timeout: float,
        exporter: Callable[[asyncio.BaseTransport], Exporter | None] | None,
    ) -> None:
        self.access = access
        self.counters = GateCounters()
        self.unique = UniqueKeys()
        self.pending: set[RelayConnection] = set()
        self._forwarder = forwarder
        self._admission = admission
        self._establish_timeout = establish_timeout
        self._exporter = exporter
        self._loop = asyncio.get_running_loop()
        self._denials = Seldom(self._loop.time)
        self._deciding: set[asyncio.Task[None]] = set()
        self._ips: dict[int, str] = {}

    def begin(self, request: Request, protocol: HttpProtocol, upgrade: Upgrade) -> None:
        """Grant an upgrade and begin with the proof."""
        header = request.get(AUTH_HEADER)
        transport = protocol.transport
        assert transport is not None
        exporter = None
        if header is not None and self._exporter is not None:
            exporter = self._exporter(transport)
        handshake = ServerHandshake(
            header=None if header is None else header.decode("latin-1"), exporter=exporter
        )
        connection = RelayProtocol(self._forwarder, upgrade.version, self)
        timer = self._loop.call_at(
            protocol.accepted_at + self._establish_timeout, self._too_slow, connection
        )
        connection.context = pending = _Pending(request, handshake, protocol.peer, timer)
        self.pending.add(connection)
        headers = (
            ("upgrade", "websocket"),
            ("connection", "upgrade"),
            ("sec-websocket-accept", accept_value(upgrade.key)),
            ("sec-websocket-protocol", upgrade.protocol),
            *SECURITY_HEADERS,
        )
        protocol.upgrade(Response(101, b"", headers), connection)
        connection.attach(transport, protocol.plain_socket)
        try:
            challenge = handshake.start()
        except RelayHandshakeError as err:
            logger.debug("client at %s: %s", pending.ip, err)
            connection.drop()
            return
        if challenge is not None:
            connection.send_handshake(challenge)
        else:
            self._authorize(connection, pending)

    def _too_slow(self, connection: RelayConnection) -> None:
        self.counters.establish_timeouts += 1
        connection.abort()

    # --- called by connections

    def handshake_message(self, connection: RelayConnection, payload: bytes) -> None:
        """Take a message of a client that has not been let in."""
        pending: _Pending = connection.context
        try:
            reply = pending.handshake.feed(payload)
        except RelayHandshakeError as err:
            logger.debug("client at %s: %s", pending.ip, err)
            connection.drop()
            return
        if reply is not None:
            connection.send_handshake(reply)
            connection.drop()
            return
        self._authorize(connection, pending)

    def connection_closed(self, connection: RelayConnection, why: str) -> None:
        """Note the end of a connection; called once for each."""
        if connection.connection_id is not None:
            assert connection.endpoint_id is not None
            endpoint_id = PublicKey(connection.endpoint_id)
            logger.debug(
                "client %s left (connection %d): %s",
                endpoint_id.fmt_short(),
                connection.connection_id,
                why,
            )
            self._admission.leave(self._ips.pop(connection.connection_id), proven=True)
            self._tell_disconnect(endpoint_id, connection.connection_id)
            return
        pending: _Pending = connection.context
        logger.debug("client at %s left before it was let in: %s", pending.ip, why)
        pending.timer.cancel()
        self.pending.discard(connection)
        self._admission.leave(pending.ip)

    # --- access control

    def _authorize(self, connection: RelayConnection, pending: _Pending) -> None:
        endpoint_id = pending.handshake.endpoint_id
        assert endpoint_id is not None
        request = pending.request
        asked = AccessRequest(
            endpoint_id=endpoint_id,
            connection_id=self._forwarder.take_id(),
            protocol_version=connection.version,
            uri=request.target,
            query=tuple(query_pairs(request)),
            headers=tuple(request.headers),
            auth_token=auth_token(request),
        )
        access = self.access
        try:
            answer = access.on_connect(asked)
        except Exception:
            logger.exception("access control failed")
            answer = Decision(False)
        if isinstance(answer, Decision):
            self._decided(connection, pending, asked, answer)
            return
        connection.pause()
        pending.decision = asyncio.ensure_future(self._wait(connection, pending, asked, answer))
        self._deciding.add(pending.decision)
        pending.decision.add_done_callback(self._deciding.discard)

    async def _wait(
        self,
        connection: RelayConnection,
        pending: _Pending,
        asked: AccessRequest,
        answer: Awaitable[Decision],
    ) -> None:
        try:
            decision = await answer
        except asyncio.CancelledError:
            connection.abort()
            raise
        except Exception:
            logger.exception("access control failed")
            decision = Decision(False)
        self._decided(connection, pending, asked, decision)

    def _decided(
        self,
        connection: RelayConnection,
        pending: _Pending,
        asked: AccessRequest,
        decision: object,
    ) -> None:
        short = asked.endpoint_id.fmt_short()
        if not isinstance(decision, Decision):
            logger.error("access control gave %.100r, which is no Decision: denied", decision)
            decision = Decision(False)
        if not decision.allowed:
            self.counters.access_denied += 1
            logger.debug("client %s at %s denied: %.200r", short, pending.ip, decision.reason)
            if count := self._denials.count():
                logger.info("%d denied, the last %s at %s", count, short, pending.ip)
            if connection.is_waiting:
                connection.send_handshake(ServerHandshake.deny(decision.reason))
                connection.drop()
            return
        if not connection.is_waiting:
            # It went away while access control was thinking, which now believes it is here.
            self._tell_disconnect(asked.endpoint_id, asked.connection_id)
            return
        pending.timer.cancel()
        self.pending.discard(connection)
        self._admission.prove(pending.ip)
        self._ips[asked.connection_id] = pending.ip
        self.unique.add(bytes(asked.endpoint_id))
        connection.send_handshake(ServerHandshake.confirm())
        logger.debug("client %s at %s (connection %d)", short, pending.ip, asked.connection_id)
        connection.admit(bytes(asked.endpoint_id), asked.connection_id)

    def _tell_disconnect(self, endpoint_id: EndpointId, connection_id: int) -> None:
        try:
            self.access.on_disconnect(endpoint_id, connection_id)
        except Exception:
            logger.exception("on_disconnect of access control failed")

    async def close(self) -> None:
        """End what is being decided, and access control."""
        for task in self._deciding:
            task.cancel()
        await asyncio.gather(*self._deciding, return_exceptions=True)
        await self.access.close()
