"""One query to one server over UDP."""

from __future__ import annotations

import asyncio
import socket
from typing import Final

from ...aio.once import Once
from .message import Query

__all__ = ["Exchange"]

MAX_DATAGRAMS: Final = 6
STEADY: Final = 2  # gaps of one pace each, then each is twice the one before
LIFETIME_S: Final = 6.0
MIN_PACE_S: Final = 0.3
MAX_PACE_S: Final = 1.0
BUFFER: Final = 4096
READS: Final = 16  # datagrams per turn of the loop; what is forged must not keep it busy


class Exchange:
    """A query that is sent again until it is answered; a context manager.

    A socket of its own, so with a port that nobody can guess, connected, so the system drops
    what comes from any other address. Datagrams that do not answer the query are not looked at
    any further.

    Parameters
    ----------
    family, address : of the server.
    srtt : seconds that it usually takes.

    Attributes
    ----------
    answer : the first one, None so far.
    error : why there will be none.
    over : there is one of both.
    """

    def __init__(self, query: Query, family: int, address: tuple[object, ...], srtt: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._query = query
        self._family = family
        self._address = address
        self._gap = min(max(1.5 * srtt, MIN_PACE_S), MAX_PACE_S)
        self._sent = 0
        self._timer: asyncio.TimerHandle | None = None
        self._sock: socket.socket | None = None
        self.answer: bytes | None = None
        self.error: OSError | None = None
        self.over = Once()

    def __enter__(self) -> Exchange:
        sock = socket.socket(self._family, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            sock.connect(self._address)
            self._loop.add_reader(sock, self._readable)
        except BaseException:
            sock.close()
            raise
        self._sock = sock
        self._end = self._loop.call_later(LIFETIME_S, self._fail, TimeoutError("no answer"))
        self._send()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.cancel()
        if self._timer is not None:
            self._timer.cancel()
        if self._sock is not None:
            self._loop.remove_reader(self._sock)
            self._sock.close()
            self._sock = None

    def _send(self) -> None:
        if self._sock is None or self.over.happened:
            return
        try:
            self._sock.send(self._query.wire)
        except BlockingIOError:
            pass  # as good as lost
        except OSError as error:
            self._fail(error)
            return
        self._sent += 1
        if self._sent == MAX_DATAGRAMS:
            return
        if self._sent > STEADY:
            self._gap *= 2
        self._timer = self._loop.call_later(self._gap, self._send)

    def _readable(self) -> None:
        assert self._sock is not None
        for _ in range(READS):
            try:
                data = self._sock.recv(BUFFER)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:  # refused, or unreachable: what ICMP told the system
                self._fail(error)
                return
            if self._query.is_answered_by(data) and not self.over.happened:
                self.answer = data
                self.over.set()
                return

    def _fail(self, error: OSError) -> None:
        if not self.over.happened:
            self.error = error
            self.over.set()
