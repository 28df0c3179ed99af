"""The client side of QUIC address discovery, see `iroh_fast.relay.qad`."""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import TYPE_CHECKING, Final, NamedTuple

from ...addr import SocketAddr
from ...aio._core_events import on_paths, wait
from ...aio._waiters import WaitQueue
from ...errors import ConfigError, ConnectTimeout
from ...errors.attempts import attempt_error
from ...net.socket import Driver
from ...quic._connection import WAIT_HANDSHAKE
from ...quic.config import QuicTransportConfig
from ...quic.tls.x509 import TrustRoots, X509Client, preload, preloaded
from ..qad import ALPN, CLOSE_CODE, CLOSE_REASON, plain_transport

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...quic._connection import QuicConnection
    from ...web.ca import CaConfig

__all__ = ["QadClient", "QadReport", "probe", "trust_roots"]

logger = logging.getLogger("iroh_fast.relay.client")

PROBE_TIMEOUT_S: Final = 3.0


def _client_transport() -> QuicTransportConfig:
    return plain_transport(
        initial_rtt=0.111,
        keep_alive_interval=25.0,
        max_idle_timeout=35.0,
        receive_observed_address_reports=True,
    )


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
            if not (trust.loaded and preloaded()):  # each hand-over may start a thread
                await asyncio.to_thread(_load, trust)
        except (OSError, ValueError) as err:
            raise ConfigError(f"cannot load the roots to trust: {err}") from err
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
            connection.close(CLOSE_CODE, CLOSE_REASON)
            raise ConnectTimeout(
                f"address discovery at {addr} failed: no answer in time", alpn=ALPN
            ) from None
        except BaseException:
            connection.close(CLOSE_CODE, CLOSE_REASON)
            raise
        if not connection.handshake_complete:
            reason = connection.close_reason
            assert reason is not None
            raise attempt_error(
                reason, f"address discovery at {addr}", remote=None, alpn=ALPN, by_key=False
            )
        return cls(connection)

    def close(self) -> None:
        """Tell the relay that this is enough. Returns at once."""
        on_paths(self._connection, None)
        self._connection.close(CLOSE_CODE, CLOSE_REASON)
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
