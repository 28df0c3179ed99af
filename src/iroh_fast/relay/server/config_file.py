"""The TOML file of a relay server, which iroh's relay reads too."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Final, Literal

import msgspec

from ...errors import ConfigError
from ...web.toml_file import parse_toml
from .access import AccessControl, AllowList, DenyList, Everyone, HttpAccess, SharedToken

__all__ = ["File", "LimitsTable", "TlsTable", "access_of", "parse_file"]

_U32: Final = 2**32 - 1
_Whole = Annotated[int, msgspec.Meta(ge=1, le=_U32)]

# The tables of the file. What is not named here is a mistake.


class RxTable(msgspec.Struct):
    bytes_per_second: _Whole | None = None
    max_burst_bytes: _Whole | None = None


class ClientTable(msgspec.Struct):
    rx: RxTable = msgspec.field(default_factory=RxTable)


class LimitsTable(msgspec.Struct):
    accept_conn_limit: Annotated[float, msgspec.Meta(gt=0)] | None = None
    accept_conn_burst: _Whole | None = None
    client: ClientTable = msgspec.field(default_factory=ClientTable)


class TlsTable(msgspec.Struct, kw_only=True):
    cert_mode: Literal["Manual", "Reloading", "LetsEncrypt"]
    https_bind_addr: str | None = None
    quic_bind_addr: str | None = None
    hostname: str | list[str] = msgspec.field(default_factory=list)
    cert_dir: str = "."
    manual_cert_path: str | None = None
    manual_key_path: str | None = None
    prod_tls: bool = True
    contact: str | None = None
    dangerous_http_only: bool = False


class HttpTable(msgspec.Struct):
    url: str
    bearer_token: str | None = None


class AccessTable(msgspec.Struct):
    allowlist: list[str] | None = None
    denylist: list[str] | None = None
    shared_token: list[str] | None = None
    http: HttpTable | None = None


class File(msgspec.Struct):
    enable_relay: bool = True
    http_bind_addr: str | None = None
    tls: TlsTable | None = None
    enable_quic_addr_discovery: bool = False
    limits: LimitsTable = msgspec.field(default_factory=LimitsTable)
    enable_metrics: bool = True
    metrics_bind_addr: str | None = None
    key_cache_capacity: Annotated[int, msgspec.Meta(ge=0, le=2**31)] = 1024 * 1024
    access: Literal["everyone"] | AccessTable = "everyone"


def parse_file(text: str) -> File:
    """Read the file's text; what is wrong with a key or the type of its value is told.

    Raises
    ------
    ConfigError
        The text names the key.
    """
    file = parse_toml(text, File)
    rate = file.limits.accept_conn_limit
    if rate is not None and not math.isfinite(rate):
        raise ConfigError(f"limits.accept_conn_limit: not a finite number: {rate}")
    return file


# --- tables -------------------------------------------------------------------------------


def access_of(table: AccessTable | str, env: Mapping[str, str]) -> AccessControl:
    """The rules that ``access`` describes."""
    if isinstance(table, str):
        return Everyone()
    given = [
        name
        for name in ("allowlist", "denylist", "shared_token", "http")
        if getattr(table, name) is not None
    ]
    if len(given) != 1:
        raise ConfigError(
            'access is "everyone" or exactly one of allowlist, denylist, shared_token and http'
        )
    try:
        if table.allowlist is not None:
            return AllowList(table.allowlist)
        if table.denylist is not None:
            return DenyList(table.denylist)
        if table.shared_token is not None:
            token = env.get("IROH_RELAY_ACCESS_TOKEN")
            return SharedToken([token] if token else table.shared_token)
        assert table.http is not None
        token = env.get("IROH_RELAY_HTTP_BEARER_TOKEN") or table.http.bearer_token
        return HttpAccess(table.http.url, token)
    except ConfigError as err:
        raise ConfigError(f"access.{given[0]}: {err}") from err
