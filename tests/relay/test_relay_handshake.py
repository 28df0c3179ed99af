"""Authentication of relay connections: vectors, both sides together, bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iroh_fast import SecretKey
from iroh_fast.relay.wire import (
    ClientHandshake,
    RelayDenied,
    RelayHandshakeError,
    ServerHandshake,
    challenge_message,
    choose_protocol,
    export_tls13,
)

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "relay_frames.json").read_text())
HANDSHAKE = VECTORS["handshake"]
SECRET = SecretKey(bytes.fromhex(VECTORS["keys"][0]["secret"]))


@pytest.mark.parametrize("item", HANDSHAKE["challenge"])
def test_challenge_vectors(item):
    challenge = bytes.fromhex(item["challenge"])
    secret = SecretKey(bytes.fromhex(item["secret"]))
    assert challenge_message(challenge).hex() == item["message_to_sign"]
    server = ServerHandshake(challenge=challenge)
    client = ClientHandshake(secret)
    question = server.start()
    assert question.hex() == item["server_challenge_frame"]
    answer = client.feed(question)
    assert answer.hex() == item["client_auth_frame"]
    assert answer[34:].hex() == item["signature"]
    assert server.feed(answer) is None
    assert server.endpoint_id == secret.public
    assert not client.done
    assert client.feed(server.confirm()) is None
    assert client.done


@pytest.mark.parametrize("item", HANDSHAKE["key_material"])
def test_key_material_vectors(item):
    secret = SecretKey(bytes.fromhex(item["secret"]))
    material = bytes.fromhex(item["exporter_output"])
    asked = []

    def exporter(label, context, length):
        asked.append((label, context.hex(), length))
        return material

    header = ClientHandshake(secret).header(exporter)
    assert header == item["header_value"] and len(header) == 151
    assert asked == [(HANDSHAKE["tls_exporter_label"].encode(), item["exporter_context"], 32)]
    server = ServerHandshake(header=header, exporter=exporter)
    assert server.start() is None
    assert server.endpoint_id == secret.public


@pytest.mark.parametrize("item", HANDSHAKE["tls13_exporter"])
def test_tls13_exporter_vectors(item):
    secret, context = bytes.fromhex(item["exporter_secret"]), bytes.fromhex(item["context"])
    label = HANDSHAKE["tls_exporter_label"].encode()
    assert export_tls13(secret, label, context, 32, item["hash"]).hex() == item["output"]


def test_client_without_keying_material_sends_no_header():
    assert ClientHandshake(SECRET).header(lambda *_: None) is None


@pytest.mark.parametrize(
    "item", HANDSHAKE["negative"], ids=lambda item: item["name"].replace(" ", "-")[:60]
)
def test_negative_vectors(item):
    if "client_auth_frame" in item:
        challenge = bytes.fromhex(item.get("challenge", "2a" * 16))
        server = ServerHandshake(challenge=challenge)
        server.start()
        message = bytes.fromhex(item["client_auth_frame"])
        if item["server_reply"] is None:
            with pytest.raises(RelayHandshakeError):
                server.feed(message)
        else:
            assert server.feed(message).hex() == item["server_reply"]
        assert server.endpoint_id is None
    elif "header_value" in item:
        value = item["header_value"]
        if value.startswith("key_material"):
            header = HANDSHAKE["key_material"][0]["header_value"]
            for exporter in (None, lambda *_: None, lambda *_: bytes(32)):
                server = ServerHandshake(header=header, exporter=exporter)
                assert server.start()[0] == 0 and server.endpoint_id is None
        else:
            with pytest.raises(RelayHandshakeError):
                ServerHandshake(header=value, exporter=lambda *_: bytes(32)).start()
    else:
        client = ClientHandshake(SECRET)
        client.feed(bytes.fromhex(item["server_frame"]))
        assert client.done


@pytest.mark.parametrize("kind", [0, 2, 3, 4, 9, 14])
def test_server_takes_nothing_but_an_answer(kind):
    server = ServerHandshake()
    server.start()
    with pytest.raises(RelayHandshakeError, match=f"type {kind}"):
        server.feed(bytes((kind,)) + bytes(97))


def test_keys_of_low_order_are_never_proven():
    for key in HANDSHAKE["low_order_public_keys"]:
        # R = identity and S = 0 verifies with libraries that do not look at the order
        answer = b"\x01" + bytes.fromhex(key) + b"\x40" + b"\x01" + bytes(63)
        server = ServerHandshake()
        server.start()
        assert server.feed(answer) == ServerHandshake.deny("signature invalid")
        assert server.endpoint_id is None


@pytest.mark.parametrize(
    "item", HANDSHAKE["server_denies_auth"], ids=lambda i: str(len(i["reason"]))
)
def test_denial_vectors(item):
    assert ServerHandshake.deny(item["reason"]).hex() == item["frame"]
    with pytest.raises(RelayDenied) as caught:
        ClientHandshake(SECRET).feed(bytes.fromhex(item["frame"]))
    assert caught.value.reason == item["reason"]


def test_denial_has_a_default_reason():
    assert ServerHandshake.deny() == ServerHandshake.deny("not authorized")


def test_client_refuses_a_second_challenge_and_messages_after_the_end():
    client = ClientHandshake(SECRET)
    client.feed(bytes(17))
    with pytest.raises(RelayHandshakeError, match="type 0"):
        client.feed(bytes(17))
    client = ClientHandshake(SECRET)
    client.feed(b"\x02")
    with pytest.raises(RelayHandshakeError, match="after the end"):
        client.feed(b"\x02")


@given(st.binary(max_size=150))
def test_client_takes_any_message_or_raises_the_documented_error(message):
    client = ClientHandshake(SECRET)
    try:
        client.feed(message)
    except RelayHandshakeError:
        assert not client.done


@given(st.binary(max_size=150).map(lambda b: b"\x01" + b), st.text(max_size=200))
def test_server_takes_any_message_and_header_or_raises_the_documented_error(message, header):
    server = ServerHandshake(challenge=bytes(16))
    server.start()
    try:
        server.feed(message)
    except RelayHandshakeError:
        pass
    assert server.endpoint_id is None
    with pytest.raises(RelayHandshakeError):
        ServerHandshake(header=header, exporter=lambda *_: bytes(32)).start()


@pytest.mark.parametrize(
    "item", VECTORS["http"]["subprotocol_negotiation"], ids=lambda i: i["offer"] or "none"
)
def test_protocol_negotiation_vectors(item):
    chosen = choose_protocol(item["offer"])
    assert (chosen[0] if chosen else "400") == item["answer"]
