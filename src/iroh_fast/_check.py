"""Checks of values that users give; each error names the value and says what it takes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

if sys.version_info >= (3, 12):
    from collections.abc import Buffer
elif TYPE_CHECKING:
    from typing_extensions import Buffer
else:  # for typing.get_type_hints; whatever has the buffer protocol is taken
    Buffer = bytes | bytearray | memoryview

__all__ = [
    "VARINT_MAX",
    "Buffer",
    "check_address",
    "check_alpns",
    "check_bytes",
    "check_choice",
    "check_code",
    "check_flag",
    "check_integer",
    "check_items",
    "check_path",
    "check_seconds",
    "check_text",
    "check_texts",
    "is_integer",
    "kind_of",
]

VARINT_MAX = 2**62 - 1


def kind_of(value: object) -> str:
    """What a wrong value is, in words that hold no secret and no page of text."""
    if value is None or isinstance(value, (bool, int, float)):
        return shown(value)
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return type(value).__name__


def shown(value: object) -> str:
    """The beginning of `repr`, for messages."""
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        return "a number of very many digits"
    return text if len(text) <= 80 else text[:77] + "..."


def check_code(value: object, name: str = "code") -> int:
    """Return `value` if it is a valid application error code.

    Raises
    ------
    TypeError, ValueError
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is an integer, not {kind_of(value)}")
    if not 0 <= value <= VARINT_MAX:
        raise ValueError(f"{name} is an integer from 0 to 2**62 - 1, not {shown(value)}")
    return value


def is_integer(value: object) -> bool:
    """Whether it is a whole number; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_bytes(name: str, value: object) -> bytes:
    """Return `value` as bytes, or raise TypeError: text and numbers are not taken for some."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        raise TypeError(f"{name} is bytes, not text: write b{shown(value)} or use .encode()")
    try:
        with memoryview(value) as view:  # type: ignore[arg-type]
            return bytes(view)
    except TypeError:
        raise TypeError(f"{name} is bytes, not {kind_of(value)}") from None


def check_items(name: str, value: Any, what: str) -> list[Any]:
    """Return the items of a list option; one item alone is not a list.

    Raises
    ------
    ConfigError : `value` is text, bytes or not iterable.
    """
    if isinstance(value, (str, bytes, bytearray, memoryview)) or not isinstance(value, Iterable):
        raise ConfigError(f"{name} is a list of {what}, not {shown(value)}")
    return list(value)


def check_alpns(alpns: object, name: str = "alpns") -> tuple[bytes, ...]:
    """Check a list of protocol names: each 1..255 bytes, in order of preference."""
    checked = []
    for alpn in check_items(name, alpns, "protocol names in bytes"):
        if isinstance(alpn, str):
            raise ConfigError(f"an ALPN of {name} is bytes, so write b{shown(alpn)}")
        if not isinstance(alpn, (bytes, bytearray, memoryview)):
            raise ConfigError(f"an ALPN of {name} is bytes, not {shown(alpn)}")
        alpn = bytes(alpn)
        if not 1 <= len(alpn) <= 255:
            raise ConfigError(f"an ALPN has 1 to 255 bytes; {alpn[:16]!r} has {len(alpn)}")
        checked.append(alpn)
    return tuple(checked)


def check_seconds(
    name: str, value: object, *, none: bool = False, zero: bool = False
) -> float | None:
    """Turn a duration option into seconds, or raise :class:`ConfigError`."""
    if value is None and none:
        return None
    # Who has a timedelta has loaded its module.
    dates = sys.modules.get("datetime")
    if dates is not None and isinstance(value, dates.timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"{name} is a number of seconds or a timedelta, not {shown(value)}")
    try:
        seconds = float(value)
    except OverflowError:  # an integer
        seconds = float("inf")
    if seconds == 0 and zero:
        return 0.0
    if not 0 < seconds <= VARINT_MAX / 1000:
        hint = "; None switches it off" if none else ""
        least = "0 or " if zero else ""
        raise ConfigError(f"{name} must be {least}a positive number of seconds, not {seconds!r}{hint}")
    return seconds


def check_integer(
    name: str, value: object, low: int, high: int = VARINT_MAX, *, none: bool = False
) -> int | None:
    """Check an integer option, bounds included, or raise :class:`ConfigError`."""
    if value is None and none:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{name} is an integer, not {shown(value)}")
    if not low <= value <= high:
        raise ConfigError(f"{name} must be between {low} and {high}, not {shown(value)}")
    return value


def check_flag(name: str, value: object) -> bool:
    """Check a switch, or raise :class:`ConfigError`."""
    if not isinstance(value, bool):
        raise ConfigError(f"{name} is True or False, not {shown(value)}")
    return value


def check_text(name: str, value: object, *, none: bool = False) -> str | None:
    """Check a text option: not empty, or raise :class:`ConfigError`."""
    if value is None and none:
        return None
    if not isinstance(value, str):
        raise ConfigError(f"{name} is text, not {kind_of(value)}")
    if not value:
        raise ConfigError(f"{name} is empty")
    return value


def check_texts(name: str, value: Any, what: str) -> tuple[str, ...]:
    """Return the texts of a list option, none of them empty, or raise :class:`ConfigError`."""
    items = check_items(name, value, what)
    return tuple(str(check_text(f"an item of {name}", item)) for item in items)


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Check an option that is one of some texts, or raise :class:`ConfigError`."""
    if not isinstance(value, str) or value not in choices:
        raise ConfigError(f"{name} is one of {', '.join(choices)}, not {shown(value)}")


def check_path(name: str, value: Any, *, none: bool = False) -> Path | None:
    """Turn a path option into a Path, or raise :class:`ConfigError`."""
    if value is None and none:
        return None
    if not isinstance(value, (str, os.PathLike)) or value == "":
        raise ConfigError(f"{name} is a path, not {shown(value)}")
    from pathlib import Path  # late: only servers have such options

    return Path(value)


def check_address(name: str, value: Any, *, none: bool = False) -> tuple[str, int] | None:
    """Check a pair of IP address and port to listen on, or raise :class:`ConfigError`."""
    if value is None and none:
        return None
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ConfigError(f'{name} is a pair such as ("127.0.0.1", 80), not {shown(value)}')
    host, port = value
    check_text(f"the host of {name}", host)
    if host == "localhost":
        host = "127.0.0.1"
    import ipaddress  # late: only servers listen

    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise ConfigError(
            f"{name}: {host[:80]!r} is not an IP address; names are not resolved"
        ) from None
    check_integer(f"the port of {name}", port, 0, 65535)
    return host, port
