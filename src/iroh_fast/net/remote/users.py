"""A connection as the policy of paths sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from iroh_fast.net.transport import SockAddr, is_private

__all__ = ["Followed", "PathUser"]


class PathUser(Protocol):
    """The part of a connection that the policy uses."""

    @property
    def is_client(self) -> bool: ...
    @property
    def has_multipath(self) -> bool: ...
    @property
    def close_reason(self) -> object | None: ...
    def path_states(self) -> list[tuple[int, SockAddr, bool, float, bool, bool]]:
        """Of each open path: id, remote, validated, round-trip time, available, announced."""
        ...

    def path_rtt(self, id: int, /) -> float | None:
        """Round-trip time of a path in seconds, None when it is gone."""
        ...

    def path_silent(self, id: int, /) -> bool:
        """Whether probes of a path stay unanswered."""
        ...

    def path_info(self, id: int, /) -> Any:
        """A path as a mapping, with its counters; None when it is gone."""
        ...

    def open_path(self, remote: SockAddr, local: SockAddr | None, backup: bool, /) -> int: ...
    def close_path(self, id: int, code: int = ..., /) -> None: ...
    def set_path_status(self, id: int, available: bool, /) -> None: ...
    def set_path_max_idle(self, id: int, seconds: float, /) -> None: ...

    # NAT traversal
    @property
    def has_nat_traversal(self) -> bool: ...
    def set_nat_addresses(self, addrs: Sequence[SockAddr], /) -> None:
        """Our candidates, the most useful first."""
        ...

    def nat_addresses(self) -> Sequence[SockAddr]:
        """The candidates of the peer."""
        ...

    def start_nat_round(self) -> bool:
        """Client: begin a round; False when that is not possible now."""
        ...

    def nat_state(self) -> Mapping[str, object]:
        """The round and its probes."""
        ...


@dataclass(eq=False, slots=True)
class Followed:
    """What the policy remembers of a connection.

    Attributes
    ----------
    relay_only : it is to have no direct path.
    paths : the established ones.
    trying : those that are not established yet.
    silent : those of `paths` that do not answer.
    candidates : where the peer says it may be reached.
    was_direct : it had a direct path.
    tries : how often a path to an address did not come about.
    blocked : attempts to open a path in a row for which there were no ids.
    """

    relay_only: bool = False
    paths: dict[int, SockAddr] = field(default_factory=dict)
    trying: dict[int, SockAddr] = field(default_factory=dict)
    silent: frozenset[int] = frozenset()
    candidates: frozenset[SockAddr] = frozenset()
    was_direct: bool = False
    tries: dict[SockAddr, int] = field(default_factory=dict)
    blocked: int = 0

    def has_direct(self) -> bool:
        """Whether there is a path that no relay carries, dead or alive."""
        return any(not is_private(addr) for addr in self.paths.values())

    def works(self, id: int) -> bool:
        """Whether a path is established and answers."""
        return id in self.paths and id not in self.silent

    def works_directly(self) -> bool:
        """Whether a direct path answers."""
        return any(
            not is_private(addr) and id not in self.silent for id, addr in self.paths.items()
        )
