"""Configuration files: TOML into tables of msgspec, with errors that name the key."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from .._check import kind_of
from ..addr import SocketAddr
from ..errors import AddrError, ConfigError
from .listen import Address

__all__ = ["address", "parse_address", "parse_toml", "read_text"]

Table = TypeVar("Table", bound=msgspec.Struct)


def read_text(path: Path) -> str:
    """The text of a file; ConfigError names it when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as err:
        reason = getattr(err, "strerror", None) or str(err)
        raise ConfigError(f"cannot read the configuration file {path}: {reason}") from err


def parse_toml(
    text: str, kind: type[Table], *, on_unknown: Callable[[str], object] | None = None
) -> Table:
    """Read the text of a file; what is wrong with a key or the type of its value is told.

    Parameters
    ----------
    kind : type
        The table of the whole file.
    on_unknown : callable, optional
        Told of each key that does not exist, with the nearest that does. None: that is an error.

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
    _check_keys(data, kind, "", on_unknown)
    return _convert(data, kind)


def _key_at(text: str, error: str) -> str:
    """The key of the line that an error of the parser names; values may be secrets."""
    found = re.search(r"at line (\d+)", error)
    lines = text.splitlines()
    if found is None or int(found[1]) > len(lines):
        return ""
    key, sign, _ = lines[int(found[1]) - 1].partition("=")
    return f": {key.strip()[:80]}" if sign else ""


# --- keys and types -----------------------------------------------------------------------


def _table_of(kind: Any) -> type[msgspec.Struct] | None:
    """The table among the types that a key may have."""
    options = (kind, *getattr(kind, "__args__", ()))
    for option in options:
        if isinstance(option, type) and issubclass(option, msgspec.Struct):
            return option
    return None


def _check_keys(
    data: Mapping[str, Any],
    kind: type[msgspec.Struct],
    above: str,
    on_unknown: Callable[[str], object] | None,
) -> None:
    """Tell of each key that the table does not have."""
    known = {item.name: item.type for item in msgspec.structs.fields(kind)}
    for key, value in data.items():
        if key not in known:
            message = f"unknown key {above}{_shown_key(key)}{_nearest(key, above, known)}"
            if on_unknown is None:
                raise ConfigError(message)
            on_unknown(message)
            continue
        inner = _table_of(known[key])
        if inner is not None and isinstance(value, Mapping):
            _check_keys(value, inner, f"{above}{key}.", on_unknown)


def _shown_key(key: str) -> str:
    """A key for messages: one line, not too long."""
    return key if key.isprintable() and len(key) <= 80 else repr(key[:80])


def _nearest(key: str, above: str, known: Iterable[str]) -> str:
    import difflib  # late: only for mistakes

    found = difflib.get_close_matches(key, known, 1, 0.6)
    if found:
        return f"; did you mean {above}{found[0]}?"
    return f"; there are {', '.join(sorted(known))}"


def _convert(data: Mapping[str, Any], kind: type[Table]) -> Table:
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as err:
        text, _, path = str(err).partition(" - at `$")
        where = re.sub(r"\[\.\.\.\]", "", path.rstrip("`")).lstrip(".")
        raise ConfigError(f"{where}: {text}" if where else text) from err


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
