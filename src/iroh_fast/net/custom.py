"""Ways of users' own for QUIC datagrams, beside UDP and relays."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from .._check import check_integer, kind_of
from ..addr import CustomAddr, TransportAddr
from ..aio._waiters import WaitQueue
from ..aio.owner import get_ident
from ..errors import BindError, WrongThread
from ..keys import EndpointId
from .local_addrs import NetworkState
from .service import ServiceContext
from .transport import CUSTOM_SUBNET, PrivateAddrs, SockAddr

__all__ = ["CustomEndpoint", "CustomInbox", "CustomTransport", "CustomTransports"]

log = logging.getLogger("iroh_fast.net")

MAX_BYTES = 65_535  # of a datagram or batch
QUEUED, QUEUED_BYTES = 512, 2**21  # what an inbox keeps until the loop's next turn
TURN = 64  # datagrams and batches that are taken out of all inboxes in a turn


class CustomEndpoint(ABC):
    """What a transport is while an endpoint uses it: sends datagrams, and knows where it is.

    To be subclassed.  The attributes may change, but for `max_datagram_size`.

    Attributes
    ----------
    max_transmit_segments : datagrams that :meth:`send` takes at once.
    max_datagram_size : bytes of the largest one, at least 1,200; 0 lets path MTU discovery find out.
    local_addrs : where others reach this endpoint over it, now.
    """

    max_transmit_segments: int = 1
    max_datagram_size: int = 0
    local_addrs: Sequence[CustomAddr] = ()

    @abstractmethod
    def is_valid_send_addr(self, addr: CustomAddr, /) -> bool:
        """Whether it can send there: of several transports the first one that can is used."""

    @abstractmethod
    def send(
        self,
        dst: CustomAddr,
        src: CustomAddr | None,
        data: bytes,
        segment_size: int | None,
        /,
    ) -> None:
        """Send without waiting; what cannot be sent now is dropped, QUIC sends it again.

        Parameters
        ----------
        dst : where to.
        src : the own address to send from; None when it does not matter.
        data : one datagram, or several behind each other.
        segment_size : bytes of each of several, of which the last may be shorter; None for one.
            Never given with `max_transmit_segments` 1.
        """

    async def close(self) -> None:  # noqa: B027 - there may be nothing to do
        """The endpoint is closed: end within a few seconds."""


class CustomTransport(Protocol):
    """What the option `custom_transports` takes: joins an endpoint to a transport."""

    async def bind(self, inbox: CustomInbox, /) -> CustomEndpoint:
        """Begin to carry datagrams of an endpoint; what arrives goes to `inbox`.

        What it raises, ``Endpoint.bind`` raises as :class:`~iroh_fast.errors.BindError`.
        """
        ...


class CustomInbox:
    """Where a custom transport puts what arrives.

    Attributes
    ----------
    endpoint_id : whose datagrams these are.
    """

    __slots__ = (
        *("_bytes", "_closed", "_news", "_queue", "_room", "_thread"),
        *("dropped", "endpoint_id"),
    )

    def __init__(self, endpoint_id: EndpointId, news: Callable[[], object]) -> None:
        self.endpoint_id = endpoint_id
        self._news = news
        self._queue: deque[_Arrived] = deque()
        self._bytes = 0
        self._room = WaitQueue()
        self._closed = False
        self._thread = get_ident()
        self.dropped = 0

    def put(
        self,
        source: CustomAddr,
        data: bytes | bytearray | memoryview,
        *,
        local: CustomAddr | None = None,
        segment_size: int | None = None,
        ecn: int = 0,
    ) -> bool:
        """Hand in a datagram, or several behind each other.

        Raises WrongThread anywhere but on the thread of the endpoint's loop.

        Parameters
        ----------
        source : who sent it.  Anybody may be: QUIC finds out who it was.
        data : at most 65,535 bytes.
        local : the own address that it was sent to, for transports that have several: answers
            are sent from there.
        segment_size : bytes of each of several datagrams; the last may be shorter.
        ecn : the two bits of its ECN mark.

        Returns
        -------
        bool
            False when it was dropped, since 512 or 2 MiB of them were waiting.
        """
        if get_ident() != self._thread:
            raise WrongThread(
                "datagrams are put in on the loop of the endpoint: use loop.call_soon_threadsafe"
            )
        if self._closed:
            return False
        if not isinstance(source, CustomAddr) or not (
            local is None or isinstance(local, CustomAddr)
        ):
            raise TypeError("source and local are CustomAddr")
        data = bytes(data)
        if len(data) > MAX_BYTES:
            raise ValueError(f"data is at most {MAX_BYTES} bytes, not {len(data)}")
        if segment_size is not None and not 1 <= segment_size <= MAX_BYTES:
            raise ValueError(f"segment_size is 1 to {MAX_BYTES} bytes, not {segment_size}")
        if not data:
            return True  # an empty datagram says nothing to QUIC
        if len(self._queue) >= QUEUED or self._bytes + len(data) > QUEUED_BYTES:
            self.dropped += 1
            return False
        self._queue.append(_Arrived(source, data, local, segment_size or 0, ecn & 3))
        self._bytes += len(data)
        self._news()
        return True

    async def room(self) -> None:
        """Wait until half of the queue is free: for transports that can hold their peers back."""
        while not self._closed and (
            len(self._queue) > QUEUED // 2 or self._bytes > QUEUED_BYTES // 2
        ):
            await self._room.wait()

    def _take(self) -> _Arrived | None:
        if not self._queue:
            return None
        arrived = self._queue.popleft()
        self._bytes -= len(arrived.data)
        if self._room.waiting and len(self._queue) <= QUEUED // 2:
            self._room.wake_all()
        return arrived

    def _close(self) -> None:
        self._closed = True
        self._queue.clear()
        self._bytes = 0
        self._room.wake_all()


@dataclass(frozen=True, slots=True)
class _Arrived:
    source: CustomAddr
    data: bytes
    local: CustomAddr | None
    segment: int
    ecn: int


class _Member:
    """One transport of an endpoint; what it raises is told once, and then at DEBUG."""

    __slots__ = ("_told", "endpoint", "inbox", "name")

    def __init__(self, name: str, inbox: CustomInbox, endpoint: CustomEndpoint) -> None:
        self.name = name
        self.inbox = inbox
        self.endpoint = endpoint
        self._told = False

    def takes(self, addr: CustomAddr) -> bool:
        try:
            return bool(self.endpoint.is_valid_send_addr(addr))
        except Exception:
            self._failed("is_valid_send_addr")
            return False

    def send(self, dst: CustomAddr, src: CustomAddr | None, data: bytes, segment: int) -> None:
        most = self.endpoint.max_transmit_segments
        step = most * segment if segment else len(data)
        try:
            for at in range(0, len(data), step):
                part = data[at : at + step] if step < len(data) else data
                self.endpoint.send(dst, src, part, segment if 0 < segment < len(part) else None)
        except Exception:
            self._failed("send")

    def _failed(self, what: str) -> None:
        level = logging.DEBUG if self._told else logging.ERROR
        self._told = True
        log.log(level, "custom transport %s: %s failed", self.name, what, exc_info=True)


class CustomTransports:
    """Service of an endpoint: its custom transports, as one transport of the engine.

    Parameters
    ----------
    factories : in the order in which they are asked who can send to an address.
    """

    name = "custom transports"
    kind = "custom"
    subnet = CUSTOM_SUBNET
    max_segments = 64

    def __init__(self, factories: Sequence[CustomTransport]) -> None:
        self._factories = factories
        self._members: list[_Member] = []
        self._context: ServiceContext | None = None
        self._addrs: PrivateAddrs[CustomAddr] = PrivateAddrs(CUSTOM_SUBNET)
        self._scheduled = False
        self._next = 0  # whose turn it is
        self.max_datagram = 0

    # --- as a service
    async def start(self, context: ServiceContext) -> None:
        """Bind all of them.

        Raises
        ------
        BindError : one of them cannot be.
        """
        self._context = context
        for factory in self._factories:
            name = type(factory).__name__
            inbox = CustomInbox(context.secret_key.public, self._schedule)
            try:
                endpoint = await factory.bind(inbox)
                _check(endpoint)
            except Exception as error:
                text = f"custom transport {name} cannot be bound: {error}"
                raise BindError(text, errno=getattr(error, "errno", None)) from error
            self._members.append(_Member(name, inbox, endpoint))
        sizes = {member.endpoint.max_datagram_size for member in self._members}
        self.max_datagram = sizes.pop() if len(sizes) == 1 else 0
        context.driver.add_transport(self)

    def network_changed(self, state: NetworkState) -> None:
        """Whatever they depend on, they know themselves."""

    async def close(self) -> None:
        """End all of them, in the reverse order; one that fails holds up nobody."""
        for member in self._members:
            member.inbox._close()
        for member in reversed(self._members):
            try:
                await member.endpoint.close()
            except Exception:
                member._failed("close")
        self._context = None

    @property
    def metrics(self) -> Mapping[str, int]:
        """What arrived and was dropped."""
        dropped = sum(member.inbox.dropped for member in self._members)
        return {"socket:recv_custom_dropped_full": dropped}

    @property
    def local_addrs(self) -> tuple[CustomAddr, ...]:
        """Where this endpoint is reached over them, now."""
        found = [addr for member in self._members for addr in member.endpoint.local_addrs]
        return tuple(dict.fromkeys(found))

    # --- as a transport of the engine
    def route(self, addr: TransportAddr, peer: bytes) -> SockAddr | None:
        """The private address of a custom one that somebody can send to."""
        if not isinstance(addr, CustomAddr) or not any(m.takes(addr) for m in self._members):
            return None
        return self._addrs.sockaddr_of(addr)

    def addr_of(self, sockaddr: SockAddr) -> TransportAddr | None:
        """What a private address stands for."""
        return self._addrs.route_of(sockaddr[0])

    def send(self, ip16: bytes, ecn: int, segment: int, data: bytes, local: bytes = b"", /) -> None:
        """Hand a batch to the first transport that can send it."""
        dst = self._addrs.route_of(ip16)
        if dst is not None:
            for member in self._members:
                if member.takes(dst):
                    src = self._addrs.route_of(local) if local else None
                    member.send(dst, src, data, segment)
                    return

    # --- what arrives
    def _schedule(self) -> None:
        if not self._scheduled and self._context is not None:
            self._scheduled = True
            self._context.owner.loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        """One of each in turns, so that no transport waits for another; the loop goes on in between."""
        self._scheduled = False
        if self._context is None:
            return
        idle = 0
        left = TURN
        while left and idle < len(self._members):
            member = self._members[self._next % len(self._members)]
            self._next += 1
            arrived = member.inbox._take()
            if arrived is None:
                idle += 1
                continue
            idle = 0
            left -= 1
            self._inject(self._context, arrived)
        if not left:
            self._schedule()

    def _inject(self, context: ServiceContext, arrived: _Arrived) -> None:
        source = self._addrs.ip_of(arrived.source)
        local = None if arrived.local is None else self._addrs.ip_of(arrived.local)
        context.driver.inject(source, arrived.data, arrived.segment, local, arrived.ecn)


def _check(endpoint: object) -> None:
    """Raise TypeError or ValueError for what cannot be used."""
    if not isinstance(endpoint, CustomEndpoint):
        raise TypeError(f"its bind() gives a CustomEndpoint, not {kind_of(endpoint)}")
    check_integer("max_transmit_segments", endpoint.max_transmit_segments, 1, 64)
    if endpoint.max_datagram_size != 0:
        check_integer("max_datagram_size", endpoint.max_datagram_size, 1200, MAX_BYTES)
