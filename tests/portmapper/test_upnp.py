"""UPnP gateways on loopback: those that work, and those that refuse, lie, flood or send us elsewhere."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from iroh_fast.errors import PortmapError
from iroh_fast.portmapper import igd, ssdp
from iroh_fast.portmapper.model import Gateway, Lease
from iroh_fast.portmapper.service import protocols_of
from iroh_fast.portmapper.upnp import MAX_DEVICES, MAX_PORTS, Upnp

from .fakes import SERVICE, UpnpGateway, description, http, upnp_gateway

PORT = 41641


@asynccontextmanager
async def upnp() -> AsyncIterator[tuple[Upnp, Gateway, UpnpGateway]]:
    async with upnp_gateway() as (gateway, fake):
        (one,) = protocols_of(["upnp"])
        assert isinstance(one, Upnp)
        draws = iter(range(50001, 60000))
        one._draw = lambda: next(draws)
        try:
            yield one, gateway, fake
        finally:
            await one.close()
            await asyncio.sleep(0.01)


async def refused(one: Upnp, gateway: Gateway, old: Lease | None = None) -> PortmapError:
    with pytest.raises(PortmapError) as caught:
        await one.map(gateway, PORT, old)
    assert str(caught.value).isprintable()
    return caught.value


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches of a moment, where nobody is found."""
    monkeypatch.setattr(ssdp, "LIMIT_S", 0.15)
    monkeypatch.setattr(ssdp, "AGAIN_S", 0.05)


# ---------------------------------------------------------------- what works
async def test_mapping_is_made_renewed_and_released() -> None:
    async with upnp() as (one, gateway, fake):
        lease = await one.map(gateway, PORT, None)
        assert str(lease.external) == f"203.0.113.7:{PORT}" and lease.lifetime == 7200
        assert fake.searches[0].startswith(b"M-SEARCH * HTTP/1.1\r\nHost:127.0.0.1:")
        assert fake.searches[0].endswith(b"\r\n\r\n") and b'Man:"ssdp:discover"' in fake.searches[0]
        assert fake.actions[-1] == (
            "AddPortMapping",
            {
                "NewRemoteHost": "",
                "NewExternalPort": str(PORT),
                "NewProtocol": "UDP",
                "NewInternalPort": str(PORT),
                "NewInternalClient": "127.0.0.1",
                "NewEnabled": "1",
                "NewPortMappingDescription": "iroh-portmap",
                "NewLeaseDuration": "7200",
            },
        )
        assert await one.map(gateway, PORT, lease) == lease
        assert len(fake.searches) == 1 and fake.paths.count("/root.xml") == 1
        await one.release(gateway, lease)
        assert fake.mapped == {}
        with pytest.raises(PortmapError) as caught:
            await one.release(gateway, lease)
        assert caught.value.code == 714


@pytest.mark.parametrize("version", [1, 2])
async def test_port_of_somebody_else_is_left_to_him(version: int) -> None:
    async with upnp() as (one, gateway, fake):
        service = SERVICE.replace(":2", f":{version}")
        fake.describe = lambda: http(description(service=service))
        fake.taken = {PORT}
        lease = await one.map(gateway, PORT, None)
        assert lease.external.port == (60000 if version == 2 else 50001)
        assert list(fake.mapped) == [lease.external.port]
        assert fake.mapped[lease.external.port]["NewInternalPort"] == str(PORT)


async def test_gateway_that_cannot_choose_a_port_is_asked_for_some() -> None:
    async with upnp() as (one, gateway, fake):
        fake.taken = {PORT, 50001, 50002}
        fake.fault = lambda action, given: 401 if action == "AddAnyPortMapping" else None
        assert (await one.map(gateway, PORT, None)).external.port == 50003


async def test_ports_that_are_tried_are_bounded() -> None:
    async with upnp() as (one, gateway, fake):
        fake.fault = lambda action, given: 718 if action.startswith("Add") else None
        error = await refused(one, gateway)
        assert (error.kind, error.code) == ("refused", 718)
        assert sum(action.startswith("Add") for action, _ in fake.actions) == MAX_PORTS


async def test_gateway_with_mappings_for_ever_alone_gives_one() -> None:
    async with upnp() as (one, gateway, fake):
        fake.fault = lambda action, given: 725 if given.get("NewLeaseDuration") == "7200" else None
        lease = await one.map(gateway, PORT, None)
        assert lease.lifetime == 0
        before = len(fake.actions)
        assert await one.map(gateway, PORT, lease) == lease
        assert [given.get("NewLeaseDuration") for _, given in fake.actions[before:]] == [None, "0"]


async def test_gateway_that_wants_the_same_port_gets_it() -> None:
    async with upnp() as (one, gateway, fake):
        lease = await one.map(gateway, PORT, None)
        fake.fault = lambda action, given: (
            724 if given.get("NewExternalPort", str(PORT)) != str(PORT) else None
        )
        old = Lease("upnp", PORT, type(lease.external)(lease.external.ip, 7), 7200, lease.token)
        assert (await one.map(gateway, PORT, old)).external.port == PORT


@pytest.mark.parametrize("code", [402, 501, 605, 606, 714, 728, 9999])
async def test_refusals_are_told(code: int) -> None:
    async with upnp() as (one, gateway, fake):
        fake.fault = lambda action, given: code if action.startswith("Add") else None
        error = await refused(one, gateway)
        assert (error.kind, error.code) == ("refused", code) and "why" in str(error)
        assert len(fake.actions) == 2


async def test_description_with_a_base_is_followed_there() -> None:
    async with upnp() as (one, gateway, fake):
        base = f"http://127.0.0.1:{fake.port}/igd/"
        fake.describe = lambda: http(description("ctl", base=base))
        await one.map(gateway, PORT, None)
        assert fake.paths == ["/root.xml", "/igd/ctl", "/igd/ctl"]


async def test_ppp_is_taken_where_there_is_nothing_better() -> None:
    async with upnp() as (one, gateway, fake):
        kinds = [SERVICE.replace("IPConnection:2", "PPPConnection:1"), SERVICE.replace(":2", ":1")]
        ppp, ip = (description(f"/{i}", kind) for i, kind in enumerate(kinds))
        fake.describe = lambda: http(ppp)
        assert (await one.map(gateway, PORT, None)).token.control.endswith("/0")  # type: ignore[attr-defined]
        both = ppp.replace(
            "</serviceList></device></deviceList></device>",
            "</serviceList></device>"
            + ip[ip.index("<device>") : ip.rindex("</root>")]
            + "</deviceList></device>",
        )
        fake.describe = lambda: http(both)
        await one.probe(gateway)
        assert (await one.map(gateway, PORT, None)).token.control.endswith("/1")  # type: ignore[attr-defined]


# ---------------------------------------------------------------- what lies
@pytest.mark.parametrize(
    "ip, kind",
    [
        *((ip, "not_public") for ip in ("192.168.1.1", "100.64.0.9", "0.0.0.0", "10.0.0.1")),
        *(
            (ip, "bad_answer")
            for ip in ("", "x", "1.2.3", "::1", "9" * 5000, "\x1b[2J", "1.2.3.4:5")
        ),
    ],
)
async def test_external_address_that_is_none_is_not_believed(ip: str, kind: str) -> None:
    async with upnp() as (one, gateway, fake):
        fake.external = ip.replace("\x1b", "&#155;")
        assert (await refused(one, gateway)).kind == kind


@pytest.mark.parametrize("port", ["0", "65536", "x", "", "-1", "٣", "1e3", "0000000001"])
async def test_port_that_is_none_is_not_believed(port: str) -> None:
    async with upnp() as (one, gateway, fake):
        fake.taken = {PORT}

        def answer(action: str, given: dict[str, str]) -> bytes:
            if action == "AddAnyPortMapping":
                return http(f"<a><NewReservedPort>{port}</NewReservedPort></a>")
            return fake.obey(action, given)

        fake.answer = answer
        assert (await refused(one, gateway)).kind == "bad_answer"


LOCATIONS = (
    *("http://127.0.0.2:{port}/root.xml", "http://localhost:{port}/root.xml"),
    *("https://127.0.0.1:{port}/root.xml", "http://u:p@127.0.0.1:{port}/root.xml"),
    *("http://127.0.0.1:0/", "http://127.0.0.1:99999/", "http://127.0.0.1:{port}/ x"),
    *("file:///etc/passwd", "//127.0.0.1:{port}/", "", "http://[::1]:{port}/", "http://["),
    *("http://127.0.0.1.example:{port}/", "http://127.0.0.1:{port}/" + "x" * 600),
    *("http://127.0.0.1:{port}@10.0.0.1/", "http://127.1:{port}/", "http://2130706433:{port}/"),
)


@pytest.mark.parametrize("location", LOCATIONS)
async def test_answer_that_sends_us_elsewhere_is_ignored(location: str, quick: None) -> None:
    async with upnp() as (one, gateway, fake):
        fake.search_answers = lambda data: [fake.here(location.format(port=fake.port) or "-")]
        with pytest.raises(PortmapError) as caught:
            await one.probe(gateway)
        assert caught.value.kind == "timeout" and fake.paths == []
        assert len(fake.searches) == 2  # once more, since it may be lost


@pytest.mark.parametrize(
    "control", ["http://127.0.0.2/", "https://127.0.0.1/", "//evil/", "http://["]
)
async def test_description_that_sends_us_elsewhere_is_refused(control: str, quick: None) -> None:
    async with upnp() as (one, gateway, fake):
        for description_ in (description(control), description("/x", base=control)):
            fake.describe = lambda body=description_: http(body)
            with pytest.raises(PortmapError) as caught:
                await one.probe(gateway)
            assert caught.value.kind == "bad_answer" and fake.actions == []


async def test_redirects_are_not_followed(quick: None) -> None:
    async with upnp() as (one, gateway, fake):
        there = f"Location: http://127.0.0.1:{fake.port}/other"
        fake.describe = lambda: http("", "302 Found", there)
        with pytest.raises(PortmapError) as caught:
            await one.probe(gateway)
        assert caught.value.code == 302 and fake.paths == ["/root.xml"]
        fake.describe = lambda: http(description())
        fake.answer = lambda action, given: http("", "307 There", there)
        assert (await refused(one, gateway)).code == 307
        assert fake.paths[1:] == ["/root.xml", "/ctl"]


def noise(fake: UpnpGateway) -> Iterator[bytes]:
    yield b""
    yield b"\xff" * 2000
    yield fake.here() + bytes(3000)
    yield fake.here().replace(b"200 OK", b"404 No")
    yield b"NOTIFY * HTTP/1.1" + fake.here()[15:]
    yield fake.here().replace(b"EXT:", b"ST: urn:schemas-upnp-org:device:MediaRenderer:1")


async def test_noise_before_the_gateway_is_passed_over() -> None:
    async with upnp() as (one, gateway, fake):
        fake.search_answers = lambda data: [*noise(fake), fake.here()]
        await one.probe(gateway)
        assert fake.paths == ["/root.xml"]


async def test_devices_of_one_search_are_bounded(quick: None) -> None:
    async with upnp() as (one, gateway, fake):
        where = f"http://127.0.0.1:{fake.port}"
        fake.search_answers = lambda data: [fake.here(f"{where}/{i}") for i in range(50)]
        fake.describe = lambda: http("", "404 No")
        with pytest.raises(PortmapError):
            await one.probe(gateway)
        assert len(fake.paths) == MAX_DEVICES


BAD = {
    "empty": b"",
    "no-xml": b"\0\1\2",
    "cut": description().encode()[:-9],
    "entities": b'<!DOCTYPE a [<!ENTITY b "c">]><root>&b;</root>',
    "bomb": b'<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><a>&b;</a>',
    "elsewhere": b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>',
    "utf-16": '<?xml version="1.0" encoding="utf-16"?><!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'.encode(
        "utf-16"
    ),
    "unknown-encoding": b'<?xml version="1.0" encoding="x"?><a/>',
    "deep": b"<a>" * 1000 + b"</a>" * 1000,
    "wide": b"<a>" + b"<b/>" * 5000 + b"</a>",
    "nothing": b"<a/>",
    "two": b"<a/><b/>",
}


@pytest.mark.parametrize("name", BAD)
async def test_description_that_is_bad_is_refused(name: str, quick: None) -> None:
    async with upnp() as (one, gateway, fake):
        fake.describe = lambda: http(BAD[name])
        with pytest.raises(PortmapError) as caught:
            await one.probe(gateway)
        assert caught.value.kind == ("unavailable" if name == "nothing" else "bad_answer")


@pytest.mark.parametrize("name", list(BAD))
async def test_answers_that_are_bad_are_no_mapping(name: str) -> None:
    async with upnp() as (one, gateway, fake):
        for status in ("200 OK", "500 No"):
            fake.answer = lambda *_, status=status: http(BAD[name], status)
            assert (await refused(one, gateway)).kind == "bad_answer"


async def test_description_that_is_too_long_is_refused(quick: None) -> None:
    async with upnp() as (one, gateway, fake):
        fake.describe = lambda: http(b" " * (1 << 20))
        with pytest.raises(PortmapError) as caught:
            await one.probe(gateway)
        assert caught.value.kind == "bad_answer"


async def test_description_where_nobody_listens_is_none(quick: None) -> None:
    async with upnp() as (one, gateway, fake):
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            where = f"http://127.0.0.1:{closed.getsockname()[1]}/"
            fake.search_answers = lambda data: [fake.here(where)]
            with pytest.raises(PortmapError) as caught:
                await one.probe(gateway)
        assert caught.value.kind == "timeout"


async def test_cancelled_search_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with upnp() as (one, gateway, fake):
        fake.search_answers = lambda data: []
        task = asyncio.ensure_future(one.probe(gateway))
        while not fake.searches:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


def test_answers_of_outside_are_not_trusted() -> None:
    from ipaddress import IPv4Address

    gateway = Gateway(IPv4Address("192.168.1.1"), IPv4Address("192.168.1.2"))
    answer = "HTTP/1.1 200 OK\r\nLocation: http://{}/\r\n\r\n"
    trusted = {
        host: ssdp._trusted(answer.format(host).encode(), host, gateway) is not None
        for host in ("192.168.1.1", "192.168.1.254", "10.0.0.138", "203.0.113.7", "8.8.8.8")
    }
    assert trusted == {
        "192.168.1.1": True,
        "192.168.1.254": True,
        "10.0.0.138": True,
        "203.0.113.7": False,
        "8.8.8.8": False,
    }


def test_fault_is_read_wherever_it_stands_and_only_if_it_is_one() -> None:
    assert igd.fault_of(b"<a><UPnPError><errorCode> 718 </errorCode></UPnPError></a>") == igd.Fault(
        718, ""
    )
    for body in (b"", b"<a/>", b"<UPnPError><errorCode>x</errorCode></UPnPError>", b"<UPnPError/>"):
        assert igd.fault_of(body) is None
