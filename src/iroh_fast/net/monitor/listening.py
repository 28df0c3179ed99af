"""Hears that the network of this machine may have changed: from the kernel, or by looking."""

from __future__ import annotations

import asyncio
import errno
import logging
import sys
from collections.abc import Callable
from typing import Any, Final, Protocol

from ..local_addrs import NetworkState
from .netlink import GROUPS, Netlink, tells_of_change
from .read import read_network, route_sources

__all__ = ["Listener", "NetlinkListener", "Poller", "listen"]

log = logging.getLogger("iroh_fast.net.monitor")

READS_A_TURN: Final = 32
READS_A_WINDOW: Final = 256  # then what comes is not looked at for the rest of the second
WINDOW_S: Final = 1.0
REOPEN_S: Final = (1.0, 30.0)
POLL_S: Final = 2.0  # for another way to the internet
FULL_POLL: Final = 5  # every so often, for any difference


class Listener(Protocol):
    """What says that it is time to look again."""

    def close(self) -> None:
        """Say nothing more."""
        ...


class NetlinkListener:
    """Is told by the Linux kernel.

    Parameters
    ----------
    heard : called whenever something may have changed, perhaps many times.

    Raises
    ------
    OSError : the kernel does not tell this process.
    """

    __slots__ = ("_connect", "_heard", "_later", "_loop", "_pause", "_reads", "_since", "_socket")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        heard: Callable[[], object],
        connect: Callable[[], Netlink] = lambda: Netlink(GROUPS),
    ) -> None:
        self._loop = loop
        self._heard = heard
        self._connect = connect
        self._reads = 0  # of the window that began at `_since`
        self._since = float("-inf")
        self._pause = REOPEN_S[0]
        self._later: asyncio.TimerHandle | None = None
        self._socket: Netlink | None = None
        self._open()

    def _open(self) -> None:
        self._socket = self._connect()
        self._loop.add_reader(self._socket.fileno(), self._readable)

    def _readable(self) -> None:
        assert self._socket is not None
        now = self._loop.time()
        if now >= self._since + WINDOW_S:
            self._since, self._reads = now, 0
        try:
            for _ in range(READS_A_TURN):
                if tells_of_change(self._socket.read()):
                    self._heard()
                self._reads += 1
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                self._broken(error)
                return
            self._reads += 1
            self._heard()  # of what, is lost
        if self._reads >= READS_A_WINDOW:
            # The kernel keeps what it can meanwhile and says if that was not all.
            self._loop.remove_reader(self._socket.fileno())
            self._later = self._loop.call_at(self._since + WINDOW_S, self._go_on)

    def _go_on(self) -> None:
        assert self._socket is not None
        self._later = None
        self._loop.add_reader(self._socket.fileno(), self._readable)

    def _broken(self, error: OSError) -> None:
        log.debug("netlink broke: %s", error)
        self._shut()
        self._later = self._loop.call_later(self._pause, self._again)
        self._pause = min(2 * self._pause, REOPEN_S[1])

    def _again(self) -> None:
        self._later = None
        try:
            self._open()
        except OSError as error:
            self._broken(error)
        else:
            self._heard()

    def _shut(self) -> None:
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def close(self) -> None:
        """Hear nothing more."""
        if self._later is not None:
            self._later.cancel()
        self._shut()


class Poller:
    """Looks every two seconds, for where the system does not tell.

    Parameters
    ----------
    heard : called when something changed.
    ways : what costs next to nothing to ask: other answers are a change.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        heard: Callable[[], object],
        read: Callable[[], NetworkState] = read_network,
        ways: Callable[[], Any] = route_sources,
    ) -> None:
        self._loop = loop
        self._heard = heard
        self._read = read
        self._ways = ways
        self._seen = (ways(), read().interfaces)
        self._turn = 0
        self._handle = loop.call_later(POLL_S, self._look)

    def _look(self) -> None:
        self._handle = self._loop.call_later(POLL_S, self._look)
        self._turn += 1
        ways = self._ways()
        if ways == self._seen[0] and self._turn % FULL_POLL:
            return
        seen = (ways, self._read().interfaces)
        if seen != self._seen:
            self._seen = seen
            self._heard()

    def close(self) -> None:
        """Look no more."""
        self._handle.cancel()


def listen(loop: asyncio.AbstractEventLoop, heard: Callable[[], object]) -> Listener:
    """Listen in the best way that there is."""
    if sys.platform == "linux":
        try:
            return NetlinkListener(loop, heard)
        except OSError as error:
            log.info(
                "the kernel does not tell of changes of the network, looking instead: %s", error
            )
    return Poller(loop, heard)
