"""Who is on the link, as far as its messages tell: bounded, and believing nobody alone.

Nothing on the link is signed.  What different senders tell of one peer is kept side by side, so that
a forged message hides no true one: addresses are tried, and the handshake finds out.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import zip_longest
from typing import Final

from ...addr import IpAddr, RelayAddr, SocketAddr, TransportAddr
from ...keys import EndpointId
from ..info import EndpointData, EndpointInfo
from .rounds import grace_s
from .wire import Told, parse_label

__all__ = ["Change", "Peers"]

MAX_PEERS: Final = 1024
MAX_PEERS_OF_SENDER: Final = 256
MAX_SENDERS: Final = 8  # of what is told of one peer
MAX_ADDRS: Final = 24  # of one peer, from all senders: as many as are dialed
MAX_RELAYS: Final = 2
MAX_FADING: Final = 4  # asked for by name at once
FADING: Final = 2 / 3  # of the time after which they expire

Change = tuple[EndpointId, EndpointInfo | None]
"""A peer, and what is known of it now; None when it is gone."""


class _Story:
    """What one sender tells of a peer."""

    __slots__ = ("heard", "told")

    def __init__(self, told: Told, now: float) -> None:
        self.told = told
        self.heard = now


class _Peer:
    """What all senders tell of a peer, in the order in which they began."""

    __slots__ = ("id", "info", "introduced_by", "stories")

    def __init__(self, id: EndpointId, introduced_by: str) -> None:
        self.id = id
        self.introduced_by = introduced_by
        self.stories: dict[str, _Story] = {}
        self.info = EndpointInfo(id, EndpointData())

    def heard(self) -> float:
        return max(story.heard for story in self.stories.values())

    def put(self, sender: str, told: Told, now: float) -> bool:
        """Take what a sender tells; whether that changes anything."""
        story = self.stories.get(sender)
        if story is not None:
            story.heard = now
            if story.told == told:
                return False
            story.told = told
        else:
            if len(self.stories) >= MAX_SENDERS:
                oldest = min(self.stories, key=lambda name: self.stories[name].heard)
                del self.stories[oldest]
            self.stories[sender] = _Story(told, now)
        return self._merge()

    def forget_before(self, then: float) -> bool:
        """Drop senders that were not heard since; whether that changes anything."""
        late = [name for name, story in self.stories.items() if story.heard <= then]
        for name in late:
            del self.stories[name]
        return bool(late) and bool(self.stories) and self._merge()

    def _merge(self) -> bool:
        tales = [story.told for story in self.stories.values()]
        addrs: list[TransportAddr] = list(map(IpAddr, _in_turn(told.addrs for told in tales)))
        relays = dict.fromkeys(told.relay for told in tales if told.relay is not None)
        addrs += map(RelayAddr, list(relays)[:MAX_RELAYS])
        user_data = next((told.user_data for told in tales if told.user_data is not None), None)
        info = EndpointInfo(self.id, EndpointData(tuple(addrs), user_data))
        changed = info != self.info
        self.info = info
        return changed


def _in_turn(lists: Iterable[tuple[SocketAddr, ...]]) -> list[SocketAddr]:
    """The first of each, then the second of each, and so on, up to MAX_ADDRS different ones."""
    found: dict[SocketAddr, None] = {}
    for row in zip_longest(*lists):
        for addr in row:
            if addr is not None and len(found) < MAX_ADDRS:
                found[addr] = None
    return list(found)


class Peers:
    """The peers of one link.

    Parameters
    ----------
    own : label of this node, whose looped back answers count as a peer's.
    cadence : seconds between rounds.
    """

    __slots__ = ("_by_label", "_cadence", "_from_sender", "_own", "_own_heard")

    def __init__(self, own: bytes, cadence: float) -> None:
        self._own = own
        self._own_heard: float | None = None
        self._cadence = cadence
        self._by_label: dict[bytes, _Peer] = {}
        self._from_sender: dict[str, int] = {}

    def __len__(self) -> int:
        """How many there are, this node among them once it has heard itself."""
        return len(self._by_label) + (self._own_heard is not None)

    def info(self, label: bytes) -> EndpointInfo | None:
        """What is known of a peer."""
        peer = self._by_label.get(label)
        return None if peer is None else peer.info

    def infos(self) -> tuple[EndpointInfo, ...]:
        """What is known of all peers."""
        return tuple(peer.info for peer in self._by_label.values())

    def knows(self, label: bytes) -> bool:
        """Whether a message about this one is about a peer already known, or about this node."""
        return label == self._own or label in self._by_label

    def put(
        self, label: bytes, sender: str, told: Told, now: float, *, wanted: bool = False
    ) -> list[Change]:
        """Take what a sender tells of a peer; what changes by it.

        Parameters
        ----------
        wanted : somebody waits for this peer: it gets a place where no other one would.
        """
        if label == self._own:
            self._own_heard = now
            return []
        if not told.addrs:
            return []
        changes: list[Change] = []
        peer = self._by_label.get(label)
        if peer is None:
            id = parse_label(label)
            if id is None or not (wanted or self._has_room(sender)):
                return []
            if len(self._by_label) >= MAX_PEERS:
                changes.append(self._drop_longest_unheard())
            peer = self._by_label[label] = _Peer(id, sender)
            self._from_sender[sender] = self._from_sender.get(sender, 0) + 1
        if peer.put(sender, told, now):
            changes.append((peer.id, peer.info))
        return changes

    def _has_room(self, sender: str) -> bool:
        """Whether there is a place for one more peer that nobody waits for.

        Where there is none, those known stay: they would be what a flood of invented ones drives out.
        """
        taken = self._from_sender.get(sender, 0)
        return len(self._by_label) < MAX_PEERS and taken < MAX_PEERS_OF_SENDER

    def _drop_longest_unheard(self) -> Change:
        label = min(self._by_label, key=lambda label: self._by_label[label].heard())
        id = self._by_label[label].id
        self._drop(label)
        return id, None

    def fading(self, now: float) -> list[bytes]:
        """Labels of those that will expire unless they are heard of soon, MAX_FADING at most.

        DIFFERS: iroh's drops them.  Among many, one in twenty misses all its turns by chance.
        """
        then = now - FADING * grace_s(self._cadence, len(self))
        unheard = [(peer.heard(), label) for label, peer in self._by_label.items()]
        late = sorted(found for found in unheard if found[0] <= then)
        return [label for _, label in late[:MAX_FADING]]

    def expire(self, now: float) -> list[Change]:
        """Drop who was not heard of for too long; what changes by it."""
        then = now - grace_s(self._cadence, len(self))
        if self._own_heard is not None and self._own_heard <= then:
            self._own_heard = None
        changes: list[Change] = []
        for label, peer in list(self._by_label.items()):
            if peer.forget_before(then):
                changes.append((peer.id, peer.info))
            elif not peer.stories:
                self._drop(label)
                changes.append((peer.id, None))
        return changes

    def _drop(self, label: bytes) -> None:
        peer = self._by_label.pop(label)
        left = self._from_sender[peer.introduced_by] - 1
        if left:
            self._from_sender[peer.introduced_by] = left
        else:
            del self._from_sender[peer.introduced_by]
