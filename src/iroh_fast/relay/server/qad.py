"""QUIC address discovery: a relay tells its clients from which address their packets come.

The server is a QUIC endpoint with an ordinary certificate that accepts connections, sends
OBSERVED_ADDRESS frames (QUIC address discovery draft) and does nothing else. A client dials it
from the sockets of its own endpoint, because only then is the answer the address at which other
endpoints can reach it.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import ssl
from typing import TYPE_CHECKING, Final, NamedTuple

from ...addr import SocketAddr
from ...aio._waiters import WaitQueue, on_paths, wait
from ...errors import (
    AlpnMismatch,
    BindError,
    ConfigError,
    ConnectError,
    ConnectionRefused,
    ConnectTimeout,
    HandshakeFailed,
)
from ...net.bind import BindAddr
from ...net.socket import Driver
from ...quic.config import QuicTransportConfig
from ...quic.tls import Identity
from ...quic.tls.x509 import TrustRoots, X509Client, X509Credentials, X509Server, preload

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from typing_extensions import Self

    from ...quic._admission import QuicIncoming
    from ...quic._connection import QuicConnection
    from ...web.ca import CaConfig

__all__ = [
    "ALPN",
    "DEFAULT_PORT",
    "QadClient",
    "QadReport",
    "QadServer",
    "probe",
    "trust_roots",
]

logger = logging.getLogger("iroh_fast.relay")

ALPN: Final = b"/iroh-qad/0"
DEFAULT_PORT: Final = 7842
PROBE_TIMEOUT_S: Final = 3.0
CLOSE_WAIT_S: Final = 3.0
MAX_CONNECTIONS: Final = 65_536
RETRY_ABOVE: Final = 64

_CLOSE_CODE: Final = 1
_CLOSE_REASON: Final = b"finished"
_CONNECTION_REFUSED: Final = 0x02  # RFC 9000 §20.1
_TLS_ALERT: Final = 0x100
_NO_ALPN: Final = 120
_BIND_TRIES: Final = 16


def _plain(**settings: object) -> QuicTransportConfig:
    """A transport without multipath and NAT traversal, which the public settings always have."""
    config = QuicTransportConfig(**settings)  # type: ignore[arg-type]
    object.__setattr__(config, "max_concurrent_multipath_paths", 0)
    object.__setattr__(config, "max_remote_nat_traversal_addresses", 0)
    return config


def _server_transport() -> QuicTransportConfig:
    return _plain(
        max_concurrent_bidi_streams=0,
        max_concurrent_uni_streams=0,
        max_idle_timeout=30.0,
        keep_alive_interval=None,
        send_observed_address_reports=True,
        # DIFFERS: iroh's relay leaves datagrams on; nobody would ever read them.
        datagram_receive_buffer_size=None,
    )


def _client_transport() -> QuicTransportConfig:
    return _plain(
        initial_rtt=0.111,
        keep_alive_interval=25.0,
        max_idle_timeout=35.0,
        receive_observed_address_reports=True,
    )


# --- server -------------------------------------------------------------------------------


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

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
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
            driver.close_all(_CLOSE_CODE, _CLOSE_REASON)
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
        from ...quic._connection import WAIT_CLOSED, WAIT_HANDSHAKE

        self._unfinished += 1

        def settled(_: asyncio.Future[None]) -> None:
            self._unfinished -= 1
            if connection.handshake_complete:
                self._counters["qad_connections"] += 1
                closed = wait(connection, WAIT_CLOSED).future
                closed.add_done_callback(lambda _: self._ended(connection))
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
                and (reason.code, reason.reason) == (_CLOSE_CODE, _CLOSE_REASON)
            )
        )
        self._counters["qad_connections_closed" if well else "qad_connections_errored"] += 1
        if not well:
            logger.debug("qad: connection ended: %s", reason)


async def _clients_told(driver: Driver) -> None:
    """Wait until connections that this side closed are over; the others need nothing any more."""
    from ...quic._connection import WAIT_DRAINED

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


# --- client -------------------------------------------------------------------------------


class QadReport(NamedTuple):
    """What a relay sees.

    Attributes
    ----------
    addr : SocketAddr
        Ours, as the relay sees it; IPv4 is always plain.
    latency : float
        Round-trip time to the relay, seconds.
    """

    addr: SocketAddr
    latency: float


def trust_roots(ca: CaConfig | ssl.SSLContext | TrustRoots | None) -> TrustRoots:
    """Turn what endpoints are told to trust at relays into roots for address discovery.

    Parameters
    ----------
    ca : CaConfig, ssl.SSLContext, TrustRoots or None
        None stands for the embedded roots. Of a context, what it has loaded counts: files
        and data, not folders.

    Notes
    -----
    Keep the result: roots are loaded once per object, when first used.
    """
    if isinstance(ca, TrustRoots):
        return ca
    if isinstance(ca, ssl.SSLContext):
        return TrustRoots(
            certificates=ca.get_ca_certs(binary_form=True),
            insecure=ca.verify_mode != ssl.CERT_REQUIRED,
        )
    if ca is not None and ca.roots != "embedded":
        return _roots_of(ca)
    import certifi

    return TrustRoots(
        cafile=certifi.where(),
        certificates=_ders(ca.extra) if ca is not None else (),
        insecure=ca is not None and ca.insecure,
    )


def _roots_of(ca: CaConfig) -> TrustRoots:
    extra = _ders(ca.extra)
    if ca.roots != "system" or ca.insecure:
        return TrustRoots(certificates=extra, insecure=ca.insecure)
    paths = ssl.get_default_verify_paths()
    if paths.cafile or paths.capath:
        return TrustRoots(cafile=paths.cafile, capath=paths.capath, certificates=extra)
    # Windows: there the roots are no files.
    loaded = ssl.create_default_context().get_ca_certs(binary_form=True)
    return TrustRoots(certificates=[*loaded, *extra])


def _ders(roots: Sequence[bytes | str]) -> list[bytes]:
    return [ssl.PEM_cert_to_DER_cert(r.strip()) if isinstance(r, str) else bytes(r) for r in roots]


class QadClient:
    """A connection to the address discovery of a relay.

    Use `connect`, and `close` in the end: the connection is kept up until then. While it is
    open the relay tells when the address changes.
    """

    def __init__(self, connection: QuicConnection) -> None:
        self._connection = connection
        self._observed: SocketAddr | None = None
        self._latency = 0.0
        self._waiters = WaitQueue()
        on_paths(connection, self._on_paths)
        self._take()

    @classmethod
    async def connect(
        cls,
        driver: Driver,
        addr: SocketAddr,
        *,
        server_name: str,
        trust: TrustRoots,
        timeout_s: float = PROBE_TIMEOUT_S,
    ) -> QadClient:
        """Dial a relay from the sockets of `driver`.

        Parameters
        ----------
        driver : Driver
            Of the endpoint whose address is wanted.
        addr : SocketAddr
            UDP address of the relay.
        server_name : str
            Host of the relay's URL, or its IP address: what the certificate must be for.
        trust : TrustRoots
            See `trust_roots`.
        timeout_s : float
            Seconds until the handshake must be complete.

        Raises
        ------
        ConnectTimeout, ConnectionRefused, AlpnMismatch, HandshakeFailed, ConnectError
            As for a connection to an endpoint.
        ConfigError
            The name cannot be used, or the roots cannot be loaded.

        Notes
        -----
        Cancel-safe: the attempt ends.
        """
        name = server_name.removesuffix(".").removeprefix("[").removesuffix("]")
        if not name or len(name) > 253 or not name.isascii():
            raise ConfigError(f"not the name of a server: {server_name[:80]!r}")
        try:
            await asyncio.to_thread(_load, trust)
        except (OSError, ValueError) as err:
            raise ConfigError(f"cannot load the roots to trust: {err}") from err
        from ...quic._connection import WAIT_HANDSHAKE

        connection = driver.connect(
            [addr.as_tuple()],
            alpns=[ALPN],
            transport=_client_transport(),
            tls=X509Client(name, trust),
        )
        try:
            async with asyncio.timeout(timeout_s):
                await wait(connection, WAIT_HANDSHAKE)
        except TimeoutError:
            connection.close(_CLOSE_CODE, _CLOSE_REASON)
            raise ConnectTimeout(
                f"address discovery at {addr} failed: no answer in time", alpn=ALPN
            ) from None
        except BaseException:
            connection.close(_CLOSE_CODE, _CLOSE_REASON)
            raise
        if not connection.handshake_complete:
            raise _connect_error(connection, addr)
        return cls(connection)

    def close(self) -> None:
        """Tell the relay that this is enough. Returns at once."""
        on_paths(self._connection, None)
        self._connection.close(_CLOSE_CODE, _CLOSE_REASON)
        self._waiters.wake_all()

    @property
    def closed(self) -> bool:
        """Whether the connection is over, by whomever."""
        return self._connection.close_reason is not None

    @property
    def observed(self) -> SocketAddr | None:
        """The last address the relay told, None before the first report."""
        self._take()
        return self._observed

    @property
    def latency(self) -> float:
        """Smoothed round-trip time, seconds."""
        info = self._connection.path_info(0)
        if info is not None:
            self._latency = info["rtt"]
        return self._latency

    async def report(self) -> QadReport:
        """The newest address and the round-trip time; waits for the first address.

        Raises
        ------
        ConnectionLost
            The connection ended before any address came.

        Notes
        -----
        Has no time limit of its own. Cancel-safe.
        """
        return await self._other_than(None)

    async def changed(self, known: SocketAddr) -> QadReport:
        """Wait until the relay tells another address than `known`; else as `report`."""
        return await self._other_than(known)

    async def _other_than(self, known: SocketAddr | None) -> QadReport:
        while True:
            observed = self.observed
            if observed is not None and observed != known:
                return QadReport(observed, self.latency)
            reason = self._connection.close_reason
            if reason is not None:
                raise reason.to_error()
            await self._waiters.wait()

    def _on_paths(self, connection: QuicConnection) -> None:
        self._take()
        self._waiters.wake_all()

    def _take(self) -> None:
        for event in self._connection.path_events():
            if event[0] != "observed":
                continue
            addr = SocketAddr.from_tuple(event[2])  # type: ignore[arg-type]
            mapped = getattr(addr.ip, "ipv4_mapped", None)
            if mapped is not None:
                addr = SocketAddr(mapped, addr.port)
            if addr.port == 0 or addr.ip.is_unspecified:
                logger.debug("qad: relay told an impossible address: %s", addr)
                continue
            self._observed = addr


def _load(trust: TrustRoots) -> None:
    preload()
    trust.load()


def _connect_error(connection: QuicConnection, addr: SocketAddr) -> ConnectError:
    reason = connection.close_reason
    assert reason is not None
    what = f"address discovery at {addr} failed"
    alert = reason.code - _TLS_ALERT
    error: ConnectError
    if reason.kind == "timed_out":
        error = ConnectTimeout(f"{what}: no answer in time", alpn=ALPN, close_reason=reason)
    elif reason.kind == "transport_peer" and reason.code == _CONNECTION_REFUSED:
        error = ConnectionRefused(f"{what}: refused", alpn=ALPN, close_reason=reason)
    elif reason.kind in ("transport_peer", "transport_local") and 0 <= alert <= 0xFF:
        kind = AlpnMismatch if alert == _NO_ALPN else HandshakeFailed
        error = kind(f"{what}: {reason}", alert=alert, alpn=ALPN, close_reason=reason)
    else:
        error = ConnectError(f"{what}: {reason}", alpn=ALPN, close_reason=reason)
    error.__cause__ = reason.to_error()
    return error


async def probe(
    driver: Driver,
    addr: SocketAddr,
    *,
    server_name: str,
    trust: TrustRoots,
    timeout_s: float = PROBE_TIMEOUT_S,
) -> QadReport:
    """Ask one relay for our address and close the connection; see `QadClient.connect`.

    Raises
    ------
    ConnectionLost
        The relay closed the connection without telling an address.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout_s
    client = await QadClient.connect(
        driver, addr, server_name=server_name, trust=trust, timeout_s=timeout_s
    )
    try:
        async with asyncio.timeout_at(end):
            return await client.report()
    except TimeoutError:
        raise ConnectTimeout(
            f"address discovery at {addr} failed: the relay told no address", alpn=ALPN
        ) from None
    finally:
        client.close()
