"""Direct paths that are silent while another path works: given up, for the peer to leave them, too."""

from __future__ import annotations

from .users import Followed, PathUser

__all__ = ["PATH_UNSTABLE", "Silences"]

PATH_UNSTABLE = 0x3E76  # the code with which a path ends that its idle timeout ends
GIVE_UP_S = 1.0  # after the path fell silent


class Silences:
    """Waits for silent paths to come back.

    A peer of iroh keeps its data on a path until that ends, whatever we find out: 15 s of silence.
    So the side that dialed ends the path as soon as it is silent for a while and something was heard
    on another.

    Attributes
    ----------
    due : when to look again; None while no path is silent.
    """

    __slots__ = ("_heard", "due")

    def __init__(self) -> None:
        # By connection and path: how much the other paths had received when it fell silent.
        self._heard: dict[tuple[PathUser, int], int] = {}
        self.due: float | None = None

    def began(self, conn: PathUser, state: Followed, id: int, now: float) -> None:
        """A direct path stopped to answer."""
        if not conn.is_client:
            # INTEROP: what iroh 1.4 sent on a path that the other side ends is lost for ever, as far as it dialed.
            return
        self._heard[conn, id] = _heard_elsewhere(conn, state)
        if self.due is None:
            self.due = now + GIVE_UP_S

    def ended(self, conn: PathUser, id: int) -> None:
        """It answers again, or is gone."""
        self._heard.pop((conn, id), None)
        if not self._heard:
            self.due = None

    def left(self, conn: PathUser) -> None:
        """The connection is over."""
        for known, id in list(self._heard):
            if known is conn:
                self.ended(conn, id)

    def given_up(self, states: dict[PathUser, Followed], now: float) -> list[tuple[PathUser, int]]:
        """The paths to end now; the others are waited for once more."""
        self.due = now + GIVE_UP_S
        found = [
            (conn, id)
            for (conn, id), before in self._heard.items()
            if _heard_elsewhere(conn, states[conn]) > before
        ]
        for conn, id in found:
            self.ended(conn, id)
        if not self._heard:
            self.due = None
        return found


def _heard_elsewhere(conn: PathUser, state: Followed) -> int:
    """Bytes received on the paths that work."""
    infos = (conn.path_info(id) for id in state.paths if state.works(id))
    return sum(info["stats"]["udp_rx"]["bytes"] for info in infos if info is not None)
