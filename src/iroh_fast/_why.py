"""Why a connection runs over a relay, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

__all__ = ["RelayedFacts", "explain"]


class Report(Protocol):
    """The part of a net report that matters here."""

    @property
    def has_udp(self) -> bool: ...
    @property
    def mapping_varies_by_dest_v4(self) -> bool | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayedFacts:
    """What decides whether a connection has a direct path.

    Attributes
    ----------
    relay_only : the caller of ``connect`` wanted it so.
    has_sockets : this endpoint has UDP sockets.
    is_client : this side dialed.
    multipath, nat_traversal : the peer takes part.
    own : addresses at which this endpoint may be reached.
    nat : what became of the peer's candidates, see ``QuicConnection.nat_state``.
    rounds : of hole punching until now; `next_round` seconds until the next one, None: not planned.
    direct : addresses of open direct paths, and whether they are proven.
    chosen : paths are chosen by a function of the user.
    report : of the network that this endpoint is in; None: there is none.
    """

    relay_only: bool = False
    has_sockets: bool = True
    is_client: bool = True
    multipath: bool = True
    nat_traversal: bool = True
    own: int = 0
    nat: Mapping[str, Any] = field(default_factory=dict)
    rounds: int = 0
    next_round: float | None = None
    direct: Sequence[tuple[str, bool]] = ()
    chosen: bool = False
    report: Report | None = None


def explain(facts: RelayedFacts) -> str:
    """Say why there is no direct path, the thing that decides first."""
    return _never(facts) or _working(facts) or "; ".join(filter(None, _tried(facts)))


def _never(facts: RelayedFacts) -> str:
    """What rules a direct path out."""
    if facts.relay_only:
        return "it was dialed with relay_only"
    if not facts.multipath:
        return "the peer does not take part in multipath, so that there is one path for ever"
    if not facts.has_sockets:
        return "this endpoint has no UDP sockets"
    return ""


def _working(facts: RelayedFacts) -> str:
    """A direct path is there, or about to be."""
    proven = [addr for addr, validated in facts.direct if validated]
    if proven and facts.chosen:
        return f"the path_selector chose the relay, though {proven[0]} works"
    if proven:
        return f"a direct path to {proven[0]} was proven a moment ago, and data moves to it next"
    if facts.direct:
        return f"a direct path to {facts.direct[0][0]} is open, and its proof under way"
    return ""


def _tried(facts: RelayedFacts) -> Sequence[str]:
    """What hole punching did until now, and what of this network speaks against it."""
    blocked = facts.report is not None and not facts.report.has_udp
    if blocked:
        return ("no UDP gets out of this network, by the net report",)
    if not facts.nat_traversal:
        return ("the peer takes no part in NAT traversal",)
    return (_probes(facts), _network(facts), _next(facts))


def _probes(facts: RelayedFacts) -> str:
    candidates: Sequence[Mapping[str, Any]] = facts.nat.get("candidates", ())
    if not candidates:
        if not facts.own:
            return "neither side knows an address at which it could be reached directly"
        return (
            "the peer has not told any address at which it could be reached directly"
            if facts.is_client
            else "the peer, who dialed, has not begun hole punching"
        )
    if not facts.own and facts.is_client:
        return "no address is known at which this endpoint could be reached directly"
    barred = sum(bool(one["barred"]) for one in candidates)
    tried = [one for one in candidates if not one["barred"]]
    if not tried:
        return f"none of the {barred} addresses that the peer told may be probed"
    sent = sum(one["probes"] for one in tried)
    answered = sum(bool(one["answered"]) for one in tried)
    where = f"{len(tried)} address{'es' * (len(tried) > 1)} of the peer"
    if not sent:
        return f"{where} will be probed in a moment"
    got = f"{answered} answered" if answered else "none was answered"
    return f"{sent} probe{'s' * (sent > 1)} went to {where}, {got}"


def _network(facts: RelayedFacts) -> str:
    if facts.report is not None and facts.report.mapping_varies_by_dest_v4:
        return (
            "this network's NAT picks another port for each destination (symmetric): "
            "without a direct path if the peer's does so, too"
        )
    return ""


def _next(facts: RelayedFacts) -> str:
    if not facts.is_client:
        return "the peer, who dialed, begins the attempts"
    if facts.nat.get("probing"):
        return f"round {max(1, facts.rounds)} of hole punching is under way"
    if facts.next_round is not None:
        return f"the next round is in {facts.next_round:.0f} s"
    return ""
