"""Keys that are not stored here, looked up in BitTorrent's DHT: what `Answers` has as its fallback."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from ..errors import ConfigError
from ..web.resolver import DnsResolver

if TYPE_CHECKING:
    from ..lookup.dht.client import DhtClient

__all__ = ["MainlineFallback"]

log = logging.getLogger("iroh_fast.dns_server.mainline")

BUDGET_S: Final = 2.3  # below that of `Answers`, so that what was found until then counts


class MainlineFallback:
    """Looks up signed packets in the DHT; needs the extra ``dht``.

    What is found, or not, is kept by `Answers`, which also bounds how many are looked up at once.

    Parameters
    ----------
    bootstrap : iterable of str, optional
        ``host:port`` of nodes to begin with; by default iroh's.

    Raises
    ------
    ConfigError
        A node is not ``host:port``, or the extra is not installed.
    """

    def __init__(self, bootstrap: Iterable[str] | None = None) -> None:
        try:
            from ..lookup.dht.client import BOOTSTRAP, bootstrap_nodes
        except ImportError as error:
            if error.name != "bencode2":
                raise
            raise ConfigError(
                "mainline.enabled needs the extra dht: pip install 'iroh-fast[dht]'"
            ) from None
        self._bootstrap = bootstrap_nodes(BOOTSTRAP if bootstrap is None else bootstrap)
        self._resolver: DnsResolver | None = None
        self._client: DhtClient | None = None

    async def start(self) -> None:
        """Get ready, on the loop that runs.  Nothing is sent before somebody asks."""
        from ..lookup.dht.client import DhtClient

        self._resolver = DnsResolver()
        self._client = DhtClient(self._resolver, bootstrap=self._bootstrap)

    async def lookup(self, key: bytes, /) -> bytes | None:
        """The newest signed packet of a key, verified; None when nobody has one.

        Raises
        ------
        AddressLookupError : no socket could be opened, or it is closed.
        """
        assert self._client is not None, "start comes first"
        packet = await self._client.get(key, budget_s=BUDGET_S)
        if packet is None:
            return None
        assert packet.public_key == key  # else a node could answer for keys of others
        log.debug("a packet of %s is in the DHT", key.hex())
        return packet.to_bytes()

    async def close(self) -> None:
        """Give up what is looked up.  May be called again."""
        client, self._client = self._client, None
        resolver, self._resolver = self._resolver, None
        if client is not None:
            await client.close()
        if resolver is not None:
            await resolver.close()
