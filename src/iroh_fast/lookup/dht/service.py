"""Address lookup through BitTorrent's DHT, as iroh's ``DhtAddressLookup``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from ..._check import check_flag, check_integer, check_items, check_seconds
from ...errors import AddressLookupError, ConfigError, EndpointInfoError, SignedPacketError
from ..filters import AddrFilterLike, as_filter
from ..info import EndpointData, EndpointInfo
from ..services import AddressLookup, LookupAnswer, LookupHost, LookupItem
from ..signed_packet import SignedPacket, fitting

if TYPE_CHECKING:
    from ...keys import EndpointId
    from .client import DhtClient

__all__ = ["DhtLookup", "DhtService"]

log = logging.getLogger("iroh_fast.lookup.dht")

PROVENANCE: Final = "pkarr"  # as what comes of pkarr relays, since it is the same packet
DEBOUNCE_S: Final = 0.05
RETRY_S: Final = 60.0  # after the first failure in a row, then twice as long each time


class DhtLookup:
    """Publish to, and look up in, the Mainline DHT of BitTorrent; needs the extra ``dht``.

    A list entry of ``extra_address_lookup``, or for ``endpoint.address_lookup.add``.

    Parameters
    ----------
    publish : bool
        False: look others up, and publish nothing.
    addr_filter : AddrFilterLike
        Which addresses are published.  By default relays alone: what is in the DHT can be read by
        everybody who knows the endpoint's id.
    bootstrap : iterable of str, optional
        ``host:port`` of nodes to begin with, at most 32, IPv4; by default those that iroh has.
    ttl : int
        Of the published records, in seconds.
    republish_interval : float
        Seconds after which the same record is put again: nodes forget it after about two hours.
    port : int
        UDP port to send from; 0 for any.

    Raises
    ------
    ConfigError
        An option is not as above, or the extra is not installed.

    Notes
    -----
    The node is a read-only one (BEP 43): it answers nobody, works over IPv4, and sends nothing while
    there is nothing to look up or to publish.  Signatures are checked strictly, and an item counts
    only under the key that was asked for.
    """

    provenance = PROVENANCE

    def __init__(
        self,
        *,
        publish: bool = True,
        addr_filter: AddrFilterLike = "relay_only",
        bootstrap: Iterable[str] | None = None,
        ttl: int = 30,
        republish_interval: float = 3600.0,
        port: int = 0,
    ) -> None:
        if find_spec("bencode2") is None:
            raise ConfigError("DhtLookup needs the extra dht: pip install 'iroh-fast[dht]'")
        from .client import BOOTSTRAP, bootstrap_nodes

        nodes = (
            BOOTSTRAP if bootstrap is None else check_items("bootstrap", bootstrap, "'host:port'")
        )
        self._bootstrap = bootstrap_nodes(nodes)
        self._publish = check_flag("publish", publish)
        self._filter = as_filter(addr_filter, "addr_filter")
        ttl_checked = check_integer("ttl", ttl, 0, 2**31 - 1)
        interval = check_seconds("republish_interval", republish_interval)
        port_checked = check_integer("port", port, 0, 65535)
        assert ttl_checked is not None and interval is not None and port_checked is not None
        self._ttl, self._interval, self._port = ttl_checked, interval, port_checked

    def into_address_lookup(self, endpoint: LookupHost, /) -> DhtService:
        """Make the service of an endpoint."""
        from .client import DhtClient

        client = DhtClient(endpoint.dns_resolver, bootstrap=self._bootstrap, port=self._port)
        return DhtService(
            client,
            endpoint,
            publish=self._publish,
            addr_filter=self._filter,
            ttl=self._ttl,
            interval_s=self._interval,
        )


class DhtService(AddressLookup):
    """What `DhtLookup` makes for an endpoint.

    Parameters
    ----------
    interval_s : seconds between puts of the same item.
    """

    provenance = PROVENANCE

    def __init__(
        self,
        client: DhtClient,
        endpoint: LookupHost,
        *,
        publish: bool,
        addr_filter: AddrFilterLike,
        ttl: int,
        interval_s: float,
    ) -> None:
        self._client = client
        self._id = endpoint.id
        self._secret_key = endpoint.secret_key if publish else None
        self._filter = as_filter(addr_filter, "addr_filter")
        self._ttl = ttl
        self._interval = interval_s
        self._loop = endpoint.owner.loop
        self._published: EndpointData | None = None
        self._task: asyncio.Task[None] | None = None
        self._failures = 0  # in a row

    def publish(self, data: EndpointData, /) -> None:
        """Put a record with what the filter leaves, now and each hour; without addresses, none."""
        if self._secret_key is None:
            return
        data = data.filtered(self._filter)
        if data == self._published:
            return
        self._stop()
        self._published = data
        # DIFFERS: iroh goes on to put the old record when there is no address any more.
        if data.addrs:
            self._put_anew(data)

    def _put_anew(self, data: EndpointData) -> None:
        assert self._secret_key is not None
        info = EndpointInfo(self._id, data)
        if (fits := fitting(info)) is not info:
            log.info(
                "not all addresses fit into a record, %d are left out",
                len(data.addrs) - len(fits.data.addrs),
            )
        try:
            packet = SignedPacket.from_endpoint_info(fits, self._secret_key, ttl=self._ttl)
        except SignedPacketError as error:
            log.warning("this endpoint cannot be published: %s", error)
            return
        self._task = self._loop.create_task(self._keep(packet))

    async def _keep(self, packet: SignedPacket) -> None:
        """Put a packet, again and again."""
        await asyncio.sleep(DEBOUNCE_S)  # changes come in bursts
        self._failures = 0
        while True:
            try:
                count = await self._client.put(packet)
            except AddressLookupError as error:
                log.info("this endpoint is not published in the DHT: %s", error)
                # DIFFERS: iroh waits for an hour.
                pause = min(RETRY_S * 2**self._failures, self._interval)
                self._failures += 1
            else:
                log.debug("published at %d nodes of the DHT", count)
                pause, self._failures = self._interval, 0
            await asyncio.sleep(pause)

    def network_changed(self) -> None:
        """Try again at once what failed."""
        if self._failures and self._published is not None:
            self._stop()
            self._put_anew(self._published)

    async def resolve(self, id: EndpointId, /) -> AsyncIterator[LookupAnswer]:
        """Yield what the newest record of an endpoint says; nothing when there is none."""
        try:
            packet = await self._client.get(bytes(id))
        except AddressLookupError as error:
            log.info("%s is not looked up in the DHT: %s", id, error)
            return
        if packet is None:
            return
        try:
            info = packet.endpoint_info()
        except EndpointInfoError as error:
            log.debug("%s has a record in the DHT that is none of an endpoint: %s", id, error)
            return
        yield LookupItem(info, PROVENANCE)

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def close(self) -> None:
        """End what is going on.  What is published stays for about two hours."""
        task = self._task
        self._stop()
        await self._client.close()
        if task is not None:
            await asyncio.wait({task})
