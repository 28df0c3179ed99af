"""The servers of number 0, which iroh uses when nothing else is said."""

from __future__ import annotations

import os
from typing import Final

__all__ = [
    "N0_DNS_ORIGIN",
    "N0_DNS_ORIGIN_STAGING",
    "N0_PKARR_RELAY",
    "N0_PKARR_RELAY_STAGING",
    "n0_dns_origin",
    "n0_pkarr_relay",
]

# With its last dot, so that no search domain is tried.
N0_DNS_ORIGIN: Final = "dns.iroh.link."
N0_DNS_ORIGIN_STAGING: Final = "staging-dns.iroh.link."
N0_PKARR_RELAY: Final = "https://dns.iroh.link/pkarr"
N0_PKARR_RELAY_STAGING: Final = "https://staging-dns.iroh.link/pkarr"


def _staging() -> bool:
    return bool(os.environ.get("IROH_FORCE_STAGING_RELAYS"))


def n0_dns_origin() -> str:
    """The one in use: that for tests when ``IROH_FORCE_STAGING_RELAYS`` is set and not empty."""
    return N0_DNS_ORIGIN_STAGING if _staging() else N0_DNS_ORIGIN


def n0_pkarr_relay() -> str:
    """The one in use; see `n0_dns_origin`."""
    return N0_PKARR_RELAY_STAGING if _staging() else N0_PKARR_RELAY
