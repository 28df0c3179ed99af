"""QUIC frames: RFC 9000 §19, RFC 9221, multipath, ACK frequency, address and NAT frames."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
from aioquic.buffer import Buffer
from aioquic.quic.packet import pull_ack_frame
from hypothesis import example, given
from hypothesis import strategies as st

from iroh_fast._packet import (
    FrameDecodeError,
    bench_decode,
    bench_put,
    decode_frames,
    encode_frame,
    encode_varint,
)

VARINT_MAX = 2**62 - 1
VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "quic_frames.json").read_text())["frames"]
BYTES_FIELDS = {"data", "token", "cid"}
# STREAM and DATAGRAM without a length take whatever is left; PADDING takes all zeros.
OPEN_ENDED = {0x00, 0x08, 0x09, 0x0C, 0x0D, 0x30}


def vector_frame(vector: dict[str, Any]) -> dict[str, Any]:
    frame: dict[str, Any] = {"type": int(vector["type"], 16)}
    for key, value in vector["fields"].items():
        if key in BYTES_FIELDS:
            value = bytes.fromhex(value)
        elif key == "reason":
            value = value.encode()
        elif key == "ranges":
            value = [tuple(r) for r in value]
        elif key == "ecn":
            value = tuple(value)
        elif key == "addr":
            match = re.fullmatch(r"\[?([^\]]*)\]?:(\d+)", value)
            assert match is not None
            value = (match[1], int(match[2]))
        frame[key] = value
    if frame["type"] == 0:
        frame["length"] = 1
    return frame


def varint(*values: int) -> bytes:
    return b"".join(encode_varint(v) for v in values)


def kind_of(payload: bytes) -> str:
    with pytest.raises(FrameDecodeError) as caught:
        decode_frames(payload)
    return caught.value.kind


# ---- vectors ---------------------------------------------------------------
by_name = pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v["name"])


def test_vectors_cover_every_frame_type() -> None:
    types = {int(v["type"], 16) for v in VECTORS}
    types = (types - set(range(0x08, 0x10))) | {0x08}
    assert types == (
        set(range(0x09)) | set(range(0x10, 0x20)) | {0x30, 0x31, 0x3E, 0x3F, 0xAF}
        | set(range(0x3E75, 0x3E7D)) | {0x9F81A6, 0x9F81A7} | set(range(0x3D7F90, 0x3D7F95))
    )  # fmt: skip


@by_name
def test_vector_decodes_to_its_fields(vector: dict[str, Any]) -> None:
    assert decode_frames(bytes.fromhex(vector["hex"])) == [vector_frame(vector)]


@by_name
def test_vector_fields_encode_to_its_bytes(vector: dict[str, Any]) -> None:
    assert encode_frame(vector_frame(vector)).hex() == vector["hex"]


@by_name
def test_vector_truncated_anywhere_is_an_error(vector: dict[str, Any]) -> None:
    raw = bytes.fromhex(vector["hex"])
    open_end = vector_frame(vector)["type"] in OPEN_ENDED
    for n in range(1, len(raw)):
        if open_end:
            assert decode_frames(raw[:n])[0]["data"] == raw[1:n]
        else:
            assert kind_of(raw[:n]) == "truncated"


@by_name
def test_vector_followed_by_ping_leaves_it(vector: dict[str, Any]) -> None:
    frame = vector_frame(vector)
    if frame["type"] == 0x30:
        assert decode_frames(bytes.fromhex(vector["hex"]) + b"\x01") == [{"type": 0x30, "data": b"hi\x01"}]
    else:
        assert decode_frames(bytes.fromhex(vector["hex"]) + b"\x01") == [frame, {"type": 1}]


@by_name
@pytest.mark.parametrize("width", [2, 4, 8])
def test_vector_with_non_minimal_type_is_accepted(vector: dict[str, Any], width: int) -> None:
    raw, frame = bytes.fromhex(vector["hex"]), vector_frame(vector)
    minimal = len(encode_varint(frame["type"]))
    if width < minimal:
        width = 8
    wide = (frame["type"] | {2: 1, 4: 2, 8: 3}[width] << (8 * width - 2)).to_bytes(width, "big")
    assert decode_frames(wide + raw[minimal:]) == [frame]


def test_all_vectors_in_one_payload() -> None:
    closed = [v for v in VECTORS if v["name"] != "DATAGRAM(0x30)"]
    payload = b"".join(bytes.fromhex(v["hex"]) for v in closed)
    assert decode_frames(payload) == [vector_frame(v) for v in closed]
    for n in range(len(payload)):
        try:
            frames = decode_frames(payload[:n])
        except FrameDecodeError as error:
            assert error.kind == "truncated"
            assert 0 <= error.offset < n
        else:
            assert frames == [vector_frame(v) for v in closed[: len(frames)]]


def test_captured_payloads_decode() -> None:
    vector = json.loads((Path(__file__).parent.parent / "vectors" / "quic_multipath_1rtt.json").read_text())
    seen = set()
    for datagram in vector["datagrams"]:
        for packet in datagram["packets"]:
            if "payload" in packet:
                frames = decode_frames(bytes.fromhex(packet["payload"]))
                padding = [f["length"] for f in frames if f["type"] == 0]
                assert sum(padding) == packet.get("padding", 0)
                assert len(frames) - len(padding) == len(packet["frames"])
                seen |= {f["type"] for f in frames}
    assert len(seen) > 3


# ---- property tests --------------------------------------------------------
vi = st.one_of(st.integers(0, 100), st.integers(0, VARINT_MAX), st.sampled_from([63, 64, 2**14, 2**30, VARINT_MAX]))
path_ids = st.one_of(st.integers(0, 10), st.integers(0, 2**32 - 1), st.just(2**32 - 1))
counts = st.one_of(st.integers(0, 2**60), st.just(2**60))
blobs = st.one_of(st.binary(max_size=100), st.sampled_from([bytes(64), b"x" * 16384]))
ports = st.integers(0, 0xFFFF)
v4 = st.ip_addresses(v=4).map(str)
v6 = st.ip_addresses(v=6).filter(lambda a: a.ipv4_mapped is None).map(str)


@st.composite
def ack_frames(draw: st.DrawFn, base: int) -> dict[str, Any]:
    steps = draw(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), max_size=80))
    first = draw(st.integers(0, 300))
    low = draw(st.one_of(st.just(0), st.integers(0, VARINT_MAX - 80 * 700)))
    ranges = []
    for gap, length in steps:
        ranges.append((low, low + length))
        low += length + gap + 2
    ranges.append((low, low + first))
    ranges.reverse()
    frame: dict[str, Any] = {"type": base, "largest": ranges[0][1], "delay": draw(vi), "ranges": ranges}
    if base in (0x03, 0x3F):
        frame["ecn"] = (draw(vi), draw(vi), draw(vi))
    if base >= 0x3E:
        frame["path_id"] = draw(path_ids)
    return frame


@st.composite
def stream_frames(draw: st.DrawFn) -> dict[str, Any]:
    data, fin, with_len = draw(blobs), draw(st.booleans()), draw(st.booleans())
    offset = draw(st.one_of(st.just(0), st.integers(0, VARINT_MAX - len(data)), st.just(VARINT_MAX - len(data))))
    bits = (4 if offset else 0) | (2 if with_len else 0) | fin
    return {"type": 8 | bits, "id": draw(vi), "offset": offset, "fin": fin, "data": data}


@st.composite
def cid_frames(draw: st.DrawFn, base: int) -> dict[str, Any]:
    seq = draw(vi)
    frame: dict[str, Any] = {
        "type": base, "seq": seq, "retire_prior_to": draw(st.integers(0, seq)),
        "cid": draw(st.binary(min_size=1, max_size=20)), "token": draw(st.binary(min_size=16, max_size=16)),
    }  # fmt: skip
    if base == 0x3E78:
        frame["path_id"] = draw(path_ids)
    return frame


@st.composite
def crypto_frames(draw: st.DrawFn) -> dict[str, Any]:
    data = draw(blobs)
    return {"type": 6, "offset": draw(st.integers(0, VARINT_MAX - len(data))), "data": data}


def fixed(base: int, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"type": st.just(base), **fields})


FRAMES: list[st.SearchStrategy[dict[str, Any]]] = [
    fixed(0x00, length=st.one_of(st.integers(1, 40), st.integers(1, 65527))),
    fixed(0x01),
    *(ack_frames(t) for t in (0x02, 0x03, 0x3E, 0x3F)),
    fixed(0x04, id=vi, error=vi, final_size=vi),
    fixed(0x05, id=vi, error=vi),
    crypto_frames(),
    fixed(0x07, token=st.binary(min_size=1, max_size=300)),
    stream_frames(),
    fixed(0x10, max=vi),
    fixed(0x11, id=vi, max=vi),
    fixed(0x12, count=counts),
    fixed(0x13, count=counts),
    fixed(0x14, limit=vi),
    fixed(0x15, id=vi, limit=vi),
    fixed(0x16, limit=counts),
    fixed(0x17, limit=counts),
    cid_frames(0x18),
    fixed(0x19, seq=vi),
    fixed(0x1A, data=st.binary(min_size=8, max_size=8)),
    fixed(0x1B, data=st.binary(min_size=8, max_size=8)),
    fixed(0x1C, code=vi, frame_type=vi, reason=blobs),
    fixed(0x1D, code=vi, reason=blobs),
    fixed(0x1E),
    fixed(0x1F),
    fixed(0x30, data=blobs),
    fixed(0x31, data=blobs),
    fixed(0xAF, seq=vi, ack_eliciting_threshold=vi, request_max_ack_delay_us=vi, reordering_threshold=vi),
    fixed(0x3E75, path_id=path_ids, error=vi),
    fixed(0x3E76, path_id=path_ids, seq=vi),
    fixed(0x3E77, path_id=path_ids, seq=vi),
    cid_frames(0x3E78),
    fixed(0x3E79, path_id=path_ids, seq=vi),
    fixed(0x3E7A, max=path_ids),
    fixed(0x3E7B, max=path_ids),
    fixed(0x3E7C, path_id=path_ids, next_seq=vi),
    *(fixed(t, seq=vi, addr=st.tuples(v4, ports)) for t in (0x9F81A6, 0x3D7F90)),
    *(fixed(t, seq=vi, addr=st.tuples(v6, ports)) for t in (0x9F81A7, 0x3D7F91)),
    fixed(0x3D7F92, round=vi, addr=st.tuples(v4, ports)),
    fixed(0x3D7F93, round=vi, addr=st.tuples(v6, ports)),
    fixed(0x3D7F94, seq=vi),
]


@pytest.mark.parametrize("strategy", FRAMES, ids=[str(i) for i in range(len(FRAMES))])
def test_any_frame_round_trips_and_leaves_nothing(strategy: st.SearchStrategy[dict[str, Any]]) -> None:
    @given(strategy)
    def check(frame: dict[str, Any]) -> None:
        raw = encode_frame(frame)
        assert decode_frames(raw) == [frame]
        if frame["type"] not in OPEN_ENDED:
            assert decode_frames(raw + b"\x01") == [frame, {"type": 1}]
            for n in {0, 1, len(raw) // 2, len(raw) - 1} - {0, len(raw)}:
                assert kind_of(raw[:n]) == "truncated"

    check()


@given(st.lists(st.one_of(*FRAMES), max_size=6))
def test_many_frames_in_one_payload(frames: list[dict[str, Any]]) -> None:
    closed: list[dict[str, Any]] = []
    for frame in frames:
        if frame["type"] == 0 and closed and closed[-1]["type"] == 0:
            continue  # two runs of PADDING are one
        if frame["type"] not in OPEN_ENDED or frame["type"] == 0:
            closed.append(frame)
    payload = b"".join(encode_frame(f) for f in closed)
    assert decode_frames(payload) == closed
    assert bench_decode(payload, 3, walk=True) == 3 * len(closed)


def check_hostile(data: bytes) -> None:
    try:
        frames = decode_frames(data)
    except FrameDecodeError as error:
        assert error.kind in ("truncated", "unknown", "malformed")
        assert 0 <= error.offset < len(data)
        with pytest.raises(FrameDecodeError) as again:
            bench_decode(data, 1)
        assert again.value.args == error.args
        return
    assert bench_decode(data, 1, walk=True) == len(frames)
    for frame in frames:
        if frame.get("offset", 0) + len(frame.get("data", b"")) > VARINT_MAX:
            assert 8 <= frame["type"] <= 15
            continue
        again_decoded = decode_frames(encode_frame(frame))
        if "addr" in frame and ":" not in frame["addr"][0]:
            frame["type"] &= ~1  # IPv4-mapped addresses go out in the IPv4 form
        if 8 <= frame["type"] <= 15 and not frame["offset"]:
            frame["type"] &= ~4  # an explicit offset 0 is not repeated
        assert again_decoded == [frame]


@given(st.binary(max_size=200))
@example(b"\x06" + b"\xff" * 8)
def test_arbitrary_bytes_raise_only_frame_decode_error(data: bytes) -> None:
    check_hostile(data)


@given(
    st.sampled_from([bytes.fromhex(v["hex"]) for v in VECTORS]), st.binary(max_size=60),
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 255)), max_size=3),
)  # fmt: skip
def test_damaged_vectors_raise_only_frame_decode_error(raw: bytes, tail: bytes, damage: list[tuple[int, int]]) -> None:
    data = bytearray(raw + tail)
    for at, value in damage:
        data[at % len(data)] = value
    check_hostile(bytes(data))


@given(st.lists(st.integers(0, 90), max_size=30), st.booleans())
def test_ack_random_same_as_aioquic(numbers: list[int], clean: bool) -> None:
    if clean:
        further = numbers[: len(numbers) // 2 * 2]
        body = varint(5000, 3, len(further) // 2, 7, *further)
    else:
        body = varint(*numbers)
    try:
        buf = Buffer(data=body)
        rangeset, delay = pull_ack_frame(buf)
    except ValueError:
        assert kind_of(b"\x02" + body) in ("truncated", "malformed")
        return
    (ours, *rest) = decode_frames(b"\x02" + body[: buf.tell()])
    assert rest == []
    assert ours["delay"] == delay
    assert [(lo, hi + 1) for lo, hi in reversed(ours["ranges"])] == [(r.start, r.stop) for r in rangeset]


# ---- checks of the codec ---------------------------------------------------
CID = bytes([8]) + b"c" * 8 + b"t" * 16


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        pytest.param(b"\x02" + varint(5, 0, 0, 6), "malformed", id="ack-first-below-zero"),
        pytest.param(b"\x02" + varint(5, 0, 1, 0, 4, 0), "malformed", id="ack-gap-below-zero"),
        pytest.param(b"\x02" + varint(5, 0, 1, 0, 3, 1), "malformed", id="ack-range-below-zero"),
        pytest.param(b"\x02" + varint(5, 0, 1, 0, VARINT_MAX, VARINT_MAX), "malformed", id="ack-huge-gap"),
        pytest.param(b"\x02" + varint(VARINT_MAX, 0, VARINT_MAX, 0, 0, 0), "truncated", id="ack-huge-count"),
        pytest.param(b"\x03" + varint(5, 0, 0, 0, 1, 1), "truncated", id="ack-without-ce"),
        pytest.param(b"\x3e" + varint(2**32, 5, 0, 0, 0), "malformed", id="path-ack-path"),
        pytest.param(b"\x06" + varint(VARINT_MAX, 1) + b"x", "malformed", id="crypto-end"),
        pytest.param(b"\x06" + varint(0, VARINT_MAX) + b"x", "truncated", id="crypto-length"),
        pytest.param(b"\x07\x00", "malformed", id="new-token-empty"),
        pytest.param(b"\x0a\x00\xff" + b"\xff" * 7, "truncated", id="stream-length"),
        pytest.param(b"\x12" + varint(2**60 + 1), "malformed", id="max-streams-bidi"),
        pytest.param(b"\x13" + varint(2**60 + 1), "malformed", id="max-streams-uni"),
        pytest.param(b"\x16" + varint(2**60 + 1), "malformed", id="streams-blocked-bidi"),
        pytest.param(b"\x17" + varint(2**60 + 1), "malformed", id="streams-blocked-uni"),
        pytest.param(b"\x18" + varint(1, 2) + CID, "malformed", id="cid-retire-above-seq"),
        pytest.param(b"\x18" + varint(1, 0) + b"\x00" + b"t" * 16, "malformed", id="cid-empty"),
        pytest.param(b"\x18" + varint(1, 0) + b"\x15" + b"c" * 21 + b"t" * 16, "malformed", id="cid-21"),
        pytest.param(b"\x1c" + varint(1, 2, VARINT_MAX), "truncated", id="close-reason"),
        pytest.param(b"\x31" + varint(2) + b"x", "truncated", id="datagram-length"),
        pytest.param(varint(0x3E75, 2**32, 0), "malformed", id="path-abandon-path"),
        pytest.param(varint(0x3E76, 2**32, 0), "malformed", id="path-backup-path"),
        pytest.param(varint(0x3E77, 2**32, 0), "malformed", id="path-available-path"),
        pytest.param(varint(0x3E78, 2**32, 0, 0) + CID, "malformed", id="path-cid-path"),
        pytest.param(varint(0x3E78, 1, 1, 2) + CID, "malformed", id="path-cid-retire"),
        pytest.param(varint(0x3E79, 2**32, 0), "malformed", id="path-retire-path"),
        pytest.param(varint(0x3E7A, 2**32), "malformed", id="max-path-id"),
        pytest.param(varint(0x3E7B, 2**32), "malformed", id="paths-blocked"),
        pytest.param(varint(0x3E7C, 2**32, 0), "malformed", id="path-cids-blocked-path"),
        pytest.param(varint(0x20), "unknown", id="unknown-20"),
        pytest.param(varint(0x2F), "unknown", id="unknown-2f"),
        pytest.param(varint(0x32), "unknown", id="unknown-32"),
        pytest.param(varint(0x3E74), "unknown", id="unknown-3e74"),
        pytest.param(varint(0x3E7D), "unknown", id="unknown-3e7d"),
        pytest.param(varint(0x3D7F95), "unknown", id="unknown-3d7f95"),
        pytest.param(varint(2**32 + 1), "unknown", id="unknown-above-32-bits"),
        pytest.param(varint(VARINT_MAX), "unknown", id="unknown-largest"),
    ],
)
def test_bad_frame_reports_kind_type_and_offset(payload: bytes, kind: str) -> None:
    with pytest.raises(FrameDecodeError) as caught:
        decode_frames(b"\x01\x01" + payload)
    error = caught.value
    frame_type = payload[0] if payload[0] < 0x40 else Buffer(data=payload).pull_uint_var()
    if 8 <= frame_type <= 15:
        frame_type = 8
    elif frame_type == 0x31:
        frame_type = 0x30
    assert (error.kind, error.frame_type, error.offset) == (kind, frame_type, 2)
    assert kind in str(error)
    assert hex(frame_type) in str(error)


def test_cut_off_type_reports_type_zero() -> None:
    with pytest.raises(FrameDecodeError) as caught:
        decode_frames(b"\x01\x40")
    assert (caught.value.kind, caught.value.frame_type, caught.value.offset) == ("truncated", 0, 1)


@pytest.mark.parametrize(
    "payload",
    [
        b"\x02" + varint(5, 0, 1, 0, 3, 0),
        b"\x12" + varint(2**60),
        b"\x18" + varint(1, 1) + b"\x14" + b"c" * 20 + b"t" * 16,
        varint(0x3E7A, 2**32 - 1),
        b"\x06" + varint(VARINT_MAX - 1, 1) + b"x",
    ],
)
def test_values_at_the_limit_are_accepted(payload: bytes) -> None:
    assert len(decode_frames(payload)) == 1


def test_stream_beyond_the_largest_offset_is_left_to_flow_control() -> None:
    payload = b"\x0e" + varint(4, VARINT_MAX, 3) + b"xyz"
    assert decode_frames(payload) == [{"type": 0x0E, "id": 4, "offset": VARINT_MAX, "fin": False, "data": b"xyz"}]


@pytest.mark.parametrize("length", [*range(1, 26), 1155])
def test_padding_run_is_one_frame(length: int) -> None:
    assert decode_frames(bytes(length) + b"\x01" + bytes(3)) == [
        {"type": 0, "length": length}, {"type": 1}, {"type": 0, "length": 3}
    ]  # fmt: skip


def test_empty_payload_has_no_frames() -> None:
    assert decode_frames(b"") == []


def test_fields_of_one_frame_do_not_leak_into_the_next() -> None:
    payload = b"".join(
        encode_frame(f)
        for f in (
            {"type": 0x3F, "path_id": 7, "largest": 9, "delay": 1, "ranges": [(9, 9), (1, 4)], "ecn": (1, 2, 3)},
            {"type": 0x02, "largest": 3, "delay": 0, "ranges": [(3, 3)]},
            {"type": 0x0F, "id": 4, "offset": 9, "fin": True, "data": b"abc"},
            {"type": 0x0A, "id": 8, "offset": 0, "fin": False, "data": b""},
            {"type": 0x3D7F91, "seq": 1, "addr": ("2001:db8::1", 7)},
            {"type": 0x3D7F90, "seq": 2, "addr": ("1.2.3.4", 8)},
        )
    )
    frames = decode_frames(payload)
    assert "ecn" not in frames[1]
    assert frames[1]["ranges"] == [(3, 3)]
    assert frames[3] == {"type": 0x0A, "id": 8, "offset": 0, "fin": False, "data": b""}
    assert frames[5]["addr"] == ("1.2.3.4", 8)


def test_mapped_address_is_canonical_both_ways() -> None:
    wire = encode_varint(0x3D7F91) + b"\x05" + bytes(10) + b"\xff\xff\x7f\0\0\x01\xaf\xc9"
    assert decode_frames(wire) == [{"type": 0x3D7F91, "seq": 5, "addr": ("127.0.0.1", 45001)}]
    expected = encode_varint(0x3D7F90) + b"\x05\x7f\0\0\x01\xaf\xc9"
    for frame_type in (0x3D7F90, 0x3D7F91):
        for host in ("127.0.0.1", "::ffff:127.0.0.1"):
            assert encode_frame({"type": frame_type, "seq": 5, "addr": (host, 45001)}) == expected


def test_error_survives_pickle_and_is_value_error() -> None:
    with pytest.raises(ValueError) as caught:
        decode_frames(b"\x20")
    error = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(error, FrameDecodeError)
    assert (error.kind, error.frame_type, error.offset) == ("unknown", 0x20, 0)


def test_any_contiguous_buffer_is_accepted() -> None:
    for payload in (b"\x01", bytearray(b"\x01"), memoryview(b"\x01\x01")[:1]):
        assert decode_frames(payload) == [{"type": 1}]
    with pytest.raises(BufferError):
        decode_frames(memoryview(b"\x01\x01\x01")[::2])
    with pytest.raises(TypeError):
        decode_frames("01")  # type: ignore[arg-type]


# ---- encoder ---------------------------------------------------------------
@pytest.mark.parametrize(
    "frame",
    [
        {"type": 0x20},
        {"type": -1},
        {"type": 2**62},
        {},
        {"type": 0x00, "length": 0},
        {"type": 0x00, "length": 65528},
        {"type": 0x10},
        {"type": 0x10, "max": -1},
        {"type": 0x10, "max": 2**62},
        {"type": 0x12, "count": 2**60 + 1},
        {"type": 0x17, "limit": 2**60 + 1},
        {"type": 0x06, "offset": VARINT_MAX, "data": b"x"},
        {"type": 0x0C, "id": 0, "offset": VARINT_MAX, "fin": False, "data": b"x"},
        {"type": 0x07, "token": b""},
        {"type": 0x18, "seq": 1, "retire_prior_to": 2, "cid": b"c", "token": bytes(16)},
        {"type": 0x18, "seq": 1, "retire_prior_to": 0, "cid": b"", "token": bytes(16)},
        {"type": 0x18, "seq": 1, "retire_prior_to": 0, "cid": bytes(21), "token": bytes(16)},
        {"type": 0x18, "seq": 1, "retire_prior_to": 0, "cid": b"c", "token": bytes(15)},
        {"type": 0x1A, "data": bytes(7)},
        {"type": 0x3E75, "path_id": 2**32, "error": 0},
        {"type": 0x3E7A, "max": 2**32},
        {"type": 0x02, "largest": 5, "delay": 0, "ranges": []},
        {"type": 0x02, "largest": 5, "delay": 0, "ranges": [(5, 4)]},
        {"type": 0x02, "largest": 4, "delay": 0, "ranges": [(5, 5)]},
        {"type": 0x02, "largest": 5, "delay": 0, "ranges": [(5, 5), (4, 4)]},
        {"type": 0x02, "largest": 5, "delay": 0, "ranges": [(5, 5), (7, 8)]},
        {"type": 0x02, "largest": 5, "delay": 0, "ranges": [(5, 5), (-1, 2)]},
        {"type": 0x02, "largest": 2**62, "delay": 0, "ranges": [(5, 2**62)]},
        {"type": 0x03, "largest": 5, "delay": 0, "ranges": [(5, 5)]},
        {"type": 0x03, "largest": 5, "delay": 0, "ranges": [(5, 5)], "ecn": (1, 2)},
        {"type": 0x3E, "path_id": 2**32, "largest": 5, "delay": 0, "ranges": [(5, 5)]},
        {"type": 0x3D7F90, "seq": 0, "addr": ("nowhere", 1)},
        {"type": 0x3D7F90, "seq": 0, "addr": ("1.2.3.4", 65536)},
        {"type": 0x3D7F90, "seq": 0, "addr": ("fe80::1%eth0", 1)},
    ],
    ids=str,
)
def test_encode_refuses_what_the_wire_forbids(frame: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        encode_frame(frame)


@pytest.mark.parametrize(
    "frame",
    [
        {"type": "1"},
        {"type": 0x10, "max": 1.5},
        {"type": 0x30, "data": 5},
        {"type": 0x30, "data": "text"},
        {"type": 0x3D7F90, "seq": 0, "addr": "1.2.3.4:5"},
    ],
    ids=str,
)
def test_encode_refuses_wrong_types(frame: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        encode_frame(frame)


def test_control_frames_fit_their_room() -> None:
    largest = {
        "type": 0x3E78, "path_id": 2**32 - 1, "seq": VARINT_MAX, "retire_prior_to": VARINT_MAX,
        "cid": bytes(20), "token": bytes(16),
    }  # fmt: skip
    assert len(encode_frame(largest)) == 63
    stream = {"type": 0x0E, "id": VARINT_MAX, "offset": VARINT_MAX - 16384, "fin": False, "data": bytes(16384)}
    assert len(encode_frame(stream)) == 21 + 16384


def test_bench_put_counts_bytes() -> None:
    stream = {"type": 0x0E, "id": 4, "offset": 100000, "fin": False, "data": bytes(1000)}
    assert bench_put(stream, 10) == 10 * (len(encode_frame(stream)) - 1000)
    ack = {"type": 0x3E, "path_id": 1, "largest": 20, "delay": 5, "ranges": [(18, 20), (12, 16)]}
    assert bench_put(ack, 10) == 10 * len(encode_frame(ack))
    with pytest.raises(ValueError):
        bench_put({"type": 0x01}, 1)
