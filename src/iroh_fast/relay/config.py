"""Settings of a relay server, under the name they had first; see `iroh_fast.relay`."""

from .server.config import RelayLimits, RelayServerConfig, RelayTlsConfig

__all__ = ["RelayLimits", "RelayServerConfig", "RelayTlsConfig"]
