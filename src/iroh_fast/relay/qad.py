"""QUIC address discovery: a relay tells its clients from which address their packets come.

The server is a QUIC endpoint with an ordinary certificate that accepts connections, sends
OBSERVED_ADDRESS frames (QUIC address discovery draft) and does nothing else. A client dials it
from the sockets of its own endpoint, because only then is the answer the address at which other
endpoints can reach it. Here is what both sides agree on.
"""

from __future__ import annotations

from typing import Final

from ..quic.config import QuicTransportConfig

__all__ = ["ALPN", "CLOSE_CODE", "CLOSE_REASON", "plain_transport"]

ALPN: Final = b"/iroh-qad/0"
CLOSE_CODE: Final = 1
CLOSE_REASON: Final = b"finished"


def plain_transport(**settings: object) -> QuicTransportConfig:
    """A transport without multipath and NAT traversal, which the public settings always have."""
    config = QuicTransportConfig(**settings)  # type: ignore[arg-type]
    object.__setattr__(config, "max_concurrent_multipath_paths", 0)
    object.__setattr__(config, "max_remote_nat_traversal_addresses", 0)
    return config
