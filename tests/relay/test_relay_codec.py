"""Relay frames and WebSocket framing: vectors, strictness, any input, any chunking."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iroh_fast import PublicKey, _relay
from iroh_fast._relay import (
    ClientReader,
    ClientWriter,
    RelayFrameError,
    WsProtocolError,
    WsReader,
    build_datagram,
    build_frame,
    build_message,
    decode_frame,
    encode_frame,
    is_valid_key,
)
from iroh_fast.errors import IrohError, KeyParsingError, RelayError

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "relay_frames.json").read_text())
FRAMES = VECTORS["frames"]
KEY = bytes.fromhex(VECTORS["keys"][0]["public"])
OTHER_KEY = bytes.fromhex(VECTORS["keys"][1]["public"])
BYTES_FIELDS = ("dst", "src", "contents", "endpoint", "data")


def by_name(items):
    return [pytest.param(item, id=item["name"].replace(" ", "-")) for item in items]


def expected(item):
    """The dict of `decode_frame` for a vector."""
    return {
        name: bytes.fromhex(value) if name in BYTES_FIELDS else value
        for name, value in item.items()
        if name not in ("name", "origin", "hex", "split")
    }


@pytest.mark.parametrize("sender", ["client", "server"])
def test_frames_vectors_decode_and_encode(sender):
    for item in FRAMES["client_to_server" if sender == "client" else "server_to_client"]:
        data = bytes.fromhex(item["hex"])
        frame = decode_frame(data, sender=sender, version=1 if item["type"] == 11 else 2)
        assert frame == expected(item), item["name"]
        assert encode_frame(frame) == data, item["name"]


@pytest.mark.parametrize("item", by_name(FRAMES["decode_leniency"]))
def test_frames_lenient_forms_are_accepted(item):
    sender = "server" if item["side"] == "client" else "client"
    frame = decode_frame(bytes.fromhex(item["hex"]), sender=sender)
    if "same_as" in item:
        assert frame == decode_frame(bytes.fromhex(item["same_as"]), sender=sender)
        assert encode_frame(frame).hex() == item["same_as"]
    elif "segment_size" in item:
        assert (frame["segment_size"], frame["contents"].hex()) == (1000, item["contents"])
    else:
        assert frame["status"] == (99 if item["status"] == "Unknown(99)" else item["status"])


@pytest.mark.parametrize("item", by_name(FRAMES["decode_errors"]))
def test_frames_errors_have_their_kind(item):
    senders = {"server": ["client"], "client": ["server"], "any": ["client", "server"]}
    for sender in senders[item["side"]]:
        with pytest.raises(RelayFrameError) as caught:
            decode_frame(bytes.fromhex(item["hex"]), sender=sender, version=int(item["version"][1]))
        assert caught.value.kind == item["error"]
        assert isinstance(caught.value, RelayError)


def test_frames_size_limits_of_both_directions():
    def frame(size, segment=None):
        return {"type": 4, "dst": KEY, "ecn": 0, "segment_size": segment, "contents": bytes(size)}

    assert len(encode_frame(frame(65502))) == len(encode_frame(frame(65500, 1200))) == 65536
    for bad in (frame(65503), frame(65501, 1200)):
        with pytest.raises(RelayFrameError, match="65536") as caught:
            encode_frame(bad)
        assert caught.value.kind == "FrameTooLarge"
    with pytest.raises(RelayFrameError) as caught:
        encode_frame(frame(0))
    assert caught.value.kind == "EmptyPacket"

    head = b"\x04" + KEY + b"\x00"
    assert len(decode_frame(head + bytes(65503), sender="client")["contents"]) == 65503
    assert decode_frame(head, sender="client")["contents"] == b""
    with pytest.raises(RelayFrameError) as caught:
        decode_frame(head + bytes(65504), sender="client")
    assert caught.value.kind == "FrameTooLarge"


def test_keys_decode_by_the_lenient_rule():
    for case in VECTORS["handshake"]["public_key_decoding"]["cases"]:
        assert is_valid_key(bytes.fromhex(case["bytes"])) == case["valid"], case["name"]
    assert not is_valid_key(b"") and not is_valid_key(bytes(31)) and not is_valid_key(bytes(33))


@given(st.binary(min_size=32, max_size=32))
def test_keys_agree_with_the_identity_module(raw):
    try:
        PublicKey(raw)
        valid = True
    except KeyParsingError:
        valid = False
    assert is_valid_key(raw) == valid


@given(st.integers(0, 2**256 - 1).map(lambda n: (n | (2**255 - 2**16)).to_bytes(32, "little")))
def test_keys_near_the_modulus_agree_with_the_identity_module(raw):
    try:
        PublicKey(raw)
        valid = True
    except KeyParsingError:
        valid = False
    assert is_valid_key(raw) == valid


@given(st.binary(max_size=200), st.sampled_from(["client", "server"]), st.sampled_from([1, 2]))
def test_frames_any_input_decodes_or_raises_the_documented_error(data, sender, version):
    try:
        frame = decode_frame(data, sender=sender, version=version)
    except RelayFrameError:
        return
    again = (
        decode_frame(encode_frame(frame), sender=sender, version=version)
        if (frame.get("contents") != b"")
        else frame
    )
    assert again == frame


# --- WebSocket ----------------------------------------------------------------------------


def test_websocket_vectors():
    ws = VECTORS["websocket"]
    ping = bytes((0x2A,)) * 8
    assert build_frame(9, ping).hex() == ws["server_frame_ping"]
    mask = bytes.fromhex(ws["mask_key"])
    assert build_frame(9, ping, mask).hex() == ws["client_frame_ping_masked"]
    for size in (1234, 65536):
        head = bytes.fromhex(ws[f"server_header_for_{size}_byte_payload"])
        assert build_message(2, bytes(size)) == head + bytes(size)
    reader = WsReader("client")
    for part in ws["fragmented_ping_server"]:
        reader.feed(bytes.fromhex(part))
    assert reader.next_message() == (2, b"\x09" + b"\x43" * 8)


def mask_slowly(data, mask):
    return bytes(byte ^ mask[i % 4] for i, byte in enumerate(data))


@given(st.binary(max_size=300), st.binary(min_size=4, max_size=4), st.sampled_from([1, 2, 9, 10]))
def test_websocket_masking_equals_the_definition(payload, mask, opcode):
    payload = payload if opcode < 8 else payload[:125]
    data = build_message(opcode, payload, mask)
    assert data.endswith(mask + mask_slowly(payload, mask))
    reader = WsReader("server")
    reader.feed(data)
    assert reader.next_message() == (opcode, payload)
    assert reader.next_message() is None and reader.buffered == 0


def fragments(payload, cuts, mask=None, opcode=2):
    """A message in pieces, as raw frames."""
    edges = [0, *sorted({min(cut, len(payload)) for cut in cuts}), len(payload)]
    out = b""
    for i in range(len(edges) - 1):
        frame = bytearray(build_message(2, payload[edges[i] : edges[i + 1]], mask))
        frame[0] = (0x80 if i == len(edges) - 2 else 0) | (opcode if i == 0 else 0)
        out += bytes(frame)
    return out


MESSAGES = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from([1, 2]),
            st.binary(max_size=400),
            st.lists(st.integers(0, 400), max_size=3),
        ),
        st.tuples(st.sampled_from([9, 10]), st.binary(max_size=125), st.just([])),
        st.tuples(st.just(2), st.integers(60000, 140000).map(bytes), st.just([])),
    ),
    max_size=8,
)


@given(MESSAGES, st.sampled_from(["client", "server"]), st.data())
def test_websocket_any_chunking_gives_the_same_messages(messages, role, data):
    mask = b"\x11\x82\xf3\x44" if role == "server" else None
    stream = b"".join(fragments(payload, cuts, mask, op) for op, payload, cuts in messages)
    reader = WsReader(role)
    found = []
    position = 0
    while position < len(stream):
        step = data.draw(st.sampled_from([1, 2, 7, 100, 4096, 70000]))
        part = stream[position : position + step]
        position += len(part)
        if step == 100:
            reader.feed(part)
        else:
            view = reader.get_buffer(-1)
            part, rest = part[: len(view)], part[len(view) :]
            position -= len(rest)
            view[: len(part)] = part
            reader.buffer_updated(len(part))
        while (message := reader.next_message()) is not None:
            found.append(message)
    assert found == [(op, payload) for op, payload, _ in messages]


@pytest.mark.parametrize(
    ("role", "data", "code"),
    [
        ("client", b"\xc2\x00", 1002),  # reserved bit
        ("client", b"\x83\x00", 1002),  # unknown opcode
        ("client", b"\x8b\x00", 1002),
        ("client", b"\x09\x00", 1002),  # fragmented ping
        ("client", b"\x89\x7e\x00\x7e", 1002),  # ping of 126 bytes
        ("client", b"\x82\x7e\x00\x7d", 1002),  # length not in its shortest form
        ("client", b"\x82\x7f" + (65535).to_bytes(8, "big"), 1002),
        ("client", b"\x82\x7f" + (2**63).to_bytes(8, "big"), 1002),
        ("client", b"\x82\x80\x00\x00\x00\x00", 1002),  # masked by a server
        ("server", b"\x82\x00", 1002),  # not masked by a client
        ("client", b"\x80\x00", 1002),  # continuation of nothing
        ("client", b"\x02\x00\x82\x00", 1002),  # new message inside another
        ("client", b"\x88\x01\x03", 1002),  # close with half a code
        ("client", b"\x88\x02\x03\xed", 1002),  # 1005 is reserved
        ("client", b"\x88\x02\x00\x00", 1002),
        ("client", b"\x82\x7f" + (2**20 + 1).to_bytes(8, "big"), 1009),
        ("client", b"\x02\x7f" + (2**20).to_bytes(8, "big") + bytes(2**20) + b"\x80\x01", 1009),
    ],
)
def test_websocket_strictness(role, data, code):
    reader = WsReader(role)
    reader.feed(data)
    for _ in range(2):
        with pytest.raises(WsProtocolError) as caught:
            while reader.next_message() is not None:
                pass
        assert caught.value.code == code


def test_websocket_control_frames_pass_between_fragments():
    reader = WsReader("client")
    reader.feed(b"\x02\x01a" + b"\x89\x01p" + b"\x80\x01b" + b"\x88\x02\x03\xe8")
    found = [reader.next_message() for _ in range(3)]
    assert found == [(9, b"p"), (2, b"ab"), (8, b"\x03\xe8")]


def test_websocket_message_of_exactly_the_limit_passes():
    reader = WsReader("client", 1000)
    reader.feed(build_message(2, bytes(1000)))
    assert reader.next_message() == (2, bytes(1000))
    reader.feed(build_message(2, bytes(1001)))
    with pytest.raises(WsProtocolError, match="too big"):
        reader.next_message()


def test_websocket_view_survives_growth_of_the_buffer():
    reader = WsReader("client")
    view = reader.get_buffer(-1)
    reader.feed(build_message(2, bytes(300_000)))
    view[:4] = b"spam"  # the old memory still belongs to the view
    assert reader.next_message() == (2, bytes(300_000))
    with pytest.raises(ValueError):
        reader.buffer_updated(10**9)


def test_websocket_reader_refuses_to_hoard():
    reader = WsReader("client")
    with pytest.raises(BufferError):
        for _ in range(100):
            reader.feed(build_message(2, bytes(65000)))


@given(st.binary(max_size=400), st.sampled_from(["client", "server"]))
def test_websocket_any_input_gives_messages_or_the_documented_error(data, role):
    for reader in (WsReader(role, 200), ClientReader(2)):
        reader.feed(data)
        try:
            for _ in range(500):
                if isinstance(reader, ClientReader):
                    item = reader.next()
                else:
                    item = reader.next_message()
                if item is None:
                    break
        except (WsProtocolError, RelayFrameError) as err:
            assert isinstance(err, IrohError)


# --- client's reader and writer -----------------------------------------------------------


def test_client_reader_gives_frames_as_tuples():
    reader = ClientReader(2)
    for item in FRAMES["server_to_client"]:
        if item["type"] == 11:
            continue
        reader.feed(build_message(2, bytes.fromhex(item["hex"])))
        kind, key, ecn, segment, body = reader.next()
        want = expected(item)
        assert kind == item["type"]
        assert key == want.get("src", want.get("endpoint", b""))
        assert (ecn, segment or None) == (want.get("ecn", 0), want.get("segment_size"))
        if "contents" in want or "data" in want:
            assert body == want.get("contents", want.get("data"))
    assert reader.next() is None


def test_client_reader_reports_other_messages_by_kind():
    reader = ClientReader(2)
    for opcode, kind in (
        (1, _relay.TEXT),
        (9, _relay.WS_PINGED),
        (10, _relay.WS_PONGED),
        (8, _relay.WS_CLOSED),
    ):
        reader.feed(build_message(opcode, b"\x03\xe8"))
        assert reader.next() == (kind, b"", 0, 0, b"\x03\xe8")


def test_client_reader_raises_for_bad_frames():
    for item in FRAMES["decode_errors"]:
        if item["side"] == "server" or item["error"] == "InvalidProtocolMessageEncoding":
            continue
        reader = ClientReader(int(item["version"][1]))
        reader.feed(build_message(2, bytes.fromhex(item["hex"])))
        with pytest.raises(RelayFrameError) as caught:
            reader.next()
        assert caught.value.kind == item["error"], item["name"]


def test_client_reader_drains_many_and_shares_keys():
    reader = ClientReader(2)
    frame = encode_frame({"type": 6, "src": KEY, "ecn": 1, "segment_size": None, "contents": b"x"})
    reader.feed(build_message(2, frame) * 10)
    first, second = reader.drain(2)
    assert first == (6, KEY, 1, 0, b"x") and first[1] is second[1]
    assert len(reader.drain()) == 8 and reader.drain() == []


def test_client_writer_output_is_what_a_server_reads():
    writer = ClientWriter()
    writer.add_datagram(OTHER_KEY, 2, 0, b"one")
    writer.add_datagram(OTHER_KEY, 3, 2, b"aabbc")
    writer.add_frame(9, bytes(8))
    writer.add_message(10, b"pong")
    reader = WsReader("server")
    reader.feed(writer.take())
    assert len(writer) == 0 and writer.take() == b""
    found = [reader.next_message() for _ in range(4)]
    assert decode_frame(found[0][1], sender="client") == {
        "type": 4, "dst": OTHER_KEY, "ecn": 2, "segment_size": None, "contents": b"one"
    }  # fmt: skip
    assert decode_frame(found[1][1], sender="client")["segment_size"] == 2
    assert found[2:] == [(2, b"\x09" + bytes(8)), (10, b"pong")]


def test_client_writer_takes_a_new_mask_for_each_frame():
    writer = ClientWriter()
    for _ in range(3000):
        writer.add_message(9, b"")
    data = writer.take()
    masks = {data[i + 2 : i + 6] for i in range(0, len(data), 6)}
    assert len(data) == 18000 and len(masks) > 2990


@pytest.mark.parametrize("size, segment", [(65502, 0), (65500, 1200), (1, 0), (125, 1), (65535, 0)])
def test_client_writer_limits(size, segment):
    writer = ClientWriter()
    if size > 65502:
        with pytest.raises(RelayFrameError):
            writer.add_datagram(KEY, 0, segment, bytes(size))
        assert writer.take() == b""
        return
    writer.add_datagram(KEY, 0, segment, bytes(size))
    data = writer.take()
    mask_at = 8 if data[1] == 0xFE else 14 if data[1] == 0xFF else 6
    assert data == build_datagram(KEY, 0, segment, bytes(size), data[mask_at - 4 : mask_at])


def test_client_writer_refuses_what_would_hurt_the_destination():
    writer = ClientWriter()
    with pytest.raises(RelayFrameError) as caught:
        writer.add_datagram(KEY, 0, 0, b"")
    assert caught.value.kind == "EmptyPacket"
    for bad in ((b"k", 0, 0, b"x"), (KEY, 4, 0, b"x"), (KEY, 0, 65536, b"x")):
        with pytest.raises(ValueError):
            writer.add_datagram(*bad)
    with pytest.raises(WsProtocolError):
        writer.add_message(9, bytes(126))
    assert writer.take() == b""
