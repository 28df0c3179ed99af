"""The sockets and the engine of one endpoint: binding, dialing, incoming connections, shutdown."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Collection, Iterable, Sequence
from ipaddress import IPv6Address
from typing import TYPE_CHECKING, Any

from iroh_fast._batch import UdpSocket
from iroh_fast.aio._core_events import wait
from iroh_fast.aio._waiters import Handoff
from iroh_fast.net._socket import DriverCore
from iroh_fast.net.rebind import BUFFER_BYTES, Rebinder, sockaddr_of
from iroh_fast.net.transport import PRIVATE_PORT, TransportTable
from iroh_fast.quic._endpoint import QuicEndpoint
from iroh_fast.quic.config import WINDOW_BUDGET

if TYPE_CHECKING:
    from iroh_fast.addr import SocketAddr
    from iroh_fast.net.bind import BindAddr
    from iroh_fast.net.local_addrs import NetworkState
    from iroh_fast.net.stun import StunAnswer
    from iroh_fast.net.transport import Transport
    from iroh_fast.quic._admission import QuicIncoming
    from iroh_fast.quic._connection import QuicConnection
    from iroh_fast.quic.config import QuicTransportConfig
    from iroh_fast.quic.tls import Identity
    from iroh_fast.quic.tls.x509 import ClientTls, ServerTls

__all__ = ["Driver"]

logger = logging.getLogger("iroh_fast.net")

TICKETS_PER_PEER = 8


class Driver:
    """Owns the sockets of an endpoint and runs its QUIC engine on one event loop.

    Use `bind`; all methods belong to the loop that was running then.
    """

    def __init__(
        self,
        endpoint: QuicEndpoint,
        core: DriverCore,
        loop: asyncio.AbstractEventLoop,
        sockets: Sequence[tuple[UdpSocket, BindAddr]] = (),
    ) -> None:
        self.endpoint = endpoint
        self.loop = loop
        self._core = core
        self.transports = TransportTable()
        self._incoming: Handoff[QuicIncoming] = Handoff()
        for sock, addr in sockets:
            core.add_socket(sock, addr.prefix_len, addr.is_default)
        self._bound = [sock.local_address for sock, _ in sockets]
        self._rebinder = Rebinder(core, loop, [(addr, sock.local_address) for sock, addr in sockets])
        endpoint.on_incoming = self._on_incoming

    @classmethod
    def bind(
        cls,
        addrs: Iterable[BindAddr],
        *,
        identity: Identity,
        max_tls_tickets: int = 256,
        keylog: bool = False,
        loop: asyncio.AbstractEventLoop | None = None,
        tls: ServerTls | None = None,
        window_budget: int = WINDOW_BUDGET,
    ) -> Driver:
        """Bind sockets and start reading.

        `tls` replaces authentication by key, see `QuicEndpoint`.

        Raises
        ------
        OSError
            A required address cannot be bound; those already bound are closed again.
        """
        from iroh_fast.quic.tls.sessions import ClientSessionCache, ServerTicketStore

        loop = loop or asyncio.get_running_loop()
        endpoint = QuicEndpoint(
            identity,
            session_cache=ClientSessionCache(
                max_peers=max(1, max_tls_tickets // TICKETS_PER_PEER),
                tickets_per_peer=min(TICKETS_PER_PEER, max_tls_tickets),
            )
            if max_tls_tickets
            else None,
            server_tickets=ServerTicketStore(),
            keylog=_keylog_writer() if keylog else None,
            tls=tls,
            window_budget=window_budget,
        )
        sockets: list[tuple[UdpSocket, BindAddr]] = []
        try:
            for addr in addrs:
                try:
                    sockets.append((UdpSocket.bind(sockaddr_of(addr), buffer_bytes=BUFFER_BYTES), addr))
                except OSError as e:
                    if addr.required:
                        raise
                    logger.info("not bound: %s port %d: %s", addr.host, addr.port, e)
        except BaseException:
            for sock, _ in sockets:
                sock.close()
            raise
        core: DriverCore | None = None
        try:
            core = DriverCore(endpoint, loop)
            return cls(endpoint, core, loop, sockets)
        except BaseException:
            if core is not None:
                core.stop()
            for sock, _ in sockets:
                sock.close()
            raise

    # ------------------------------------------------------------ dialing
    def connect(
        self,
        addrs: Sequence[tuple[Any, ...]],
        *,
        expected_peer: bytes | None = None,
        alpns: Sequence[bytes],
        transport: QuicTransportConfig,
        tls: ClientTls | None = None,
    ) -> QuicConnection:
        """Start a connection attempt to `addrs`; wait for WAIT_HANDSHAKE.

        At most 64, of which each flight goes to 16.

        `tls` authenticates this connection by other means than the key `expected_peer`.
        """
        return self.endpoint.connect(
            list(addrs),
            expected_peer=expected_peer,
            alpns=list(alpns),
            transport=transport,
            tls=tls,
        )

    # ------------------------------------------------------------ transports
    def add_transport(self, transport: Transport) -> None:
        """Let `transport` carry what goes to its private addresses."""
        self.transports.add(transport)
        self._core.add_transport(
            transport.subnet,
            transport.kind,
            transport.max_segments,
            transport.max_datagram,
            transport.send,
        )

    def inject(
        self, ip16: bytes, data: bytes, segment: int, local: bytes | None = None, ecn: int = 0
    ) -> None:
        """Hand in datagrams that came from a private address of a transport.

        Parameters
        ----------
        ip16 : the 16 bytes of the address.
        segment : bytes per datagram of a batch, 0 for a single one.
        local : the private address that they were sent to, if the transport has several.
        ecn : the two ECN bits; those of the first hop to a relay say nothing of the whole way.
        """
        self._core.inject(ip16, PRIVATE_PORT, data, segment, local, ecn)

    def probe(self, ips: Collection[bytes]) -> None:
        """Private addresses of a transport that can be reached again: use the paths to them now."""
        known = {str(IPv6Address(ip)) for ip in ips}
        for connection in list(self.endpoint.connections.values()) if known else ():
            for path_id in connection.path_ids():
                remote = connection.path_remote(path_id)
                if remote is not None and remote[0] in known:
                    connection.path_works_again(path_id)

    # ------------------------------------------------------------ STUN
    async def stun(self, server: SocketAddr) -> StunAnswer:
        """Ask a STUN server what the address of our socket looks like, see `StunClient.ask`.

        Raises
        ------
        StunError
            There is no answer, or none of use.
        """
        from iroh_fast.net.stun import StunClient

        return await StunClient(self._core, self.loop).ask(server)

    # ------------------------------------------------------------ changes of the network
    def network_changed(self, state: NetworkState) -> None:
        """Open sockets again that another network left without use; call it before anything is sent."""
        self._rebinder.network_changed(state)

    def rebind(self) -> None:
        """Open every socket again, at the same addresses and ports; one that fails is tried on until it works."""
        self._rebinder.rebind()

    # ------------------------------------------------------------ incoming
    def _on_incoming(self, incoming: QuicIncoming) -> None:
        self._incoming.put(incoming)

    def poll_incoming(self) -> QuicIncoming | None:
        """The oldest undecided attempt, or None."""
        while (incoming := self._incoming.take()) is not None and incoming.decided:
            pass  # it gave way to newer ones
        return incoming

    async def wait_incoming(self) -> QuicIncoming | None:
        """The next undecided attempt; None when attempts are not taken any more."""
        if (incoming := self.poll_incoming()) is not None or not self.endpoint.accepting:
            return incoming
        return await self._incoming.wait()

    @property
    def accepting(self) -> bool:
        """Whether new attempts are taken."""
        return self.endpoint.accepting

    @accepting.setter
    def accepting(self, value: bool) -> None:
        self.endpoint.accepting = value
        if not value:
            while (incoming := self.poll_incoming()) is not None:
                incoming.refuse()
            self._incoming.wake_all()

    # ------------------------------------------------------------ state and end
    @property
    def bound_sockets(self) -> list[tuple[Any, ...]]:
        """Local addresses of the sockets; still known after `stop`."""
        return list(self._bound)

    @property
    def connections(self) -> int:
        """Connections that are not drained."""
        return len(self.endpoint.connections)

    def close_all(self, code: int = 0, reason: bytes = b"") -> None:
        """Close every connection."""
        for connection in list(self.endpoint.connections.values()):
            connection.close(code, reason)

    async def wait_idle(self) -> None:
        """Return when every connection is drained."""
        from iroh_fast.quic._connection import WAIT_DRAINED

        while self.endpoint.connections:
            await wait(next(iter(self.endpoint.connections.values())), WAIT_DRAINED)

    def stop(self) -> None:
        """Close the sockets at once."""
        self.accepting = False
        self._rebinder.stop()
        self._core.stop()

    def stats(self) -> dict[str, int]:
        """Counters of the sockets, of connection attempts and of windows."""
        return {
            **self._core.counters(),
            "rebinds": self._rebinder.rebinds,
            **self.endpoint.counters,
            "window_budget_refused": self.endpoint.window_budget_refused,
            "held_probes": self.endpoint.held_probes,
            "window_budget": self.endpoint.window_budget,
            "window_budget_used": self.endpoint.window_budget_used,
        }


def _keylog_writer() -> Any:
    path = os.environ.get("SSLKEYLOGFILE")
    if not path:
        logger.info("keylog is on, but SSLKEYLOGFILE names no file: TLS secrets are not logged")
        return None

    broken = False

    def write(line: str) -> None:
        """Append a line; that it cannot be written must not break a connection."""
        nonlocal broken
        if broken:
            return
        try:
            # For the owner alone: whoever has these secrets can read the connections.
            fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with open(fd, "a", encoding="ascii") as file:
                file.write(line.rstrip("\n") + "\n")
        except OSError as error:
            broken = True
            logger.warning("TLS secrets are not logged: cannot write to SSLKEYLOGFILE %s: %s", path, error)

    return write
