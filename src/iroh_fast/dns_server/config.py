"""Settings of a DNS server: plain data, and the TOML file that iroh-dns-server reads too."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from .._check import (
    check_address,
    check_choice,
    check_flag,
    check_integer,
    check_path,
    check_seconds,
    check_texts,
    shown,
)
from ..errors import ConfigError
from ..web.certificates import CertificateSource
from .rate import Clients, RateLimit
from .service import DnsLimits
from .settings import (
    BACKLOG,
    Address,
    HttpsSettings,
    StoreSettings,
    ZoneSettings,
)

__all__ = ["DnsServerConfig"]

logger = logging.getLogger("iroh_fast.dns_server")

HTTP_PORT: Final = 8080
DNS_PORT: Final = 5300
METRICS_PORT: Final = 9117
STORE_NAME: Final = "signed-packets-1.sqlite"
MAX_FUTURE_S: Final = 3600.0

# A proxy on the same machine or network: nobody on the internet has these.
PROXIES: Final = (
    *("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"),
    *("::1/128", "fc00::/7", "fe80::/10"),
)

_RATE_LIMITS: Final = ("disabled", "simple", "smart")


@dataclass(frozen=True, slots=True)
class DnsServerConfig:
    """All settings of a DNS server; the defaults are those without a file.

    ConfigError names a value of a wrong type or range.  Addresses to listen on are IP addresses
    or ``"localhost"``; ``"::"`` takes IPv4 too, and port 0 is any free one.

    Parameters
    ----------
    http_bind_addr : tuple of (str, int), optional
        Of plain HTTP; None: off.
    http_backlog : int
        Connections that wait to be accepted.
    https : HttpsSettings, optional
        None: off.
    dns_bind_addr : tuple of (str, int)
        Of DNS over UDP and TCP.
    dns_limits : DnsLimits
        What clients of DNS may use.
    zones : ZoneSettings
    metrics_bind_addr : tuple of (str, int), optional
        None: off.
    pkarr_put_rate_limit : str
        ``"disabled"``; ``"simple"``: 2 publishes at once and one per 4 s for each address that
        connects; ``"smart"``: for each address that a trusted proxy tells.
    trusted_proxies : tuple of str
        Addresses and networks whose ``X-Forwarded-For``, ``X-Real-IP`` and ``Forwarded`` count.
    max_future : float
        Seconds that the timestamp of a packet may be ahead of this machine's clock.
    data_dir : Path, optional
        Default: ``$IROH_DNS_DATA_DIR``, else ``iroh-dns`` in the user's folder of data.
    store : StoreSettings
    mainline : bool
        Ask the BitTorrent DHT for keys that are not stored; needs the extra ``dht``.
    mainline_bootstrap : tuple of str
        Nodes as ``host:port``; none: the usual ones.
    other_ports : bool
        Take a free port where the one of a listener is in use.
    """

    http_bind_addr: Address | None = ("::", HTTP_PORT)
    http_backlog: int = BACKLOG
    https: HttpsSettings | None = field(default_factory=HttpsSettings)
    dns_bind_addr: Address = ("::", DNS_PORT)
    dns_limits: DnsLimits = field(default_factory=DnsLimits)
    zones: ZoneSettings = field(
        default_factory=lambda: ZoneSettings(rr_a="127.0.0.1", rr_ns="ns1.irohdns.example.")
    )
    metrics_bind_addr: Address | None = ("127.0.0.1", METRICS_PORT)
    pkarr_put_rate_limit: RateLimit = "simple"
    trusted_proxies: tuple[str, ...] = PROXIES
    max_future: float = MAX_FUTURE_S
    data_dir: Path | None = None
    store: StoreSettings = field(default_factory=StoreSettings)
    mainline: bool = False
    mainline_bootstrap: tuple[str, ...] = ()
    other_ports: bool = False

    def __post_init__(self) -> None:
        put = object.__setattr__
        for name in ("http_bind_addr", "metrics_bind_addr", "dns_bind_addr"):
            none = name != "dns_bind_addr"
            put(self, name, check_address(name, getattr(self, name), none=none))
        check_integer("http_backlog", self.http_backlog, 1, 2**31 - 1)
        check_choice("pkarr_put_rate_limit", self.pkarr_put_rate_limit, _RATE_LIMITS)
        proxies = check_texts("trusted_proxies", self.trusted_proxies, "addresses and networks")
        put(self, "trusted_proxies", proxies)
        Clients(proxies)
        put(self, "max_future", check_seconds("max_future", self.max_future, zero=True))
        put(self, "data_dir", check_path("data_dir", self.data_dir, none=True))
        for name in ("mainline", "other_ports"):
            check_flag(name, getattr(self, name))
        nodes = check_texts("mainline_bootstrap", self.mainline_bootstrap, "host:port")
        put(self, "mainline_bootstrap", nodes)
        for node in nodes:
            _check_node(node)
        for name, kind in (
            ("zones", ZoneSettings),
            ("store", StoreSettings),
            ("dns_limits", DnsLimits),
        ):
            if not isinstance(value := getattr(self, name), kind):
                raise ConfigError(f"{name} is an object of {kind.__name__}, not {shown(value)}")
        if self.https is not None and not isinstance(self.https, HttpsSettings):
            raise ConfigError(f"https is an HttpsSettings or None, not {shown(self.https)}")
        if self.http_bind_addr is None and self.https is None:
            raise ConfigError("neither http nor https is there: nothing could be published")

    @property
    def folder(self) -> Path:
        """Where the server keeps what it keeps."""
        if self.data_dir is not None:
            return self.data_dir
        return Path(os.environ.get("IROH_DNS_DATA_DIR") or _data_folder() / "iroh-dns")

    @property
    def cert_dir(self) -> Path:
        """Where certificates are."""
        return self.folder / "cert_cache"

    def certificates(self) -> CertificateSource | None:
        """Where the certificate comes from; None without HTTPS."""
        if self.https is None:
            return None
        # An ACME server asks on port 80 or on 443.
        has_80 = self.http_bind_addr is not None and self.http_bind_addr[1] == 80
        return self.https.source(self.cert_dir, in_tls=not has_80)

    @property
    def store_path(self) -> Path | None:
        """The file of packets, if they are in one."""
        settings = self.store
        if settings.in_memory or settings.postgres is not None:
            return None
        return self.folder / STORE_NAME

    @classmethod
    def dev(
        cls, *, host: str = "127.0.0.1", http_port: int = 0, dns_port: int = 0, **changes: Any
    ) -> DnsServerConfig:
        """Settings to try things out: plain HTTP and DNS on one address, packets in memory.

        Without metrics and rate limit; ports are free ones unless they are named.
        """
        settings: dict[str, Any] = {
            "http_bind_addr": (host, http_port),
            "https": None,
            "dns_bind_addr": (host, dns_port),
            "metrics_bind_addr": None,
            "pkarr_put_rate_limit": "disabled",
            "store": StoreSettings(in_memory=True),
        }
        return cls(**settings | changes)

    @classmethod
    def from_toml(
        cls,
        text: str,
        *,
        env: Mapping[str, str] | None = None,
        on_unknown: Callable[[str], object] = lambda message: logger.warning("%s", message),
    ) -> DnsServerConfig:
        """Read the file format of iroh-dns-server.

        Parameters
        ----------
        text : str
            TOML.
        env : mapping, optional
            Environment, for ``IROH_DNS_POSTGRES``, ``IROH_DNS_ACME_URL`` and
            ``IROH_DNS_ACME_CA``.
        on_unknown : callable
            Told of each key that there is not. Default: a warning in the log.

        Raises
        ------
        ConfigError
            Not TOML, a value of a wrong type or range, or settings that do not go together; the
            text names the key.
        """
        # Late: a program that needs no file need not load what checks one.
        from .config_file import parse_file, settings_of

        file = parse_file(text, on_unknown)
        return cls(**settings_of(file, os.environ if env is None else env))

    def with_changes(self, **changes: Any) -> DnsServerConfig:
        """A copy with some settings changed."""
        return replace(self, **changes)


def _data_folder() -> Path:
    """The user's folder of data, as the system has it."""
    home = Path.home()
    if sys.platform == "darwin":
        return home / "Library" / "Application Support"
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA") or home / "AppData" / "Roaming")
    return Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")


def _check_node(node: str) -> None:
    host, colon, port = node.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port[:6]) <= 65535:
        raise ConfigError(f"mainline.bootstrap: {node[:80]!r} is not host:port")
