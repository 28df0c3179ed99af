"""The TOML file of a DNS server: that of iroh-dns-server, and some keys of our own."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from .._check import check_address
from ..errors import ConfigError
from ..web.toml_file import address, parse_toml
from .service import DnsLimits
from .settings import Address, CertMode, HttpsSettings, StoreSettings, ZoneSettings

__all__ = [
    "DnsTable",
    "File",
    "HttpTable",
    "HttpsTable",
    "StoreTable",
    "duration",
    "parse_file",
    "settings_of",
]

_Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
_U32 = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
_Whole = Annotated[int, msgspec.Meta(ge=1, le=2**31)]
_Rate = Annotated[float, msgspec.Meta(ge=0, le=1_000_000)]
Duration = str | float


class HttpTable(msgspec.Struct, kw_only=True):
    port: _Port
    bind_addr: str | None = None
    listen_backlog: _Whole | None = None


class HttpsTable(msgspec.Struct, kw_only=True):
    port: _Port
    bind_addr: str | None = None
    listen_backlog: _Whole | None = None
    domains: list[str] | None = None
    cert_mode: CertMode | None = None
    letsencrypt_contact: str | None = None
    letsencrypt_prod: bool | None = None


class DnsTable(msgspec.Struct, kw_only=True):
    port: _Port
    bind_addr: str | None = None
    default_soa: str | None = None
    default_ttl: _U32 | None = None
    origins: list[str] | None = None
    rr_a: str | None = None
    rr_aaaa: str | None = None
    rr_ns: str | None = None
    # Ours.
    udp_rate: _Rate | None = None
    udp_burst: _Whole | None = None
    tcp_connections: _Whole | None = None
    tcp_per_ip: _Whole | None = None
    tcp_idle: Duration | None = None


class MetricsTable(msgspec.Struct, kw_only=True):
    disabled: bool = False
    bind_addr: str | None = None


class MainlineTable(msgspec.Struct, kw_only=True):
    enabled: bool = False
    bootstrap: list[str] | None = None


class StoreTable(msgspec.Struct, kw_only=True):
    max_batch_size: _Whole | None = None
    max_batch_time: Duration | None = None
    eviction: Duration | None = None
    eviction_interval: Duration | None = None
    # Ours.
    max_records: _Whole | None = None
    durability: Literal["process", "power"] | None = None
    postgres: str | None = None


class File(msgspec.Struct, kw_only=True):
    pkarr_put_rate_limit: Literal["disabled", "simple", "smart"] = "simple"
    data_dir: str | None = None
    http: HttpTable | None = None
    https: HttpsTable | None = None
    dns: DnsTable
    metrics: MetricsTable = msgspec.field(default_factory=MetricsTable)
    mainline: MainlineTable = msgspec.field(default_factory=MainlineTable)
    zone_store: StoreTable = msgspec.field(default_factory=StoreTable)
    # Ours.
    max_future: Duration | None = None
    trusted_proxies: list[str] | None = None


def parse_file(text: str, on_unknown: Callable[[str], object]) -> File:
    """Read the file's text.

    Parameters
    ----------
    on_unknown : callable
        Told of each key that there is not: iroh's server ignores those.

    Raises
    ------
    ConfigError
        The text names the key.
    """
    return parse_toml(text, File, on_unknown=on_unknown)


# --- durations ----------------------------------------------------------------------------

_SECONDS: Final = {
    **dict.fromkeys(("nsec", "ns"), 1e-9),
    **dict.fromkeys(("usec", "us", "µs"), 1e-6),
    **dict.fromkeys(("msec", "ms"), 1e-3),
    **dict.fromkeys(("seconds", "second", "secs", "sec", "s"), 1.0),
    **dict.fromkeys(("minutes", "minute", "mins", "min", "m"), 60.0),
    **dict.fromkeys(("hours", "hour", "hrs", "hr", "h"), 3600.0),
    **dict.fromkeys(("days", "day", "d"), 86400.0),
    **dict.fromkeys(("weeks", "week", "wks", "wk", "w"), 7 * 86400.0),
    **dict.fromkeys(("months", "month", "M"), 30.44 * 86400.0),
    **dict.fromkeys(("years", "year", "yrs", "yr", "y"), 365.25 * 86400.0),
}


def duration(name: str, value: Duration) -> float:
    """Seconds of a text such as ``"7days"`` or ``"1h 30m"``, or of a number.

    Raises
    ------
    ConfigError
        It is none; the text names the key.
    """
    if not isinstance(value, str):
        return float(value)
    parts = re.findall(r"(\d+)\s*([A-Za-zµ]+)\s*", value)
    whole = re.fullmatch(r"\s*(?:\d+\s*[A-Za-zµ]+\s*)+", value)
    if whole is None or any(unit not in _SECONDS for _, unit in parts) or len(value) > 200:
        raise ConfigError(f'{name} is a duration such as "7days" or "1h 30m", not {value[:40]!r}')
    return sum(int(number) * _SECONDS[unit] for number, unit in parts)


# --- tables -------------------------------------------------------------------------------


def settings_of(file: File, env: Mapping[str, str]) -> dict[str, Any]:
    """What a file says, as fields of `DnsServerConfig`.

    Raises
    ------
    ConfigError
        The text names the key.
    """
    http, mainline = file.http, file.mainline
    found: dict[str, Any] = {
        "http_bind_addr": None if http is None else _at("http", http.bind_addr, http.port),
        "https": None if file.https is None else _https(file.https, env),
        "dns_bind_addr": _at("dns", file.dns.bind_addr, file.dns.port),
        "dns_limits": _dns_limits(file.dns),
        "zones": _zones(file.dns),
        "pkarr_put_rate_limit": file.pkarr_put_rate_limit,
        "store": _store(file.zone_store, env),
        "mainline": mainline.enabled,
        "mainline_bootstrap": tuple(mainline.bootstrap or ()),
    }
    metrics = address(file.metrics.bind_addr, "metrics.bind_addr")
    if file.metrics.disabled or metrics is not None:
        found["metrics_bind_addr"] = None if file.metrics.disabled else metrics
    future = file.max_future
    return found | _given(
        http_backlog=None if http is None else http.listen_backlog,
        data_dir=None if file.data_dir is None else Path(file.data_dir),
        max_future=None if future is None else duration("max_future", future),
        trusted_proxies=file.trusted_proxies,
    )


def _at(table: str, host: str | None, port: int) -> Address:
    found = check_address(f"{table}.bind_addr", ("::" if host is None else host, port))
    assert found is not None
    return found


def _given(**values: Any) -> dict[str, Any]:
    """What a file says; the rest keeps its default."""
    return {name: value for name, value in values.items() if value is not None}


def _https(table: HttpsTable, env: Mapping[str, str]) -> HttpsSettings:
    given = _given(
        domains=None if table.domains is None else tuple(table.domains),
        cert_mode=table.cert_mode,
        letsencrypt_contact=table.letsencrypt_contact,
        letsencrypt_prod=table.letsencrypt_prod,
        backlog=table.listen_backlog,
        acme_url=env.get("IROH_DNS_ACME_URL") or None,
        acme_ca=Path(path) if (path := env.get("IROH_DNS_ACME_CA")) else None,
    )
    return HttpsSettings(bind_addr=_at("https", table.bind_addr, table.port), **given)


def _zones(table: DnsTable) -> ZoneSettings:
    given = _given(
        origins=None if table.origins is None else tuple(table.origins),
        default_soa=table.default_soa,
        default_ttl=table.default_ttl,
        rr_a=table.rr_a,
        rr_aaaa=table.rr_aaaa,
        rr_ns=table.rr_ns,
    )
    return ZoneSettings(**given)


def _dns_limits(table: DnsTable) -> DnsLimits:
    idle = table.tcp_idle
    given = _given(
        udp_burst=table.udp_burst,
        tcp_connections=table.tcp_connections,
        tcp_per_ip=table.tcp_per_ip,
        tcp_idle=None if idle is None else duration("dns.tcp_idle", idle),
    )
    if table.udp_rate is not None:
        given["udp_rate"] = table.udp_rate or None
    try:
        return DnsLimits(**given)
    except ConfigError as err:
        raise ConfigError(f"dns.{err}") from err


def _store(table: StoreTable, env: Mapping[str, str]) -> StoreSettings:
    def seconds(name: str) -> float | None:
        value = getattr(table, name)
        return None if value is None else duration(f"zone_store.{name}", value)

    seconds("max_batch_time")  # read, and not used: each publish is kept before it is answered
    given = _given(
        eviction=seconds("eviction"),
        eviction_interval=seconds("eviction_interval"),
        max_records=table.max_records,
        durability=table.durability,
        postgres=env.get("IROH_DNS_POSTGRES") or table.postgres,
    )
    return StoreSettings(**given)
