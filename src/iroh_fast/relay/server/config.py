"""Settings of a relay server: plain data, and the TOML file that iroh's relay reads too."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from ..._check import (
    check_address,
    check_choice,
    check_flag,
    check_integer,
    check_items,
    check_path,
    check_seconds,
    check_text,
    shown,
)
from ...errors import ConfigError
from ...web.acme_config import LETS_ENCRYPT, LETS_ENCRYPT_STAGING, AcmeConfig
from ...web.certificates import CertificateSource
from ...web.limits import AdmissionLimits
from ..map import DEFAULT_QUIC_PORT
from .access import AccessControl, Everyone

if TYPE_CHECKING:
    from .config_file import LimitsTable, TlsTable

__all__ = ["Address", "CertMode", "RelayLimits", "RelayServerConfig", "RelayTlsConfig"]

Address: TypeAlias = tuple[str, int]
CertMode = Literal["Manual", "Reloading", "LetsEncrypt", "SelfSigned"]

HTTP_PORT: Final = 80
HTTPS_PORT: Final = 443
QUIC_PORT: Final = DEFAULT_QUIC_PORT
METRICS_PORT: Final = 9090
DEV_PORT: Final = 3340

_MODES: Final = ("Manual", "Reloading", "LetsEncrypt", "SelfSigned")
_COUNT: Final = 2**31 - 1  # what the compiled parts count in
_RATE: Final = 2**53  # of bytes per second; beyond every network


@dataclass(frozen=True, slots=True)
class RelayTlsConfig:
    """TLS of the main listener.

    Parameters
    ----------
    cert_mode : str
        ``"Manual"``: PEM files read at start and on `RelayServer.reload_certificates`;
        ``"Reloading"``: also when they change, and every day; ``"SelfSigned"``: a new certificate
        at every start, for tests; ``"LetsEncrypt"``: fetched and renewed by ACME, needs the extra
        ``acme``.
    https_bind_addr : tuple of (str, int), optional
        Default: the address of plain HTTP with port 443.
    quic_bind_addr : tuple of (str, int), optional
        UDP address of QUIC address discovery. Default: the HTTPS address with port 7842.
    cert_path, key_path : Path, optional
        Default: ``default.crt`` and ``default.key`` in `cert_dir`.
    hostname : tuple of str
        Names the server is known by.
    contact : str, optional
        Mail address for Let's Encrypt, which requires it.
    prod_tls : bool
        False: the staging server of Let's Encrypt, whose certificates nobody trusts.
    acme_url : str, optional
        Directory of another ACME server.
    acme_ca : Path, optional
        PEM file of roots that are trusted at the ACME server besides the usual ones.
    http_only : bool
        The main listener stays plain HTTP; only QUIC address discovery uses the certificate.
    """

    cert_mode: CertMode = "Manual"
    https_bind_addr: Address | None = None
    quic_bind_addr: Address | None = None
    cert_dir: Path = Path(".")
    cert_path: Path | None = None
    key_path: Path | None = None
    hostname: tuple[str, ...] = ()
    contact: str | None = None
    prod_tls: bool = True
    acme_url: str | None = None
    acme_ca: Path | None = None
    http_only: bool = False

    def __post_init__(self) -> None:
        put = object.__setattr__
        check_choice("tls.cert_mode", self.cert_mode, _MODES)
        for name in ("https_bind_addr", "quic_bind_addr"):
            put(self, name, check_address(f"tls.{name}", getattr(self, name), none=True))
        for name in ("cert_dir", "cert_path", "key_path", "acme_ca"):
            value = check_path(f"tls.{name}", getattr(self, name), none=name != "cert_dir")
            put(self, name, value)
        names = check_items("tls.hostname", self.hostname, "host names")
        put(self, "hostname", tuple(check_text("a name of tls.hostname", one) for one in names))
        for name in ("contact", "acme_url"):
            check_text(f"tls.{name}", getattr(self, name), none=True)
        for name in ("prod_tls", "http_only"):
            check_flag(f"tls.{name}", getattr(self, name))

    def acme(self) -> AcmeConfig:
        """What the client of the ACME server needs; ConfigError without names or contact."""
        if not self.hostname or not self.contact:
            raise ConfigError("Let's Encrypt needs tls.hostname and tls.contact")
        return AcmeConfig(
            hostnames=self.hostname,
            contact=self.contact,
            cert_dir=self.cert_dir,
            directory=self.acme_url or (LETS_ENCRYPT if self.prod_tls else LETS_ENCRYPT_STAGING),
            roots=self.acme_ca,
        )

    def source(self) -> CertificateSource:
        """Where the certificate comes from; ConfigError where that cannot work."""
        if self.cert_mode == "LetsEncrypt":
            if self.http_only:
                raise ConfigError("Let's Encrypt cannot be used while TLS is off")
            return CertificateSource(names=self.hostname, acme=self.acme())
        if self.cert_mode == "SelfSigned":
            return CertificateSource(names=self.hostname)
        return CertificateSource(
            files=(self.certificate, self.private_key), watch=self.cert_mode == "Reloading"
        )

    @property
    def certificate(self) -> Path:
        """File of the certificate chain."""
        return self.cert_path or self.cert_dir / "default.crt"

    @property
    def private_key(self) -> Path:
        """File of its key."""
        return self.key_path or self.cert_dir / "default.key"


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """What bounds a relay server; ConfigError names a value that is out of range.

    Parameters
    ----------
    bytes_per_second, max_burst_bytes : int, optional
        What one client may send; None: unlimited, and a tenth of the rate.
    accept_rate, accept_burst : float and int, optional
        New TCP connections per second; None: unlimited.
    unauthenticated, unauthenticated_per_ip : int
        Connections at the same time that have not proven a key yet; fewer where the descriptors
        of the process would not last.
    connections, connections_per_ip : int, optional
        All connections at the same time. None: what the descriptors of the process allow, and
        three quarters of that for one address.
    queue_packets, queue_bytes : int
        What waits for one client before newer datagrams are dropped.
    write_timeout : float
        Seconds a client may leave everything unread while something waits for it.
    establish_timeout : float
        Seconds from the TCP connection to the end of the access check.
    ping_interval, ping_jitter : float and int
        Seconds of silence before a client is pinged: the interval plus 1..jitter.
    """

    bytes_per_second: int | None = None
    max_burst_bytes: int | None = None
    accept_rate: float | None = None
    accept_burst: int | None = None
    unauthenticated: int = 8192
    unauthenticated_per_ip: int = 2048
    connections: int | None = None
    connections_per_ip: int | None = None
    queue_packets: int = 512
    queue_bytes: int = 4 * 1024 * 1024
    write_timeout: float = 2.0
    establish_timeout: float = 30.0
    ping_interval: float = 15.0
    ping_jitter: int = 5

    def __post_init__(self) -> None:
        for name, low, high in (
            ("unauthenticated", 1, _COUNT),
            ("unauthenticated_per_ip", 1, _COUNT),
            ("queue_packets", 1, _COUNT),
            ("queue_bytes", 1, _COUNT),
            ("ping_jitter", 0, 2**16),
        ):
            check_integer(f"limits.{name}", getattr(self, name), low, high)
        for name, high in (
            ("bytes_per_second", _RATE),
            ("max_burst_bytes", _RATE),
            ("accept_burst", _COUNT),
            ("connections", _COUNT),
            ("connections_per_ip", _COUNT),
        ):
            check_integer(f"limits.{name}", getattr(self, name), 1, high, none=True)
        for name in ("write_timeout", "establish_timeout", "ping_interval"):
            seconds = check_seconds(f"limits.{name}", getattr(self, name))
            object.__setattr__(self, name, seconds)
        rate = self.accept_rate
        if rate is not None and (
            isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate <= _RATE
        ):
            raise ConfigError(
                f"limits.accept_rate is a number of connections per second above 0 or None, "
                f"not {shown(rate)}"
            )
        if rate is None and self.accept_burst is not None:
            raise ConfigError("limits.accept_burst needs limits.accept_rate")
        self.client_bucket()

    def admission(self) -> AdmissionLimits:
        """The part that counts connections."""
        return AdmissionLimits(
            rate=self.accept_rate,
            burst=self.accept_burst,
            unproven=self.unauthenticated,
            unproven_per_ip=self.unauthenticated_per_ip,
            total=self.connections,
            per_ip=self.connections_per_ip,
        )

    def client_bucket(self) -> tuple[int, int]:
        """Size of a client's token bucket and its refill per 100 ms; zeros for no limit.

        Raises
        ------
        ConfigError
            The rate is so low that nothing would ever pass, or there is only a burst.
        """
        if self.bytes_per_second is None:
            if self.max_burst_bytes is not None:
                raise ConfigError("max_burst_bytes needs bytes_per_second")
            return 0, 0
        burst = (
            self.bytes_per_second // 10 if self.max_burst_bytes is None else self.max_burst_bytes
        )
        refill = self.bytes_per_second * 100 // 1000
        if burst <= 0 or refill <= 0:
            raise ConfigError(
                "bytes_per_second must be at least 10, and max_burst_bytes at least 1"
            )
        return burst, refill


@dataclass(frozen=True, slots=True)
class RelayServerConfig:
    """All settings of a relay server; the defaults are those of the file.

    ConfigError names a value of a wrong type or range.  Addresses to listen on are IP addresses or
    ``"localhost"``.

    Parameters
    ----------
    enable_relay : bool
        False: only metrics and QUIC address discovery run.
    http_bind_addr : tuple of (str, int)
        Of plain HTTP; ``"::"`` takes IPv4 too. With TLS it serves the captive portal check only.
    tls : RelayTlsConfig, optional
        None: plain HTTP for everything.
    enable_quic_addr_discovery : bool
    enable_metrics : bool
    metrics_bind_addr : tuple of (str, int), optional
        Default: the address of plain HTTP with port 9090.
    access : AccessControl
    limits : RelayLimits
    key_cache_capacity : int
        Keys remembered as valid; 0 switches it off.
    drain : float
        Seconds over which a stopping server spreads the ends of its connections, so that not all
        clients come back at once.
    other_ports : bool
        Take a free port where the one of a listener is in use.
    """

    enable_relay: bool = True
    http_bind_addr: Address = ("::", HTTP_PORT)
    tls: RelayTlsConfig | None = None
    enable_quic_addr_discovery: bool = False
    enable_metrics: bool = True
    metrics_bind_addr: Address | None = None
    access: AccessControl = field(default_factory=Everyone)
    limits: RelayLimits = RelayLimits()
    key_cache_capacity: int = 1024 * 1024
    drain: float = 0.0
    other_ports: bool = False

    def __post_init__(self) -> None:
        put = object.__setattr__
        for item in ("enable_relay", "enable_quic_addr_discovery", "enable_metrics", "other_ports"):
            check_flag(item, getattr(self, item))
        put(self, "http_bind_addr", check_address("http_bind_addr", self.http_bind_addr))
        metrics = check_address("metrics_bind_addr", self.metrics_bind_addr, none=True)
        put(self, "metrics_bind_addr", metrics)
        for name, kind in (("access", AccessControl), ("limits", RelayLimits)):
            if not isinstance(value := getattr(self, name), kind):
                raise ConfigError(f"{name} is an object of {kind.__name__}, not {shown(value)}")
        if self.tls is not None and not isinstance(self.tls, RelayTlsConfig):
            raise ConfigError(f"tls is a RelayTlsConfig or None, not {shown(self.tls)}")
        check_integer("key_cache_capacity", self.key_cache_capacity, 0, 2**31)
        put(self, "drain", check_seconds("drain", self.drain, zero=True))

    @classmethod
    def dev(cls, *, host: str = "127.0.0.1", port: int = 0, **changes: Any) -> RelayServerConfig:
        """Settings to try things out: plain HTTP on one address, no metrics."""
        settings = {"enable_metrics": False, "http_bind_addr": (host, port), **changes}
        return cls(**settings)

    @classmethod
    def from_toml(
        cls, text: str, *, dev: bool = False, env: Mapping[str, str] | None = None
    ) -> RelayServerConfig:
        """Read the file format of iroh's relay.

        Parameters
        ----------
        text : str
            TOML.
        dev : bool
            Plain HTTP on port 3340 unless the file names an address; the certificate is not used
            for HTTP. Ports that the file does not name give way when they are in use.
        env : mapping, optional
            Environment, for ``IROH_RELAY_ACCESS_TOKEN``, ``IROH_RELAY_HTTP_BEARER_TOKEN``,
            ``IROH_RELAY_ACME_URL`` and ``IROH_RELAY_ACME_CA``.

        Raises
        ------
        ConfigError
            Not TOML, an unknown key, a value of a wrong type or range, or settings that do not go
            together; the text names the key.
        """
        # Late: a program that needs no file need not load what checks one.
        from ...web.toml_file import address
        from .config_file import access_of, parse_file

        file = parse_file(text)
        env = os.environ if env is None else env
        tls = None if file.tls is None else _tls(file.tls, env)
        qad = file.enable_quic_addr_discovery
        if qad and tls is None:
            raise ConfigError("enable_quic_addr_discovery needs a [tls] section")
        if qad and dev and tls is not None and tls.cert_mode == "LetsEncrypt":
            raise ConfigError("--dev has no Let's Encrypt certificate for QUIC address discovery")
        if dev and tls is not None:
            tls = replace(tls, http_only=True)
        http = address(file.http_bind_addr, "http_bind_addr")
        return cls(
            enable_relay=file.enable_relay,
            http_bind_addr=http or ("::", DEV_PORT if dev else HTTP_PORT),
            tls=None if dev and not qad else tls,
            enable_quic_addr_discovery=qad,
            enable_metrics=file.enable_metrics,
            metrics_bind_addr=address(file.metrics_bind_addr, "metrics_bind_addr"),
            access=access_of(file.access, env),
            limits=_limits(file.limits),
            key_cache_capacity=file.key_cache_capacity,
            other_ports=dev and http is None and file.metrics_bind_addr is None,
        )

    def check(self) -> None:
        """Raise ConfigError when nothing can come of these settings."""
        if not (self.enable_relay or self.enable_quic_addr_discovery or self.enable_metrics):
            raise ConfigError("nothing to serve: relay, metrics and address discovery are all off")
        if self.enable_quic_addr_discovery and self.tls is None:
            raise ConfigError("QUIC address discovery needs TLS settings")

    def with_changes(self, **changes: Any) -> RelayServerConfig:
        """A copy with some settings changed."""
        return replace(self, **changes)


# --- reading ------------------------------------------------------------------------------


def _tls(table: TlsTable, env: Mapping[str, str]) -> RelayTlsConfig:
    from ...web.toml_file import address

    names = [table.hostname] if isinstance(table.hostname, str) else table.hostname
    tls = RelayTlsConfig(
        cert_mode=table.cert_mode,
        https_bind_addr=address(table.https_bind_addr, "tls.https_bind_addr"),
        quic_bind_addr=address(table.quic_bind_addr, "tls.quic_bind_addr"),
        cert_dir=Path(table.cert_dir),
        cert_path=Path(table.manual_cert_path) if table.manual_cert_path else None,
        key_path=Path(table.manual_key_path) if table.manual_key_path else None,
        hostname=tuple(names),
        contact=table.contact,
        prod_tls=table.prod_tls,
        acme_url=env.get("IROH_RELAY_ACME_URL") or None,
        acme_ca=Path(path) if (path := env.get("IROH_RELAY_ACME_CA")) else None,
        http_only=table.dangerous_http_only,
    )
    if table.cert_mode == "LetsEncrypt":
        tls.acme()
    return tls


def _limits(table: LimitsTable) -> RelayLimits:
    if table.accept_conn_burst is not None and table.accept_conn_limit is None:
        raise ConfigError("limits.accept_conn_burst needs limits.accept_conn_limit")
    return RelayLimits(
        accept_rate=table.accept_conn_limit,
        accept_burst=table.accept_conn_burst,
        bytes_per_second=table.client.rx.bytes_per_second,
        max_burst_bytes=table.client.rx.max_burst_bytes,
    )
