"""A client of the DHT on an event loop: its socket, its timer, and who waits."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from ...aio.once import Once, Room
from ...errors import AddressLookupError, ConfigError
from .core import DhtCore, Put, Task
from .items import item_of, verified
from .krpc import MAX_DATAGRAM, Address
from .search import Search

if TYPE_CHECKING:
    from ..signed_packet import SignedPacket

__all__ = ["BOOTSTRAP", "DhtClient", "bootstrap_nodes"]

log = logging.getLogger("iroh_fast.lookup.dht")

BOOTSTRAP: Final = (
    "router.bittorrent.com:6881",
    "dht.transmissionbt.com:6881",
    "dht.libtorrent.org:25401",
    "relay.pkarr.org:6881",
)
"""Where the search for nodes of the public DHT begins, as in iroh."""

PROVENANCE: Final = "pkarr"
BUDGET_S: Final = 10.0
MAX_BOOTSTRAP: Final = 32
MAX_TASKS: Final = 128  # searches and puts at once; who comes later waits
RESOLVED_S: Final = 3600.0  # addresses of bootstrap nodes are looked up anew after this
MAX_OF_A_NAME: Final = 4  # addresses of one bootstrap node
DATAGRAMS_A_TURN: Final = 64
NEWER: Final = 302  # the error of nodes that have a newer item

T = TypeVar("T", bound=Task)


class Names(Protocol):
    """What finds the addresses of bootstrap nodes: an endpoint's resolver."""

    async def lookup(self, host: str, family: socket.AddressFamily, /) -> Sequence[str]:
        """IP addresses of a host; an exception when there are none."""
        ...


def bootstrap_nodes(nodes: Iterable[str]) -> tuple[tuple[str, int], ...]:
    """Read names or IPv4 addresses with ports.

    Raises
    ------
    ConfigError : one is not ``host:port``, or there are more than 32.
    """
    if isinstance(nodes, str):
        raise ConfigError(f"bootstrap is a list of 'host:port', not the text {nodes!r}")
    read = []
    for node in nodes:
        host, _, port = node.rpartition(":") if isinstance(node, str) else ("", "", "")
        if (
            not host
            or ":" in host
            or not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536)
        ):
            raise ConfigError(
                f"bootstrap holds 'host:port' with a name or an IPv4 address, not {node!r}"
            )
        read.append((host, int(port)))
    if len(read) > MAX_BOOTSTRAP:
        raise ConfigError(f"bootstrap holds at most {MAX_BOOTSTRAP} nodes, not {len(read)}")
    return tuple(read)


class DhtClient:
    """Gets and puts signed packets.

    It answers nobody (BEP 43), has a socket only while something is going on, and sends nothing of
    its own accord: nodes that it knows are asked again with the next search.

    Parameters
    ----------
    resolver : finds the addresses of the bootstrap nodes.
    bootstrap : (host, port), see `bootstrap_nodes`.
    port : UDP port to send from; 0 for any.
    """

    def __init__(
        self,
        resolver: Names,
        *,
        bootstrap: Sequence[tuple[str, int]] = bootstrap_nodes(BOOTSTRAP),
        port: int = 0,
    ) -> None:
        self._resolver = resolver
        self._bootstrap = bootstrap
        self._port = port
        self._loop = asyncio.get_running_loop()
        self._core = DhtCore(os.urandom, verified)
        self._room = Room(MAX_TASKS)
        self._waiting: dict[Task, Once] = {}
        self._users = 0
        self._socket: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._resolved: dict[tuple[str, int], list[Address]] = {}
        self._resolved_until = 0.0
        self._resolving: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def nodes(self) -> int:
        """How many nodes are known that answered."""
        return len(self._core.table)

    async def get(self, key: bytes, *, budget_s: float = BUDGET_S) -> SignedPacket | None:
        """Find the newest packet of a key; None when nobody has one.

        Raises
        ------
        AddressLookupError : no socket could be opened, or this client is closed.

        Notes
        -----
        Takes about a second in a network that works, and `budget_s` at most.  Cancelled, it stops
        at once.
        """
        return (await self._search(key, budget_s)).best

    async def put(self, packet: SignedPacket, *, budget_s: float = BUDGET_S) -> int:
        """Store a packet at the nodes nearest to its key; how many took it.

        Raises
        ------
        AddressLookupError : none did, no socket could be opened, or this client is closed.
        """
        item = item_of(packet)
        with self._using():  # one socket: tokens are for the address that asked
            search = await self._search(packet.public_key, budget_s)
            put = await self._run(lambda now: self._core.put(search, item, now, budget_s))
        if not put.stored:
            raise AddressLookupError(_why_not(put, search), provenance=PROVENANCE)
        return put.stored

    async def close(self) -> None:
        """End what is going on; those who wait get an error."""
        self._closed = True
        resolving = self._resolving
        self._release()
        for once in self._waiting.values():
            once.set()
        if resolving is not None:
            await asyncio.wait({resolving})

    # --- tasks ---------------------------------------------------------------------------

    async def _search(self, key: bytes, budget_s: float) -> Search:
        def start(now: float) -> Search:
            return self._core.search(key, now, budget_s, self._begin_with(now))

        return await self._run(start)

    async def _run(self, start: Callable[[float], T]) -> T:
        """Start a task of the core, and wait until it is over."""
        await self._room.take()
        try:
            with self._using():
                task = start(self._loop.time())
                once = self._waiting[task] = Once()
                try:
                    self._turn()
                    await once
                finally:
                    del self._waiting[task]
                    self._core.abandon(task)
                if self._closed:
                    raise _closed()
                return task
        finally:
            self._room.leave()

    @contextmanager
    def _using(self) -> Iterator[None]:
        """Have a socket for as long as somebody needs it."""
        if self._closed:
            raise _closed()
        self._users += 1
        try:
            self._open()
            yield
        finally:
            self._users -= 1
            if not self._users:
                self._release()

    # --- bootstrap nodes -----------------------------------------------------------------

    def _begin_with(self, now: float) -> Iterable[Address] | None:
        """Addresses to begin with; None when they are being looked up."""
        if not self._core.needs_bootstrap(now):
            return ()
        if now < self._resolved_until:
            return list(chain.from_iterable(self._resolved.values()))
        if self._resolving is None:
            self._resolving = self._loop.create_task(self._resolve())
        return None

    async def _resolve(self) -> None:
        """Look the bootstrap nodes up, all at once; each is used as soon as it is found."""
        async with asyncio.TaskGroup() as group:
            for host, port in self._bootstrap:
                group.create_task(self._resolve_one(host, port))
        if self._resolved:
            self._resolved_until = self._loop.time() + RESOLVED_S
        self._resolving = None
        self._core.seed((), self._loop.time(), last=True)
        self._turn()

    async def _resolve_one(self, host: str, port: int) -> None:
        try:
            found = [host] if _is_ipv4(host) else await self._resolver.lookup(host, socket.AF_INET)
        except Exception as error:  # of a resolver of the user's, anything
            log.debug("bootstrap node %s is not found: %s", host, error)
            return
        addresses = [(address, port) for address in found[:MAX_OF_A_NAME] if _is_ipv4(address)]
        self._resolved[host, port] = addresses
        self._core.seed(addresses, self._loop.time(), last=False)
        self._turn()

    # --- the socket ----------------------------------------------------------------------

    def _open(self) -> None:
        if self._socket is not None:
            return
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            sock.bind(("0.0.0.0", self._port))
            self._loop.add_reader(sock, self._readable)
        except OSError as error:
            sock.close()
            raise AddressLookupError(
                f"no socket for the DHT at UDP port {self._port}: {error.strerror or error}",
                provenance=PROVENANCE,
            ) from error
        except BaseException:
            sock.close()
            raise
        self._socket = sock
        self._core.avoid = frozenset({("127.0.0.1", sock.getsockname()[1])})

    def _release(self) -> None:
        """Leave nothing in the loop."""
        if self._resolving is not None:
            self._resolving.cancel()
            self._resolving = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._socket is not None:
            self._loop.remove_reader(self._socket)
            self._socket.close()
            self._socket = None
        self._core.reset()

    def _readable(self) -> None:
        for _ in range(DATAGRAMS_A_TURN):
            if self._socket is None:
                return
            try:
                data, address = self._socket.recvfrom(MAX_DATAGRAM + 1)
            except BlockingIOError:
                break
            except OSError:  # of a datagram that we sent, where the system tells
                continue
            if self._core.expects(address):
                self._core.receive(data, address, self._loop.time())
        self._turn()

    def _due(self) -> None:
        self._timer = None
        self._core.advance(self._loop.time())
        self._turn()

    def _turn(self) -> None:
        """Send what is to be sent, wake whose task is over, set the timer."""
        core = self._core
        while core.outgoing and self._socket is not None:
            outgoing, core.outgoing = core.outgoing, []
            for data, address in outgoing:
                try:
                    self._socket.sendto(data, address)
                except BlockingIOError:
                    pass  # lost, as it could be on the way
                except OSError as error:
                    log.debug("cannot send to %s:%d: %s", *address, error)
                    core.unreachable(address, self._loop.time())
        finished, core.finished = core.finished, []
        for task in finished:
            if task in self._waiting:
                self._waiting[task].set()
        self._arm()

    def _arm(self) -> None:
        due = self._core.deadline() if self._socket is not None else None
        if self._timer is not None:
            if due is not None and self._timer.when() == due:
                return
            self._timer.cancel()
            self._timer = None
        if due is not None:
            self._timer = self._loop.call_at(due, self._due)


def _closed() -> AddressLookupError:
    return AddressLookupError("the client of the DHT is closed", provenance=PROVENANCE)


def _is_ipv4(text: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET, text)
    except (OSError, ValueError):  # the second for a NUL
        return False
    return True


def _why_not(put: Put, search: Search) -> str:
    """Why nobody took an item."""
    if not search.requests:
        return "no node of the DHT is known; check the bootstrap nodes and the network"
    if not put.refusals:
        return "no node of the DHT answers; is UDP allowed in this network?"
    code, count = put.refusals.most_common(1)[0]
    if code == NEWER:
        return (
            f"{count} nodes of the DHT have a newer record: this clock is slow, or another endpoint "
            "has the same key"
        )
    return f"{count} nodes of the DHT refuse the record with error {code}"
