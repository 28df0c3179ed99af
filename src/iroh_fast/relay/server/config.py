"""Settings of a relay server: plain data, and the TOML file that iroh's relay reads too."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from ...errors import ConfigError, KeyParsingError
from ...keys import EndpointId, PublicKey
from ...web.acme_config import LETS_ENCRYPT, LETS_ENCRYPT_STAGING, AcmeConfig
from .access import AccessControl, AllowList, DenyList, Everyone, HttpAccess, SharedToken

__all__ = ["Address", "CertMode", "RelayLimits", "RelayServerConfig", "RelayTlsConfig"]

Address: TypeAlias = "tuple[str, int]"
CertMode = Literal["Manual", "Reloading", "LetsEncrypt", "SelfSigned"]

HTTP_PORT: Final = 80
HTTPS_PORT: Final = 443
QUIC_PORT: Final = 7842
METRICS_PORT: Final = 9090
DEV_PORT: Final = 3340
_U32: Final = 2**32 - 1


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

    @property
    def certificate(self) -> Path:
        return self.cert_path or self.cert_dir / "default.crt"

    @property
    def private_key(self) -> Path:
        return self.key_path or self.cert_dir / "default.key"


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """What bounds a relay server.

    Parameters
    ----------
    bytes_per_second, max_burst_bytes : int, optional
        What one client may send; None: unlimited, and a tenth of the rate.
    accept_rate, accept_burst : float and int, optional
        New TCP connections per second; None: unlimited.
    unauthenticated, unauthenticated_per_ip : int
        Connections at the same time that have not proven a key yet.
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
    queue_packets: int = 512
    queue_bytes: int = 4 * 1024 * 1024
    write_timeout: float = 2.0
    establish_timeout: float = 30.0
    ping_interval: float = 15.0
    ping_jitter: int = 5

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
            TOML; unknown keys are ignored.
        dev : bool
            Plain HTTP on port 3340 unless the file names an address; the certificate is not used
            for HTTP.
        env : mapping, optional
            Environment, for ``IROH_RELAY_ACCESS_TOKEN``, ``IROH_RELAY_HTTP_BEARER_TOKEN``,
            ``IROH_RELAY_ACME_URL`` and ``IROH_RELAY_ACME_CA``.

        Raises
        ------
        ConfigError
            Not TOML, a value of a wrong type or range, or settings that do not go together.
        """
        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as err:
            raise ConfigError(f"not a TOML file: {err}") from err
        table = _Table(data, "")
        http = table.address("http_bind_addr", ("::", DEV_PORT if dev else HTTP_PORT))
        assert http is not None
        env = os.environ if env is None else env
        tls = _tls(table.table("tls"), env)
        qad = table.boolean("enable_quic_addr_discovery", False)
        if qad and tls is None:
            raise ConfigError("enable_quic_addr_discovery needs a [tls] section")
        if qad and dev and tls is not None and tls.cert_mode == "LetsEncrypt":
            raise ConfigError("--dev has no Let's Encrypt certificate for QUIC address discovery")
        if dev and tls is not None:
            tls = replace(tls, http_only=True)
        config = cls(
            enable_relay=table.boolean("enable_relay", True),
            http_bind_addr=http,
            tls=None if dev and not qad else tls,
            enable_quic_addr_discovery=qad,
            enable_metrics=table.boolean("enable_metrics", True),
            metrics_bind_addr=table.address("metrics_bind_addr", None),
            access=_access(data.get("access", "everyone"), env),
            limits=_limits(table.table("limits")),
            key_cache_capacity=table.integer("key_cache_capacity", 1024 * 1024, 0),
        )
        config.limits.client_bucket()
        return config

    def with_changes(self, **changes: Any) -> RelayServerConfig:
        """A copy with some settings changed."""
        return replace(self, **changes)


# --- reading ------------------------------------------------------------------------------


def parse_address(text: str) -> Address:
    """Parse ``host:port`` or ``[v6]:port``.

    Raises
    ------
    ConfigError
        It is neither.
    """
    from ...addr import SocketAddr
    from ...errors import AddrError

    try:
        addr = SocketAddr.parse(text)
    except AddrError as err:
        raise ConfigError(f"{text!r} is not a socket address such as [::]:80") from err
    return str(addr.ip), addr.port


class _Table:
    """A table of the file, with checked access."""

    def __init__(self, data: Mapping[str, Any], name: str) -> None:
        self._data = data
        self._name = name

    def _label(self, key: str) -> str:
        return f"{self._name}.{key}" if self._name else key

    def _get(self, key: str, kind: type, words: str) -> Any:
        value = self._data.get(key)
        if value is not None and (
            not isinstance(value, kind) or (kind is not bool and value is True)
        ):
            raise ConfigError(f"{self._label(key)} must be {words}, not {value!r}")
        return value

    def has(self, key: str) -> bool:
        return key in self._data

    def boolean(self, key: str, default: bool) -> bool:
        value = self._get(key, bool, "true or false")
        return default if value is None else bool(value)

    def text(self, key: str) -> str | None:
        value = self._get(key, str, "a string")
        return None if value is None else str(value)

    def integer(self, key: str, default: int, low: int, high: int = 2**63) -> int:
        value = self.optional_integer(key, low, high)
        return default if value is None else value

    def optional_integer(self, key: str, low: int, high: int) -> int | None:
        value = self._get(key, int, "a whole number")
        if value is None:
            return None
        if isinstance(value, bool) or not low <= value <= high:
            raise ConfigError(f"{self._label(key)} must be from {low} to {high}, not {value!r}")
        return int(value)

    def number(self, key: str) -> float | None:
        value = self._data.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            raise ConfigError(f"{self._label(key)} must be a number above 0, not {value!r}")
        return float(value)

    def address(self, key: str, default: Address | None) -> Address | None:
        value = self.text(key)
        return default if value is None else parse_address(value)

    def strings(self, key: str) -> tuple[str, ...]:
        value = self._data.get(key, [])
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
            raise ConfigError(f"{self._label(key)} must be a string or a list of strings")
        return tuple(values)

    def table(self, key: str) -> _Table | None:
        value = self._get(key, dict, "a table")
        return None if value is None else _Table(value, self._label(key))


def _tls(table: _Table | None, env: Mapping[str, str]) -> RelayTlsConfig | None:
    if table is None:
        return None
    mode = table.text("cert_mode")
    if mode not in ("Manual", "Reloading", "LetsEncrypt"):
        raise ConfigError(
            f'tls.cert_mode must be "Manual", "Reloading" or "LetsEncrypt", not {mode!r}'
        )
    cert, key = table.text("manual_cert_path"), table.text("manual_key_path")
    hostname, contact = table.strings("hostname"), table.text("contact")
    if mode == "LetsEncrypt" and not (hostname and contact):
        raise ConfigError("Let's Encrypt needs tls.hostname and tls.contact")
    return RelayTlsConfig(
        cert_mode=mode,  # type: ignore[arg-type]
        https_bind_addr=table.address("https_bind_addr", None),
        quic_bind_addr=table.address("quic_bind_addr", None),
        cert_dir=Path(table.text("cert_dir") or "."),
        cert_path=Path(cert) if cert else None,
        key_path=Path(key) if key else None,
        hostname=hostname,
        contact=contact,
        prod_tls=table.boolean("prod_tls", True),
        acme_url=env.get("IROH_RELAY_ACME_URL") or None,
        acme_ca=Path(path) if (path := env.get("IROH_RELAY_ACME_CA")) else None,
    )


def _limits(table: _Table | None) -> RelayLimits:
    if table is None:
        return RelayLimits()
    client = table.table("client")
    rx = client.table("rx") if client is not None else None
    return RelayLimits(
        accept_rate=table.number("accept_conn_limit"),
        accept_burst=table.optional_integer("accept_conn_burst", 1, _U32),
        bytes_per_second=rx.optional_integer("bytes_per_second", 1, _U32) if rx else None,
        max_burst_bytes=rx.optional_integer("max_burst_bytes", 1, _U32) if rx else None,
    )


def _endpoint_ids(values: object, name: str) -> list[EndpointId]:
    if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
        raise ConfigError(f"access.{name} must be a list of endpoint ids")
    try:
        return [PublicKey.parse(value) for value in values]
    except KeyParsingError as err:
        raise ConfigError(f"access.{name}: {err}") from err


def _access(value: object, env: Mapping[str, str]) -> AccessControl:
    if value == "everyone":
        return Everyone()
    if not isinstance(value, dict) or len(value) != 1:
        raise ConfigError(
            'access must be "everyone" or one of allowlist, denylist, shared_token, http'
        )
    name, rule = next(iter(value.items()))
    if name == "allowlist":
        return AllowList(_endpoint_ids(rule, name))
    if name == "denylist":
        return DenyList(_endpoint_ids(rule, name))
    if name == "shared_token":
        if token := env.get("IROH_RELAY_ACCESS_TOKEN"):
            return SharedToken([token])
        if not isinstance(rule, list) or not all(isinstance(v, str) for v in rule):
            raise ConfigError("access.shared_token must be a list of strings")
        return SharedToken(rule)
    if name == "http" and isinstance(rule, dict):
        table = _Table(rule, "access.http")
        url = table.text("url")
        if url is None:
            raise ConfigError("access.http needs a url")
        token = env.get("IROH_RELAY_HTTP_BEARER_TOKEN") or table.text("bearer_token")
        return HttpAccess(url, token)
    raise ConfigError(f"access has no rule {name!r}")
