"""Ready-made sets of endpoint options.

A preset is a function that changes an :class:`~iroh_fast.config.EndpointConfig`, or such a
config whose non-default fields are taken over; write your own the same way.  Options given
to ``Endpoint.bind`` directly win over the preset.

``IROH_FORCE_STAGING_RELAYS``, set and not empty, means number 0's servers for tests.
"""

from __future__ import annotations

from .config import EndpointConfig

__all__ = ["minimal", "n0", "n0_no_relay"]


def minimal(config: EndpointConfig) -> None:
    """No relays and no address lookup: peers are reached by the addresses you give."""


def n0(config: EndpointConfig) -> None:
    """Relays and address lookup run by number 0, as iroh has it by default.

    The relay where the endpoint can be reached is published, signed, through their pkarr relay;
    others are looked for there and in their DNS.  IP addresses are not published.
    """
    from .lookup.dns import DnsLookup
    from .lookup.pkarr import PkarrPublisher, PkarrResolver

    config.relays = "default"
    config.address_lookup = (PkarrPublisher(), PkarrResolver(), DnsLookup())


def n0_no_relay(config: EndpointConfig) -> None:
    """As :func:`n0` without relays: IP addresses are published instead, for all to see."""
    from .lookup.dns import DnsLookup
    from .lookup.pkarr import PkarrPublisher, PkarrResolver

    # DIFFERS: iroh keeps its filter for relays here, and publishes empty records.
    publisher = PkarrPublisher(addr_filter="unfiltered")
    config.relays = None
    config.address_lookup = (publisher, PkarrResolver(), DnsLookup())
