"""What endpoints publish: z-base-32, TXT values, endpoint info, filters; against the recorded vectors."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iroh_fast import (
    CustomAddr,
    EndpointAddr,
    IpAddr,
    PublicKey,
    RelayAddr,
    RelayUrl,
    SocketAddr,
    TransportAddr,
    errors,
)
from iroh_fast.lookup import EndpointData, EndpointInfo, ip_only, relay_only, unfiltered, z32
from iroh_fast.lookup.attributes import MAX_ADDRS, format_values, parse_values
from iroh_fast.lookup.filters import as_filter

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "pkarr.json").read_text("utf-8")
)
KEY = "197f6b23e16c8532c6abc838facd5ea789be0c76b2920334039bfa8b3d368d61"
ID = PublicKey(KEY)
NAME = f"_iroh.{ID:z32}.dns.iroh.link."


def address(text: str) -> TransportAddr:
    """Read an address as the vectors write it."""
    kind, _, rest = text.partition(":")
    if kind == "relay":
        return RelayAddr(RelayUrl(rest))
    return IpAddr(SocketAddr.parse(rest)) if kind == "ip" else CustomAddr.parse(rest)


RELAY, V4, V6, CUSTOM = map(
    address, ("relay:https://example.com", "ip:1.2.3.4:5", "ip:[2001:db8::1]:443", "custom:1_00")
)


# --- z-base-32 -----------------------------------------------------------------------------


@pytest.mark.parametrize("case", VECTORS["z32"]["valid"], ids=lambda case: case["z32"][:8])
def test_z32_vectors(case: dict[str, Any]) -> None:
    assert z32.encode(bytes.fromhex(case["bytes"])) == case["z32"]
    assert z32.decode(case["z32"]).hex() == case["bytes"]
    assert PublicKey(case["bytes"]).to_z32() == case["z32"]


@pytest.mark.parametrize("case", VECTORS["z32"]["invalid"], ids=lambda case: case["why"])
def test_z32_vectors_of_no_key(case: dict[str, Any]) -> None:
    with pytest.raises(errors.KeyParsingError):
        PublicKey.from_z32(case["z32"])
    try:
        assert len(z32.decode(case["z32"])) != 32 or "not a curve point" in case["why"]
    except ValueError:
        pass


@given(st.binary(max_size=80))
def test_z32_reads_what_it_wrote(data: bytes) -> None:
    assert z32.decode(z32.encode(data)) == data


@given(st.text(alphabet="ybndrfg8ejkmcpqxot1uwisza345h769YL02v=", max_size=60))
def test_z32_accepts_one_text_for_each_value(text: str) -> None:
    try:
        data = z32.decode(text)
    except ValueError:
        return
    assert z32.encode(data) == text


@pytest.mark.parametrize("case", VECTORS["key_strings"]["cases"], ids=lambda case: case["in"][:12])
def test_key_texts_vectors(case: dict[str, Any]) -> None:
    if case["ok"]:
        assert (str(PublicKey(case["in"])), f"{PublicKey(case['in']):short}") == (
            case["bytes"],
            case["short"],
        )
    else:
        with pytest.raises(errors.KeyParsingError):
            PublicKey(case["in"])


# --- texts of addresses --------------------------------------------------------------------


@pytest.mark.parametrize("case", VECTORS["relay_url_text"], ids=lambda case: case["in"])
def test_relay_url_vectors(case: dict[str, Any]) -> None:
    if "out" in case:
        assert format_values([RelayAddr(RelayUrl(case["in"]))], None) == [f"relay={case['out']}"]
        assert parse_values([f"relay={case['in']}"]) == ([RelayAddr(RelayUrl(case["out"]))], None)
    else:
        assert parse_values([f"relay={case['in']}"]) == ([], None)


@pytest.mark.parametrize("case", VECTORS["socket_addr_text"], ids=lambda case: case["in"])
def test_socket_addr_vectors(case: dict[str, Any]) -> None:
    addrs, _ = parse_values([f"addr={case['in']}"])
    if "out" in case:
        assert format_values(addrs, None) == [f"addr={case['out']}"]
    else:
        assert addrs == []


@pytest.mark.parametrize("case", VECTORS["custom_addr"], ids=lambda case: case["text"])
def test_custom_addr_vectors(case: dict[str, Any]) -> None:
    addrs, _ = parse_values([f"addr={case['text']}"])
    if "error" in case:
        assert addrs == []
    else:
        assert addrs == [CustomAddr(case["id"], bytes.fromhex(case["data"]))]
        assert format_values(addrs, None) == [f"addr={case['text']}"]


# --- TXT values ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "case", VECTORS["endpoint_info_encode"], ids=lambda case: str(case["txt"])[:40]
)
def test_info_vectors_are_written_as_iroh_does(case: dict[str, Any]) -> None:
    info = EndpointInfo(ID, EndpointData(map(address, case["addrs"]), case["user_data"]))
    assert info.to_txt() == case["txt"]


@pytest.mark.covers("iroh-dns: txt_attr_roundtrip")
@pytest.mark.parametrize(
    "case", VECTORS["endpoint_info_encode"], ids=lambda case: str(case["txt"])[:40]
)
def test_info_is_read_back_with_relays_first(case: dict[str, Any]) -> None:
    info = EndpointInfo(ID, EndpointData(map(address, case["addrs"]), case["user_data"]))
    again = EndpointInfo.from_txt(NAME, info.to_txt())
    assert again.data.addrs == (*relay_only(info.data.addrs), *ip_only(info.data.addrs))
    assert (again.id, again.data.user_data) == (ID, case["user_data"])
    assert again.to_addr() == info.to_addr()


@pytest.mark.parametrize(
    "case", VECTORS["txt_parse"], ids=lambda case: str(case["txt"])[:40] or case["name"]
)
def test_txt_vectors(case: dict[str, Any]) -> None:
    if not case["ok"]:
        with pytest.raises(errors.EndpointInfoError) as caught:
            EndpointInfo.from_txt(case["name"], case["txt"])
        assert caught.value.kind == case["error"]
        return
    info = EndpointInfo.from_txt(case["name"], case["txt"])
    assert str(info.id) == case["endpoint_id"]
    assert list(info.data.relay_urls) == case["relays"]
    assert [v.removeprefix("addr=") for v in format_values(ip_only(info.data.addrs), None)] == case[
        "addrs"
    ]
    assert info.data.user_data == case["user_data"]


def test_txt_of_a_dns_answer_may_be_bytes_and_its_key_upper_case() -> None:
    name = f"_iroh.{ID.to_z32().upper()}.example."
    info = EndpointInfo.from_txt(
        name, [b"addr=1.2.3.4:5", b"user-data=\xff!", b"relay=https://a.example"]
    )
    assert info == EndpointInfo(
        ID, EndpointData(["https://a.example", "1.2.3.4:5"], "\N{REPLACEMENT CHARACTER}!")
    )


def test_txt_of_thousands_of_addresses_is_read_to_its_bound() -> None:
    values = [f"addr=1.2.{i >> 8}.{i & 255}:9" for i in range(3000)]
    info = EndpointInfo.from_txt(NAME, [*values, "user-data=x", "relay=https://late.example"])
    assert len(info.data.addrs) == MAX_ADDRS
    assert info.data.user_data == "x"


@given(st.lists(st.text(max_size=60) | st.binary(max_size=60), max_size=8))
def test_txt_of_anybody_is_read_or_refused(values: list[str | bytes]) -> None:
    try:
        info = EndpointInfo.from_txt(NAME, values)
    except errors.EndpointInfoError as err:
        assert err.kind == "UnexpectedFormat"
        assert str(err).isprintable()
        return
    assert EndpointInfo.from_txt(NAME, info.to_txt()) == info


KEYS = st.sampled_from(["relay", "addr", "user-data", "x", ""])
PARTS = st.sampled_from(
    ["1.2.3.4:5", "[::1]:7", "[fe80::1%3]:9", "1_00", "https://a.example", "", "=", "é"]
) | st.text(max_size=9)


@given(st.lists(st.tuples(KEYS, PARTS)))
def test_txt_of_known_keys_is_read_back_the_same(pairs: list[tuple[str, str]]) -> None:
    info = EndpointInfo.from_txt(NAME, [f"{key}={value}" for key, value in pairs])
    assert EndpointInfo.from_txt(NAME, info.to_txt()) == info
    assert pickle.loads(pickle.dumps(info)) == info


# --- data and info -------------------------------------------------------------------------


def test_user_data_vectors() -> None:
    for text in VECTORS["user_data"]["ok"]:
        assert EndpointData(user_data=text).user_data == text
    for text in VECTORS["user_data"]["too_long"]:
        with pytest.raises(errors.UserDataTooLong) as caught:
            EndpointData(user_data=text)
        assert (caught.value.size, caught.value.limit) == (len(text.encode()), 245)


def test_user_data_that_is_no_text_is_refused() -> None:
    with pytest.raises(errors.ConfigError, match="user_data"):
        EndpointData(user_data="\ud800")
    with pytest.raises(TypeError, match="user_data"):
        EndpointData(user_data=b"x")  # type: ignore[arg-type]


def test_user_data_with_control_characters_is_kept_and_shown_in_one_line() -> None:
    data = EndpointData(user_data="a\n\x1b[31m\u202e")
    assert EndpointInfo.from_txt(NAME, EndpointInfo(ID, data).to_txt()).data == data
    assert repr(data).isprintable()


def test_data_keeps_the_order_and_drops_duplicates() -> None:
    data = EndpointData([V4, RELAY, V4, "https://example.com", V6, "1.2.3.4:5", CUSTOM])
    assert data.addrs == (V4, RELAY, V6, CUSTOM)
    assert data.relay_urls == ("https://example.com/",)
    assert data.ip_addrs == (SocketAddr.parse("1.2.3.4:5"), SocketAddr.parse("[2001:db8::1]:443"))
    assert not data.is_empty and EndpointData().is_empty and not EndpointData(user_data="").is_empty
    assert data != EndpointData([RELAY, V4, V6, CUSTOM])
    assert copy.copy(data) == data and hash(pickle.loads(pickle.dumps(data))) == hash(data)


def test_data_of_something_else_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="addrs"):
        EndpointData("1.2.3.4:5")
    with pytest.raises(TypeError, match="address"):
        EndpointData([5])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="data"):
        EndpointInfo(ID, "x")  # type: ignore[arg-type]


def test_data_cannot_be_changed() -> None:
    data, info = EndpointData([V4]), EndpointInfo(KEY)
    with pytest.raises(AttributeError):
        data.addrs = ()  # type: ignore[misc]
    with pytest.raises(AttributeError):
        info.id = ID  # type: ignore[misc]
    assert info.id == ID and info.data == EndpointData()


def test_info_of_an_address() -> None:
    addr = EndpointAddr(ID, relay_url="https://example.com", ip_addrs=["1.2.3.4:5"])
    info = EndpointInfo.from_addr(addr, "hi")
    assert info.to_addr() == addr
    assert info.to_txt() == ["relay=https://example.com/", "addr=1.2.3.4:5", "user-data=hi"]


def test_info_holds_no_credentials_of_a_relay() -> None:
    info = EndpointInfo(ID, EndpointData(["https://user:secret@relay.example/?token=t"]))
    assert info.to_txt() == ["relay=https://relay.example/"]


# --- filters -------------------------------------------------------------------------------


def test_filters_keep_the_order_and_the_user_data() -> None:
    data = EndpointData([V4, RELAY, CUSTOM, V6], "x")
    assert data.filtered(None) is data
    assert data.filtered(relay_only) == EndpointData([RELAY], "x")
    assert data.filtered(ip_only) == EndpointData([V4, CUSTOM, V6], "x")
    assert data.filtered(unfiltered) == data
    assert data.filtered(lambda addrs: reversed(addrs)).addrs == (V6, CUSTOM, RELAY, V4)


def test_filters_have_names_for_options() -> None:
    def mine(addrs: Any) -> Any:
        return addrs

    assert as_filter("relay_only", "addr_filter") is relay_only
    assert as_filter("ip_only", "addr_filter") is ip_only
    assert as_filter("unfiltered", "addr_filter") is unfiltered
    assert as_filter(None, "addr_filter") is None
    assert as_filter(mine, "addr_filter") is mine
    with pytest.raises(errors.ConfigError, match="addr_filter is .*relay_only.*not 'relays'"):
        as_filter("relays", "addr_filter")
    with pytest.raises(TypeError, match="addr_filter"):
        as_filter(5, "addr_filter")  # type: ignore[arg-type]
