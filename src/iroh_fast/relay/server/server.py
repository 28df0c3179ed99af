"""A relay server for any asyncio program.

    config = RelayServerConfig.dev(port=3340)
    async with RelayServer(config) as server:
        print(server.url)
        await server.wait_stopped()

Clients are served by compiled code (`iroh_fast.relay.server._forward`); here is what happens once per
connection: listeners, TLS, routes, authentication, access control, limits, start and stop.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Final, Protocol

from ... import __version__
from ...errors import BindError, ConfigError
from ...keys import EndpointId, PublicKey
from ...web import tls_files as _tls
from ...web.http import HEAD_TIMEOUT_S, HttpProtocol, Request, Response, query_pairs
from ..wire import (
    AUTH_HEADER,
    PROTOCOLS,
    Exporter,
    RelayHandshakeError,
    ServerHandshake,
    accept_value,
    choose_protocol,
)
from ._forward import Forwarder, RelayConnection, RelayProtocol
from .access import AccessRequest, Decision
from .config import HTTPS_PORT, METRICS_PORT, QUIC_PORT, Address, RelayServerConfig, RelayTlsConfig
from .metrics import HttpCounters, UniqueKeys, exposition
from .routes import SECURITY_HEADERS, auth_token, challenge_response

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from ...web.acme import AcmeCertificate

__all__ = ["QadFactory", "QadService", "RelayServer", "Route"]

logger = logging.getLogger("iroh_fast.relay")

TLS_TIMEOUT_S: Final = 10.0
HTTP_LIFE_S: Final = 30.0
CLOSE_WAIT_S: Final = 3.0
RELOAD_CHECK_S: Final = 10.0
RELOAD_ALWAYS_S: Final = 24 * 3600.0
BACKLOG: Final = 1024

_GOING_AWAY: Final = 1001  # RFC 6455 §7.4.1

_PAGE: Final = b"""<!DOCTYPE html>
<html><head><meta charset="utf-8"><title>iroh relay</title></head>
<body><h1>iroh relay</h1>
<p>This is a relay server for <a href="https://iroh.computer/">iroh.computer</a> endpoints,
run by iroh_fast.</p></body></html>
"""

Route = Callable[[Request], Response]
"""Answers a plain GET request of the main listener."""


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
        self.config = RelayServerConfig.dev() if config is None else config
        self.addresses: dict[str, Address] = {}
        self.certificate: bytes | None = None
        self._routes = dict(routes or {})
        self._exporter = exporter
        self._qad_factory = _builtin_qad if qad is None else qad
        self._qad: QadService | None = None
        self._limits = self.config.limits
        self._counters = HttpCounters()
        self._unique = UniqueKeys()
        self._tasks: list[asyncio.Task[None]] = []
        self._establishing: set[asyncio.Task[None]] = set()
        self._http: set[HttpProtocol] = set()
        self._pending: set[RelayConnection] = set()
        self._per_ip: dict[str, int] = {}
        self._unauthenticated = 0
        self._sockets: list[socket.socket] = []
        self._files: _tls.CertificateFiles | None = None
        self._acme: AcmeCertificate | None = None
        self._own_key = b""
        self._plain = True
        self._accept_fill = 0.0
        self._accept_at = 0.0
        self._stopping = False
        self._stopped: asyncio.Event | None = None
        self._failure: BaseException | None = None

    # --- life

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Bind everything and begin to serve; nothing stays open when it fails."""
        if self._stopped is not None:
            raise RuntimeError("a relay server starts once")
        self._stopped = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        config, limits = self.config, self._limits
        burst, refill = limits.client_bucket()
        if not (config.enable_relay or config.enable_quic_addr_discovery or config.enable_metrics):
            raise ConfigError("nothing to serve: relay, metrics and address discovery are all off")
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
            metrics = config.metrics_bind_addr or (host, METRICS_PORT)
            text = exposition(self.metrics)
            headers = (("content-type", "text/plain; charset=utf-8"),)
            self._listen("metrics", metrics, lambda _r, _p: Response(200, text(), headers))
            if not self._is_loopback(metrics[0]):
                logger.warning("relay: metrics are open to everyone who reaches %s", metrics)
        context = self._tls_context()
        if tls is not None and tls.http_only:
            context = None
        self._plain = context is None
        if config.enable_relay:
            if context is None:
                self._listen("http", config.http_bind_addr, self._handle_main)
            else:
                assert tls is not None
                self._listen("http", config.http_bind_addr, self._handle_captive_portal)
                https = tls.https_bind_addr or (host, HTTPS_PORT)
                self._listen("https", https, self._handle_main, context)
        elif self._acme is not None:
            self._listen("http", config.http_bind_addr, self._handle_captive_portal)
        if config.enable_quic_addr_discovery:
            await self._start_qad()

    async def _start_qad(self) -> None:
        tls = self.config.tls
        if tls is None:
            raise ConfigError("QUIC address discovery needs TLS settings")
        host = (tls.https_bind_addr or self.config.http_bind_addr)[0]
        self._qad = await self._qad_factory(
            tls.quic_bind_addr or (host, QUIC_PORT), *self._certificate_pem()
        )
        self.addresses["quic"] = self._qad.address

    def _certificate_pem(self) -> tuple[bytes, bytes]:
        if self._files is not None:
            if self._acme is not None and not self._acme.ready:
                # QUIC listens from the start; clients do not trust this and come back.
                return _tls.self_signed(self.config.tls.hostname if self.config.tls else ())
            return self._files.cert.read_bytes(), self._files.key.read_bytes()
        assert self.certificate is not None
        return self.certificate, self._own_key

    def _tls_context(self) -> ssl.SSLContext | None:
        tls = self.config.tls
        if tls is None:
            return None
        if tls.cert_mode == "LetsEncrypt":
            return self._acme_context(tls)
        if tls.cert_mode == "SelfSigned":
            names = tls.hostname or ("localhost", "127.0.0.1", "::1")
            context, self.certificate, self._own_key = _tls.self_signed_context(names)
            return context
        context = _tls.server_context()
        self._files = _tls.CertificateFiles(context, tls.certificate, tls.private_key)
        self._files.load()
        if tls.cert_mode == "Reloading":
            files = self._files
            self._run(lambda: self._watch_certificate(files))
        return context

    def _acme_context(self, tls: RelayTlsConfig) -> ssl.SSLContext:
        from ...web.acme import AcmeCertificate

        if tls.http_only:
            raise ConfigError("Let's Encrypt cannot be used while TLS is off")
        context = _tls.server_context()
        self._acme = AcmeCertificate(context, tls.acme(), on_change=self._certificate_changed)
        self._files = self._acme.files
        self._acme.load_cached()
        self._run(self._acme.run)
        return context

    async def stop(self) -> None:
        """Stop accepting, end every connection and wait for that. May be called again.

        With a drain time in the settings the ends are spread over it.
        """
        if self._stopped is None or self._stopping:
            if self._stopped is not None:
                await self._stopped.wait()
            return
        self._stopping = True
        current = asyncio.current_task()
        for task in self._tasks:
            if task is not current:
                task.cancel()
        for sock in self._sockets:
            sock.close()
        try:
            await self._end_connections()
        finally:
            for establishing in list(self._establishing):
                establishing.cancel()
            await asyncio.gather(*self._establishing, return_exceptions=True)
            await asyncio.gather(
                *(t for t in self._tasks if t is not current), return_exceptions=True
            )
            if hasattr(self, "forwarder"):
                self.forwarder.stop()
            if self._qad is not None:
                await self._qad.close()
            await self.config.access.close()
            self._stopped.set()

    async def _end_connections(self) -> None:
        if not hasattr(self, "forwarder"):
            return
        for protocol in list(self._http):
            protocol.abort()
        pending = list(self._pending)
        for connection in pending:
            connection.close(_GOING_AWAY)
        connections = self.forwarder.connections
        begin = self._loop.time()
        for index, connection in enumerate(connections):
            if self.config.drain > 0:
                due = begin + self.config.drain * index / len(connections)
                if due > self._loop.time():
                    await asyncio.sleep(due - self._loop.time())
            connection.close(_GOING_AWAY)
        # Let in while the others were closing: none, since nothing is pending any more.
        deadline = self._loop.time() + min(CLOSE_WAIT_S, self._limits.write_timeout + 0.5)
        waiting = [c for c in (*connections, *pending) if c.transport is not None]
        while waiting and self._loop.time() < deadline:
            await asyncio.sleep(0.01)
            waiting = [c for c in waiting if c.transport is not None]
        for connection in waiting:
            connection.abort()
        if waiting or self._http:
            await asyncio.sleep(0)

    async def wait_stopped(self) -> None:
        """Wait until the server has stopped; raises what stopped it, if that was an error."""
        assert self._stopped is not None, "not started"
        await self._stopped.wait()
        if self._failure is not None:
            raise self._failure

    def _run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run a part without which the server cannot go on."""

        async def guarded() -> None:
            try:
                await work()
            except asyncio.CancelledError:
                raise
            except BaseException as err:
                logger.exception("relay: a service failed, stopping")
                self._failure = err
                await self.stop()

        self._tasks.append(asyncio.ensure_future(guarded()))

    # --- what embedders use

    @property
    def url(self) -> str:
        name = "https" if "https" in self.addresses else "http"
        host, port = self.addresses[name]
        tls = self.config.tls
        if name == "https" and tls is not None and tls.hostname:
            host = tls.hostname[0]
        elif host in ("::", "0.0.0.0"):
            host = "127.0.0.1" if name == "http" else "localhost"
        if ":" in host:
            host = f"[{host}]"
        return f"{name}://{host}:{port}/"

    def metrics(self) -> dict[str, int]:
        """All counters and gauges by name."""
        return {
            **self.forwarder.counters_snapshot(),
            **self._counters.snapshot(),
            **(self._qad.counters() if self._qad is not None else {}),
            "unique_client_keys": self._unique.count,
            "unauthenticated": self._unauthenticated,
        }

    def disconnect(self, endpoint_id: EndpointId, connection_id: int | None = None) -> bool:
        """End all connections of an endpoint, or one of them; tells whether there was any.

        They end shortly after this returns.
        """
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
        from dataclasses import replace

        limits = replace(
            self._limits, bytes_per_second=bytes_per_second, max_burst_bytes=max_burst_bytes
        )
        try:
            burst, refill = limits.client_bucket()
        except ConfigError as err:
            logger.warning("relay: rate limit not changed: %s", err)
            return False
        self._limits = limits
        self.forwarder.set_client_rate(burst, refill)
        return True

    def reload_certificates(self) -> bool:
        """Read certificate and key again, for new connections; tells whether that worked."""
        return self._files is not None and self._reload(self._files)

    def _reload(self, files: _tls.CertificateFiles) -> bool:
        return files.reload() and self._certificate_changed()

    def _certificate_changed(self) -> bool:
        """Let address discovery use what the other listeners use already."""
        if self._qad is not None:
            try:
                self._qad.replace_certificate(*self._certificate_pem())
            except (ConfigError, OSError) as err:
                logger.warning("relay: certificate of QUIC not reloaded: %s", err)
                return False
        return True

    async def _watch_certificate(self, files: _tls.CertificateFiles) -> None:
        last = self._loop.time()
        while True:
            await asyncio.sleep(RELOAD_CHECK_S)
            if files.changed() or self._loop.time() - last >= RELOAD_ALWAYS_S:
                last = self._loop.time()
                self._reload(files)

    # --- listeners

    @staticmethod
    def _is_loopback(host: str) -> bool:
        return host == "::1" or host == "localhost" or host.startswith("127.")

    def _listen(
        self,
        name: str,
        address: Address,
        handler: Callable[[Request, HttpProtocol], Response | None],
        context: ssl.SSLContext | None = None,
    ) -> None:
        host, port = address
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError as err:
            if host != "::" or err.errno != errno.EAFNOSUPPORT:
                raise BindError(f"cannot open a socket for {name}: {err}", errno=err.errno) from err
            # no IPv6 on this machine
            host, family = "0.0.0.0", socket.AF_INET
            sock = socket.socket(family, socket.SOCK_STREAM)
        self._sockets.append(sock)
        try:
            sock.setblocking(False)
            if sys.platform != "win32":  # there it would let two servers share a port
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                # "::" means every address of this machine, IPv4 included.
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
            sock.bind((host, port))
            sock.listen(BACKLOG)
        except OSError as err:
            raise BindError(
                f"cannot bind {name} to {host} port {port}: {err.strerror}",
                errno=err.errno,
                address=f"{host}:{port}",
            ) from err
        bound = sock.getsockname()
        self.addresses[name] = (bound[0], bound[1])
        main = handler == self._handle_main
        self._run(lambda: self._accept(sock, handler, context, main=main))

    async def _accept(
        self,
        listener: socket.socket,
        handler: Callable[[Request, HttpProtocol], Response | None],
        context: ssl.SSLContext | None,
        *,
        main: bool,
    ) -> None:
        while True:
            try:
                sock, peer = await self._loop.sock_accept(listener)
            except OSError as err:
                if err.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    logger.warning("relay: cannot accept: %s", err.strerror)
                    await asyncio.sleep(0.1)
                    continue
                if err.errno in (errno.ECONNABORTED, errno.EPROTO, errno.EPERM):
                    continue
                raise
            ip = peer[0]
            if not self._may_enter(ip):
                self._counters.connections_refused += 1
                sock.close()
                continue
            self._enter(ip)
            task = asyncio.ensure_future(self._establish(sock, ip, handler, context, main))
            self._establishing.add(task)
            task.add_done_callback(self._establishing.discard)

    def _may_enter(self, ip: str) -> bool:
        limits = self._limits
        if (
            self._unauthenticated >= limits.unauthenticated
            or self._per_ip.get(ip, 0) >= limits.unauthenticated_per_ip
        ):
            return False
        if limits.accept_rate is None:
            return True
        burst = limits.accept_burst or max(1.0, limits.accept_rate)
        now = self._loop.time()
        self._accept_fill = (
            min(burst, self._accept_fill + (now - self._accept_at) * limits.accept_rate)
            if self._accept_at
            else burst
        )
        self._accept_at = now
        if self._accept_fill < 1:
            return False
        self._accept_fill -= 1
        return True

    def _enter(self, ip: str) -> None:
        self._unauthenticated += 1
        self._per_ip[ip] = self._per_ip.get(ip, 0) + 1

    def _leave(self, ip: str) -> None:
        self._unauthenticated -= 1
        left = self._per_ip[ip] - 1
        if left:
            self._per_ip[ip] = left
        else:
            del self._per_ip[ip]

    async def _establish(
        self,
        sock: socket.socket,
        ip: str,
        handler: Callable[[Request, HttpProtocol], Response | None],
        context: ssl.SSLContext | None,
        main: bool,
    ) -> None:
        """Put a protocol on an accepted socket; with TLS after its handshake."""
        loop = self._loop
        life = min(HTTP_LIFE_S, self._limits.establish_timeout)
        protocol = HttpProtocol(
            loop,
            handler,
            deadline=loop.time() + life,
            head_timeout=min(life, HEAD_TIMEOUT_S + (TLS_TIMEOUT_S if context else 0)),
            on_end=self._http_ended,
            peer=ip,
            extra=SECURITY_HEADERS if main else (),
            main=main,
        )
        self._http.add(protocol)
        if main:
            self._counters.http_connections += 1
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if context is None:
                protocol.plain_socket = sock
                await loop.connect_accepted_socket(lambda: protocol, sock)
            else:
                await loop.connect_accepted_socket(
                    lambda: protocol,
                    sock,
                    ssl=context,
                    ssl_handshake_timeout=min(TLS_TIMEOUT_S, life),
                    ssl_shutdown_timeout=2.0,
                )
        except (OSError, ssl.SSLError, TimeoutError) as err:
            logger.debug("relay: connection from %s not established: %s", ip, err)
            protocol.abort()
            sock.close()
        except BaseException:
            protocol.abort()
            sock.close()
            raise

    def _http_ended(self, protocol: HttpProtocol, well: bool) -> None:
        self._http.discard(protocol)
        if protocol.main:
            if well:
                self._counters.http_connections_closed += 1
            else:
                self._counters.http_connections_errored += 1
        if not protocol.upgraded:
            self._leave(protocol.peer)

    # --- routes

    def _handle_captive_portal(self, request: Request, protocol: HttpProtocol) -> Response:
        if request.method == "GET" and request.path == "/generate_204":
            return self._generate_204(request, ())
        if request.method == "GET" and self._acme is not None:
            if (content := self._acme.answer(request.path)) is not None:
                return Response(200, content, (("content-type", "application/octet-stream"),))
        return Response(404, b"Not Found")

    @staticmethod
    def _generate_204(request: Request, extra: tuple[tuple[str, str], ...]) -> Response:
        answer = challenge_response(request.get("x-iroh-challenge"))
        headers = () if answer is None else (("x-iroh-response", answer),)
        return Response(204, b"", (*headers, *extra))

    def _handle_main(self, request: Request, protocol: HttpProtocol) -> Response | None:
        path = request.path if request.method == "GET" else ""
        extra = SECURITY_HEADERS
        if path == "/relay":
            return self._upgrade(request, protocol)
        if path == "/ping":
            return Response(200, b"", (("access-control-allow-origin", "*"), *extra))
        if path == "/healthz":
            body = f'{{"status":"ok","version":"{__version__}","git_hash":"unknown"}}'
            return Response(200, body.encode(), (("content-type", "application/json"), *extra))
        if path in ("/", "/index.html"):
            return Response(200, _PAGE, (("content-type", "text/html; charset=utf-8"), *extra))
        if path == "/robots.txt":
            return Response(200, b"User-agent: *\nDisallow: /\n", extra)
        if path == "/generate_204" and self._plain:
            return self._generate_204(request, extra)
        if path in self._routes:
            response = self._routes[path](request)
            return Response(response.status, response.body, (*response.headers, *extra))
        return Response(404, b"Not Found", extra)

    def _upgrade(self, request: Request, protocol: HttpProtocol) -> Response | None:
        """Check the head of a WebSocket request (RFC 6455 §4.2.1) and make it a relay connection."""

        def refuse(text: str, *headers: tuple[str, str]) -> Response:
            return Response(400, text.encode(), (*headers, *SECURITY_HEADERS))

        upgrade = request.get("upgrade")
        if upgrade is None:
            return refuse("missing header: upgrade")
        if upgrade.lower() != b"websocket":
            return refuse("invalid header value for upgrade: value must be websocket")
        key = request.get("sec-websocket-key")
        if key is None:
            return refuse("missing header: sec-websocket-key")
        version = request.get("sec-websocket-version")
        if version is None:
            return refuse("missing header: sec-websocket-version", ("sec-websocket-version", "13"))
        if version != b"13":
            return refuse(
                "invalid header value for sec-websocket-version: unsupported websocket version, "
                "only supporting 13",
                ("sec-websocket-version", "13"),
            )
        offered = request.get("sec-websocket-protocol")
        if offered is None:
            return refuse("missing header: sec-websocket-protocol")
        if not all(0x20 <= byte < 0x7F or byte == 0x09 for byte in offered):
            return refuse("invalid header value for sec-websocket-protocol: not ASCII")
        chosen = choose_protocol(offered.decode("ascii"))
        if chosen is None:
            known = ", ".join(PROTOCOLS)
            return refuse(
                "invalid header value for sec-websocket-protocol: unsupported relay version: "
                f"we support {known} but you only provide {offered.decode('ascii')}"
            )
        if protocol.has_early_data:
            protocol.abort()
            return None
        self._begin(request, protocol, key, *chosen)
        return None

    # --- authentication

    def _begin(
        self, request: Request, protocol: HttpProtocol, key: bytes, name: str, version: int
    ) -> None:
        header = request.get(AUTH_HEADER)
        exporter = None
        if header is not None and self._exporter is not None:
            exporter = self._exporter(protocol.transport)
        handshake = ServerHandshake(
            header=None if header is None else header.decode("latin-1"), exporter=exporter
        )
        connection = RelayProtocol(self.forwarder, version, self)
        timer = self._loop.call_at(
            protocol.accepted_at + self._limits.establish_timeout, self._too_slow, connection
        )
        connection.context = pending = _Pending(request, handshake, protocol.peer, timer)
        self._pending.add(connection)
        headers = (
            ("upgrade", "websocket"),
            ("connection", "upgrade"),
            ("sec-websocket-accept", accept_value(key)),
            ("sec-websocket-protocol", name),
            *SECURITY_HEADERS,
        )
        transport = protocol.transport
        protocol.upgrade(Response(101, b"", headers), connection)
        connection.attach(transport, protocol.plain_socket)
        try:
            challenge = handshake.start()
        except RelayHandshakeError as err:
            logger.debug("relay: %s: %s", pending.ip, err)
            connection.drop()
            return
        if challenge is not None:
            connection.send_handshake(challenge)
        else:
            self._authorize(connection, pending)

    def _too_slow(self, connection: RelayConnection) -> None:
        self._counters.establish_timeouts += 1
        connection.abort()

    def handshake_message(self, connection: RelayConnection, payload: bytes) -> None:
        """Called by a connection for each message before it is let in."""
        pending: _Pending = connection.context
        try:
            reply = pending.handshake.feed(payload)
        except RelayHandshakeError as err:
            logger.debug("relay: %s: %s", pending.ip, err)
            connection.drop()
            return
        if reply is not None:
            connection.send_handshake(reply)
            connection.drop()
            return
        self._authorize(connection, pending)

    def _authorize(self, connection: RelayConnection, pending: _Pending) -> None:
        endpoint_id = pending.handshake.endpoint_id
        assert endpoint_id is not None
        request = pending.request
        asked = AccessRequest(
            endpoint_id=endpoint_id,
            connection_id=self.forwarder.take_id(),
            protocol_version=connection.version,
            uri=request.target,
            query=tuple(query_pairs(request)),
            headers=tuple(request.headers),
            auth_token=auth_token(request),
        )
        try:
            answer = self.config.access.on_connect(asked)
        except Exception:
            logger.exception("relay: access control failed")
            answer = Decision(False)
        if isinstance(answer, Decision):
            self._decided(connection, pending, asked, answer)
            return
        connection.pause()
        pending.decision = asyncio.ensure_future(self._wait(connection, pending, asked, answer))
        self._establishing.add(pending.decision)
        pending.decision.add_done_callback(self._establishing.discard)

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
            logger.exception("relay: access control failed")
            decision = Decision(False)
        self._decided(connection, pending, asked, decision)

    def _decided(
        self,
        connection: RelayConnection,
        pending: _Pending,
        asked: AccessRequest,
        decision: Decision,
    ) -> None:
        if not decision.allowed:
            self._counters.access_denied += 1
            if connection.is_waiting:
                logger.debug("relay: %s denied: %s", asked.endpoint_id.fmt_short(), decision.reason)
                connection.send_handshake(ServerHandshake.deny(decision.reason))
                connection.drop()
            return
        if not connection.is_waiting:
            # It went away while access control was thinking, which now believes it is here.
            self._tell_disconnect(asked.endpoint_id, asked.connection_id)
            return
        pending.timer.cancel()
        self._pending.discard(connection)
        self._leave(pending.ip)
        self._unique.add(bytes(asked.endpoint_id))
        connection.send_handshake(ServerHandshake.confirm())
        logger.debug("relay: %s connected", asked.endpoint_id.fmt_short())
        connection.admit(bytes(asked.endpoint_id), asked.connection_id)

    def connection_closed(self, connection: RelayConnection) -> None:
        """Called by a connection once, when it ends."""
        if connection.connection_id is not None:
            assert connection.endpoint_id is not None
            endpoint_id = PublicKey(connection.endpoint_id)
            logger.debug("relay: %s disconnected", endpoint_id.fmt_short())
            self._tell_disconnect(endpoint_id, connection.connection_id)
            return
        pending: _Pending = connection.context
        pending.timer.cancel()
        self._pending.discard(connection)
        self._leave(pending.ip)
        if pending.decision is not None and not pending.decision.done():
            # The decision is still wanted: who was let in has to be let out.
            logger.debug("relay: %s left while access was being decided", pending.ip)

    def _tell_disconnect(self, endpoint_id: EndpointId, connection_id: int) -> None:
        try:
            self.config.access.on_disconnect(endpoint_id, connection_id)
        except Exception:
            logger.exception("relay: on_disconnect of access control failed")
