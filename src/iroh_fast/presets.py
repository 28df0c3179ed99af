"""Ready-made sets of endpoint options.

A preset is a function that changes an :class:`~iroh_fast.config.EndpointConfig`, or such a
config whose non-default fields are taken over; write your own the same way.  Options given
to ``Endpoint.bind`` directly win over the preset.
"""

from __future__ import annotations

from .config import EndpointConfig
from .errors import ConfigError

__all__ = ["minimal", "n0", "n0_no_relay"]


def minimal(config: EndpointConfig) -> None:
    """No relays and no address lookup: peers are reached by the addresses you give."""


def n0(config: EndpointConfig) -> None:
    """Relays and address lookup run by number 0, iroh's default.  Not available yet."""
    raise ConfigError(
        "presets.n0 needs address lookup, which is not part of this version yet; "
        'use relays="default" and dial with tickets or addresses'
    )


def n0_no_relay(config: EndpointConfig) -> None:
    """As :func:`n0`, without relays.  Not available yet."""
    raise ConfigError(
        "presets.n0_no_relay needs address lookup, which is not part of this version yet; "
        "use presets.minimal and dial with tickets or addresses"
    )
