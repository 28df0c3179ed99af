"""A relay server for any asyncio program.

    config = RelayServerConfig.dev(port=3340)
    async with RelayServer(config) as server:
        print(server.url)
        await server.wait_stopped()

Clients are served by compiled code (`iroh_fast.relay.server._forward`); here are start and stop,
and what embedders call.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, fields, replace
from typing import Final, Protocol, Self

from ...aio.once import Once, see_through
from ...errors import ConfigError
from ...keys import EndpointId, PublicKey
from ...web.certificates import Certificates
from ...web.exposition import metrics_handler
from ...web.host import HttpHost, url_of
from ...web.http import HttpProtocol
from ...web.listen import HTTP_LIFE_S, ListenerSettings
from ...web.message import Request, Response
from ..congestion import prefer_bbr
from ..wire import Exporter
from ._forward import Forwarder
from .config import HTTPS_PORT, METRICS_PORT, QUIC_PORT, Address, RelayServerConfig
from .gate import Gate
from .metrics import exposition
from .routes import SECURITY_HEADERS, Route, Routes, Upgrade, check_routes, read_upgrade

__all__ = ["QadFactory", "QadService", "RelayServer", "Route"]

logger = logging.getLogger("iroh_fast.relay.server")

CLOSE_WAIT_S: Final = 3.0

_GOING_AWAY: Final = 1001  # RFC 6455 §7.4.1
_NOT_ALLOWED: Final = 1008


class QadService(Protocol):
    """QUIC address discovery as the server runs it."""

    @property
    def address(self) -> Address: ...

    def counters(self) -> Mapping[str, int]:
        """Values of the metrics whose names begin with ``qad_``."""

    def replace_certificate(self, certificate: bytes, key: bytes) -> None:
        """Use another certificate and key (PEM) for new connections; ConfigError if unusable."""

    async def close(self) -> None: ...


QadFactory = Callable[[Address, bytes, bytes], Awaitable[QadService]]
"""Starts QUIC address discovery: UDP address, certificate chain and key in PEM."""


async def _builtin_qad(address: Address, certificate: bytes, key: bytes) -> QadService:
    from .qad import QadServer

    server = QadServer(address, certificate, key)
    await server.start()
    return server


class RelayServer:
    """A relay server: an asynchronous context manager, or `start` and `stop`.

    Parameters
    ----------
    config : RelayServerConfig, optional
        Default: `RelayServerConfig.dev`, plain HTTP on a free port of 127.0.0.1.
    routes : mapping, optional
        Further plain routes of the main listener: path to a function of the request.
    exporter : callable, optional
        Gives an exporter of TLS keying material for a transport, or None. With it clients over
        TLS are authenticated without an extra round trip.
    qad : callable, optional
        Starts QUIC address discovery when the settings ask for it; default: `qad.QadServer`.

    Attributes
    ----------
    url : str
        For clients on this machine, or with the configured host name.
    addresses : dict
        Bound addresses by name: ``"http"``, ``"https"``, ``"metrics"``, ``"quic"``.
    certificate : bytes or None
        The certificate in PEM, when it is self-signed.

    Raises
    ------
    ConfigError
        From `start`: settings that cannot work.
    BindError
        From `start`: an address is taken.
    """

    def __init__(
        self,
        config: RelayServerConfig | None = None,
        *,
        routes: Mapping[str, Route] | None = None,
        exporter: Callable[[asyncio.BaseTransport], Exporter | None] | None = None,
        qad: QadFactory | None = None,
    ) -> None:
        if config is not None and not isinstance(config, RelayServerConfig):
            raise TypeError(f"config is a RelayServerConfig, not {type(config).__name__}")
        self.config = RelayServerConfig.dev() if config is None else config
        self.addresses: dict[str, Address] = {}
        self.certificate: bytes | None = None
        self._more_routes = check_routes({} if routes is None else routes)
        self._exporter = exporter
        self._qad_factory = _builtin_qad if qad is None else qad
        self._qad: QadService | None = None
        self._limits = self.config.limits
        self._closing: list[asyncio.Task[None]] = []  # rules of access that were replaced
        self._certificates: Certificates | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._stopped: Once | None = None
        self._hurry = Once()  # no time for a drain

    # --- life

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Bind everything and begin to serve; nothing stays open when it fails."""
        if self._stopped is not None:
            raise RuntimeError("a relay server starts once")
        config, limits = self.config, self._limits
        burst, refill = limits.client_bucket()
        config.check()
        self._stopped = Once()
        self._loop = asyncio.get_running_loop()
        self._host = HttpHost(limits.admission(), logger, self._begin_stop)
        self.addresses = self._host.addresses
        self.forwarder = Forwarder(
            self._loop,
            key_cache=config.key_cache_capacity,
            max_packets=limits.queue_packets,
            max_bytes=limits.queue_bytes,
            write_timeout=limits.write_timeout,
            ping_interval=limits.ping_interval,
            ping_jitter=limits.ping_jitter,
        )
        self.forwarder.set_client_rate(burst, refill)
        self._gate = Gate(
            self.forwarder,
            config.access,
            self._host.admission,
            establish_timeout=limits.establish_timeout,
            exporter=self._exporter,
        )
        try:
            await self._start_services()
        except BaseException:
            await self.stop()
            raise
        self.forwarder.start()

    async def _start_services(self) -> None:
        config, tls = self.config, self.config.tls
        host = config.http_bind_addr[0]
        if config.enable_metrics:
            address = config.metrics_bind_addr or (host, METRICS_PORT)
            handler = metrics_handler(exposition(self.metrics))
            self._host.listen_metrics(
                address, handler, elsewhere=config.other_ports, prepare=prefer_bbr
            )
        if tls is not None:
            self._certificates = Certificates(tls.source(), self._certificate_changed)
            self.certificate = self._certificates.self_signed
            if self._certificates.work is not None:
                self._host.run(self._certificates.work)
        context = None
        if self._certificates is not None and tls is not None and not tls.http_only:
            context = self._certificates.context
        acme = None if self._certificates is None else self._certificates.acme_answer
        self._routes = Routes(self._more_routes, plain=context is None, acme_answer=acme)
        life = min(HTTP_LIFE_S, self._limits.establish_timeout)
        main = ListenerSettings(
            handler=self._handle_main,
            context=context,
            life=life,
            extra=SECURITY_HEADERS,
            main=True,
        )
        portal = ListenerSettings(
            handler=lambda request, _: self._routes.captive_portal(request),
            life=life,
            may_stay=False,
        )
        if config.enable_relay and context is None:
            self._listen("http", config.http_bind_addr, main)
        elif config.enable_relay or acme is not None:
            self._listen("http", config.http_bind_addr, portal)
        if config.enable_relay and context is not None:
            assert tls is not None
            self._listen("https", tls.https_bind_addr or (host, HTTPS_PORT), main)
        if config.enable_quic_addr_discovery:
            await self._start_qad(host)

    def _listen(self, name: str, address: Address, settings: ListenerSettings) -> None:
        self._host.listen(
            name, address, settings, elsewhere=self.config.other_ports, prepare=prefer_bbr
        )

    async def _start_qad(self, host: str) -> None:
        tls = self.config.tls
        if tls is None or self._certificates is None:
            raise ConfigError("QUIC address discovery needs TLS settings")
        if tls.https_bind_addr is not None:
            host = tls.https_bind_addr[0]
        self._qad = await self._qad_factory(
            tls.quic_bind_addr or (host, QUIC_PORT), *self._certificates.pem()
        )
        self.addresses["quic"] = self._qad.address
        logger.info("QUIC address discovery on %s port %d", *self._qad.address)

    async def stop(self) -> None:
        """Stop accepting, end every connection and wait for that. May be called again.

        With a drain time in the settings the ends are spread over it.

        Notes
        -----
        Cancelling a task in here ends the rest of the connections at once; the CancelledError is
        raised when the server has stopped.
        """
        if self._stopped is None:
            return
        await see_through(self._begin_stop(), self._hurry.set)

    def _begin_stop(self) -> asyncio.Task[None]:
        if self._stopping is None:
            self._stopping = self._loop.create_task(self._stop())
        return self._stopping

    async def _stop(self) -> None:
        assert self._stopped is not None
        self._host.stop_accepting()
        try:
            await self._end_connections()
            await self._host.wait_closed()
            await asyncio.gather(*self._closing, return_exceptions=True)
            self.forwarder.stop()
            await self._closed("address discovery", self._qad)
            await self._closed("access control", self._gate)
        finally:
            self._stopped.set()
            logger.info("stopped")

    async def _closed(self, name: str, service: QadService | Gate | None) -> None:
        """Close a service; what somebody else's code raises there does not hold up the rest."""
        try:
            if service is not None:
                await service.close()
        except Exception:
            logger.exception("closing %s failed", name)

    async def _end_connections(self) -> None:
        self._host.abort()
        pending = list(self._gate.pending)
        for connection in pending:
            connection.close(_GOING_AWAY)
        connections = self.forwarder.connections
        begin = self._loop.time()
        for index, connection in enumerate(connections):
            if self.config.drain > 0:
                due = begin + self.config.drain * index / len(connections)
                try:
                    async with asyncio.timeout_at(due):
                        await self._hurry.wait()
                except TimeoutError:
                    pass
            connection.close(_GOING_AWAY)
        # Let in while the others were closing: none, since nothing is pending any more.
        deadline = self._loop.time() + min(CLOSE_WAIT_S, self._limits.write_timeout + 0.5)
        waiting = [c for c in (*connections, *pending) if c.transport is not None]
        while waiting and self._loop.time() < deadline:
            await asyncio.sleep(0.01)
            waiting = [c for c in waiting if c.transport is not None]
        for connection in waiting:
            connection.abort()
        if waiting or self._host.protocols:
            await asyncio.sleep(0)

    async def wait_stopped(self) -> None:
        """Wait until the server has stopped; raises what stopped it, if that was an error."""
        stopped = self._started()
        await stopped.wait()
        if self._host.failure is not None:
            raise self._host.failure

    def _started(self) -> Once:
        """Raise RuntimeError before the start."""
        if self._stopped is None:
            raise RuntimeError("this relay server was not started: use async with, or start()")
        return self._stopped

    # --- what embedders use

    @property
    def url(self) -> str:
        """Where clients reach the relay; RuntimeError before the start, or when only metrics run."""
        name = "https" if "https" in self.addresses else "http"
        if name not in self.addresses:
            raise RuntimeError("the relay server listens nowhere: start it with async with")
        tls = self.config.tls
        known_as = tls.hostname[0] if name == "https" and tls is not None and tls.hostname else None
        return url_of(name, self.addresses[name], known_as)

    def metrics(self) -> dict[str, int]:
        """All counters and gauges by name; RuntimeError before the start, as all below."""
        self._started()
        host = self._host
        turns = host.turns.counters
        return {
            **self.forwarder.counters_snapshot(),
            **asdict(host.counters),
            **asdict(self._gate.counters),
            **(self._qad.counters() if self._qad is not None else {}),
            "http_requests": turns.requests,
            "http_handler_errors": turns.handler_errors,
            "http_unread_timeouts": turns.unread_timeouts,
            "unique_client_keys": self._gate.unique.count,
            "unauthenticated": host.admission.unproven,
            "tcp_connections": host.admission.total,
        }

    def disconnect(self, endpoint_id: EndpointId | str, connection_id: int | None = None) -> bool:
        """End all connections of an endpoint, or one of them; tells whether there was any.

        They end shortly after this returns.

        Raises
        ------
        TypeError, KeyParsingError
            `endpoint_id` is neither an EndpointId nor the text of one.
        """
        self._started()
        if not isinstance(endpoint_id, (PublicKey, str)):
            raise TypeError(f"endpoint_id is an EndpointId, not {type(endpoint_id).__name__}")
        endpoint_id = PublicKey(endpoint_id)
        found = [
            connection
            for connection in self.forwarder.find(bytes(endpoint_id))
            if connection_id is None or connection.connection_id == connection_id
        ]
        for connection in found:
            self._loop.call_soon(connection.close, _GOING_AWAY)
        return bool(found)

    def set_client_rate(
        self, bytes_per_second: int | None, max_burst_bytes: int | None = None
    ) -> bool:
        """Change the limit of what each client may send, at once and for all.

        Impossible values are ignored with a warning; tells whether the change was made.
        """
        self._started()
        try:
            limits = replace(
                self._limits, bytes_per_second=bytes_per_second, max_burst_bytes=max_burst_bytes
            )
            burst, refill = limits.client_bucket()
        except ConfigError as err:
            logger.warning("rate limit not changed: %s", err)
            return False
        self._limits = limits
        self.forwarder.set_client_rate(burst, refill)
        return True

    def reload(self, config: RelayServerConfig) -> None:
        """Use other rules of access and another rate limit, and read certificates again.

        Clients that the new rules do not let in are disconnected, as far as that can be told
        from their endpoint ids. All other settings need a restart.

        Raises
        ------
        ConfigError
            The rate limit is impossible; nothing was changed.
        """
        self._started()
        if not isinstance(config, RelayServerConfig):
            raise TypeError(f"config is a RelayServerConfig, not {type(config).__name__}")
        config.limits.client_bucket()
        later = self._for_a_restart(config)
        self.set_client_rate(config.limits.bytes_per_second, config.limits.max_burst_bytes)
        old, self._gate.access = self._gate.access, config.access
        self.config = self.config.with_changes(access=config.access, limits=self._limits)
        ended = 0
        for connection in self.forwarder.connections:
            key = connection.endpoint_id
            if key is not None and not config.access.still_allowed(PublicKey(key)):
                ended += 1
                self._loop.call_soon(connection.close, _NOT_ALLOWED)
        if old is not config.access:
            self._closing.append(asyncio.ensure_future(old.close()))
        logger.info("settings read again; clients that may stay no longer: %d", ended)
        if later:
            logger.warning("changed, but only after a restart: %s", ", ".join(later))
        if self._certificates is not None:
            self._certificates.reload()

    def _for_a_restart(self, config: RelayServerConfig) -> list[str]:
        """Names of the settings that are others than now and that `reload` does not change."""
        names = [
            item.name
            for item in fields(config)
            if item.name not in ("access", "limits")
            and getattr(config, item.name) != getattr(self.config, item.name)
        ]
        now, then = self._limits, config.limits
        for item in fields(then):
            if item.name not in ("bytes_per_second", "max_burst_bytes"):
                if getattr(now, item.name) != getattr(then, item.name):
                    names.append(f"limits.{item.name}")
        return names

    def reload_certificates(self) -> bool:
        """Read certificate and key again, for new connections; tells whether that worked."""
        return self._certificates is not None and self._certificates.reload()

    def _certificate_changed(self) -> bool:
        """Let address discovery use what the other listeners use already."""
        if self._qad is not None and self._certificates is not None:
            try:
                self._qad.replace_certificate(*self._certificates.pem())
            except (ConfigError, OSError) as err:
                logger.warning("certificate of QUIC not reloaded: %s", err)
                return False
        return True

    # --- connections

    def _handle_main(self, request: Request, protocol: HttpProtocol) -> Response | None:
        if request.method != "GET" or request.path != "/relay":
            return self._routes.main(request)
        upgrade = read_upgrade(request)
        if not isinstance(upgrade, Upgrade):
            return upgrade
        if protocol.has_early_data:
            protocol.abort()
        else:
            self._gate.begin(request, protocol, upgrade)
        return None
