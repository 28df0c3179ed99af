"""Checks of values that users give; each error names the value and says what it takes."""

from __future__ import annotations

from datetime import timedelta

from .errors import ConfigError

__all__ = ["VARINT_MAX", "check_flag", "check_integer", "check_seconds"]

VARINT_MAX = 2**62 - 1


def check_seconds(
    name: str, value: object, *, none: bool = False, zero: bool = False
) -> float | None:
    """Turn a duration option into seconds, or raise :class:`ConfigError`."""
    if value is None and none:
        return None
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"{name} is a number of seconds or a timedelta, not {value!r}")
    seconds = float(value)
    if seconds == 0 and zero:
        return 0.0
    if not 0 < seconds <= VARINT_MAX / 1000:
        hint = "; None switches it off" if none else ""
        raise ConfigError(f"{name} must be a positive number of seconds, not {seconds!r}{hint}")
    return seconds


def check_integer(
    name: str, value: object, low: int, high: int = VARINT_MAX, *, none: bool = False
) -> int | None:
    """Check an integer option, bounds included, or raise :class:`ConfigError`."""
    if value is None and none:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{name} is an integer, not {value!r}")
    if not low <= value <= high:
        raise ConfigError(f"{name} must be between {low} and {high}, not {value}")
    return value


def check_flag(name: str, value: object) -> bool:
    """Check a switch, or raise :class:`ConfigError`."""
    if not isinstance(value, bool):
        raise ConfigError(f"{name} is True or False, not {value!r}")
    return value
