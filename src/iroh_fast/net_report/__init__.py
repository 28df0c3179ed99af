"""Reports about the network: public addresses, latencies of relays, what is blocked."""

from __future__ import annotations

from .config import PUBLIC_STUN, NetReportConfig
from .report import NetReport, Probe

__all__ = ["PUBLIC_STUN", "NetReport", "NetReportConfig", "Probe"]
