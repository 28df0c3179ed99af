"""Which of an endpoint's addresses are published, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeAlias

from .._check import kind_of
from ..addr import TransportAddr
from ..errors import ConfigError

__all__ = ["AddrFilter", "AddrFilterLike", "as_filter", "ip_only", "relay_only", "unfiltered"]

AddrFilter: TypeAlias = Callable[[Sequence[TransportAddr]], Iterable[TransportAddr]]
"""Takes all addresses in their order, returns those to publish: leaves out or reorders, adds none."""

AddrFilterLike: TypeAlias = AddrFilter | str | None
"""A filter, the name of one of this module, or None for none."""


def relay_only(addrs: Sequence[TransportAddr], /) -> list[TransportAddr]:
    """Keep relays: who looks the endpoint up learns no IP address."""
    return [addr for addr in addrs if addr.is_relay]


def ip_only(addrs: Sequence[TransportAddr], /) -> list[TransportAddr]:
    """Leave out relays.  Addresses of custom transports stay, as in iroh."""
    return [addr for addr in addrs if not addr.is_relay]


def unfiltered(addrs: Sequence[TransportAddr], /) -> list[TransportAddr]:
    """Keep all."""
    return list(addrs)


_BY_NAME: Final[dict[str, AddrFilter]] = {
    "relay_only": relay_only,
    "ip_only": ip_only,
    "unfiltered": unfiltered,
}


def as_filter(value: AddrFilterLike, option: str) -> AddrFilter | None:
    """Read what a user gave for `option`.

    Raises
    ------
    ConfigError
        No filter has this name.
    TypeError
        Neither a function, nor text, nor None.
    """
    if value is None or callable(value):
        return value
    if not isinstance(value, str):
        raise TypeError(f"{option} is a function or the name of a filter, not {kind_of(value)}")
    found = _BY_NAME.get(value)
    if found is None:
        raise ConfigError(
            f"{option} is a function or one of {', '.join(_BY_NAME)}, not {value[:40]!r}"
        )
    return found
