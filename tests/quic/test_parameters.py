"""Transport parameters: vectors, round trips, every rule of reception, hostile input."""

from __future__ import annotations

import json
import random as random_module
from dataclasses import fields, replace
from pathlib import Path

import pytest
from aioquic.buffer import Buffer, encode_uint_var
from aioquic.quic.packet import pull_quic_transport_parameters
from hypothesis import given, settings
from hypothesis import strategies as st

from iroh_fast.quic.parameters import ParameterError, PreferredAddress, TransportParameters

VECTORS = Path(__file__).parent.parent / "vectors"
VI_MAX = (1 << 62) - 1


def parameter(key: int, value: bytes) -> bytes:
    return encode_uint_var(key) + encode_uint_var(len(value)) + value


def split(data: bytes) -> list[tuple[int, bytes]]:
    buf = Buffer(data=data)
    found = []
    while not buf.eof():
        key = buf.pull_uint_var()
        found.append((key, buf.pull_bytes(buf.pull_uint_var())))
    return found


def from_vectors() -> list[tuple[bytes, bool, list[dict]]]:
    found = []
    for name in ("quic_client_initial.json", "quic_client_initial_resumed.json"):
        vector = json.loads((VECTORS / name).read_text())
        for extension in vector["client_hello"]["extensions_in_wire_order"]:
            if extension["type"] == 57:
                found.append(
                    (bytes.fromhex(extension["hex"]), False, extension["transport_parameters"])
                )
    vector = json.loads((VECTORS / "quic_server_handshake.json").read_text())
    message = vector["server_handshake_messages"][0]
    for extension in message["extensions_in_wire_order"]:
        if extension["type"] == 57:
            found.append((bytes.fromhex(extension["hex"]), True, message["transport_parameters"]))
    assert len(found) == 3
    return found


@pytest.mark.parametrize(("data", "from_server", "listed"), from_vectors())
def test_real_parameters_decode(data: bytes, from_server: bool, listed: list[dict]) -> None:
    decoded = TransportParameters.decode(data, from_server=from_server)
    values = {int(item["id"], 16): bytes.fromhex(item["value_hex"]) for item in listed}
    expected = TransportParameters(
        max_idle_timeout_ms=30_000,
        max_udp_payload_size=1472,
        initial_max_data=VI_MAX,
        initial_max_stream_data_bidi_local=1_250_000,
        initial_max_stream_data_bidi_remote=1_250_000,
        initial_max_stream_data_uni=1_250_000,
        initial_max_streams_bidi=100,
        initial_max_streams_uni=100,
        active_connection_id_limit=5,
        max_datagram_frame_size=65_535,
        initial_max_path_id=7,
        min_ack_delay_us=1000,
        n0_nat_traversal=32,
        initial_source_connection_id=values[0x0F],
        original_destination_connection_id=values.get(0),
        stateless_reset_token=values.get(2),
    )
    assert decoded == expected
    # Encoding it again gives the same parameters, but for the reserved one.
    again = dict(split(decoded.encode(from_server)))
    assert again == {key: value for key, value in split(data) if key % 31 != 27}


def test_defaults_are_not_sent() -> None:
    assert TransportParameters().encode(False) == b""
    assert TransportParameters.decode(b"", from_server=True) == TransportParameters()


def test_aioquic_reads_what_we_send() -> None:
    ours = TransportParameters(
        max_idle_timeout_ms=30_000,
        max_udp_payload_size=1472,
        initial_max_data=VI_MAX,
        initial_max_stream_data_uni=70_000,
        initial_max_streams_bidi=100,
        ack_delay_exponent=5,
        max_ack_delay_ms=100,
        active_connection_id_limit=5,
        initial_source_connection_id=b"12345678",
        original_destination_connection_id=b"original",
        stateless_reset_token=bytes(range(16)),
        disable_active_migration=True,
        max_datagram_frame_size=65_535,
    )
    theirs = pull_quic_transport_parameters(Buffer(data=ours.encode(True)))
    assert theirs.max_idle_timeout == 30_000
    assert theirs.max_udp_payload_size == 1472
    assert theirs.initial_max_data == VI_MAX
    assert theirs.initial_max_stream_data_uni == 70_000
    assert theirs.initial_max_streams_bidi == 100
    assert theirs.ack_delay_exponent == 5 and theirs.max_ack_delay == 100
    assert theirs.active_connection_id_limit == 5
    assert theirs.initial_source_connection_id == b"12345678"
    assert theirs.original_destination_connection_id == b"original"
    assert theirs.stateless_reset_token == bytes(range(16))
    assert theirs.disable_active_migration is True
    assert theirs.max_datagram_frame_size == 65_535


def test_random_order_and_one_reserved_parameter() -> None:
    ours = TransportParameters(
        max_idle_timeout_ms=1, initial_max_data=2, initial_max_streams_bidi=3, n0_nat_traversal=4
    )
    orders, sizes = set(), set()
    for seed in range(200):
        pairs = split(ours.encode(False, random_module.Random(seed).randbytes))
        reserved = [(key, value) for key, value in pairs if key % 31 == 27]
        assert len(pairs) == 5 and len(reserved) == 1
        assert reserved[0][0] <= VI_MAX
        sizes.add(len(reserved[0][1]))
        orders.add(tuple(key for key, _ in pairs if key % 31 != 27))
        assert (
            TransportParameters.decode(
                ours.encode(False, random_module.Random(seed).randbytes), from_server=False
            )
            == ours
        )
    assert sizes == set(range(16))
    assert len(orders) == 24


MALFORMED = {
    "id only": b"\x04",
    "truncated value": b"\x04\x04\x80\x00",
    "truncated id": b"\xc0\x00",
    "duplicate": parameter(4, b"\x01") + parameter(4, b"\x01"),
    "duplicate unknown": parameter(0x1234, b"") + parameter(0x1234, b""),
    "duplicate grease bit": parameter(0x2AB2, b"") * 2,
    "empty integer": parameter(4, b""),
    "long integer": parameter(4, b"\x01\x00"),
    "three bytes": parameter(4, b"\x80\x01\x00"),
    "not minimal 2": parameter(4, b"\x40\x3f"),
    "not minimal 4": parameter(0x3E, b"\x80\x00\x00\x07"),
    "not minimal 8": parameter(4, b"\xc0" + b"\0\0\0\x3f\xff\xff\xff"),
    "reset token": parameter(2, bytes(15)),
    "migration value": parameter(0x0C, b"\x00"),
    "grease value": parameter(0x2AB2, b"\x00"),
    "cid 21": parameter(0x0F, bytes(21)),
    "nat varint": parameter(0x3D7F91120401, b"\x40\x20"),
    "nat empty": parameter(0x3D7F91120401, b""),
    "preferred short": parameter(0x0D, bytes(40)),
    "preferred long": parameter(0x0D, b"\1" * 24 + b"\x04abcd" + bytes(17)),
    "preferred cid 21": parameter(0x0D, b"\1" * 24 + b"\x15" + bytes(21 + 16)),
}

PREFERRED = b"\x01" * 24 + b"\x04abcd" + bytes(16)

ILLEGAL = {
    "payload 1199": parameter(3, b"\x44\xaf"),
    "streams bidi": parameter(8, ((1 << 60) + 1 | 3 << 62).to_bytes(8, "big")),
    "streams uni": parameter(9, ((1 << 60) + 1 | 3 << 62).to_bytes(8, "big")),
    "exponent 21": parameter(0x0A, b"\x15"),
    "max_ack_delay": parameter(0x0B, b"\x80\x00\x40\x00"),
    "cid limit 1": parameter(0x0E, b"\x01"),
    "cid limit 0": parameter(0x0E, b"\x00"),
    "path id": parameter(0x3E, (1 << 32 | 3 << 62).to_bytes(8, "big")),
    "min ack delay": parameter(0xFF04DE1B, b"\x80\x00\x61\xa9"),  # 25001 µs
    "discovery 3": parameter(0x9F81A176, b"\x03"),
    "nat 0": parameter(0x3D7F91120401, b"\x00"),
    "preferred without cid": parameter(0x0D, b"\x01" * 24 + b"\x00" + bytes(16)),
    "preferred nowhere": parameter(
        0x0D, bytes(4) + b"\1\1" + bytes(16) + b"\1\1" + b"\x04abcd" + bytes(16)
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_is_refused(case: str) -> None:
    with pytest.raises(ParameterError) as failure:
        TransportParameters.decode(MALFORMED[case], from_server=True)
    assert failure.value.reason == "malformed"


@pytest.mark.parametrize("case", ILLEGAL)
def test_illegal_is_refused(case: str) -> None:
    with pytest.raises(ParameterError) as failure:
        TransportParameters.decode(ILLEGAL[case], from_server=True)
    assert failure.value.reason == "illegal value"


@pytest.mark.parametrize(
    "data",
    [parameter(0, b"x"), parameter(2, bytes(16)), parameter(0x0D, PREFERRED), parameter(0x10, b"")],
)
def test_parameters_of_servers_are_illegal_from_clients(data: bytes) -> None:
    TransportParameters.decode(data, from_server=True)
    with pytest.raises(ParameterError) as failure:
        TransportParameters.decode(data, from_server=False)
    assert failure.value.reason == "illegal value"


def test_limits_are_inclusive() -> None:
    data = b"".join(
        (
            parameter(3, b"\x44\xb0"),
            parameter(8, (1 << 60 | 3 << 62).to_bytes(8, "big")),
            parameter(0x0A, b"\x14"),
            parameter(0x0B, b"\x7f\xff"),
            parameter(0x0E, b"\x02"),
            parameter(0x3E, (0xFFFFFFFF | 3 << 62).to_bytes(8, "big")),
            parameter(0xFF04DE1B, b"\x80" + (16_383_000).to_bytes(3, "big")),
            parameter(0x9F81A176, b"\x02"),
            parameter(0x3D7F91120401, b"\xff"),
            parameter(0x0F, b""),
        )
    )
    decoded = TransportParameters.decode(data, from_server=False)
    assert decoded.max_udp_payload_size == 1200
    assert decoded.initial_max_streams_bidi == 1 << 60
    assert decoded.max_ack_delay_ms == 16_383
    assert decoded.initial_max_path_id == 0xFFFFFFFF
    assert decoded.min_ack_delay_us == 16_383_000
    assert decoded.n0_nat_traversal == 255
    assert decoded.initial_source_connection_id == b""


def test_own_mistakes_are_value_errors_not_parameter_errors() -> None:
    for wrong in (
        {"max_udp_payload_size": 1199},
        {"initial_max_data": 1 << 62},
        {"initial_max_data": -1},
        {"n0_nat_traversal": 256},
        {"n0_nat_traversal": 0},
        {"initial_source_connection_id": bytes(21)},
        {"address_discovery": 3},
        {"min_ack_delay_us": 25_001},
    ):
        with pytest.raises(ValueError) as failure:
            TransportParameters(**wrong).encode(False)
        assert not isinstance(failure.value, ParameterError)
    for server_only in (
        {"original_destination_connection_id": b"x"},
        {"retry_source_connection_id": b"x"},
        {"stateless_reset_token": bytes(16)},
    ):
        TransportParameters(**server_only).encode(True)
        with pytest.raises(ValueError):
            TransportParameters(**server_only).encode(False)
    with pytest.raises(ValueError):
        TransportParameters(stateless_reset_token=bytes(15)).encode(True)


def test_size_is_bounded() -> None:
    filler = b"".join(parameter(0x8000_0000 + i, b"") for i in range(4000))
    with pytest.raises(ParameterError):
        TransportParameters.decode(filler, from_server=True)


def test_many_unknown_ones_are_ignored() -> None:
    """Only the first of them are checked for duplicates: the work stays proportional to the size."""
    data = b"".join(parameter(0x4000 + i, b"") for i in range(2000)) + parameter(4, b"\x07")
    assert TransportParameters.decode(data, from_server=True).initial_max_data == 7
    with pytest.raises(ParameterError):
        TransportParameters.decode(data + parameter(4, b"\x07"), from_server=True)
    with pytest.raises(ParameterError):
        TransportParameters.decode(parameter(0x4001, b"") + data, from_server=True)


FULL = TransportParameters(
    original_destination_connection_id=b"o",
    max_idle_timeout_ms=1,
    stateless_reset_token=bytes(16),
    max_udp_payload_size=1300,
    initial_max_data=10,
    initial_max_stream_data_bidi_local=11,
    initial_max_stream_data_bidi_remote=12,
    initial_max_stream_data_uni=13,
    initial_max_streams_bidi=14,
    initial_max_streams_uni=15,
    ack_delay_exponent=4,
    max_ack_delay_ms=26,
    disable_active_migration=True,
    preferred_address=PreferredAddress((b"\1\2\3\4", 5), (bytes(16), 0), b"cid", bytes(16)),
    active_connection_id_limit=5,
    initial_source_connection_id=b"s",
    retry_source_connection_id=b"r",
    max_datagram_frame_size=100,
    grease_quic_bit=True,
    initial_max_path_id=7,
    min_ack_delay_us=1000,
    address_discovery=2,
    n0_nat_traversal=32,
)


def test_every_field_round_trips_and_is_covered() -> None:
    default = TransportParameters()
    for field in fields(TransportParameters):
        assert getattr(FULL, field.name) != getattr(default, field.name), field.name
    assert TransportParameters.decode(FULL.encode(True), from_server=True) == FULL


def test_remembered_parameters_forget_what_belongs_to_a_connection() -> None:
    remembered = FULL.remembered_for_zero_rtt()
    default = TransportParameters()
    forgotten = {
        "original_destination_connection_id",
        "stateless_reset_token",
        "preferred_address",
        "initial_source_connection_id",
        "retry_source_connection_id",
        "ack_delay_exponent",
        "max_ack_delay_ms",
        "min_ack_delay_us",
        "initial_max_path_id",
    }
    for field in fields(TransportParameters):
        source = default if field.name in forgotten else FULL
        assert getattr(remembered, field.name) == getattr(source, field.name), field.name


def test_zero_rtt_compatibility() -> None:
    remembered = FULL.remembered_for_zero_rtt()
    assert FULL.accepts_zero_rtt_of(remembered)
    for name in (
        "initial_max_data",
        "initial_max_stream_data_bidi_local",
        "initial_max_stream_data_bidi_remote",
        "initial_max_stream_data_uni",
        "initial_max_streams_bidi",
        "initial_max_streams_uni",
        "active_connection_id_limit",
        "max_datagram_frame_size",
    ):
        value = getattr(FULL, name)
        assert replace(FULL, **{name: value + 1}).accepts_zero_rtt_of(remembered)
        assert not replace(FULL, **{name: value - 1}).accepts_zero_rtt_of(remembered)
    for changed in (
        {"grease_quic_bit": False},
        {"address_discovery": 1},
        {"address_discovery": None},
        {"n0_nat_traversal": 33},
        {"n0_nat_traversal": 31},
        {"n0_nat_traversal": None},
    ):
        assert not replace(FULL, **changed).accepts_zero_rtt_of(remembered)
    for harmless in ({"max_idle_timeout_ms": 0}, {"initial_max_path_id": None}):
        assert replace(FULL, **harmless).accepts_zero_rtt_of(remembered)


varints = st.one_of(st.integers(0, 70), st.integers(0, VI_MAX))
cids = st.none() | st.binary(max_size=20)


@settings(max_examples=200, deadline=None)
@given(
    st.builds(
        TransportParameters,
        original_destination_connection_id=cids,
        max_idle_timeout_ms=varints,
        stateless_reset_token=st.none() | st.binary(min_size=16, max_size=16),
        max_udp_payload_size=st.integers(1200, VI_MAX),
        initial_max_data=varints,
        initial_max_stream_data_bidi_local=varints,
        initial_max_stream_data_bidi_remote=varints,
        initial_max_stream_data_uni=varints,
        initial_max_streams_bidi=st.integers(0, 1 << 60),
        initial_max_streams_uni=st.integers(0, 1 << 60),
        ack_delay_exponent=st.integers(0, 20),
        max_ack_delay_ms=st.integers(25, (1 << 14) - 1),
        disable_active_migration=st.booleans(),
        active_connection_id_limit=st.integers(2, VI_MAX),
        initial_source_connection_id=cids,
        retry_source_connection_id=cids,
        max_datagram_frame_size=varints,
        grease_quic_bit=st.booleans(),
        initial_max_path_id=st.none() | st.integers(0, 0xFFFFFFFF),
        min_ack_delay_us=st.none() | st.integers(0, 25_000),
        address_discovery=st.none() | st.integers(0, 2),
        n0_nat_traversal=st.none() | st.integers(1, 255),
    ),
    st.integers(0, 1 << 32),
)
def test_round_trip(ours: TransportParameters, seed: int) -> None:
    random = random_module.Random(seed).randbytes
    for data in (ours.encode(True), ours.encode(True, random)):
        assert TransportParameters.decode(data, from_server=True) == ours


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_mutations_raise_only_parameter_errors(data: st.DataObject) -> None:
    changed = bytearray(FULL.encode(True, random_module.Random(1).randbytes))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(changed) - 1)) if changed else 0
        action = data.draw(st.sampled_from(["set", "delete", "insert", "cut"]))
        if action == "insert":
            changed[at:at] = data.draw(st.binary(min_size=1, max_size=9))
        elif changed and action == "set":
            changed[at] = data.draw(st.integers(0, 255))
        elif changed and action == "delete":
            del changed[at]
        elif action == "cut":
            del changed[at:]
    for from_server in (False, True):
        try:
            decoded = TransportParameters.decode(bytes(changed), from_server=from_server)
        except ParameterError as error:
            assert error.reason in ("malformed", "illegal value")
        else:
            again = decoded.encode(from_server)
            assert TransportParameters.decode(again, from_server=from_server) == decoded


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=120))
def test_random_bytes_raise_only_parameter_errors(data: bytes) -> None:
    try:
        TransportParameters.decode(data, from_server=True)
    except ParameterError:
        pass
