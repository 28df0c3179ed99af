"""A read-only node of the DHT without socket, clock and loop.

Datagrams and the time come in; datagrams, the next deadline and what is finished come out.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final, TypeAlias

from ...errors import printable
from .ids import target_of
from .krpc import (
    ID_BYTES,
    TRANSACTION_BYTES,
    Address,
    Item,
    KrpcError,
    Node,
    Refusal,
    Reply,
    find_node_query,
    get_query,
    parse_answer,
    ping_query,
    put_query,
)
from .routing import RoutingTable
from .search import AT_ONCE, Search

if TYPE_CHECKING:
    from ..signed_packet import SignedPacket

__all__ = ["DhtCore", "Put", "Task"]

log = logging.getLogger("iroh_fast.lookup.dht")

MIN_TIMEOUT_S: Final = 0.5
MAX_TIMEOUT_S: Final = 3.0
FORGET_S: Final = 4.0  # an answer that comes later than this is nobody's
MAX_OPEN: Final = 1024  # requests of all tasks that an answer can come for
MAX_PINGS: Final = 8
ENOUGH: Final = 8  # fresh nodes of the table to begin with; with fewer, bootstrap nodes are asked

Verify: TypeAlias = "Callable[[Item], SignedPacket | None]"


class Put:
    """Give an item to the nodes that it belongs to.

    Attributes
    ----------
    stored : int
        How many took it.
    refusals : Counter of int
        Error codes of those that did not: 302 when they have a newer one.
    """

    def __init__(self, target: bytes, item: Item, holders: Iterable[tuple[Address, bytes]]) -> None:
        self.target = target
        self.item = item
        self.stored = 0
        self.refusals: Counter[int] = Counter()
        self._left = deque(holders)
        self._open: set[Address] = set()

    def next(self, room: int) -> list[tuple[Address, bytes]]:
        """Addresses and tokens to send it to now."""
        room = min(room, AT_ONCE - len(self._open), len(self._left))
        to = [self._left.popleft() for _ in range(room)]
        self._open.update(address for address, _ in to)
        return to

    def answered(self, address: Address) -> None:
        """A node took it."""
        self._open.discard(address)
        self.stored += 1

    def refused(self, address: Address, code: int) -> None:
        """A node did not want it."""
        self._open.discard(address)
        self.refusals[code] += 1

    def silent(self, address: Address) -> None:
        """A node did not answer in time; it still may."""
        self._open.discard(address)

    def lost(self, address: Address) -> None:
        """A node will not answer any more."""
        self._open.discard(address)

    @property
    def over(self) -> bool:
        """Whether everybody was asked, and answered or was too late."""
        return not self._left and not self._open


Task: TypeAlias = Search | Put


@dataclass(slots=True, eq=False)
class _Request:
    transaction: bytes
    address: Address
    task: Task | None  # None: a ping
    sent: float
    late: bool = False


class DhtCore:
    """Tasks, their requests and timeouts, and the nodes that answered.

    Parameters
    ----------
    random : gives that many unpredictable bytes, as ``os.urandom``.
    verify : makes a verified packet of an item, or None: bad signature, no packet.

    Attributes
    ----------
    avoid : set of addresses
        Our own, which nobody needs to name to us.
    outgoing : list of (datagram, address)
        To send; whoever sends takes them out.
    finished : list of Search and Put
        Tasks that are over; whoever waits takes them out.
    """

    def __init__(
        self,
        random: Callable[[int], bytes],
        verify: Verify,
    ) -> None:
        self.own = random(ID_BYTES)
        self.avoid: frozenset[Address] = frozenset()
        self.table = RoutingTable(self.own)
        self.outgoing: list[tuple[bytes, Address]] = []
        self.finished: list[Task] = []
        self._random = random
        self._verify = verify
        self._tasks: dict[Task, float] = {}  # and when each ends at the latest
        self._requests: dict[bytes, _Request] = {}
        self._awaited: Counter[Address] = Counter()
        self._timers: list[tuple[float, bytes]] = []
        self._hungry: dict[Task, None] = {}  # those that found no room, first come, first served
        self._pinged = 0
        self._rtt = self._deviation = 0.0

    # --- tasks ---------------------------------------------------------------------------

    def search(
        self,
        key: bytes,
        now: float,
        budget_s: float,
        bootstrap: Iterable[Address] | None = (),
    ) -> Search:
        """Look for the item of a key.

        Parameters
        ----------
        budget_s : seconds; what was found until then counts.
        bootstrap : addresses to begin with where the table knows too few; None when they
            come later, see `seed`.
        """
        target = target_of(key)
        search = Search(target, key, self.table.closest(target), avoid=self.avoid)
        if self.needs_bootstrap(now):
            if bootstrap is None:
                search.waiting = True
            else:
                search.seed(bootstrap)
        self._start(search, now, budget_s)
        return search

    def needs_bootstrap(self, now: float) -> bool:
        """Whether too few nodes are known to begin a search with."""
        return self.table.fresh(now) < ENOUGH

    def seed(self, addresses: Iterable[Address], now: float, *, last: bool) -> None:
        """Bootstrap addresses, for the searches that wait for them; `last` when there are no more."""
        found = list(addresses)
        for task in list(self._tasks):
            if isinstance(task, Search) and task.waiting:
                task.seed(found)
                task.waiting = not last
                self._step(task, now)

    def put(self, search: Search, item: Item, now: float, budget_s: float) -> Put:
        """Give an item to the nodes that a search has found."""
        put = Put(search.target, item, search.holders())
        self._start(put, now, budget_s)
        return put

    def abandon(self, task: Task) -> None:
        """Nobody waits for a task any more; requests that are out are forgotten."""
        self._tasks.pop(task, None)
        self._hungry.pop(task, None)
        for request in [r for r in self._requests.values() if r.task is task]:
            self._forget(request)

    def reset(self) -> None:
        """Nobody listens any more: forget everything but the nodes that are known."""
        self._tasks.clear()
        self._hungry.clear()
        self._requests.clear()
        self._awaited.clear()
        self._timers.clear()
        self.outgoing.clear()
        self.finished.clear()
        self._pinged = 0

    def _start(self, task: Task, now: float, budget_s: float) -> None:
        self._tasks[task] = now + budget_s
        self._step(task, now)

    # --- what comes in -------------------------------------------------------------------

    def expects(self, address: Address) -> bool:
        """Whether an answer from there is awaited: nothing else needs to be read."""
        return address in self._awaited

    def receive(self, data: bytes, address: Address, now: float) -> None:
        """Take a datagram in; what is no answer to an open request changes nothing."""
        if address not in self._awaited:
            return
        try:
            answer = parse_answer(data)
        except KrpcError as error:
            log.debug("%s:%d sent no message of the DHT: %s", *address, error)
            return
        if answer is None:
            return
        request = self._requests.get(answer.transaction)
        if request is None or request.address != address:
            return
        self._forget(request)
        self._measure(now - request.sent)
        if isinstance(answer, Refusal):
            self._refused(request, answer)
        else:
            self._answered(request, answer, now)
        if request.task is not None:
            self._step(request.task, now)
        self.advance(now)

    def unreachable(self, address: Address, now: float) -> None:
        """A datagram could not be sent there."""
        for request in [r for r in self._requests.values() if r.address == address]:
            self._forget(request)
            self._silent(request)
            if request.task is not None:
                request.task.lost(address)
                self._step(request.task, now)
        self.advance(now)

    def _answered(self, request: _Request, reply: Reply, now: float) -> None:
        task, good = request.task, True
        if isinstance(task, Search):
            good = task.answered(request.address, reply)
            if reply.item is not None and reply.item.key == task.key:
                self._offer(task, reply.item, request.address)
        elif isinstance(task, Put):
            task.answered(request.address)
        if good and not reply.read_only and reply.id != self.own:
            stale = self.table.answered(Node(reply.id, request.address), now)
            if stale is not None and self._pinged < MAX_PINGS:
                self._pinged += 1
                self._send(stale.address, None, ping_query, now)

    def _offer(self, search: Search, item: Item, by: Address) -> None:
        """Of the items that nodes have, keep the newest that is signed by the wanted key."""
        best = search.best
        if best is not None and (item.seq, item.value) <= (best.timestamp, best.dns):
            return
        packet = self._verify(item)
        if packet is None:
            log.debug("%s:%d has an item that is not valid", *by)
        elif best is None or packet.more_recent_than(best):
            search.best = packet

    def _refused(self, request: _Request, refusal: Refusal) -> None:
        log.debug("%s:%d refuses: %d %s", *request.address, refusal.code, printable(refusal.text))
        if isinstance(request.task, Search):
            request.task.refused(request.address)
        elif isinstance(request.task, Put):
            request.task.refused(request.address, refusal.code)

    # --- what goes out -------------------------------------------------------------------

    def advance(self, now: float) -> None:
        """Do what is due."""
        due = self._expire(now)
        due.update(dict.fromkeys(task for task, until in self._tasks.items() if until <= now))
        if len(self._requests) < MAX_OPEN:
            due.update(self._hungry)
        for task in due:
            self._step(task, now)

    def _step(self, task: Task, now: float) -> None:
        """Let a task ask whom it can, or end it."""
        until = self._tasks.get(task)
        if until is None:
            return
        self._hungry.pop(task, None)
        if now < until:
            self._ask(task, now)
            if len(self._requests) >= MAX_OPEN:
                self._hungry[task] = None
        if now >= until or task.over:
            del self._tasks[task]
            self._hungry.pop(task, None)
            self.finished.append(task)

    def deadline(self) -> float | None:
        """When `advance` has something to do, if no datagram comes before."""
        while self._timers and self._timers[0][1] not in self._requests:
            heappop(self._timers)
        times = [*self._tasks.values()]
        if self._timers:
            times.append(self._timers[0][0])
        return min(times, default=None)

    def _ask(self, task: Task, now: float) -> None:
        room = MAX_OPEN - len(self._requests)
        if isinstance(task, Put):
            for address, token in task.next(room):
                query = partial(put_query, token=token, target=task.target, item=task.item)
                self._send(address, task, query, now)
            return
        for address, item_too in task.next(room):
            ask = partial(get_query if item_too else find_node_query, target=task.target)
            self._send(address, task, ask, now)

    def _send(
        self,
        address: Address,
        task: Task | None,
        query: Callable[[bytes, bytes], bytes],
        now: float,
    ) -> None:
        transaction = self._random(TRANSACTION_BYTES)
        while transaction in self._requests:
            transaction = self._random(TRANSACTION_BYTES)
        self._requests[transaction] = _Request(transaction, address, task, now)
        self._awaited[address] += 1
        heappush(self._timers, (now + self.timeout, transaction))
        self.outgoing.append((query(transaction, self.own), address))

    # --- time ----------------------------------------------------------------------------

    @property
    def timeout(self) -> float:
        """Seconds after which somebody else is asked in place of a node."""
        if not self._rtt:
            return MIN_TIMEOUT_S
        return min(max(self._rtt + 4 * self._deviation, MIN_TIMEOUT_S), MAX_TIMEOUT_S)

    def _measure(self, took: float) -> None:
        if not self._rtt:
            self._rtt, self._deviation = took, took / 2
            return
        self._deviation += (abs(took - self._rtt) - self._deviation) / 4
        self._rtt += (took - self._rtt) / 8

    def _expire(self, now: float) -> dict[Task, None]:
        """Give up on requests; returns the tasks that this concerns."""
        concerned: dict[Task, None] = {}
        while self._timers and self._timers[0][0] <= now:
            _, transaction = heappop(self._timers)
            request = self._requests.get(transaction)
            if request is None:
                continue
            if request.task is not None:
                concerned[request.task] = None
            if request.late:
                self._forget(request)
                if request.task is not None:
                    request.task.lost(request.address)
                continue
            request.late = True
            heappush(self._timers, (request.sent + FORGET_S, transaction))
            self._silent(request)
        return concerned

    def _silent(self, request: _Request) -> None:
        self.table.failed(request.address)
        if request.task is not None:
            request.task.silent(request.address)

    def _forget(self, request: _Request) -> None:
        del self._requests[request.transaction]
        self._awaited[request.address] -= 1
        if not self._awaited[request.address]:
            del self._awaited[request.address]
        if request.task is None:
            self._pinged -= 1
