"""The TOML file of a relay server, which iroh's relay reads too."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final, Literal

import msgspec

from ..._check import kind_of
from ...addr import SocketAddr
from ...errors import AddrError, ConfigError
from ...web.listen import Address
from .access import AccessControl, AllowList, DenyList, Everyone, HttpAccess, SharedToken

__all__ = ["File", "LimitsTable", "TlsTable", "access_of", "address", "parse_address", "parse_file"]

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
    if not isinstance(text, str):
        raise TypeError(f"text is that of a TOML file, not {kind_of(text)}")
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as err:
        raise ConfigError(f"not a TOML file: {err}{_key_at(text, str(err))}") from err
    _check_keys(data, File, "")
    return _convert(data)


def _key_at(text: str, error: str) -> str:
    """The key of the line that an error of the parser names; values may be secrets."""
    found = re.search(r"at line (\d+)", error)
    lines = text.splitlines()
    if found is None or int(found[1]) > len(lines):
        return ""
    key, sign, _ = lines[int(found[1]) - 1].partition("=")
    return f": {key.strip()[:80]}" if sign else ""


# --- keys and types -----------------------------------------------------------------------


def _tables_of(kind: Any) -> type[msgspec.Struct] | None:
    """The table among the types that a key may have."""
    options = (kind, *getattr(kind, "__args__", ()))
    for option in options:
        if isinstance(option, type) and issubclass(option, msgspec.Struct):
            return option
    return None


def _check_keys(data: Mapping[str, Any], kind: type[msgspec.Struct], above: str) -> None:
    """Raise ConfigError for the first key that the table does not have."""
    known = {item.name: item.type for item in msgspec.structs.fields(kind)}
    for key, value in data.items():
        if key not in known:
            raise ConfigError(f"unknown key {above}{key}{_nearest(key, above, known)}")
        inner = _tables_of(known[key])
        if inner is not None and isinstance(value, Mapping):
            _check_keys(value, inner, f"{above}{key}.")


def _nearest(key: str, above: str, known: Iterable[str]) -> str:
    import difflib  # late: only for mistakes

    found = difflib.get_close_matches(key, known, 1, 0.6)
    if found:
        return f"; did you mean {above}{found[0]}?"
    return f"; there are {', '.join(sorted(known))}"


def _convert(data: Mapping[str, Any]) -> File:
    try:
        file = msgspec.convert(data, File)
    except msgspec.ValidationError as err:
        text, _, path = str(err).partition(" - at `$")
        where = re.sub(r"\[\.\.\.\]", "", path.rstrip("`")).lstrip(".")
        raise ConfigError(f"{where}: {text}" if where else text) from err
    rate = file.limits.accept_conn_limit
    if rate is not None and not math.isfinite(rate):
        raise ConfigError(f"limits.accept_conn_limit: not a finite number: {rate}")
    return file


def parse_address(text: str) -> Address:
    """Parse ``host:port`` or ``[v6]:port``.

    Raises
    ------
    ConfigError
        It is neither.
    """
    try:
        addr = SocketAddr.parse(text)
    except AddrError as err:
        raise ConfigError(f"{text!r} is not a socket address such as [::]:80") from err
    return str(addr.ip), addr.port


def address(text: str | None, name: str) -> Address | None:
    """The address under the key `name`."""
    if text is None:
        return None
    try:
        return parse_address(text)
    except ConfigError as err:
        raise ConfigError(f"{name}: {err}") from err


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
