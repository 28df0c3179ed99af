"""Sockets of an endpoint that broke or whose address moved, opened again at the same port."""

from __future__ import annotations

import asyncio
import logging
import os
import select
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from iroh_fast._batch import UdpSocket

from ._socket import DriverCore
from .bind import BindAddr
from .local_addrs import NetworkState

__all__ = ["BUFFER_BYTES", "Rebinder", "sockaddr_of"]

logger = logging.getLogger("iroh_fast.net")

BUFFER_BYTES: Final = (
    7 * 1024 * 1024
)  # per socket and direction, as iroh asks for; the kernel may give less
RETRY_S: Final = (0.1, 5.0)
CALM_S: Final = 5.0  # one that breaks again sooner is not opened at once

_Bind: TypeAlias = Callable[[tuple[Any, ...]], UdpSocket]


def sockaddr_of(addr: BindAddr) -> tuple[Any, ...]:
    """What a socket is bound to.

    Raises
    ------
    OSError : there is no interface of that name.
    """
    if ":" not in addr.host:
        return (addr.host, addr.port)
    host, _, scope = addr.host.partition("%")
    number = int(scope) if scope.isdecimal() else socket.if_nametoindex(scope) if scope else 0
    return (host, addr.port, 0, number)


def _bind(sockaddr: tuple[Any, ...]) -> UdpSocket:
    return UdpSocket.bind(sockaddr, buffer_bytes=BUFFER_BYTES)


def _is_hung_up(sock: UdpSocket) -> bool:
    fd = sock.fileno()
    if fd < 0 or not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(fd, 0)
    return any(events & (select.POLLHUP | select.POLLNVAL) for _, events in poll.poll(0))


class Rebinder:
    """Keeps the sockets of an engine usable.

    Parameters
    ----------
    bound : for each socket, in the order of the engine, what was wished and what it got.
    bind : opens a socket.
    always : at each major change all sockets are opened again, healthy ones too.  Linux keeps them
        usable whatever happens to interfaces, other systems may not.
    """

    __slots__ = (
        *("_always", "_bind", "_bound", "_core", "_down", "_failed", "_last", "_loop"),
        *("_pauses", "_retries", "rebinds"),
    )

    def __init__(
        self,
        core: DriverCore,
        loop: asyncio.AbstractEventLoop,
        bound: Sequence[tuple[BindAddr, tuple[Any, ...]]],
        *,
        bind: _Bind = _bind,
        always: bool = sys.platform != "linux",
    ) -> None:
        self._core = core
        self._loop = loop
        self._bound = list(bound)
        self._bind = bind
        self._always = always
        self._down: set[int] = set()
        self._last = [float("-inf")] * len(self._bound)  # when it was opened again
        self._pauses = [RETRY_S[0]] * len(self._bound)
        self._retries: dict[int, asyncio.TimerHandle] = {}
        self.rebinds = 0
        core.on_broken = self.broken

    def network_changed(self, state: NetworkState) -> None:
        """Open again what may be of no use in another network; try now what could not be opened."""
        for index in range(len(self._bound)):
            if index in self._down:
                self._pauses[index] = RETRY_S[0]
                self._open(index)
            elif (self._always and state.major) or self._moved(index):
                self._reopen(index)

    def broken(self, sock: UdpSocket, error: int) -> None:
        """The engine has trouble with a socket: errno, or 0 where it is readable without end."""
        index = next((i for i, own in enumerate(self._core.sockets) if own is sock), None)
        if index is None or index in self._down or self._core.stopped:
            return  # it is another one by now
        if not error and not _is_hung_up(sock):
            return
        name = os.strerror(error) if error else "shut down"
        logger.info(
            "the socket %s is broken (%s): opening it again", self._name(index), name.lower()
        )
        if self._loop.time() < self._last[index] + CALM_S:
            self._core.shut_socket(index)
            self._later(index)
        else:
            self._reopen(index)

    def rebind(self) -> None:
        """Open every socket again, at the same addresses and ports."""
        for index in range(len(self._bound)):
            self._reopen(index)

    def stop(self) -> None:
        """Open nothing more."""
        for handle in self._retries.values():
            handle.cancel()
        self._retries.clear()
        self._bound = []

    def _name(self, index: int) -> str:
        host, port = self._bound[index][1][:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def _target(self, index: int) -> tuple[Any, ...]:
        """Where it belongs now: an interface that is there again has another number."""
        wish, (host, port, *rest) = self._bound[index]
        return (host, port, *sockaddr_of(wish)[2:]) if rest else (host, port)

    def _moved(self, index: int) -> bool:
        if "%" not in self._bound[index][0].host:
            return False
        try:
            return self._target(index) != self._bound[index][1]
        except OSError:
            return False  # not there: later perhaps

    def _reopen(self, index: int) -> None:
        # Nobody else can have the port while the old socket has it.
        self._core.shut_socket(index)
        self._open(index)

    def _open(self, index: int) -> None:
        if (handle := self._retries.pop(index, None)) is not None:
            handle.cancel()
        try:
            target = self._target(index)
            new = self._bind(target)
        except OSError as error:
            level = logging.DEBUG if index in self._down else logging.INFO
            logger.log(level, "cannot open %s again yet: %s", self._name(index), error)
            self._later(index)
            return
        self._core.replace_socket(index, new)
        self._bound[index] = (self._bound[index][0], target)
        self._down.discard(index)
        self._pauses[index] = RETRY_S[0]
        self._last[index] = self._loop.time()
        self.rebinds += 1

    def _later(self, index: int) -> None:
        self._down.add(index)
        pause = self._pauses[index]
        self._pauses[index] = min(2 * pause, RETRY_S[1])
        self._retries[index] = self._loop.call_later(pause, self._open, index)
