"""What the server keeps signed packets in: the interface of stores, and what all of them keep.

A store holds at most one packet per key, the most recent one. It never holds more than
`Retention.max_records`; who has to go is decided alike by all stores:

* a record is a *newcomer* until a more recent packet arrives `SETTLED_AFTER_S` or more after its
  first one; then it is *settled*;
* newcomers always have a quarter of the places (`NEWCOMERS`). While they hold more than that, the one
  published longest ago goes; otherwise the settled record published longest ago.

So whoever floods a server with new keys displaces newcomers, its own first of all once they are
the oldest, and no endpoint that publishes regularly.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

from .._check import check_integer, check_seconds
from ..aio.once import Once
from ..errors import PacketStoreError

__all__ = [
    "COUNTED",
    "Done",
    "Durable",
    "LocalStore",
    "OnChange",
    "OnFailure",
    "Packet",
    "PacketStore",
    "Retention",
    "put_and_wait",
    "tell",
]

logger = logging.getLogger("iroh_fast.dns_server.store")

SETTLED_AFTER_S: Final = 60.0
NEWCOMERS: Final = 0.25  # of all places

# What happens to packets; metrics have ``store_packets_`` before.
COUNTED: Final = ("inserted", "updated", "removed", "expired", "evicted")

# How a rank says both, so that one index serves all: the time of the last publish (microseconds),
# and this beyond it for settled records.
SETTLED: Final = 1 << 60
# What of a packet tells which is more recent, compared as bytes: the timestamp and the DNS message.
# One-based, as SQL counts.
RECENCY_FROM: Final = 97


class Packet(Protocol):
    """What a store wants to know of a packet; `SignedPacket` is one."""

    @property
    def public_key(self) -> bytes: ...
    @property
    def timestamp(self) -> int: ...
    def to_bytes(self) -> bytes: ...


Done: TypeAlias = Callable[[bool | PacketStoreError], None]
"""Told what became of a packet: True it is kept, False a more recent one is, or an error."""

Durable: TypeAlias = Callable[[], None]
"""Told that a packet is durable, whatever becomes of it."""

OnChange: TypeAlias = Callable[[bytes | None], None]
"""Called with a key whose packet changed or is gone; None: any may have."""

OnFailure: TypeAlias = Callable[[PacketStoreError], None]
"""Called once, when nothing can be written any more."""


@dataclass(frozen=True, slots=True)
class Retention:
    """What a store keeps and for how long.

    Parameters
    ----------
    max_records : int
        Packets at the same time, 1 to 2**31. Who has to go: see the module.
    max_age : float
        Seconds from the last publish after which a packet goes. A publish counts from the
        packet's timestamp or from its arrival, whichever is earlier.
    interval : float
        Seconds between looks for such packets.

    Raises
    ------
    ConfigError : a value is out of range.
    """

    max_records: int = 4_000_000
    max_age: float = 7 * 86400.0
    interval: float = 10.0

    def __post_init__(self) -> None:
        check_integer("zone_store.max_records", self.max_records, 1, 2**31)
        for name, key in (("max_age", "eviction"), ("interval", "eviction_interval")):
            value = check_seconds(f"zone_store.{key}", getattr(self, name))
            object.__setattr__(self, name, value)

    @property
    def newcomers(self) -> int:
        """Places that settled records never take."""
        return int(self.max_records * NEWCOMERS)

    def expired_before(self, now: int) -> int:
        """The time of publish (microseconds) before which packets go."""
        return now - int(self.max_age * 1e6)


class PacketStore(Protocol):
    """Where a server keeps packets. Belongs to the event loop that opened it.

    Attributes
    ----------
    on_change : callable, optional
        Called after each change, once readers see it; with several servers on one database also
        for the changes of others.
    on_failure : callable, optional
        Called when nothing can be written any more; the server has to stop.
    coherent : bool
        False while changes of others may go unnoticed: what is read then is not to be cached.
    """

    on_change: OnChange | None
    on_failure: OnFailure | None

    @property
    def coherent(self) -> bool: ...

    async def open(self) -> None:
        """Begin.  PacketStoreError says what is wrong and what to do."""
        ...

    async def close(self) -> None:
        """End; what was submitted is finished before. May be called again."""
        ...

    def submit(self, packet: Packet, done: Done, durable: Durable | None = None) -> None:
        """Keep a packet if it is more recent.

        `done` is called once, in a later turn of the loop: with True when the packet is durable,
        which the packet that is kept already counts as, with False when a more recent one is kept.

        `durable` is called before that, perhaps at once, by stores that can say so earlier: the
        packet will be kept, unless a more recent one is, even if the process is killed now.
        """
        ...

    async def put(self, packet: Packet) -> bool:
        """Do the same and wait.  Cancelled, the packet may be kept nevertheless."""
        ...

    async def fetch(self, key: bytes) -> bytes | None:
        """The whole packet of a key, or None.

        It stays current as long as the caller does not let the loop turn: who caches it does so at
        once, and forgets it when `on_change` says so.
        """
        ...

    def counters(self) -> Mapping[str, int]:
        """Values of the metrics that begin with ``store_``."""
        ...


class LocalStore(PacketStore, Protocol):
    """A store that can be read without waiting."""

    def read(self, key: bytes) -> bytes | None:
        """The whole packet of a key, or None."""
        ...


async def put_and_wait(store: PacketStore, packet: Packet) -> bool:
    """`PacketStore.put` by `PacketStore.submit`."""
    answered = Once()
    answers: list[bool | PacketStoreError] = []

    def done(answer: bool | PacketStoreError) -> None:
        answers.append(answer)
        answered.set()

    store.submit(packet, done)
    await answered
    if isinstance(answers[0], PacketStoreError):
        raise answers[0]
    return answers[0]


def tell(call: Callable[[Any], None] | None, what: object) -> None:
    """Call somebody who must not break the store: what it raises is logged."""
    if call is None:
        return
    try:
        call(what)
    except Exception:
        logger.exception("a callback of the store failed")
