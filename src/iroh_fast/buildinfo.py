"""How this copy was built, and what it found at run time."""

from __future__ import annotations

import platform
from typing import Any

from . import __version__, _batch, _crypto

__all__ = ["build_info"]


def build_info() -> dict[str, Any]:
    """Tell how this copy was built and what it found at run time.

    Returns
    -------
    dict
        ``version``; ``python``; ``crypto``: libraries and the backend of each cipher suite;
        ``build``: compiler and switches; ``socket``: whether the system sends and receives
        batches of datagrams (segmentation offload), tried on a loopback socket.
    """
    sock = _batch.UdpSocket.bind(("127.0.0.1", 0))
    try:
        features = {
            "gso": sock.gso,
            "gro": sock.gro,
            "max_segments": sock.max_segments,
            "may_fragment": sock.may_fragment,
        }
    finally:
        sock.close()
    return {
        "version": __version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "crypto": dict(_crypto.backend()),
        "build": dict(_crypto.build_switches()),
        "socket": features,
    }
