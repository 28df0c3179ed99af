"""PCP and NAT-PMP with gateways on loopback: those that work, lose, lie, refuse and babble."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address
from typing import Any

import pytest

from iroh_fast.errors import PortmapError
from iroh_fast.portmapper import exchange
from iroh_fast.portmapper.exchange import MAX_DATAGRAMS, UdpExchange
from iroh_fast.portmapper.model import Gateway, Lease, MappingProtocol
from iroh_fast.portmapper.nat_pmp import NatPmp
from iroh_fast.portmapper.pcp import Pcp

from .fakes import HERE, Give, nat_pmp_answer, pcp_answer, udp_gateway

PORT = 41641
ANSWERS: dict[str, Any] = {"pcp": pcp_answer, "nat_pmp": nat_pmp_answer}
each = pytest.mark.parametrize("name", ["pcp", "nat_pmp"])


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience of a moment, for gateways that never answer."""
    monkeypatch.setattr(exchange, "WAITS_S", (0.02, 0.02, 0.02))


def protocol(name: str) -> MappingProtocol:
    return Pcp() if name == "pcp" else NatPmp()


async def lease_from(name: str, give: Give) -> tuple[Lease, list[bytes]]:
    async with udp_gateway(give) as (gateway, server):
        return await protocol(name).map(gateway, PORT, None), server.heard


async def failure(name: str, give: Give) -> tuple[PortmapError, list[bytes]]:
    async with udp_gateway(give) as (gateway, server):
        with pytest.raises(PortmapError) as caught:
            await protocol(name).map(gateway, PORT, None)
        return caught.value, server.heard


@each
async def test_mapping_is_made_renewed_and_released(name: str) -> None:
    answer = ANSWERS[name]
    async with udp_gateway(lambda data: [answer(data, external=50000)]) as (gateway, server):
        one = protocol(name)
        await one.probe(gateway)
        lease = await one.map(gateway, PORT, None)
        assert (str(lease.external), lease.port) == ("203.0.113.7:50000", PORT)
        assert lease.lifetime == (3600 if name == "pcp" else 7200)
        asked = len(server.heard)
        again = await one.map(gateway, PORT, lease)
        assert again == lease and again.token == lease.token
        renewal = server.heard[asked]
        wish = struct.unpack_from("!H", renewal, 42 if name == "pcp" else 6)[0]
        assert wish == 50000
        await one.release(gateway, lease)
        await one.probe(gateway)  # what was told came before
        (told,) = [data for data in server.heard[asked + 1 :] if data[1] == 1]
        if name == "pcp":
            assert told[4:8] == bytes(4) and told[24:36] == lease.token and told[42:44] == bytes(2)
        else:
            assert told[4:] == PORT.to_bytes(2, "big") + bytes(6)


@each
async def test_lost_datagrams_are_asked_for_again(name: str) -> None:
    dropped: set[int] = set()

    def give(data: bytes) -> list[bytes]:
        if data[1] not in dropped:  # the first one of each kind
            dropped.add(data[1])
            return []
        return [ANSWERS[name](data)]

    lease, heard = await lease_from(name, give)
    assert str(lease.external) == f"203.0.113.7:{PORT}"
    assert len(heard) == (2 if name == "pcp" else 4)
    assert heard[0] == heard[1]


@each
async def test_silent_gateway_is_asked_three_times(name: str, quick: None) -> None:
    error, heard = await failure(name, lambda data: [])
    assert error.kind == "timeout" and len(heard) == 3


@each
async def test_gateway_without_the_port_is_known_at_once(name: str) -> None:
    async with udp_gateway(lambda data: []) as (gateway, _):
        pass
    with pytest.raises(PortmapError) as caught:
        await protocol(name).probe(gateway)
    assert caught.value.kind == "unavailable"


@pytest.mark.parametrize("result", range(1, 14))
async def test_refusals_of_pcp_are_told(result: int) -> None:
    error, heard = await failure("pcp", lambda data: [pcp_answer(data, result=result, lifetime=30)])
    assert error.kind == ("unavailable" if result == 1 else "refused")
    assert (error.code, error.wait) == (result, 30.0) or result == 1
    assert len(heard) == 1


@pytest.mark.parametrize("result", range(1, 6))
async def test_refusals_of_nat_pmp_are_told(result: int) -> None:
    error, heard = await failure("nat_pmp", lambda data: [nat_pmp_answer(data, result=result)])
    assert (error.kind, error.code) == ("unavailable" if result == 1 else "refused", result)
    assert len(heard) == 1


async def test_gateway_that_knows_mappings_alone_speaks_pcp() -> None:
    async with udp_gateway(lambda data: [pcp_answer(data, result=4)]) as (gateway, _):
        await Pcp().probe(gateway)


async def test_gateway_of_the_other_protocol_is_told_apart() -> None:
    async with udp_gateway(lambda data: [b"\0\x80\0\1" + bytes(4)]) as (gateway, server):
        with pytest.raises(PortmapError) as caught:
            await Pcp().probe(gateway)
        assert caught.value.kind == "unavailable" and len(server.heard) == 1
    async with udp_gateway(lambda data: [b"\2\x80\0\1" + bytes(20)]) as (gateway, server):
        with pytest.raises(PortmapError) as caught:
            await NatPmp().probe(gateway)
        assert caught.value.kind == "unavailable" and len(server.heard) == 1


def change(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


SPOILED = [
    pytest.param("pcp", lambda good: change(good, 24, b"other nonce!"), id="pcp-nonce"),
    pytest.param("pcp", lambda good: change(good, 40, b"\0\1"), id="pcp-port"),
    pytest.param("pcp", lambda good: change(good, 36, b"\6"), id="pcp-tcp"),
    pytest.param("pcp", lambda good: change(good, 36, b"\x84"), id="pcp-sctp"),
    pytest.param("pcp", lambda good: change(good, 1, b"\1"), id="pcp-request"),
    pytest.param("pcp", lambda good: change(good, 1, b"\x80"), id="pcp-announce"),
    pytest.param("pcp", lambda good: change(good, 3, b"\xff"), id="pcp-no-result"),
    pytest.param("pcp", lambda good: good[:59], id="pcp-cut"),
    pytest.param("pcp", lambda good: good + bytes(1100), id="pcp-long"),
    pytest.param("pcp", lambda good: b"", id="pcp-empty"),
    pytest.param("nat_pmp", lambda good: change(good, 1, b"\x82"), id="nat-pmp-tcp"),
    pytest.param("nat_pmp", lambda good: change(good, 1, b"\1"), id="nat-pmp-request"),
    pytest.param("nat_pmp", lambda good: change(good, 2, b"\xff\xff"), id="nat-pmp-no-result"),
    pytest.param("nat_pmp", lambda good: good[:-1], id="nat-pmp-cut"),
    pytest.param("nat_pmp", lambda good: good + b"x", id="nat-pmp-long"),
    pytest.param("nat_pmp", lambda good: b"\0", id="nat-pmp-byte"),
]


@pytest.mark.parametrize("name, spoil", SPOILED)
async def test_what_is_no_answer_is_passed_over(name: str, spoil: Any) -> None:
    def give(data: bytes) -> list[bytes]:
        good = ANSWERS[name](data)
        return [spoil(good), good]

    lease, heard = await lease_from(name, give)
    assert str(lease.external) == f"203.0.113.7:{PORT}"
    assert len(heard) <= 2


@pytest.mark.parametrize("name, spoil", SPOILED)
async def test_gateway_that_says_nothing_else_has_no_mapping(
    name: str, spoil: Any, quick: None
) -> None:
    error, heard = await failure(name, lambda data: [spoil(ANSWERS[name](data))] * 20)
    assert error.kind in ("bad_answer", "timeout") and len(heard) == 3


async def test_flood_of_a_gateway_is_looked_at_up_to_a_bound(quick: None) -> None:
    looked = 0

    def count(data: bytes) -> None:
        nonlocal looked
        looked += 1

    async with udp_gateway(lambda data: [b"noise"] * 100) as (gateway, _):
        with pytest.raises(PortmapError):
            await UdpExchange().ask(gateway, b"?", count)
    assert looked == MAX_DATAGRAMS


@each
@pytest.mark.parametrize("ip", ["192.168.0.1", "100.64.1.1", "0.0.0.0", "127.0.0.1", "224.0.0.1"])
async def test_gateway_behind_another_nat_is_of_no_use(name: str, ip: str) -> None:
    error, _ = await failure(name, lambda data: [ANSWERS[name](data, ip=IPv4Address(ip))])
    assert error.kind == "not_public" and ip in str(error)


@each
async def test_lifetime_zero_is_no_mapping(name: str) -> None:
    error, _ = await failure(name, lambda data: [ANSWERS[name](data, lifetime=0)])
    assert error.kind == "bad_answer"


async def test_pcp_with_an_ipv6_address_outside_is_no_mapping() -> None:
    def give(data: bytes) -> list[bytes]:
        return [change(pcp_answer(data), 44, b"\x20\x01")]

    error, _ = await failure("pcp", give)
    assert error.kind == "bad_answer"


async def test_unreachable_gateway_is_none() -> None:
    gateway = Gateway(HERE, IPv4Address("203.0.113.200"))
    with pytest.raises(PortmapError) as caught:
        await Pcp().probe(gateway)
    assert caught.value.kind == "no_gateway"
