"""A link of nodes in virtual time: what one sends, all hear, itself included."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable, Iterable
from ipaddress import ip_address

from iroh_fast import SecretKey, SocketAddr
from iroh_fast.keys import EndpointId
from iroh_fast.lookup.info import EndpointData
from iroh_fast.lookup.mdns.node import Node, Sender
from iroh_fast.lookup.mdns.peers import Change

LATENCY_S = 0.001


class Place:
    """A node on a link, and what it found."""

    def __init__(
        self, link: Link, number: int, families: tuple[int, ...], service: str, cadence: float
    ) -> None:
        self.key = SecretKey(number.to_bytes(32, "big"))
        self.id: EndpointId = self.key.public
        self.families = families
        self.up = True
        self.ticks = 0
        self.sent = 0
        self.senders = {
            4: Sender(f"10.0.{number // 250}.{number % 250 + 1}", 4),
            6: Sender(f"fe80::{number:x}%2", 6, 2),
        }
        self.seen: list[tuple[float, Change]] = []
        self.node = Node(
            self.id, link.now, service_name=service, cadence=cadence, random=link.random.random
        )
        self.node.families = families

    @property
    def data(self) -> EndpointData:
        """What such a node has to tell."""
        return EndpointData([SocketAddr(ip_address(self.senders[4].ip), 1000)])

    def publish(self, now: float, data: EndpointData | None = None) -> None:
        self.node.publish(self.data if data is None else data, now)

    def found(self) -> set[EndpointId]:
        """Whom it knows now."""
        return {info.id for info in self.node.peers.infos()}

    def when(self, id: EndpointId) -> float:
        """When it learned of somebody for the first time."""
        return next(at for at, (who, info) in self.seen if who == id and info is not None)


class Link:
    """Where they are.

    Parameters
    ----------
    loss : fraction of datagrams that each receiver misses.
    """

    def __init__(self, seed: int = 1, *, loss: float = 0.0) -> None:
        self.random = random.Random(seed)
        self.now = 1000.0
        self.places: list[Place] = []
        self.datagrams: list[tuple[float, Place, int, bytes]] = []
        self._loss = loss
        self._numbers = itertools.count(1)
        self._order = itertools.count()
        self._coming: list[tuple[float, int, Place, bytes, Sender]] = []

    def add(
        self,
        *,
        families: tuple[int, ...] = (4, 6),
        service: str = "irohv1",
        cadence: float = 0.7,
        publish: bool = True,
    ) -> Place:
        place = Place(self, next(self._numbers), families, service, cadence)
        self.places.append(place)
        if publish:
            place.publish(self.now)
            self._flush(place)
        return place

    def act(self, place: Place, act: Callable[[Node, float], object]) -> None:
        """Do something to a node, now."""
        act(place.node, self.now)
        self._flush(place)

    def forge(self, datagram: bytes, sender: Sender, to: Iterable[Place] | None = None) -> None:
        """A datagram of somebody who is no node, to all or some."""
        for place in self.places if to is None else to:
            self._take(place, place.node.receive(datagram, sender, self.now))

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while True:
            due = min((place.node.deadline for place in self.places if place.up), default=math.inf)
            arrival = self._coming[0][0] if self._coming else math.inf
            at = max(min(due, arrival), self.now)
            if at > end:
                self.now = end
                return
            self.now = at
            while self._coming and self._coming[0][0] <= at:
                _, _, place, datagram, sender = heapq.heappop(self._coming)
                if place.up:
                    self._take(place, place.node.receive(datagram, sender, at))
            for place in self.places:
                if place.up and place.node.deadline <= at:
                    place.ticks += 1
                    self._take(place, place.node.tick(at))

    def _take(self, place: Place, changes: list[Change]) -> None:
        place.seen += [(self.now, change) for change in changes]
        self._flush(place)

    def _flush(self, sender: Place) -> None:
        for over, datagram in sender.node.out:
            if over not in sender.families or not sender.up:
                continue
            sender.sent += 1
            self.datagrams.append((self.now, sender, over, datagram))
            for place in self.places:
                if over in place.families and self.random.random() >= self._loss:
                    heapq.heappush(
                        self._coming,
                        (
                            self.now + LATENCY_S,
                            next(self._order),
                            place,
                            datagram,
                            sender.senders[over],
                        ),
                    )
        sender.node.out.clear()
