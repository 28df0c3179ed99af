"""One connection to one relay: authentication, frames, pings, limits.

A connection never reconnects; `iroh_fast.relay.client.pool` does that.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
import os
import random
from collections.abc import Callable
from typing import Final, Protocol

from ..._relay import (
    DATAGRAM,
    DATAGRAM_BATCH,
    ENDPOINT_GONE,
    HEALTH,
    MAX_BATCH_CONTENTS,
    MAX_DATAGRAM_CONTENTS,
    PING,
    PONG,
    RESTARTING,
    STATUS,
    TEXT,
    WS_CLOSED,
    WS_PINGED,
    ClientReader,
    ClientWriter,
    RelayFrameError,
    WsProtocolError,
    build_frame,
    build_message,
)
from ...addr import RelayUrl
from ...aio.once import Once
from ...errors import RelayClientError, RelayError, RelayErrorKind
from ...keys import SecretKey
from ..wire import ClientHandshake, RelayDenied
from .link import Dialer, RelayLink, Target

__all__ = ["Backoff", "ConnectionOwner", "PingTracker", "RelayConnection", "connect_relay", "fits"]

CONNECT_TIMEOUT_S: Final = 10.0
SEND_TIMEOUT_S: Final = 15.0
PING_INTERVAL_S: Final = 15.0
PING_TIMEOUT_S: Final = (0.5, 5.0)  # shortest, and longest and first
BATCH_ITEMS: Final = 20
BATCH_BYTES: Final = 64 * 1024
WRITE_LOW, WRITE_HIGH = 32 * 1024, 128 * 1024  # bytes in the transport; above, sending pauses
TELL_EVERY_S: Final = 60.0
CLOSE_TIMEOUT_S: Final = 1.0  # for the last bytes to leave
BACKOFF_S: Final = (0.01, 16.0)

_TEXT, _BINARY, _CLOSE, _WS_PING, _WS_PONG = 1, 2, 8, 9, 10  # RFC 6455 §11.8
_HEALTHY, _SAME_KEY, _RATE_LIMITED = 0, 1, 2
_STATUS_NAMES: Final = {
    0: "healthy",
    1: "the same endpoint id connected elsewhere",
    2: "rate limited",
}

log = logging.getLogger(__name__)


class PingTracker:
    """At most one ping under way and the last round trip time; knows no clock.

    Attributes
    ----------
    rtt : float or None
        Last round trip, seconds.
    deadline : float or None
        When the ping under way is lost; None without one.
    """

    __slots__ = ("_data", "_random", "_sent", "deadline", "rtt")

    def __init__(self, random_bytes: Callable[[int], bytes] = os.urandom) -> None:
        self._random = random_bytes
        self._data = b""
        self._sent = 0.0
        self.rtt: float | None = None
        self.deadline: float | None = None

    def timeout(self) -> float:
        """How long an answer may take: three round trips, within 0.5 s to 5 s."""
        shortest, longest = PING_TIMEOUT_S
        return longest if self.rtt is None else min(max(3 * self.rtt, shortest), longest)

    def new_ping(self, now: float) -> bytes:
        """Start a ping, which replaces the one under way; returns its 8 bytes."""
        self._data = self._random(8)
        self._sent = now
        self.deadline = now + self.timeout()
        return self._data

    def pong(self, data: bytes, now: float) -> bool:
        """Take an answer; returns whether it was the one expected."""
        if self.deadline is None or data != self._data:
            return False
        self.rtt = now - self._sent
        self.deadline = None
        return True


class Backoff:
    """Growing pauses: 10 ms, doubling up to 16 s, each plus up to as much again at random."""

    __slots__ = ("_base", "_random")

    def __init__(self, uniform: Callable[[], float] = random.random) -> None:
        self._random = uniform
        self._base = BACKOFF_S[0]

    def next(self, most: float = math.inf) -> float:
        """The next pause, seconds; it does not grow beyond `most`."""
        base = self._base
        pause = base + base * self._random()
        if pause >= most:
            return most
        self._base = min(2 * base, BACKOFF_S[1])
        return pause

    def reset(self) -> None:
        """Begin with the shortest again."""
        self._base = BACKOFF_S[0]


def fits(segment_size: int, size: int) -> bool:
    """Tell whether contents of `size` bytes can be sent in one frame.

    Servers drop the connection over a frame that is too large, and some let an empty one end
    the connection of its destination.
    """
    return 0 < size <= (MAX_BATCH_CONTENTS if segment_size else MAX_DATAGRAM_CONTENTS)


class ConnectionOwner(Protocol):
    """What a `RelayConnection` calls, from the event loop."""

    def on_datagrams(self, src: bytes, ecn: int, segment_size: int, payload: bytes) -> None:
        """One frame of datagrams from the endpoint `src`; `segment_size` 0: a single one."""

    def on_gone(self, endpoint: bytes) -> None:
        """An endpoint that was heard of through this relay left it."""

    def on_rate_limited(self) -> None:
        """The relay slows this endpoint down; at most once per connection."""

    def on_superseded(self, superseded: bool) -> None:
        """Another connection with the same key gets the datagrams, or this one again."""

    def on_writable(self) -> None:
        """`RelayConnection.send` takes datagrams again."""


class RelayConnection(RelayLink):
    """An authenticated connection to a relay.

    Made by `connect_relay`; from `serve` on it runs by itself.

    Attributes
    ----------
    ended : Once
        Happened as soon as the connection is of no more use; `lost` when the socket is gone.
    error : RelayClientError or None
        Why it ended; None after `close`.
    established : bool
        The relay has answered a ping.
    restarting : (float, float) or None
        The relay's announcement: reconnect in this many seconds, try for this many.
    local_ip, remote_ip : IPv4Address or IPv6Address
        Our address towards the relay or the proxy, and its own.
    """

    local_ip: ipaddress.IPv4Address | ipaddress.IPv6Address
    remote_ip: ipaddress.IPv4Address | ipaddress.IPv6Address

    def __init__(self, url: RelayUrl, owner: ConnectionOwner) -> None:
        super().__init__()
        self.url = url
        self._name = Target.of(url).host_header
        self.ended = Once()
        self.error: RelayClientError | None = None
        self.established = False
        self.restarting: tuple[float, float] | None = None
        self.pings = PingTracker()
        self._loop = asyncio.get_running_loop()
        self._owner = owner
        self._reader: ClientReader | None = None
        self._writer = ClientWriter()
        self._items = 0
        self._serving = False
        self._paused = False
        self._ping_due = False
        self._pong: bytes | None = None
        self._ws_pong: bytes | None = None
        self._limited = False
        self._quiet_until: dict[str, float] = {}  # text of a warning: when it may come again
        self._heard = 0.0
        self._flush_handle: asyncio.Handle | None = None
        self._tick_handle: asyncio.TimerHandle | None = None
        self._stall_handle: asyncio.TimerHandle | None = None
        self._abort_handle: asyncio.TimerHandle | None = None

    # --- transport callbacks

    def get_buffer(self, sizehint: int) -> memoryview:
        reader = self._reader
        return super().get_buffer(sizehint) if reader is None else reader.get_buffer(sizehint)

    def buffer_updated(self, nbytes: int) -> None:
        reader = self._reader
        if reader is None:
            super().buffer_updated(nbytes)
            return
        reader.buffer_updated(nbytes)
        if self._serving:
            self._receive(reader)
        else:
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is None:
            self._end("closed", "the relay ended the connection")
        else:
            self._end("io", f"the connection to the relay broke: {exc}")
        for handle in (self._stall_handle, self._abort_handle):
            if handle is not None:
                handle.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        self._paused = True
        self._stall_handle = self._loop.call_later(SEND_TIMEOUT_S, self._stalled)

    def resume_writing(self) -> None:
        self._paused = False
        if self._stall_handle is not None:
            self._stall_handle.cancel()
            self._stall_handle = None
        if self._serving:
            self._send_control()
            if not self._paused:
                self._owner.on_writable()

    # --- set-up

    async def authenticate(self, secret_key: SecretKey) -> None:
        """Prove who we are, right after the upgrade.

        Raises
        ------
        RelayClientError
            ``"handshake"`` (with `denied_reason` when refused), ``"websocket"`` or ``"closed"``.
        """
        transport = self.transport
        assert transport is not None
        reader = ClientReader(self.version)
        reader.feed(self.take_rest())
        self._reader = reader
        transport.resume_reading()
        handshake = ClientHandshake(secret_key)
        try:
            while not handshake.done:
                message = reader.next_message()
                if message is None:
                    await self._more()
                    continue
                opcode, payload = message
                if opcode == _BINARY:
                    reply = handshake.feed(payload)
                    if reply is not None:
                        transport.write(build_message(_BINARY, reply, os.urandom(4)))
                elif opcode == _WS_PING:
                    if transport.get_write_buffer_size() > WRITE_HIGH:
                        raise RelayClientError(
                            "websocket", "the relay sends pings and does not read"
                        )
                    transport.write(build_message(_WS_PONG, payload, os.urandom(4)))
                elif opcode == _CLOSE:
                    raise RelayClientError("closed", "the relay closed during the handshake")
        except RelayDenied as err:
            raise RelayClientError("handshake", str(err), denied_reason=err.reason) from err
        except WsProtocolError as err:
            raise RelayClientError("websocket", str(err)) from err
        except RelayClientError:
            raise
        except RelayError as err:
            raise RelayClientError("handshake", str(err)) from err

    async def _more(self) -> None:
        """Wait for more bytes."""
        if self._ended:
            raise RelayClientError("closed", "the relay ended the connection during the handshake")
        await self._waiting.wait()

    def serve(self) -> None:
        """Begin to exchange frames: send the first ping, hand over what came in already."""
        reader, transport = self._reader, self.transport
        assert reader is not None and transport is not None
        if self.ended.happened:
            return
        self._serving = True
        transport.set_write_buffer_limits(high=WRITE_HIGH, low=WRITE_LOW)
        self._heard = self._loop.time()
        self.ping()
        self._receive(reader)

    # --- receiving

    def _receive(self, reader: ClientReader) -> None:
        on_datagrams = self._owner.on_datagrams
        now = self._heard = self._loop.time()
        while self._serving:
            try:
                item = reader.next()
            except WsProtocolError as err:
                self._fail("protocol", str(err), err.code)
                return
            except RelayFrameError as err:
                self._fail("protocol", str(err), 1002)
                return
            if item is None:
                break
            kind, key, ecn, segment_size, body = item
            if kind == DATAGRAM_BATCH or kind == DATAGRAM:
                if not body:
                    continue
                try:
                    on_datagrams(key, ecn, segment_size, body)
                except Exception as err:
                    # A mistake of the owner; the connection has nothing to do with it.
                    self._loop.call_exception_handler(
                        {"message": "taking datagrams from a relay failed", "exception": err}
                    )
            elif kind == PING:
                # A relay has one ping under way: only the newest needs an answer.
                self._pong = body
            elif kind == PONG:
                if self.pings.pong(body, now):
                    self.established = True
                    self._schedule_tick()
            else:
                self._rare(kind, key, body)
        if self._pong is not None or self._ws_pong is not None:
            self._send_control()

    def _rare(self, kind: int, key: bytes, body: bytes) -> None:
        if kind == ENDPOINT_GONE:
            self._owner.on_gone(key)
        elif kind == STATUS:
            self._status(body[0])
        elif kind == HEALTH:
            try:
                problem = body.decode()
            except UnicodeDecodeError:
                self._fail("protocol", "a health frame that is not UTF-8", 1002)
            else:
                self._tell(logging.WARNING, "relay %s has a problem: %.200r", problem)
        elif kind == RESTARTING:
            reconnect_in, try_for = int.from_bytes(body[:4], "big"), int.from_bytes(body[4:], "big")
            self.restarting = reconnect_in / 1000, try_for / 1000
            self._tell(logging.INFO, "relay %s restarts, back in %d ms", reconnect_in)
        elif kind == WS_PINGED:
            self._ws_pong = body
        elif kind == WS_CLOSED:
            self._end("closed", "the relay closed the connection")
            self._close_transport()
        elif kind == TEXT:
            log.debug("relay %s sent a text message", self._name)

    def _tell(self, level: int, text: str, *args: object) -> None:
        """Log a text once a minute, and at DEBUG between: how often it comes is up to the relay."""
        now = self._loop.time()
        if now < self._quiet_until.get(text, now):
            level = logging.DEBUG
        else:
            self._quiet_until[text] = now + TELL_EVERY_S
        log.log(level, text, self._name, *args)

    def _status(self, status: int) -> None:
        name = _STATUS_NAMES.get(status, f"unknown status {status}")
        if status == _SAME_KEY:
            self._tell(
                logging.WARNING,
                "relay %s: another endpoint with the same secret key is connected and gets the "
                "datagrams; keys must not be shared",
            )
        else:
            self._tell(logging.INFO, f"relay %s: {name}")
        if status in (_HEALTHY, _SAME_KEY):
            self._owner.on_superseded(status == _SAME_KEY)
        if status == _RATE_LIMITED and not self._limited:
            self._limited = True
            self._owner.on_rate_limited()

    # --- sending

    def send(self, dst: bytes, ecn: int, segment_size: int, payload: bytes) -> bool:
        """Send one frame of datagrams; copies `payload`.

        Parameters
        ----------
        dst : bytes
            32 bytes.
        ecn : int
            0 to 3.
        segment_size : int
            0 for a single datagram.
        payload : bytes
            For which `fits` holds.

        Returns
        -------
        bool
            False when the relay does not read fast enough, or the connection has ended.

        Notes
        -----
        Up to 20 frames of one turn of the event loop leave in one write.
        """
        if self._paused or not self._serving:
            return False
        writer = self._writer
        writer.add_datagram(dst, ecn, segment_size, payload)
        self._items += 1
        if self._items >= BATCH_ITEMS or len(writer) >= BATCH_BYTES:
            self._flush()
        elif self._flush_handle is None:
            self._flush_handle = self._loop.call_soon(self._flush)
        return True

    def _flush(self) -> None:
        if self._flush_handle is not None:
            self._flush_handle.cancel()
            self._flush_handle = None
        if self._items and self._serving and self.transport is not None:
            self._items = 0
            self.transport.write(self._writer.take())

    def _send_control(self) -> None:
        """Send what is due, before any datagram that is still with us."""
        transport = self.transport
        if self._paused or not self._serving or transport is None:
            return
        if self._pong is not None:
            transport.write(build_frame(PONG, self._pong, os.urandom(4)))
            self._pong = None
        if self._ws_pong is not None:
            transport.write(build_message(_WS_PONG, self._ws_pong, os.urandom(4)))
            self._ws_pong = None
        if self._ping_due:
            self._ping_due = False
            self.ping()

    def ping(self) -> None:
        """Find out now whether the relay still answers."""
        if not self._serving or self.transport is None:
            return
        if self._paused:
            # It would wait behind what is being sent; a relay that does not read at all is
            # found by the time limit of writing.
            self._ping_due = True
            return
        data = self.pings.new_ping(self._loop.time())
        self.transport.write(build_frame(PING, data, os.urandom(4)))
        self._schedule_tick()

    # --- timers

    def _schedule_tick(self) -> None:
        if self._tick_handle is not None:
            self._tick_handle.cancel()
        deadline = self.pings.deadline
        at = self._heard + PING_INTERVAL_S if deadline is None else deadline
        self._tick_handle = self._loop.call_at(at, self._tick)

    def _tick(self) -> None:
        now = self._loop.time()
        deadline = self.pings.deadline
        if deadline is not None and deadline <= now:
            self._fail("ping_timeout", "the relay does not answer pings")
        elif deadline is None and self._heard + PING_INTERVAL_S <= now and not self._paused:
            self.ping()
        else:
            if deadline is None and self._paused:
                self._heard = now  # writing has a time limit of its own; look again later
            self._schedule_tick()

    def _stalled(self) -> None:
        self._fail("send_timeout", f"the relay read too little for {SEND_TIMEOUT_S:.0f} s")

    # --- the end

    def fail(self, kind: RelayErrorKind, message: str) -> None:
        """Give the connection up."""
        self._fail(kind, message)

    def close(self) -> None:
        """Close in good order: what was sent still leaves, for at most a second."""
        if self.ended.happened:
            return
        self._flush()
        self._say_goodbye(1000)
        self._finish(None)
        self._close_transport()

    def _fail(self, kind: RelayErrorKind, message: str, code: int = 0) -> None:
        if self.ended.happened:
            return
        if code:
            self._say_goodbye(code)
        self._end(kind, message)
        if code:
            self._close_transport()
        else:
            self.abort()

    def _say_goodbye(self, code: int) -> None:
        if self.transport is not None and not self.transport.is_closing() and not self._paused:
            payload = code.to_bytes(2, "big")
            self.transport.write(build_message(_CLOSE, payload, os.urandom(4)))

    def _end(self, kind: RelayErrorKind, message: str) -> None:
        if not self.ended.happened:
            self._finish(RelayClientError(kind, message, url=self.url))

    def _finish(self, error: RelayClientError | None) -> None:
        self.error = error
        self._serving = False
        for handle in (self._tick_handle, self._flush_handle, self._stall_handle):
            if handle is not None:
                handle.cancel()
        self.ended.set()

    def _close_transport(self) -> None:
        transport = self.transport
        if transport is not None and self._abort_handle is None and not self.lost.happened:
            transport.close()
            self._abort_handle = self._loop.call_later(CLOSE_TIMEOUT_S, transport.abort)


async def connect_relay(
    url: RelayUrl,
    *,
    secret_key: SecretKey,
    dialer: Dialer,
    owner: ConnectionOwner,
    auth_token: str | None = None,
) -> RelayConnection:
    """Dial a relay and authenticate, within 10 s in total.

    A ``token=...`` in the URL stands for `auth_token`; errors show the URL without it.

    The caller starts the exchange of frames with `RelayConnection.serve`, without waiting for
    anything in between.

    Raises
    ------
    RelayClientError
        The step that failed is its `kind`.

    Notes
    -----
    Cancel-safe: nothing stays open.
    """
    url, token = RelayUrl(url).split_credentials()
    auth_token = token if auth_token is None else auth_token
    connection = RelayConnection(url, owner)  # raises for a URL without host
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await dialer.open(url, connection, auth_token=auth_token)
            await connection.authenticate(secret_key)
        assert connection.transport is not None
        names = map(connection.transport.get_extra_info, ("sockname", "peername"))
        if not all(ends := tuple(names)):
            raise RelayClientError("no_local_addr", "the connection has no local address")
        connection.local_ip, connection.remote_ip = (plain_ip(str(name[0])) for name in ends)
    except TimeoutError as err:
        connection.abort()
        text = f"not connected after {CONNECT_TIMEOUT_S:.0f} s"
        raise RelayClientError("timeout", text, url=url) from err
    except RelayClientError as err:
        connection.abort()
        err.url = url
        raise
    except BaseException:
        connection.abort()
        raise
    return connection


def plain_ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Parse an IP address, without its scope and not mapped into IPv6."""
    ip = ipaddress.ip_address(text.partition("%")[0])
    return getattr(ip, "ipv4_mapped", None) or ip
