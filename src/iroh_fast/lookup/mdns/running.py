"""A node on the event loop: sockets, timer, and who waits for what it finds."""

from __future__ import annotations

import asyncio
import logging
import random
import weakref
from typing import Final

from ...aio.owner import Owner
from ...errors import AddressLookupError
from ...keys import EndpointId
from ..info import EndpointData, EndpointInfo
from ..services import LookupItem
from .budget import Bucket
from .events import Discovered, Expired, MdnsEvents, Queue
from .interfaces import choose, read_interfaces
from .node import Node
from .peers import Change
from .sockets import MulticastSocket, open_sockets
from .wire import MAX_RELAY

__all__ = ["PROVENANCE", "Lookup", "Running"]

log = logging.getLogger("iroh_fast.lookup.mdns")

PROVENANCE: Final = "mdns"
LEAST_LOOKUP_S: Final = 10.0
LOOK_S: Final = 10.0  # between looks at the interfaces of this machine
BATCH: Final = 32  # datagrams read in one turn of the loop
READS_PER_S: Final = 4096.0  # datagrams taken from the kernel: a flood leaves the loop to others
PAUSE_S: Final = 0.05


class Lookup(Queue[LookupItem]):
    """A running `resolve`."""

    __slots__ = ("_running", "_timer", "id")

    def __init__(self, running: Running, id: EndpointId, seconds: float) -> None:
        super().__init__()
        self.id = id
        self._running = running
        self._timer = running.loop.call_later(seconds, self.stop)

    def stop(self) -> None:
        """Nothing more is looked for; what was found can still be taken."""
        if not self.ended:
            self._timer.cancel()
            self._running.forget(self)
            self.end()

    async def aclose(self) -> None:
        """The same; nothing is given any more."""
        self.stop()
        self._items.clear()


class Running:
    """The node of one endpoint with its sockets and timer."""

    def __init__(
        self,
        id: EndpointId,
        owner: Owner,
        *,
        service_name: str,
        cadence: float,
        interfaces: frozenset[str] | None,
        subscribers: weakref.WeakSet[MdnsEvents],
    ) -> None:
        self.loop = owner.loop
        self._name = f"{id:short}"
        self._cadence = cadence
        self._interfaces = interfaces
        self._subscribers = subscribers
        self._lookups: dict[EndpointId, list[Lookup]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._pauses: set[asyncio.TimerHandle] = set()
        self._stopped = False
        self._warned: set[str] = set()
        now = self.loop.time()
        self._reads = Bucket(now, READS_PER_S, READS_PER_S)
        self.node = Node(
            id,
            now,
            service_name=service_name,
            cadence=cadence,
            random=random.SystemRandom().random,
        )
        self._sockets = self._open()
        try:
            self._looked_at = now
            self._join(again=False)
            for sock in self._sockets:
                self.loop.add_reader(sock.fileno(), self._readable, sock)
        except BaseException:
            self.stop()
            raise
        self._arm()

    def _open(self) -> list[MulticastSocket]:
        sockets, refused = open_sockets()
        if not sockets:
            why = "; ".join(dict.fromkeys(error.strerror or str(error) for error in refused))
            raise AddressLookupError(
                f"no UDP socket for multicast at port 5353: {why}; another program may have the "
                "port for itself",
                provenance=PROVENANCE,
            )
        return sockets

    # ------------------------------------------------------------ interfaces
    def look(self, *, again: bool) -> None:
        """Look which interfaces there are, and be in the groups there."""
        if self._stopped:
            return
        self._looked_at = self.loop.time()
        if self._join(again=again) or again:
            self.node.network_changed(self._looked_at)
            self._after([])

    def _join(self, *, again: bool) -> bool:
        try:
            links = choose(read_interfaces(), self._interfaces)
        except OSError as error:  # those of before stay
            log.info("%s: the interfaces cannot be read: %s", self._name, error)
            return False
        changes = [sock.join(links, again=again) for sock in self._sockets]
        self.node.families = tuple(sock.family for sock in self._sockets if sock.links)
        if any(changes):
            names = ", ".join(sorted({link.name for sock in self._sockets for link in sock.links}))
            log.info("%s: mDNS on %s", self._name, names or "no interface")
        return any(changes)

    # ------------------------------------------------------------ in and out
    def _readable(self, sock: MulticastSocket) -> None:
        now = self.loop.time()
        changes: list[Change] = []
        for _ in range(BATCH):
            if not self._reads.take(now):
                self._pause(sock)
                break
            try:
                datagram, sender = sock.receive()
            except BlockingIOError:
                break
            except OSError as error:
                log.debug("%s: mDNS over IPv%d: %s", self._name, sock.family, error)
                break
            if sender is not None:
                changes += self.node.receive(datagram, sender, now)
        self._after(changes)

    def _pause(self, sock: MulticastSocket) -> None:
        """Leave a flood to the kernel for a while."""

        def resume() -> None:
            self._pauses.discard(timer)
            self.loop.add_reader(sock.fileno(), self._readable, sock)

        self.loop.remove_reader(sock.fileno())
        timer = self.loop.call_later(PAUSE_S, resume)
        self._pauses.add(timer)

    def _after(self, changes: list[Change]) -> None:
        """Send what is to be sent, tell what changed, and see to the next deadline."""
        for family, datagram in self.node.out:
            for sock in self._sockets:
                if sock.family == family:
                    sock.send(datagram)
        self.node.out.clear()
        for id, info in changes:
            self._tell(id, info)
        self._arm()

    def _arm(self) -> None:
        due = self.node.deadline
        if self._timer is not None:
            if self._timer.when() == due:
                return
            self._timer.cancel()
        self._timer = None if self._stopped else self.loop.call_at(due, self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = self.loop.time()
        if now - self._looked_at >= LOOK_S:
            self.look(again=False)
        # The loop may be early by the resolution of its clock.
        self._after(self.node.tick(max(now, self.node.deadline)))

    # ------------------------------------------------------------ what is told
    def publish(self, data: EndpointData) -> None:
        """Tell these addresses from now on."""
        if self._stopped:
            return
        left_out = self.node.publish(data, self.loop.time())
        if left_out:
            self._warn("addresses", f"{left_out} addresses do not fit into a message of mDNS")
        relay = next(iter(data.relay_urls), None)
        if relay is not None and len(relay.encode("utf-8")) > MAX_RELAY:
            self._warn(
                "relay", f"a relay's URL of more than {MAX_RELAY} bytes does not fit into mDNS"
            )
        self._after([])

    def _warn(self, what: str, text: str) -> None:
        """Once for each."""
        if what not in self._warned:
            self._warned.add(what)
            log.warning("%s: %s", self._name, text)

    # ------------------------------------------------------------ what is found
    def resolve(self, id: EndpointId) -> Lookup:
        """Begin to look for an endpoint."""
        lookup = Lookup(self, id, max(LEAST_LOOKUP_S, 1.2 * self._cadence + 5.0))
        if self._stopped:
            lookup.end()
            return lookup
        self._lookups.setdefault(id, []).append(lookup)
        info = self.node.want(id, self.loop.time())
        if info is not None:
            lookup.put(LookupItem(info, PROVENANCE))
        self._after([])
        return lookup

    def forget(self, lookup: Lookup) -> None:
        """A lookup ends."""
        waiting = self._lookups.get(lookup.id, [])
        if lookup in waiting:
            waiting.remove(lookup)
            if not waiting:
                del self._lookups[lookup.id]
            self.node.unwant(lookup.id)

    def _tell(self, id: EndpointId, info: EndpointInfo | None) -> None:
        if info is None:
            log.debug("%s: %s is not on the link any more", self._name, f"{id:short}")
            event: Discovered | Expired = Expired(id)
        else:
            if log.isEnabledFor(logging.DEBUG):
                log.debug("%s: on the link: %s", self._name, info.to_addr())
            if waiting := self._lookups.get(id):
                for lookup in waiting:
                    lookup.put(LookupItem(info, PROVENANCE))
                return
            event = Discovered(info)
        for events in list(self._subscribers):
            if not events.ended:
                events.put(event)

    def stop(self) -> None:
        """End everything; can be called again."""
        self._stopped = True
        self._arm()
        for timer in self._pauses:
            timer.cancel()
        self._pauses.clear()
        for waiting in list(self._lookups.values()):
            for lookup in list(waiting):
                lookup.stop()
        for sock in self._sockets:
            self.loop.remove_reader(sock.fileno())
            sock.close()
        self._sockets = []
