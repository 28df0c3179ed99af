"""Connections that are only pretended, and a clock that goes when told: for tests of the path policy."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from iroh_fast.errors import ConnectionLost, IrohError
from iroh_fast.net.remote import RemoteState

RELAY = ("fd15:70a:510b:1::7", 12345, 0, 0)
RELAY_2 = ("fd15:70a:510b:1::8", 12345, 0, 0)
V4 = ("192.0.2.1", 4433)
V4_2 = ("192.0.2.2", 4433)
V6 = ("2001:db8::1", 4433, 0, 0)
KEY = bytes(32)


class Clock:
    """The part of an event loop that the policy uses; time passes by `advance`."""

    def __init__(self) -> None:
        self.now = 0.0
        self.queue: list[tuple[float, int, Any]] = []
        self.count = itertools.count()
        self.watched: list[RemoteState] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, call: Callable[..., None], *args: Any) -> Any:
        handle = SimpleNamespace(live=True, when=lambda: when)

        def cancel() -> None:
            handle.live = False

        handle.cancel = cancel
        handle.run = lambda: call(*args)
        heapq.heappush(self.queue, (when, next(self.count), handle))
        return handle

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            due = [state for state in self.watched if state.deadline is not None]
            first = min(due, key=lambda state: state.deadline or 0.0, default=None)
            if first is not None and first.deadline is not None and first.deadline <= end:
                self.now = max(self.now, first.deadline)
                first.expire()
                continue
            if not self.queue or self.queue[0][0] > end:
                break
            self.now, _, handle = heapq.heappop(self.queue)
            if handle.live:
                handle.live = False
                handle.run()
        self.now = end

    @property
    def armed(self) -> int:
        return sum(handle.live for _, _, handle in self.queue)


class Conn:
    """A connection as the policy sees it; paths get ready and die when the test says so."""

    def __init__(self, client: bool = True, ids: int = 8, key: bytes | None = KEY) -> None:
        self.is_client = client
        self.has_multipath = True
        self.close_reason: str | None = None
        self.peer_id = key
        self.path_listener: Callable[[Any], object] | None = None
        self.room = ids
        self.paths: dict[int, dict[str, Any]] = {}
        self.next_id = 0
        self.opened: list[Any] = []
        self.closed: list[int] = []
        self.idle: dict[int, float] = {}
        self.asked = 0  # questions about its paths
        self.silent: set[int] = set()
        # NAT traversal
        self.has_nat_traversal = False
        self.ready_to_punch = True
        self.told: list[Any] = []  # our candidates, as last told
        self.candidates: list[Any] = []  # those of the peer
        self.rounds: list[Any] = []  # what each round told

    def path(
        self, addr: Any, rtt_ms: float = 10.0, validated: bool = True, status: str = "available"
    ) -> int:
        id = self.next_id
        self.next_id += 1
        self.paths[id] = {
            "id": id,
            "remote": addr,
            "rtt": rtt_ms / 1000,
            "validated": validated,
            "status": status,
            "announced": False,
            "stats": {"udp_rx": {"bytes": 0}},
        }
        return id

    def path_ids(self) -> list[int]:
        return list(self.paths)

    def path_info(self, id: int) -> dict[str, Any] | None:
        return self.paths.get(id)

    def path_states(self) -> list[tuple[int, Any, bool, float, bool, bool]]:
        self.asked += 1
        return [
            (id, p["remote"], p["validated"], p["rtt"], p["status"] == "available", p["announced"])
            for id, p in self.paths.items()
        ]

    def path_remote(self, id: int) -> Any:
        return self.paths[id]["remote"] if id in self.paths else None

    def path_rtt(self, id: int) -> float | None:
        self.asked += 1
        return self.paths[id]["rtt"] if id in self.paths else None

    def path_silent(self, id: int) -> bool:
        return id in self.silent

    def set_nat_addresses(self, addrs: Any) -> None:
        self.told = list(addrs)

    def nat_addresses(self) -> list[Any]:
        return self.candidates

    def start_nat_round(self) -> bool:
        assert self.is_client and self.told
        if self.ready_to_punch:
            self.rounds.append(list(self.told))
        return self.ready_to_punch

    def nat_state(self) -> dict[str, Any]:
        return {"round": len(self.rounds)}

    def open_path(self, addr: Any, local: Any, backup: bool) -> int:
        assert self.is_client and backup
        if self.close_reason is not None:
            raise ConnectionLost("over")
        if len(self.paths) >= self.room:
            raise IrohError("the peer allows no further path")
        self.opened.append(addr)
        return self.path(addr, validated=False, status="backup")

    def hears(self, addr: Any, size: int = 100) -> None:
        """Something arrives on a path."""
        for path in self.paths.values():
            if path["remote"] == addr:
                path["stats"]["udp_rx"]["bytes"] += size

    def close_path(self, id: int, code: int = 0x3E) -> None:
        assert (self.is_client or code == 0x3E76) and len(self.paths) > 1
        self.closed.append(id)
        del self.paths[id]

    def set_path_status(self, id: int, available: bool) -> None:
        self.paths[id]["status"] = "available" if available else "backup"
        self.paths[id]["announced"] = True

    def set_path_max_idle(self, id: int, seconds: float) -> None:
        self.idle[id] = seconds

    def end(self) -> None:
        """What the engine does at the end of a connection."""
        self.close_reason = "over"
        listener, self.path_listener = self.path_listener, None
        if listener is not None:
            listener(self)

    def ready(self, addr: Any, rtt_ms: float = 10.0) -> int:
        """An opened path got its answer."""
        (path,) = [p for p in self.paths.values() if p["remote"] == addr]
        path.update(validated=True, rtt=rtt_ms / 1000)
        return path["id"]

    def status(self) -> dict[Any, str]:
        return {path["remote"]: path["status"] for path in self.paths.values()}
