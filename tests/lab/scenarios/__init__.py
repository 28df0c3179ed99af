"""The scenarios of the lab, by what they are about; importing this enters all of them in `stage.SCENARIOS`."""

from tests.lab.scenarios import becoming_direct, closing, failures, relays, several

__all__ = ["becoming_direct", "closing", "failures", "relays", "several"]
