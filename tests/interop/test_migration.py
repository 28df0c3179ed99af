"""The table for those who come from the official binding leaves nothing out, and works."""

from __future__ import annotations

import asyncio
import inspect
import re
from pathlib import Path

import pytest

import iroh_fast
from iroh_fast import EndpointAddr, EndpointTicket, SecretKey

iroh = pytest.importorskip("iroh", reason="needs the official binding")

PAGE = Path(__file__).resolve().parents[2] / "docs" / "interop.md"
CLASSES = (
    *("Endpoint", "Connection", "SendStream", "RecvStream", "BiStream", "Incoming", "Accepting"),
    *("Connecting", "EndpointAddr", "EndpointTicket", "EndpointId", "SecretKey", "Signature"),
)

pytestmark = pytest.mark.source_tree


def table() -> str:
    text = PAGE.read_text("utf-8")
    return text[text.index("## Switching from the official binding") :]


@pytest.mark.parametrize("name", CLASSES)
def test_every_method_of_the_binding_has_its_name_or_a_row(name: str) -> None:
    theirs, ours = getattr(iroh, name), getattr(iroh_fast, name)
    left = re.findall(r"^\| (.*?) \|", table(), re.M)
    told = set(re.findall(r"\w+", " ".join(left)))
    methods = [one for one in dir(theirs) if not one.startswith("_") and "uniffi" not in one]
    assert methods
    assert [one for one in methods if not hasattr(ours, one) and one not in told] == []


def test_every_option_of_the_binding_has_its_name_or_a_row() -> None:
    options = set(inspect.signature(iroh.EndpointOptions.__init__).parameters) - {"self"}
    own = set(inspect.signature(iroh_fast.Endpoint.bind).parameters)
    assert {one for one in options - own if f"{one}=" not in table()} == set()


def test_every_name_of_the_right_side_exists() -> None:
    objects = {
        "ep": iroh_fast.Endpoint,
        "conn": iroh_fast.Connection,
        "send": iroh_fast.SendStream,
        "recv": iroh_fast.RecvStream,
        "addr": EndpointAddr,
        "incoming": iroh_fast.Incoming,
        "EndpointTicket": EndpointTicket,
        "EndpointId": iroh_fast.EndpointId,
        "SecretKey": SecretKey,
    }
    right = " ".join(re.findall(r"^\| .*? \| (.*) \|$", table(), re.M))
    named = re.findall(rf"\b({'|'.join(objects)})\.(\w+)", right)
    assert len(named) > 15
    assert [(one, part) for one, part in named if not hasattr(objects[one], part)] == []
    limits = inspect.signature(iroh_fast.Connection.set_limits).parameters
    (options,) = re.findall(r"set_limits\((.*?)\)", right)
    assert set(re.findall(r"(\w+)=", options)) == set(limits) - {"self"}


async def test_both_read_what_the_other_wrote() -> None:
    key = SecretKey.generate()
    theirs = iroh.SecretKey.from_bytes(key.to_bytes())
    assert str(theirs.public()) == str(key.public)
    assert theirs.public().fmt_short() == key.public.fmt_short()
    addr = EndpointAddr(key.public, relay_url="https://relay.example.org", ip_addrs=["192.0.2.1:5"])
    ticket = iroh.EndpointTicket.from_string(str(EndpointTicket(addr)))
    again = ticket.endpoint_addr()
    assert again.direct_addresses() == [str(one) for one in addr.ip_addrs] == ["192.0.2.1:5"]
    assert again.relay_url() == str(next(iter(addr.relay_urls)))
    back = iroh.EndpointAddr(theirs.public(), again.relay_url(), again.direct_addresses())
    assert EndpointTicket.parse(str(iroh.EndpointTicket.from_addr(back))).addr == addr
    signature = theirs.sign(b"message")
    key.public.verify(b"message", iroh_fast.Signature.from_bytes(signature.to_bytes()))
    await asyncio.sleep(0)
