"""The scenarios of the lab, by what they are about; importing this enters all of them in `stage.SCENARIOS`."""

from tests.lab.scenarios import (
    becoming_direct,
    closing,
    degraded,
    failures,
    packets,
    relays,
    several,
    uplinks,
)

__all__ = [
    "becoming_direct",
    "closing",
    "degraded",
    "failures",
    "packets",
    "relays",
    "several",
    "uplinks",
]
