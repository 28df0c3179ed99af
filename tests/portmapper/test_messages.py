"""Messages of PCP and NAT-PMP, against those of iroh's port mapper and what its decoder says of answers."""

from __future__ import annotations

import json
import re
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iroh_fast.errors import PortmapError
from iroh_fast.portmapper import nat_pmp, pcp
from iroh_fast.portmapper.model import check_external, is_public

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "portmap.json").read_text("utf-8"))
CLIENT = IPv4Address("192.168.1.2")
NONCE = bytes(range(12))
PUBLIC = IPv4Address("203.0.113.7")


def names(group: str) -> Any:
    return pytest.mark.parametrize("vector", VECTORS[group], ids=lambda v: v["name"])


def test_requests_of_nat_pmp_are_those_of_iroh() -> None:
    wanted = {vector["name"]: vector["hex"] for vector in VECTORS["natpmp_requests"]}
    assert {
        "external address": nat_pmp.encode_external().hex(),
        "map udp 41641, any, 7200 s": nat_pmp.encode_map(41641, 0, 7200).hex(),
        "map udp 41641, wants 50000, 7200 s": nat_pmp.encode_map(41641, 50000, 7200).hex(),
        "delete udp 41641": nat_pmp.encode_map(41641, 0, 0).hex(),
    } == wanted


def test_requests_of_pcp_are_those_of_iroh() -> None:
    wanted = {vector["name"]: vector["hex"] for vector in VECTORS["pcp_requests"]}
    port, wish = 41641, (PUBLIC, 50000)
    assert {
        "announce from 192.168.1.2": pcp.encode_announce(CLIENT).hex(),
        "map udp 41641, any external, 3600 s": pcp.encode_map(CLIENT, NONCE, port, 3600).hex(),
        "map udp 41641, wants 203.0.113.7:50000, 3600 s": pcp.encode_map(
            CLIENT, NONCE, port, 3600, wish
        ).hex(),
        "delete udp 41641": pcp.encode_map(CLIENT, NONCE, port, 0).hex(),
    } == wanted


@names("natpmp_responses")
def test_answers_of_nat_pmp_are_read_as_by_iroh(vector: dict[str, str]) -> None:
    said, data = vector["upstream"], bytes.fromhex(vector["hex"])
    if said.startswith("error"):
        with pytest.raises(PortmapError) as caught:
            nat_pmp.decode(data)
        code = re.match(r"(?:map|external address) error (\d)", vector["name"])
        assert code is None or caught.value.code == int(code[1])
        return
    found = nat_pmp.decode(data)
    facts = dict(re.findall(r"(\w+): ([\w.]+)", said))
    assert found.epoch == int(facts["epoch_time"])
    if isinstance(found, nat_pmp.External):
        assert str(found.ip) == facts["public_ip"]
    else:
        assert (found.internal, found.external, found.lifetime) == (
            *(int(facts["private_port"]), int(facts["external_port"])),
            int(facts["lifetime_seconds"]),
        )
        assert found.opcode == {"Udp": 1, "Tcp": 2}[facts["proto"]]


@names("pcp_responses")
def test_answers_of_pcp_are_read_as_by_iroh(vector: dict[str, str]) -> None:
    said, data = vector["upstream"], bytes.fromhex(vector["hex"])
    if said.startswith("error"):
        with pytest.raises(PortmapError) as caught:
            pcp.decode(data)
        code = re.match(r"map error (\d+)", vector["name"])
        if code is not None:
            assert caught.value.code == int(code[1])
            assert caught.value.wait == (30 if int(code[1]) < 14 else 0)
        return
    # iroh's port mapping ends for good where an answer has options: nothing to repeat.
    found = pcp.decode(data)
    if isinstance(found, pcp.Mapped):
        assert (found.internal, found.external, found.protocol) == (1234, 1234, pcp.UDP)
        assert str(found.ip.ipv4_mapped) == "135.180.175.246"
        assert (found.lifetime, found.epoch) == (7200, 170989)
        assert found.nonce.hex() == "81700918f1d0fb2d9d4c0abc"
    else:
        assert found.epoch == 10


def test_every_vector_was_looked_at() -> None:
    assert len(VECTORS["natpmp_responses"]) == 15 and len(VECTORS["pcp_responses"]) == 25


@given(st.binary(max_size=1200))
def test_answers_of_any_bytes_raise_only_their_error(data: bytes) -> None:
    for decode in (pcp.decode, nat_pmp.decode):
        try:
            decode(data)
        except PortmapError as error:
            assert error.kind in ("unavailable", "refused", "bad_answer")


@pytest.mark.parametrize(
    "ip",
    [
        "10.1.2.3",
        "100.64.0.1",
        "172.31.255.1",
        "192.168.0.1",
        "169.254.1.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "127.0.0.1",
        "192.0.0.8",
    ],
)
def test_external_address_that_nobody_reaches_is_refused(ip: str) -> None:
    assert not is_public(IPv4Address(ip))
    with pytest.raises(PortmapError) as caught:
        check_external(IPv4Address(ip), 5)
    assert caught.value.kind == "not_public"


def test_external_port_zero_is_refused() -> None:
    assert str(check_external(PUBLIC, 5)) == "203.0.113.7:5"
    with pytest.raises(PortmapError) as caught:
        check_external(PUBLIC, 0)
    assert caught.value.kind == "bad_answer"
