"""The addresses of a connection attempt: given ones, and those found while it runs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from ._context import Context
from .addr import EndpointAddr, TransportAddr
from .keys import EndpointId
from .net.reach import is_nonsense, is_passing
from .net.transport import SockAddr, is_relay

__all__ = ["Ways"]

MAX_DIALED = 64  # of one attempt
NOT_A_RELAY = "relay_only"  # why an address is left out


class Ways:
    """The addresses of one attempt: those that can be used, and the others with the reason.

    Parameters
    ----------
    without : addresses of the driver that are left out.
    relay_only : take relays alone.

    Attributes
    ----------
    sockets : addresses of the driver.  The list itself is shared with who shows it.
    sources : who told of those, names of lookup services and "app", as far as known.
    refused : text of the others, and why nothing is sent there.
    """

    def __init__(
        self,
        context: Context,
        id: EndpointId,
        without: Collection[SockAddr] = (),
        *,
        relay_only: bool = False,
    ) -> None:
        self._without = without
        self.relay_only = relay_only
        self._context = context
        self._id = id
        self._seen: set[TransportAddr] = set()
        self.sockets: list[SockAddr] = []
        self.sources: dict[SockAddr, str] = {}
        self.refused: dict[str, str] = {}

    def take(
        self, addrs: Iterable[TransportAddr] | Mapping[TransportAddr, Sequence[str]]
    ) -> list[SockAddr]:
        """Look at addresses, perhaps with who told of them.

        Those of the driver that are new and can be used are returned.
        """
        unseen = [addr for addr in addrs if addr not in self._seen]
        if not unseen:
            return []
        self._seen.update(unseen)
        if self.relay_only:
            self.refused.update((str(a), NOT_A_RELAY) for a in unseen if not a.is_relay)
            unseen = [addr for addr in unseen if addr.is_relay]
        found, refused = self._context.sockaddrs(EndpointAddr(self._id, unseen))
        self.refused.update(refused)
        fresh = self.add(found)
        if isinstance(addrs, Mapping):
            addr_of = self._context.transport_addr
            self.sources.update(
                (way, addrs[addr][0]) for way in fresh if (addr := addr_of(way)) in addrs
            )
        return fresh

    def add(self, sockets: Iterable[SockAddr]) -> list[SockAddr]:
        """Take in addresses of the driver; those that are new are returned."""
        fresh = [a for a in sockets if a not in self.sockets and a not in self._without]
        if self.relay_only:
            fresh = [addr for addr in fresh if is_relay(addr)]
        fresh = fresh[: MAX_DIALED - len(self.sockets)]
        self.sockets += fresh
        return fresh

    def join(self, other: Ways) -> None:
        """Take over what was looked at elsewhere."""
        self._seen |= other._seen
        self.refused.update(other.refused)
        self.sources = {**other.sources, **self.sources}
        self.add(other.sockets)

    @property
    def may_pass(self) -> bool:
        """Whether an address may be reached in a moment."""
        return any(map(is_passing, self.refused.values()))

    @property
    def are_nonsense(self) -> bool:
        """Whether addresses were given, and no endpoint can have any of them."""
        return (
            bool(self.refused) and not self.sockets and all(map(is_nonsense, self.refused.values()))
        )

    def look_again(self) -> None:
        """Look at all addresses once more."""
        seen, self._seen, self.refused = self._seen, set(), {}
        self.take(seen)
