"""A DNS server of endpoints, for any asyncio program.

    config = DnsServerConfig.dev()
    async with DnsServer(config) as server:
        print(server.pkarr_url, server.dns_addr)
        await server.wait_stopped()

Endpoints publish signed packets over HTTP, and everybody asks for them over DNS, DNS over HTTPS or
HTTP. Here are start and stop; what answers is in `app` and `answers`.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, Self

from .._check import kind_of
from ..aio.once import Once, see_through
from ..errors import BindError, IrohError, PacketStoreError
from ..web.certificates import Certificates
from ..web.exposition import Value, exposition, metrics_handler
from ..web.host import HttpHost, url_of
from ..web.limits import AdmissionLimits
from ..web.listen import ListenerSettings
from .answering import ANY_ORIGIN
from .answers import Answers
from .app import App
from .config import DnsServerConfig
from .doh import DohRoutes
from .metrics import FAMILIES
from .pkarr import PacketRoutes
from .rate import Clients, RateLimiter
from .service import DnsService
from .settings import Address
from .store import PacketStore

if TYPE_CHECKING:
    from .mainline import MainlineFallback

__all__ = ["DnsServer"]

logger = logging.getLogger("iroh_fast.dns_server")

MAX_BODY: Final = 4096
IDLE_S: Final = 30.0
FINISH_S: Final = 3.0  # for answers that are due when the server stops


class DnsServer:
    """A DNS server of endpoints: an asynchronous context manager, or `start` and `stop`.

    Parameters
    ----------
    config : DnsServerConfig, optional
        Default: `DnsServerConfig.dev`, free ports of 127.0.0.1 and packets in memory.
    store : PacketStore, optional
        Another one than the settings name. It is opened and closed here.

    Attributes
    ----------
    addresses : dict
        Bound addresses by name: ``"http"``, ``"https"``, ``"dns"`` and ``"metrics"``.
    certificate : bytes or None
        The certificate in PEM, when it is self-signed.

    Raises
    ------
    ConfigError
        From `start`: settings that cannot work.
    BindError
        From `start`: an address is taken.
    PacketStoreError
        From `start`: the store cannot be opened.
    """

    def __init__(
        self, config: DnsServerConfig | None = None, *, store: PacketStore | None = None
    ) -> None:
        if config is not None and not isinstance(config, DnsServerConfig):
            raise TypeError(f"config is a DnsServerConfig, not {kind_of(config)}")
        self.config = DnsServerConfig.dev() if config is None else config
        self.addresses: dict[str, Address] = {}
        self.certificate: bytes | None = None
        self._store = store
        self._certificates: Certificates | None = None
        self._answers: Answers | None = None
        self._fallback: MainlineFallback | None = None
        self._app: App | None = None
        self._dns: DnsService | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._stopped: Once | None = None
        self._hurry = False
        self._failure: BaseException | None = None

    # --- life

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Bind everything and begin to serve; nothing stays open when it fails."""
        if self._stopped is not None:
            raise RuntimeError("a DNS server starts once")
        self._stopped = Once()
        self._loop = asyncio.get_running_loop()
        self._host = HttpHost(AdmissionLimits(), logger, self._begin_stop)
        self.addresses = self._host.addresses
        try:
            await self._start_services()
        except BaseException:
            self._hurry = True
            await self.stop()
            raise

    async def _start_services(self) -> None:
        config = self.config
        if self._store is None:
            self._store = config.store.make(config.store_path)
        store = self._store
        store.on_failure = self._store_failed
        await store.open()
        self._fallback = await _mainline(config)
        self._answers = Answers(config.zones.records(), store, fallback=self._fallback)
        store.on_change = self._answers.invalidate
        if (source := config.certificates()) is not None:
            self._certificates = Certificates(source)
            self.certificate = self._certificates.self_signed
            if self._certificates.work is not None:
                self._host.run(self._certificates.work)
        self._app = self._make_app(store, self._answers)
        self._listen()
        self._dns = await self._start_dns(self._answers, config.dns_bind_addr)
        self.addresses["dns"] = self._dns.address
        logger.info("dns on %s port %d", *self._dns.address)

    async def _start_dns(self, answers: Answers, address: Address) -> DnsService:
        service = DnsService(answers, address, self.config.dns_limits)
        try:
            await service.start()
        except BindError as err:
            if not self.config.other_ports or not address[1] or err.errno != errno.EADDRINUSE:
                raise
            logger.warning("dns: port %d is in use, taking another one", address[1])
            return await self._start_dns(answers, (address[0], 0))
        return service

    def _make_app(self, store: PacketStore, answers: Answers) -> App:
        config = self.config
        limited = config.pkarr_put_rate_limit != "disabled"
        smart = config.pkarr_put_rate_limit == "smart"
        packets = PacketRoutes(
            store,
            limiter=RateLimiter(self._loop.time) if limited else None,
            clients=Clients(config.trusted_proxies if smart else ()),
            max_future=config.max_future,
        )
        acme = None if self._certificates is None else self._certificates.acme_answer
        return App(packets, DohRoutes(answers), on_request=self._host.prove, acme_answer=acme)

    def _listen(self) -> None:
        config, app = self.config, self._app
        assert app is not None
        elsewhere = config.other_ports
        if config.metrics_bind_addr is not None:
            handler = metrics_handler(exposition(FAMILIES, self.metrics))
            self._host.listen_metrics(config.metrics_bind_addr, handler, elsewhere=elsewhere)
        if config.http_bind_addr is not None:
            settings = _settings(app, config.http_backlog)
            self._host.listen("http", config.http_bind_addr, settings, elsewhere=elsewhere)
        if config.https is not None and self._certificates is not None:
            settings = _settings(app, config.https.backlog, self._certificates)
            self._host.listen("https", config.https.bind_addr, settings, elsewhere=elsewhere)

    async def stop(self) -> None:
        """Stop accepting, let answers out that are due, and close the store. May be called again.

        Notes
        -----
        Cancelling a task in here ends the connections at once; the CancelledError is raised when
        the server has stopped. What was accepted is kept in any case.
        """
        if self._stopped is None:
            return
        await see_through(self._begin_stop(), self._host.abort)

    def _begin_stop(self) -> asyncio.Task[None]:
        if self._stopping is None:
            self._stopping = self._loop.create_task(self._stop())
        return self._stopping

    async def _stop(self) -> None:
        assert self._stopped is not None
        host = self._host
        host.stop_accepting()
        try:
            if not self._hurry:
                await host.finish(FINISH_S)
            host.abort()
            await host.wait_closed()
            await _ended("HTTP", self._app)
            await _ended("DNS", self._dns)
            await _ended("answers", self._answers)
            await _ended("the DHT", self._fallback)
            await _ended("the store", self._store)
        finally:
            self._stopped.set()
            logger.info("stopped")

    async def wait_stopped(self) -> None:
        """Wait until the server has stopped; raises what stopped it, if that was an error."""
        await self._started()
        failure = self._failure or self._host.failure
        if failure is not None:
            raise failure

    def _started(self) -> Once:
        """Raise RuntimeError before the start."""
        if self._stopped is None:
            raise RuntimeError("this DNS server was not started: use async with, or start()")
        return self._stopped

    def _store_failed(self, error: PacketStoreError) -> None:
        """Nothing can be kept any more: somebody has to look, and others can take over."""
        logger.error("the store failed, stopping: %s", error)
        self._failure = error
        self._begin_stop()

    # --- what embedders use

    @property
    def http_url(self) -> str | None:
        """Where programs of this machine reach plain HTTP; None if it is off."""
        return self._url("http")

    @property
    def https_url(self) -> str | None:
        """Where clients reach HTTPS: by the first of its names; None if it is off."""
        return self._url("https")

    def _url(self, name: str) -> str | None:
        self._started()
        if name not in self.addresses:
            return None
        https = self.config.https
        known_as = https.domains[0] if name == "https" and https is not None else None
        return url_of(name, self.addresses[name], known_as)

    @property
    def pkarr_url(self) -> str:
        """What endpoints take as the URL of a pkarr relay: plain HTTP where there is that."""
        url = self.http_url or self.https_url
        assert url is not None
        return f"{url}pkarr"

    @property
    def dns_addr(self) -> Address:
        """Where DNS is answered, over UDP and TCP."""
        self._started()
        return self.addresses["dns"]

    @property
    def store(self) -> PacketStore:
        """Where packets are kept; RuntimeError before the start."""
        self._started()
        assert self._store is not None
        return self._store

    def metrics(self) -> dict[str, Value]:
        """All counters and gauges by name; RuntimeError before the start."""
        self._started()
        app, answers, store, dns = self._app, self._answers, self._store, self._dns
        host = self._host
        found: dict[str, Value] = {
            **asdict(host.counters),
            "http_handler_errors": host.turns.counters.handler_errors,
            "http_unread_timeouts": host.turns.counters.unread_timeouts,
            "tcp_connections": host.admission.total,
        }
        if app is not None:
            found |= app.values()
        if answers is not None:
            found |= answers.counters()
        if store is not None:
            found |= store.counters()
        if dns is not None:
            found |= dns.counters()
        return found

    def reload_certificates(self) -> bool:
        """Read certificate and key again, for new connections; tells whether that worked."""
        self._started()
        return self._certificates is not None and self._certificates.reload()


def _settings(app: App, backlog: int, certificates: Certificates | None = None) -> ListenerSettings:
    return ListenerSettings(
        handler=app.handle,
        context=None if certificates is None else certificates.context,
        choose=None if certificates is None else certificates.choose,
        life=float("inf"),
        idle_timeout=IDLE_S,
        max_body=MAX_BODY,
        backlog=backlog,
        extra=ANY_ORIGIN,
        main=True,
    )


async def _mainline(config: DnsServerConfig) -> MainlineFallback | None:
    """Who is asked for keys that are not stored."""
    if not config.mainline:
        return None
    from .mainline import MainlineFallback

    fallback = MainlineFallback(config.mainline_bootstrap or None)
    await fallback.start()
    return fallback


async def _ended(name: str, part: Any) -> None:
    """Close a part; what it raises does not hold up the rest."""
    if part is None:
        return
    try:
        await part.close()
    except IrohError as err:
        logger.error("closing %s failed: %s", name, err)
    except Exception:
        logger.exception("closing %s failed", name)
