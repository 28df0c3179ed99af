"""What STUN servers and gateways send: STUN, PCP, NAT-PMP, answers to a search, XML."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from iroh_fast._probe import KINDS, parse
from iroh_fast.errors import PortmapError, StunDecodeError
from iroh_fast.portmapper import igd, nat_pmp, pcp, ssdp

VECTORS = Path(__file__).parent.parent / "vectors"


def vectors(name: str) -> Any:
    return json.loads((VECTORS / name).read_text("utf-8"))


def stun_seeds() -> list[bytes]:
    found = vectors("stun.json")
    messages = [*found["rfc5769"], *found["constructed"]]
    return [bytes.fromhex(message["message_hex"]) for message in messages]


def run_stun(data: bytes) -> None:
    try:
        message = parse(data)
    except StunDecodeError:
        return
    assert message.data == data and message.transaction == data[8:20]
    assert message.kind in KINDS and 0 <= message.method < 4096
    # The attributes fill the message, without gap or overlap.
    end = 20
    for type, at, value in message.attributes:
        assert at == end and data[at : at + 2] == type.to_bytes(2, "big")
        assert data[at + 4 : at + 4 + len(value)] == value
        end = at + 4 + (len(value) + 3) // 4 * 4
    assert end == len(data)
    for found in (message.mapped, message.alternate):
        assert found is None or (len(found[0]) in (4, 16) and 0 <= found[1] < 65536)
    assert message.error is None or 300 <= message.error[0] < 700
    assert message.check_integrity(b"key") in (None, False)
    assert all(type < 0x8000 for type in message.unknown)


def portmap_seeds() -> list[bytes]:
    """The first byte chooses the protocol."""
    found = vectors("portmap.json")
    groups = {b"P": "pcp_responses", b"N": "natpmp_responses"}
    return [
        kind + bytes.fromhex(answer["hex"])
        for kind, name in groups.items()
        for answer in found[name]
    ]


def run_portmap(data: bytes) -> None:
    decode = pcp.decode if data[:1] == b"P" else nat_pmp.decode
    try:
        answer = decode(data[1:])
    except PortmapError as error:
        assert str(error).isprintable() and 0 <= error.wait < 2**32
        return
    assert answer.epoch < 2**32
    if isinstance(answer, (pcp.Mapped, nat_pmp.Mapped)):
        assert 0 <= answer.external < 65536 and 0 <= answer.lifetime < 2**32


HOST = "192.168.1.1"
LOCATION = f"http://{HOST}:5000/root.xml"


def upnp_seeds() -> list[bytes]:
    """The first byte chooses what it is: an answer to a search, a description, an answer, a fault."""
    service = "urn:schemas-upnp-org:service:WANIPConnection"
    return [
        f"SHTTP/1.1 200 OK\r\nST: {ssdp.TARGET}\r\nLOCATION: {LOCATION}\r\n\r\n".encode(),
        b"D<?xml version='1.0'?><root xmlns='urn:schemas-upnp-org:device-1-0'><device><serviceList>"
        + f"<service><serviceType>{service}:2</serviceType><controlURL>/ctl</controlURL></service>"
        f"<service><serviceType>{service}:1</serviceType></service>".encode()
        + b"</serviceList></device></root>",
        b"D<root><URLBase>http://192.168.1.1:80/x/</URLBase><service><serviceType>"
        + f"{service}:1</serviceType><controlURL>y</controlURL></service></root>".encode(),
        b"A<s:Envelope xmlns:s='e'><s:Body><NewReservedPort>5</NewReservedPort></s:Body></s:Envelope>",
        b"F<a><UPnPError><errorCode>718</errorCode><errorDescription>x</errorDescription></UPnPError></a>",
        b"D<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>",
    ]


def run_upnp(data: bytes) -> None:
    kind, rest = data[:1], data[1:]
    try:
        if kind == b"S":
            found = ssdp.location_of(rest, HOST)
            assert found is None or (ssdp.is_at(found, HOST) and found.isprintable())
        elif kind == b"D":
            device = igd.gateway_of(rest, LOCATION, HOST)
            assert ssdp.is_at(device.control, HOST) and len(device.service) < 60
        elif kind == b"A":
            assert igd.answer_of(rest, "NewReservedPort") is not None
        else:
            fault = igd.fault_of(rest)
            assert fault is None or (0 <= fault.code < 10000 and len(fault.text) <= 100)
    except PortmapError as error:
        assert str(error).isprintable()
