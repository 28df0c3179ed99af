"""The server side of QUIC address discovery, see `iroh_fast.relay.qad`."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from typing import TYPE_CHECKING, Final, Self

from ...aio._core_events import wait
from ...errors import BindError, ConfigError
from ...net.bind import BindAddr
from ...net.socket import Driver
from ...quic._connection import WAIT_CLOSED, WAIT_DRAINED, WAIT_HANDSHAKE
from ...quic.config import QuicTransportConfig
from ...quic.tls import Identity
from ...quic.tls.x509 import X509Credentials, X509Server, preload
from ..qad import ALPN, CLOSE_CODE, CLOSE_REASON, plain_transport

if TYPE_CHECKING:
    from ...quic._admission import QuicIncoming
    from ...quic._connection import QuicConnection

__all__ = ["QadServer"]

logger = logging.getLogger("iroh_fast.relay.server")

CLOSE_WAIT_S: Final = 3.0
MAX_CONNECTIONS: Final = 65_536
RETRY_ABOVE: Final = 64

_APPLICATION_ERROR: Final = 0x0C
_BIND_TRIES: Final = 16


def _server_transport() -> QuicTransportConfig:
    return plain_transport(
        max_concurrent_bidi_streams=0,
        max_concurrent_uni_streams=0,
        max_idle_timeout=30.0,
        keep_alive_interval=None,
        send_observed_address_reports=True,
        # DIFFERS: iroh's relay leaves datagrams on; nobody would ever read them.
        datagram_receive_buffer_size=None,
    )


class QadServer:
    """Serves QUIC address discovery: an asynchronous context manager, or `start` and `close`.

    Parameters
    ----------
    address : tuple of (str, int)
        UDP; ``"::"`` takes IPv4 too, port 0 a free port.
    certificate, key : bytes
        PEM: the chain, the server's own certificate first, and its private key.
    max_connections : int
        Further attempts are not answered.
    retry_above : int
        With more unfinished handshakes than this, clients have to prove their address before
        the server does any work for them.

    Attributes
    ----------
    address : tuple of (str, int)
        What is bound, once started.

    Raises
    ------
    ConfigError
        The certificate or the key cannot be used.
    BindError
        From `start`: the address is taken.
    """

    def __init__(
        self,
        address: tuple[str, int],
        certificate: bytes,
        key: bytes,
        *,
        max_connections: int = MAX_CONNECTIONS,
        retry_above: int = RETRY_ABOVE,
    ) -> None:
        self.address = address
        self._tls = X509Server(_credentials(certificate, key))
        self._max_connections = max_connections
        self._retry_above = retry_above
        self._transport = _server_transport()
        self._driver: Driver | None = None
        self._task: asyncio.Task[None] | None = None
        self._unfinished = 0
        self._counters = {
            "qad_incoming": 0,
            "qad_incoming_error": 0,
            "qad_connections": 0,
            "qad_connections_closed": 0,
            "qad_connections_errored": 0,
        }

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Bind and begin to serve."""
        if self._driver is not None:
            raise RuntimeError("an address discovery server starts once")
        await asyncio.to_thread(preload)
        self._driver = driver = self._bind()
        driver.endpoint.max_incoming = self._max_connections
        self.address = (self.address[0], driver.bound_sockets[0][1])
        self._task = asyncio.ensure_future(self._serve(driver))

    def _bind(self) -> Driver:
        host, port = self.address
        hosts = [host]
        if host == "::":
            # Two sockets, so that each knows the family of its peers.
            hosts.append("0.0.0.0")
        tries = _BIND_TRIES if port == 0 and len(hosts) > 1 else 1
        while True:
            tries -= 1
            try:
                chosen = port or (_free_port() if len(hosts) > 1 else 0)
                return Driver.bind(
                    [BindAddr(h, chosen) for h in hosts],
                    identity=Identity(os.urandom(32)),  # nobody asks for it
                    tls=self._tls,
                )
            except OSError as err:
                if err.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL) and len(hosts) > 1:
                    hosts = ["0.0.0.0"]  # no IPv6 on this machine
                    tries = 1
                elif tries == 0 or err.errno != errno.EADDRINUSE:
                    raise BindError(
                        f"cannot bind quic to {host} port {port}: {err.strerror}",
                        errno=err.errno,
                        address=f"{host}:{port}",
                    ) from err

    async def close(self) -> None:
        """Close all connections with code 1, "finished", and the socket; may be called again.

        Waits for what is still on the wire, at most three seconds.
        """
        driver, task = self._driver, self._task
        if driver is None or task is None:
            return
        self._task = None
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        try:
            driver.accepting = False
            driver.close_all(CLOSE_CODE, CLOSE_REASON)
            try:
                async with asyncio.timeout(CLOSE_WAIT_S):
                    await _clients_told(driver)
            except TimeoutError:
                pass
        finally:
            driver.stop()

    def replace_certificate(self, certificate: bytes, key: bytes) -> None:
        """Use another certificate and key (PEM) for new connections.

        Raises
        ------
        ConfigError
            They cannot be used; the old ones stay.
        """
        self._tls.credentials = _credentials(certificate, key)

    def counters(self) -> dict[str, int]:
        """Values of the metrics whose names begin with ``qad_``."""
        return dict(self._counters)

    @property
    def connections(self) -> int:
        """Connections at this moment, unfinished ones included."""
        return 0 if self._driver is None else self._driver.connections

    async def _serve(self, driver: Driver) -> None:
        while driver.accepting:
            if (incoming := await driver.wait_incoming()) is None:
                continue
            try:
                self._decide(incoming)
            except Exception:
                self._counters["qad_incoming_error"] += 1
                logger.exception("qad: an attempt from %s failed", incoming.remote)
            # A handshake takes about a millisecond; others want their turn.
            await asyncio.sleep(0)

    def _decide(self, incoming: QuicIncoming) -> None:
        if self._unfinished >= self._retry_above and not incoming.validated:
            incoming.retry()
            return
        self._counters["qad_incoming"] += 1
        connection = incoming.accept([ALPN], self._transport)
        self._unfinished += 1

        def settled(_: asyncio.Future[None]) -> None:
            self._unfinished -= 1
            if connection.handshake_complete:
                self._counters["qad_connections"] += 1
                closed = wait(connection, WAIT_CLOSED).future
                closed.add_done_callback(lambda _: self._ended(connection))
            elif _left_satisfied(connection):
                self._counters["qad_connections"] += 1
                self._counters["qad_connections_closed"] += 1
            else:
                self._counters["qad_incoming_error"] += 1
                logger.debug("qad: handshake failed: %s", connection.close_reason)

        # It also comes when the connection ends before; the client's answer to our first flight
        # cannot be there already.
        wait(connection, WAIT_HANDSHAKE).future.add_done_callback(settled)

    def _ended(self, connection: QuicConnection) -> None:
        reason = connection.close_reason
        well = reason is not None and (
            reason.kind == "locally_closed"
            or (
                reason.kind == "application"
                and (reason.code, reason.reason) == (CLOSE_CODE, CLOSE_REASON)
            )
        )
        self._counters["qad_connections_closed" if well else "qad_connections_errored"] += 1
        if not well:
            logger.debug("qad: connection ended: %s", reason)


def _left_satisfied(connection: QuicConnection) -> bool:
    """Whether a client closed before its last handshake message was here: overtaken on the way.

    Our first flight holds the report, so a client may have all it wants by then. What its
    application says as it closes is not told unencrypted (RFC 9000 §10.2.3).
    """
    reason = connection.close_reason
    return (
        reason is not None
        and reason.kind == "transport_peer"
        and reason.code == _APPLICATION_ERROR
    )


async def _clients_told(driver: Driver) -> None:
    """Wait until connections that this side closed are over; the others need nothing any more."""
    for connection in list(driver.endpoint.connections.values()):
        reason = connection.close_reason
        if reason is None or reason.kind == "locally_closed":
            await wait(connection, WAIT_DRAINED)


def _credentials(certificate: bytes, key: bytes) -> X509Credentials:
    try:
        return X509Credentials(certificate, key)
    except ValueError as err:
        raise ConfigError(f"cannot use this certificate and key for QUIC: {err}") from err


def _free_port() -> int:
    """A port that is free with IPv6 now."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.bind(("::", 0))
        return int(sock.getsockname()[1])
