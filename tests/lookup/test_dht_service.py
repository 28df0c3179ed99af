"""What the DHT lookup publishes and when, on a clock that jumps; and what it makes of answers."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from iroh_fast import SecretKey
from iroh_fast.aio.owner import Owner
from iroh_fast.errors import AddressLookupError, ConfigError
from iroh_fast.lookup.dht.service import DhtLookup, DhtService
from iroh_fast.lookup.info import EndpointData
from iroh_fast.lookup.services import LookupItem
from iroh_fast.lookup.signed_packet import SignedPacket

SECRET = SecretKey(bytes([6]) * 32)
DIRECT, RELAY = "192.0.2.1:5", "https://relay.example/"


class Client:
    """Notes what it is told to do, and when."""

    def __init__(self) -> None:
        self.puts: list[tuple[float, SignedPacket]] = []
        self.takes = 0.0  # seconds of a put
        self.fails = 0
        self.done = 0
        self.has: SignedPacket | None = None
        self.error: Exception | None = None
        self.closed = False

    async def put(self, packet: SignedPacket) -> int:
        self.puts.append((asyncio.get_running_loop().time(), packet))
        await asyncio.sleep(self.takes)
        if self.fails:
            self.fails -= 1
            raise AddressLookupError("nobody answers", provenance="pkarr")
        self.done += 1
        return 20

    async def get(self, key: bytes) -> SignedPacket | None:
        if self.error is not None:
            raise self.error
        return self.has

    async def close(self) -> None:
        self.closed = True

    @property
    def times(self) -> list[float]:
        return [round(time, 6) for time, _ in self.puts]


class Host:
    id = SECRET.public
    secret_key = SECRET
    dns_resolver: Any = None
    http: Any = None

    def __init__(self) -> None:
        self.owner = Owner(asyncio.get_running_loop())


def service(client: Any, **options: Any) -> DhtService:
    given = {"publish": True, "addr_filter": "relay_only", "ttl": 30, "interval_s": 3600.0}
    return DhtService(client, Host(), **given | options)


def test_publish_takes_the_last_of_a_burst_and_repeats_it_each_hour(
    virtual: Callable[..., Any],
) -> None:
    async def main() -> None:
        client = Client()
        dht = service(client)
        for n in range(5):
            dht.publish(EndpointData([f"https://relay{n}.example/", DIRECT], "hi"))
            await asyncio.sleep(0.01)
        await asyncio.sleep(3 * 3600)
        assert client.times == [0.09, 3600.09, 7200.09]
        packets = {packet.to_bytes() for _, packet in client.puts}
        assert len(packets) == 1, "the same item again, signed once"
        info = client.puts[0][1].endpoint_info()
        assert info.id == SECRET.public and info.data.user_data == "hi"
        assert [str(url) for url in info.data.relay_urls] == ["https://relay4.example/"]
        assert info.data.ip_addrs == ()
        await dht.close()
        assert client.closed
        await asyncio.sleep(2 * 3600)
        assert len(client.puts) == 3

    virtual(main())


def test_publish_of_the_same_data_changes_nothing_and_of_other_data_begins_anew(
    virtual: Callable[..., Any],
) -> None:
    async def main() -> None:
        client = Client()
        dht = service(client)
        dht.publish(EndpointData([RELAY, DIRECT]))
        await asyncio.sleep(1)
        dht.publish(EndpointData([RELAY, "192.0.2.9:9"]))  # the same behind the filter
        await asyncio.sleep(1)
        assert client.times == [0.05]
        dht.publish(EndpointData([RELAY], "new"))
        await asyncio.sleep(3600)
        assert client.times == [0.05, 2.05]
        first, second = (packet for _, packet in client.puts)
        assert second.more_recent_than(first)
        await dht.close()

    virtual(main())


def test_new_data_stops_a_put_that_is_under_way(virtual: Callable[..., Any]) -> None:
    async def main() -> None:
        client = Client()
        client.takes = 5.0
        dht = service(client)
        dht.publish(EndpointData([RELAY]))
        await asyncio.sleep(1)
        dht.publish(EndpointData([RELAY], "new"))
        await asyncio.sleep(10)
        assert client.times == [0.05, 1.05] and client.done == 1
        await dht.close()

    virtual(main())


def test_without_an_address_nothing_is_put_and_the_old_record_no_more(
    virtual: Callable[..., Any],
) -> None:
    async def main() -> None:
        client = Client()
        dht = service(client)
        dht.publish(EndpointData([DIRECT], "hi"))
        await asyncio.sleep(1)
        assert client.puts == []
        dht.publish(EndpointData([RELAY]))
        await asyncio.sleep(1)
        assert len(client.puts) == 1
        dht.publish(EndpointData([DIRECT]))
        await asyncio.sleep(3 * 3600)
        assert len(client.puts) == 1
        dht.publish(EndpointData([RELAY]))
        await asyncio.sleep(1)
        assert len(client.puts) == 2
        await dht.close()

    virtual(main())


def test_failed_put_is_tried_again_less_and_less_often(virtual: Callable[..., Any]) -> None:
    async def main() -> None:
        client = Client()
        client.fails = 9
        dht = service(client)
        dht.publish(EndpointData([RELAY]))
        await asyncio.sleep(5 * 3600)
        pauses = [round(b - a) for a, b in zip(client.times, client.times[1:])]
        assert pauses[:9] == [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]
        await dht.close()

    virtual(main())


def test_change_of_the_network_tries_again_what_failed_and_that_alone(
    virtual: Callable[..., Any],
) -> None:
    async def main() -> None:
        client = Client()
        client.fails = 1
        dht = service(client)
        dht.network_changed()
        dht.publish(EndpointData([RELAY]))
        await asyncio.sleep(1)
        dht.network_changed()
        await asyncio.sleep(1)
        assert client.times == [0.05, 1.05] and client.done == 1
        dht.network_changed()
        await asyncio.sleep(1)
        assert len(client.puts) == 2
        await dht.close()

    virtual(main())


def test_service_that_does_not_publish_puts_nothing(virtual: Callable[..., Any]) -> None:
    async def main() -> None:
        client = Client()
        dht = service(client, publish=False)
        dht.publish(EndpointData([RELAY]))
        await asyncio.sleep(2 * 3600)
        assert client.puts == []
        await dht.close()

    virtual(main())


def test_addresses_that_do_not_fit_are_left_out(virtual: Callable[..., Any]) -> None:
    async def main() -> None:
        client = Client()
        dht = service(client, addr_filter="unfiltered")
        many = [f"[2001:db8::{n:x}]:{n}" for n in range(1000, 1100)]
        dht.publish(EndpointData([*many, RELAY], "hi"))
        await asyncio.sleep(1)
        (_, packet) = client.puts[0]
        data = packet.endpoint_info().data
        assert len(packet.dns) <= 1000 and data.user_data == "hi"
        assert [str(url) for url in data.relay_urls] == [RELAY]
        assert [str(a) for a in data.ip_addrs] == many[: len(data.ip_addrs)] and len(
            data.ip_addrs
        ) > 15
        await dht.close()

    virtual(main())


async def collect(dht: DhtService) -> list[Any]:
    return [item async for item in dht.resolve(SECRET.public)]


def test_resolve_yields_what_the_record_says(virtual: Callable[..., Any]) -> None:
    async def main() -> None:
        client = Client()
        dht = service(client)
        assert await collect(dht) == []
        client.has = SignedPacket.from_txt(SECRET, "_iroh", [f"relay={RELAY}", "user-data=x"])
        (item,) = await collect(dht)
        assert isinstance(item, LookupItem)
        assert (item.provenance, item.last_updated) == ("pkarr", None)
        assert item.info == client.has.endpoint_info() and item.info.id == SECRET.public

    virtual(main())


def test_resolve_of_what_is_no_record_ends_without_a_failure(virtual: Callable[..., Any]) -> None:
    async def main() -> None:
        client = Client()
        dht = service(client)
        client.has = SignedPacket.from_txt(SECRET, "_iroh", ["no equals sign"])
        assert await collect(dht) == []
        client.has, client.error = None, AddressLookupError("no socket")
        assert await collect(dht) == []

    virtual(main())


async def test_lookup_makes_a_service_for_each_endpoint() -> None:
    lookup = DhtLookup(bootstrap=["127.0.0.1:1"], addr_filter=None, ttl=60, republish_interval=60)
    first, second = lookup.into_address_lookup(Host()), lookup.into_address_lookup(Host())
    assert first is not second and first.provenance == lookup.provenance == "pkarr"
    assert [item async for item in first.resolve(SECRET.public)] == []
    await first.close()
    await second.close()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"bootstrap": "router.example:1"}, "bootstrap"),
        ({"bootstrap": ["router.example"]}, "bootstrap"),
        ({"ttl": -1}, "ttl"),
        ({"ttl": 1.5}, "ttl"),
        ({"republish_interval": 0}, "republish_interval"),
        ({"port": 70000}, "port"),
        ({"publish": 1}, "publish"),
        ({"addr_filter": "some"}, "addr_filter"),
    ],
    ids=str,
)
def test_options_that_are_none_are_refused_by_name(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        DhtLookup(**options)


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iroh_fast.lookup.dht.service.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"iroh-fast\[dht\]"):
        DhtLookup()


def test_lookup_is_light_to_import() -> None:
    """The extra is loaded with the first `DhtLookup`, not with its name."""
    code = "import sys; from iroh_fast.lookup import DhtLookup; print('bencode2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n", done.stderr
