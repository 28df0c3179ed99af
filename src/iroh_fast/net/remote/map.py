"""The remote endpoints an endpoint has connections with, on its event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from iroh_fast.aio._core_events import on_paths
from iroh_fast.net.transport import SockAddr, is_private

from .state import RemoteState

if TYPE_CHECKING:
    from iroh_fast.quic._connection import QuicConnection

__all__ = ["RemoteMap"]


class RemoteMap:
    """The remote endpoints an endpoint has connections with.

    A connection without a choice of paths costs nothing here: state appears with a second
    address or path.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        observer: Callable[[QuicConnection], object] | None = None,
    ) -> None:
        self._loop = loop
        self._observer = observer  # is told when paths change, and at the end
        self._remotes: dict[bytes, RemoteState] = {}
        self._timers: dict[bytes, asyncio.TimerHandle] = {}

    def get(self, key: bytes) -> RemoteState | None:
        """The state of a remote, if there is any."""
        return self._remotes.get(key)

    def attach(self, conn: QuicConnection, addrs: Iterable[SockAddr] = ()) -> None:
        """Follow the paths of a connection whose handshake is complete; `addrs` lead to its peer."""
        key = conn.peer_id
        if key is None or conn.close_reason is not None:
            return  # over already: nothing would ever take its state away again
        on_paths(conn, self)
        known = list(addrs)
        state = self._remotes.get(key)
        if state is None:
            if len(known) < 2:
                first = conn.path_remote(0)
                relayed = first is not None and is_private(first)
                if not relayed and len(conn.path_ids()) < 2:
                    return
            state = self._remotes[key] = RemoteState(self._loop.time)
        state.learn(known)
        state.add(conn)
        self._arm(key, state)

    def learn(self, conn: QuicConnection, addrs: Iterable[SockAddr]) -> None:
        """Further addresses of the peer of a connection that is followed."""
        key = conn.peer_id
        if key is None or conn.close_reason is not None:
            return
        state = self._remotes.get(key)
        if state is None:
            state = self._remotes[key] = RemoteState(self._loop.time)
            if (first := conn.path_remote(0)) is not None:
                state.learn([first])
            state.add(conn)
        state.learn_more(addrs)
        self._arm(key, state)

    def selected(self, key: bytes) -> SockAddr | None:
        """The address that the connections with a remote use, where there is a choice."""
        state = self._remotes.get(key)
        return None if state is None else state.selected

    def __call__(self, conn: QuicConnection) -> None:
        """The paths of a connection changed, or it ended.

        It is itself what all connections call: a bound method each is much among thousands.
        """
        self._follow(conn)
        if self._observer is not None:
            self._observer(conn)

    def _follow(self, conn: QuicConnection) -> None:
        key = conn.peer_id
        if key is None:
            return
        state = self._remotes.get(key)
        if conn.close_reason is not None:
            if state is not None:
                state.remove(conn)
                if not state.conns:
                    del self._remotes[key]
                self._arm(key, state)
            return
        if state is None:
            paths = conn.path_states()
            if len(paths) < 2:
                return
            state = self._remotes[key] = RemoteState(self._loop.time)
            # State begins with the second path: what carried the connection until now is the present choice.
            for id, remote, validated, *_ in paths:
                if id == 0 and validated:
                    state.selected = remote
        if conn not in state.conns:
            state.add(conn)
        else:
            state.refresh(conn)
        self._arm(key, state)

    def _arm(self, key: bytes, state: RemoteState) -> None:
        timer, due = self._timers.get(key), state.deadline
        if timer is not None:
            if due is not None and timer.when() <= due:
                return  # looks again when it fires
            timer.cancel()
            del self._timers[key]
        if due is not None:
            self._timers[key] = self._loop.call_at(due, self._on_timer, key)

    def _on_timer(self, key: bytes) -> None:
        self._timers.pop(key, None)
        state = self._remotes.get(key)
        if state is not None:
            state.expire()
            self._arm(key, state)

    def stop(self) -> None:
        """Cancel every timer."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._remotes.clear()
