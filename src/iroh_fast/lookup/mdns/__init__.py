"""Address lookup on the local network, as iroh's does it over mDNS."""

from __future__ import annotations

from .events import Discovered, Expired, MdnsEvent, MdnsEvents
from .service import MdnsLookup

__all__ = ["Discovered", "Expired", "MdnsEvent", "MdnsEvents", "MdnsLookup"]
