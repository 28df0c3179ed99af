"""What an endpoint counts of the paths of all its connections."""

from __future__ import annotations

from collections.abc import Mapping

from iroh_fast.net.transport import SockAddr, is_private, is_relay

__all__ = ["PathCounters"]

_KINDS = ("ip", "relay", "custom")


def _kind(addr: SockAddr) -> str:
    if not is_private(addr):
        return "ip"
    return "relay" if is_relay(addr) else "custom"


class PathCounters:
    """Counters with the names of iroh's, without their group."""

    __slots__ = ("_values",)

    def __init__(self) -> None:
        self._values = dict.fromkeys(
            (
                "holepunch_attempts",
                *("paths_direct", "paths_relay", "paths_custom"),
                "num_conns_direct",
                *(f"transport_{kind}_paths_added" for kind in _KINDS),
                *(f"transport_{kind}_paths_removed" for kind in _KINDS),
            ),
            0,
        )

    def punched(self) -> None:
        """A round of hole punching began."""
        self._values["holepunch_attempts"] += 1

    def established(self, addr: SockAddr) -> None:
        """A path of a connection came about."""
        kind = _kind(addr)
        self._values["paths_direct" if kind == "ip" else f"paths_{kind}"] += 1

    def became_direct(self) -> None:
        """A connection has a direct path for the first time."""
        self._values["num_conns_direct"] += 1

    def added(self, addr: SockAddr) -> None:
        """An address of a remote is in use that was not."""
        self._values[f"transport_{_kind(addr)}_paths_added"] += 1

    def removed(self, addr: SockAddr) -> None:
        """An address of a remote is not in use any more."""
        self._values[f"transport_{_kind(addr)}_paths_removed"] += 1

    def simple(self, addr: SockAddr, *, begins: bool) -> None:
        """A connection with this path alone begins or ends."""
        if begins:
            self.established(addr)
            self.added(addr)
            if not is_private(addr):
                self.became_direct()
        else:
            self.removed(addr)

    def snapshot(self) -> Mapping[str, int]:
        """All of them, by name."""
        return self._values
