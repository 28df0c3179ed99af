"""What decides whether there is a direct path to a remote, as facts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from iroh_fast.net.transport import SockAddr

from .punching import Punching
from .users import Followed, PathUser

__all__ = ["facts"]


def facts(
    conns: Mapping[PathUser, Followed],
    puncher: PathUser | None,
    punching: Punching,
    local: Iterable[SockAddr],
    now: float,
) -> dict[str, Any]:
    """For those who put it in words.

    Parameters
    ----------
    puncher : the connection that rounds run on.
    local : our candidates.

    Returns
    -------
    dict
        ``client``: some connection dialed, only those begin rounds.
        ``nat_traversal``: its peer takes part. ``own``, ``peer``: candidates of both sides.
        ``rounds``, ``last_round`` (seconds ago or None), ``next_round`` (seconds from now
        or None). ``nat``: the state of the round in the engine, or None.
    """
    last, due = punching.last_at, punching.due
    return {
        "client": any(conn.is_client for conn in conns),
        "nat_traversal": puncher is not None,
        "own": tuple(local),
        "peer": () if puncher is None else tuple(sorted(conns[puncher].candidates)),
        "rounds": punching.rounds,
        "last_round": None if last is None else now - last,
        "next_round": None if due is None else max(0.0, due - now),
        "nat": None if puncher is None else puncher.nat_state(),
    }
