"""Addresses against the recorded vectors, and round trips on random input."""

import copy
import json
import pathlib
import pickle
import string
from ipaddress import IPv4Address, IPv6Address

import ada_url
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from iroh_fast.addr import (
    CustomAddr,
    EndpointAddr,
    IpAddr,
    PostcardReader,
    RelayAddr,
    RelayUrl,
    SocketAddr,
    TransportAddr,
    encode_varint,
)
from iroh_fast.errors import AddrError, CustomAddrError, IrohError, KeyParsingError, RelayUrlError
from iroh_fast.keys import PublicKey, SecretKey
from iroh_fast.ticket import EndpointTicket

VECTORS = json.loads(
    (pathlib.Path(__file__).parent.parent / "vectors" / "identity.json").read_text("utf-8")
)
ID = SecretKey(bytes(range(32))).public

PORTS = st.integers(0, 65535)
V4 = st.builds(SocketAddr, st.ip_addresses(v=4), PORTS)
V6 = st.builds(SocketAddr, st.ip_addresses(v=6), PORTS, st.integers(0, 2**32 - 1))
SOCKETS = V4 | V6
LABELS = st.text(string.ascii_lowercase + string.digits + "-", min_size=1, max_size=8)
RELAYS = st.builds(
    lambda labels, port: RelayUrl(f"https://{'.'.join(labels)}.example:{port}/"),
    st.lists(LABELS.filter(lambda label: "--" not in label), max_size=3).map(lambda x: ["a", *x]),
    PORTS,
)
CUSTOMS = st.builds(CustomAddr, st.integers(0, 2**64 - 1), st.binary(max_size=40))
ADDRS = st.builds(IpAddr, SOCKETS) | st.builds(RelayAddr, RELAYS) | CUSTOMS
ENDPOINTS = st.builds(
    lambda seed, addrs: EndpointAddr(SecretKey(seed).public, addrs),
    st.binary(min_size=32, max_size=32),
    st.lists(ADDRS, max_size=6),
)


def by_input(case):
    return repr(case["input"]) if isinstance(case, dict) else None


# --- socket addresses


@pytest.mark.parametrize("case", VECTORS["socket_addr"], ids=by_input)
def test_socket_addr_vector_matches(case):
    if not case["ok"]:
        with pytest.raises(AddrError):
            SocketAddr.parse(case["input"])
        return
    addr = EndpointAddr(ID, ip_addrs=[case["input"]])
    (decoded,) = EndpointAddr.from_postcard(addr.to_postcard()).ip_addrs
    assert str(decoded) == case["text_after_ticket"]


@given(SOCKETS)
def test_socket_addr_round_trips(addr):
    assert SocketAddr.parse(str(addr)) == addr
    assert SocketAddr.from_tuple(addr.as_tuple()) == addr
    assert pickle.loads(pickle.dumps(addr)) == addr
    assert hash(copy.copy(addr)) == hash(addr)


def test_socket_addr_text_keeps_the_scope():
    addr = SocketAddr.parse("[fe80::1%5]:9")
    assert (addr.ip, addr.port, addr.scope_id) == (IPv6Address("fe80::1"), 9, 5)
    assert str(addr) == "[fe80::1%5]:9"
    assert addr.as_tuple() == ("fe80::1", 9, 0, 5)
    assert SocketAddr(IPv6Address("fe80::1%5"), 9) == addr
    assert SocketAddr.from_tuple(("fe80::1%eth0", 9, 0, 5)) == addr
    assert str(IpAddr(addr)) == "ip:[fe80::1%5]:9"
    assert IpAddr(addr).to_json() == {"Ip": "[fe80::1%5]:9"}


@pytest.mark.parametrize(
    "text",
    [
        "", ":80", "localhost:80", "1.2.3.4:5:6", "1.2.3.4:٥", "١.2.3.4:5", "1.2.3.4:" + "9" * 5000,
        "[]:1", "[:1]:1", "[::1%]:1", "[::1%-1]:1", "[1.2.3.4]:1", "[::1]1", "[::1", "[::1]:1\n",
        "[::01.2.3.4]:1", "[1:2:3:4:5:6:7:8::]:1", "[::1%99999999999]:1", "[fe80::1%1%2]:1",
    ],
)  # fmt: skip
def test_socket_addr_parse_rejects(text):
    with pytest.raises(AddrError):
        SocketAddr.parse(text)


def test_socket_addr_many_zeros_in_port_are_fine():
    assert SocketAddr.parse("1.2.3.4:" + "0" * 5000 + "80").port == 80


@pytest.mark.parametrize(
    "args",
    [
        (IPv4Address(1), 65536),
        (IPv4Address(1), -1),
        (IPv6Address(1), 1, 2**32),
        (IPv6Address(1), 1, -1),
        (IPv4Address(1), 1, 1),
        (IPv6Address("fe80::1%eth0"), 1),
    ],
)
def test_socket_addr_out_of_range_rejected(args):
    with pytest.raises(AddrError):
        SocketAddr(*args)


def test_socket_addr_wrong_types_rejected():
    with pytest.raises(TypeError):
        SocketAddr("1.2.3.4", 5)
    with pytest.raises(AddrError):
        SocketAddr.from_tuple(("localhost", 5))


def test_socket_addr_order_is_family_address_port_scope():
    texts = [
        "9.0.0.0:80", "10.0.0.1:2", "10.0.0.1:65535", "255.255.255.255:1",
        "[::]:9", "[::1]:1", "[::1%4]:1", "[::1]:2", "[fe80::]:0",
    ]  # fmt: skip
    addrs = [SocketAddr.parse(text) for text in texts]
    assert sorted(reversed(addrs)) == addrs
    low, high = addrs[3], addrs[4]
    assert low < high and low <= high and high > low and high >= low and low <= low and low >= low
    with pytest.raises(TypeError):
        low < "1.2.3.4:5"


# --- relay URLs


@pytest.mark.parametrize("case", VECTORS["relay_url"], ids=by_input)
def test_relay_url_vector_matches(case):
    if case["ok"]:
        url = RelayUrl(case["input"])
        assert url == case["normalised"]
        assert type(str(url)) is str
        assert RelayUrl(str(url)) == url
        return
    with pytest.raises(RelayUrlError) as caught:
        RelayUrl(case["input"])
    assert caught.value.text == case["input"]


@given(
    st.sampled_from(["http", "https"]),
    st.lists(st.text("abxn019-._A", max_size=6), min_size=1, max_size=4).map(".".join),
    st.sampled_from(["", ":", ":80", ":443", ":0", ":08", ":1", ":9999", ":65535", ":65536"]),
    st.sampled_from(["", "/", "//", "/x"]),
)
@example("https", "xn--a", "", "")
@example("https", "a.0x1", "", "/")
@example("http", "a..b", ":80", "/")
def test_relay_url_short_cut_agrees_with_the_url_parser(scheme, host, port, tail):
    text = f"{scheme}://{host}{port}{tail}"
    try:
        expected = ada_url.URL(text).href
    except ValueError:
        expected = None
    try:
        result = RelayUrl(text)
    except RelayUrlError:
        result = None
    assert result == expected


@given(st.text(max_size=40) | st.text(max_size=40).map("https://".__add__))
def test_relay_url_random_text_parses_or_raises(text):
    try:
        url = RelayUrl(text)
    except RelayUrlError:
        return
    assert RelayUrl(str(url)) == url
    assert url.startswith(url.scheme + ":")
    assert url.host in url
    assert url.port is None or 0 <= url.port <= 65535


@pytest.mark.parametrize(
    ("text", "scheme", "host", "port"),
    [
        ("https://use1-1.relay.n0.iroh.link.", "https", "use1-1.relay.n0.iroh.link.", 443),
        ("http://localhost:3340", "http", "localhost", 3340),
        ("http://[::1]:80/", "http", "::1", 80),
        ("https://[::1]:81/a:5", "https", "::1", 81),
        ("https://user:pw@example.com/@x:9", "https", "example.com", 443),
        ("https://example.com?q=//h:1", "https", "example.com", 443),
        ("wss://h:0", "wss", "h", 0),
        ("foo://h", "foo", "h", None),
        ("mailto:a@b", "mailto", "", None),
    ],
)
def test_relay_url_parts(text, scheme, host, port):
    url = RelayUrl(text)
    assert (url.scheme, url.host, url.port) == (scheme, host, port)


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("https://user:pw@h.example/a?x@y", "https://h.example/a?x@y"),
        ("https://token@h.example:8443/", "https://h.example:8443/"),
        ("https://h.example/@x", "https://h.example/@x"),
        ("https://h.example/?token=s3", "https://h.example/"),
        ("https://h.example/?a=1&%74oken=s3&b=2&token=x#f", "https://h.example/?a=1&b=2#f"),
        ("https://u:p@h.example/?token=s3", "https://h.example/"),
        ("https://h.example/?mytoken=t", "https://h.example/?mytoken=t"),
        ("https://h.example/#?token=t", "https://h.example/#?token=t"),
    ],
)
def test_relay_url_without_credentials_can_be_shown(text, bare):
    assert RelayUrl(text).without_credentials() == RelayUrl(bare)


def test_token_of_a_relay_url_is_given_apart():
    assert RelayUrl("https://h/?token=a+b%21&token=c").split_credentials() == ("https://h/", "a b!")
    assert RelayUrl("https://h/?x=1").split_credentials() == ("https://h/?x=1", None)


SECRET_URL = "https://user:s3cret@h.example/p?x=1&token=s3cret"


def made_from_a_secret():
    """Every way in which the URL of a relay gets into an address."""
    bare = EndpointAddr(ID, relay_url="https://h.example/p?x=1")
    wire = bare.to_postcard()
    text = b"https://h.example/p?x=1"
    assert wire.count(text) == 1
    long = SECRET_URL.encode()
    wire = wire.replace(bytes([len(text)]) + text, bytes([len(long)]) + long)
    yield EndpointAddr(ID, relay_url=SECRET_URL)
    yield EndpointAddr(ID, [SECRET_URL])
    yield EndpointAddr(ID, [RelayUrl(SECRET_URL)])
    yield EndpointAddr(ID, [RelayAddr(RelayUrl(SECRET_URL))])
    yield EndpointAddr(ID).with_relay_url(SECRET_URL)
    yield EndpointAddr(ID).with_addrs([SECRET_URL])
    yield EndpointAddr.from_json({"id": str(ID), "addrs": [{"Relay": SECRET_URL}]})
    yield EndpointAddr.from_postcard(wire)
    yield EndpointTicket.from_bytes(b"\0" + wire).addr


def test_credentials_of_a_relay_never_enter_an_address():
    made = list(made_from_a_secret())
    assert len(made) == 9
    for addr in made:
        assert addr.relay_urls == ("https://h.example/p?x=1",)
        shown = [str(addr), repr(addr), json.dumps(addr.to_json()), repr(addr.addrs)]
        shown += [repr(pickle.dumps(addr)), repr(addr.to_postcard()), repr(EndpointTicket(addr))]
        assert not [text for text in shown if "s3cret" in text]
        assert b"s3cret" not in EndpointTicket(addr).to_bytes()


def test_message_about_a_url_that_cannot_be_read_keeps_the_token_out():
    for text in ("https://h:99999/?token=s3cret", "https://u:s3cret@h:99999/", "x y?token=s3cret"):
        with pytest.raises(RelayUrlError) as caught:
            RelayUrl(text)
        assert "s3cret" not in str(caught.value)


def test_relay_url_is_a_plain_string_to_others():
    url = RelayUrl("https://example.com")
    assert url == "https://example.com/" and {url: 1}["https://example.com/"] == 1
    assert json.dumps(url) == '"https://example.com/"'
    assert repr(url) == VECTORS["display_forms"]["relay_url_debug"]
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(url, protocol))
        assert type(again) is RelayUrl and again == url
    assert RelayUrl("https://a.") != RelayUrl("https://a")


@pytest.mark.parametrize("text", ["https://\ud800", "https://a\0b", "https://[::1", "https://[::1%5]/"])
def test_relay_url_hostile_text_rejected(text):
    with pytest.raises(RelayUrlError):
        RelayUrl(text)


def test_relay_url_not_text_is_a_type_error():
    for bad in (None, 5, b"https://example.com"):
        with pytest.raises(TypeError):
            RelayUrl(bad)


# --- transport addresses


@pytest.mark.parametrize("case", VECTORS["custom_addr"]["valid"], ids=lambda c: c["text"][:20])
def test_custom_addr_vector_matches(case):
    data = bytes.fromhex(case["data_hex"])
    addr = CustomAddr(case["id"], data)
    assert f"{addr.id:x}" == case["id_hex"]
    assert addr.to_text() == case["text"]
    assert str(addr) == case["transport_addr_text"]
    assert addr.to_bytes().hex() == case["binary_hex"]
    assert addr.to_postcard().hex() == "02" + case["postcard_hex"]
    assert CustomAddr.parse(case["text"]) == addr
    assert CustomAddr.from_bytes(bytes.fromhex(case["binary_hex"])) == addr
    encoded = EndpointAddr(ID, [addr]).to_postcard()
    assert encoded.hex() == f"{ID}0102{case['postcard_hex']}"
    assert EndpointAddr.from_postcard(encoded).addrs == (addr,)


@pytest.mark.parametrize("case", VECTORS["custom_addr"]["invalid_text"], ids=by_input)
def test_custom_addr_invalid_text_vector_rejected(case):
    reasons = {"MissingSeparator": "separator", "InvalidId": "id", "InvalidData": "data"}
    with pytest.raises(CustomAddrError) as caught:
        CustomAddr.parse(case["input"])
    assert caught.value.reason == reasons[case["error"]]


def test_custom_addr_limits():
    assert CustomAddr.parse("00DeadBEEF_").id == 0xDEADBEEF
    assert CustomAddr.parse("0" * 40 + "1_").id == 1
    for text, reason in [
        ("1" + "0" * 16 + "_", "id"), ("-1_", "id"), (" 1_", "id"), ("0x1_", "id"), ("1_a_", "data"),
        ("1_ ab", "data"), ("1_ab\n", "data"), ("", "separator"),
    ]:  # fmt: skip
        with pytest.raises(CustomAddrError) as caught:
            CustomAddr.parse(text)
        assert caught.value.reason == reason
    for number in (-1, 2**64):
        with pytest.raises(CustomAddrError):
            CustomAddr(number, b"")
    with pytest.raises(CustomAddrError, match="^data too short$"):
        CustomAddr.from_bytes(bytes(7))
    assert CustomAddr(1, bytearray(b"a")) == CustomAddr(1, b"a")


@given(CUSTOMS)
def test_custom_addr_round_trips(addr):
    assert CustomAddr.parse(addr.to_text()) == addr
    assert CustomAddr.from_bytes(addr.to_bytes()) == addr


def test_custom_addr_order_is_inline_before_heap():
    ordered = [
        CustomAddr(0, bytes(40)),
        CustomAddr(1, b""),
        CustomAddr(1, b"\xff"),
        CustomAddr(1, b"\x00\x00"),
        CustomAddr(1, b"\xff" * 30),
        CustomAddr(1, b"\x00" * 32),
        CustomAddr(1, b"\x01" * 31),
        CustomAddr(2, b""),
    ]
    assert sorted(reversed(ordered)) == ordered


def test_transport_addr_order_and_predicates():
    relay = RelayAddr(RelayUrl("https://z/"))
    ip = IpAddr(SocketAddr.parse("1.2.3.4:5"))
    custom = CustomAddr(0, b"")
    assert sorted([custom, ip, relay]) == [relay, ip, custom]
    assert relay < ip <= custom and custom > ip >= relay and ip >= ip
    assert [(a.is_relay, a.is_ip, a.is_custom) for a in (relay, ip, custom)] == [
        (True, False, False),
        (False, True, False),
        (False, False, True),
    ]
    assert all(isinstance(a, TransportAddr) for a in (relay, ip, custom))
    with pytest.raises(TypeError):
        relay < "relay"
    with pytest.raises(TypeError):
        IpAddr("1.2.3.4:5")


@given(ADDRS)
def test_transport_addr_round_trips(addr):
    assert TransportAddr.from_json(json.loads(json.dumps(addr.to_json()))) == addr
    assert pickle.loads(pickle.dumps(addr)) == addr


def test_json_and_display_forms_match():
    forms, shown = VECTORS["json_forms"], VECTORS["display_forms"]
    relay = RelayAddr(RelayUrl("https://example.com"))
    ip = IpAddr(SocketAddr.parse("192.168.1.2:10"))
    custom = CustomAddr(42, b"\xab\xcd")
    assert str(relay.url) == forms["relay_url"]
    assert relay.to_json() == forms["transport_addr_relay"]
    assert ip.to_json() == forms["transport_addr_ip"]
    assert custom.to_json() == forms["transport_addr_custom"]
    for addr in (relay, ip, custom):
        assert TransportAddr.from_json(addr.to_json()) == addr
    endpoint = EndpointAddr(PublicKey(forms["endpoint_addr"]["id"]), [ip, relay])
    assert endpoint.to_json() == forms["endpoint_addr"]
    assert EndpointAddr.from_json(forms["endpoint_addr"]) == endpoint
    assert str(relay) == shown["transport_addr_relay"]
    assert str(ip) == shown["transport_addr_ip4"]
    assert str(IpAddr(SocketAddr.parse("[::1]:10"))) == shown["transport_addr_ip6"]


@pytest.mark.parametrize(
    "value",
    [
        None, [], "Relay", {}, {"Relay": 5}, {"Relay": "x"}, {"Ip": "host:1"}, {"Ip": ["1.2.3.4:5"]},
        {"ip": "1.2.3.4:5"}, {"Ip": "1.2.3.4:5", "Relay": "https://a/"}, {"Custom": {"id": 1}},
        {"Custom": {"id": True, "data": []}}, {"Custom": {"id": 2**64, "data": []}},
        {"Custom": {"id": 1, "data": [256]}}, {"Custom": {"id": 1, "data": [True]}},
        {"Custom": {"id": 1, "data": [-1]}}, {"Custom": {"id": 1, "data": "ab"}}, {"Custom": "1_ab"},
    ],
)  # fmt: skip
def test_transport_addr_from_json_rejects(value):
    with pytest.raises(IrohError) as caught:
        TransportAddr.from_json(value)
    assert isinstance(caught.value, ValueError)
    with pytest.raises(IrohError):
        EndpointAddr.from_json({"id": str(ID), "addrs": [value]})


# --- endpoint addresses


@given(ENDPOINTS)
def test_endpoint_addr_round_trips(addr):
    assert EndpointAddr.from_json(json.loads(json.dumps(addr.to_json()))) == addr
    assert pickle.loads(pickle.dumps(addr)) == addr
    encoded = addr.to_postcard()
    decoded = EndpointAddr.from_postcard(encoded + b"trailing")
    without_scope = EndpointAddr(
        addr.id,
        [IpAddr(SocketAddr(a.addr.ip, a.addr.port)) if isinstance(a, IpAddr) else a for a in addr.addrs],
    )
    assert decoded == without_scope


@given(ENDPOINTS, st.data())
def test_endpoint_addr_cut_short_is_an_addr_error(addr, data):
    encoded = addr.to_postcard()
    size = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(AddrError):
        EndpointAddr.from_postcard(encoded[:size])


def test_endpoint_addr_builders_and_getters():
    addr = (
        EndpointAddr(str(ID))
        .with_ip_addr("[::1]:2")
        .with_ip_addr(SocketAddr.parse("1.2.3.4:5"))
        .with_relay_url("https://example.com")
        .with_addrs([CustomAddr(1, b"x"), SocketAddr.parse("1.2.3.4:5"), RelayUrl("https://a")])
    )
    assert addr.id == ID and not addr.is_empty
    assert addr.relay_urls == ("https://a/", "https://example.com/")
    assert [str(a) for a in addr.ip_addrs] == ["1.2.3.4:5", "[::1]:2"]
    assert [str(a) for a in addr.addrs] == [
        "relay:https://a/",
        "relay:https://example.com/",
        "ip:1.2.3.4:5",
        "ip:[::1]:2",
        "custom:1_78",
    ]
    assert str(EndpointAddr(ID, ip_addrs=["1.2.3.4:5"])) == f"{ID} ip:1.2.3.4:5"
    assert repr(EndpointAddr(ID, ip_addrs=["1.2.3.4:5"])) == f"EndpointAddr({ID:short}, [ip:1.2.3.4:5])"
    assert EndpointAddr(bytes(ID)).is_empty


def test_endpoint_addr_join():
    one = EndpointAddr(ID, ip_addrs=["1.2.3.4:5"])
    two = EndpointAddr(ID, ip_addrs=["1.2.3.4:5", "1.2.3.4:6"])
    assert one | two == two
    with pytest.raises(AddrError):
        one | EndpointAddr(SecretKey(bytes(32)).public)
    with pytest.raises(TypeError):
        one | "x"


def test_endpoint_addr_equality_hash_and_order():
    low = EndpointAddr(ID, ip_addrs=["1.2.3.4:6", "1.2.3.4:5"])
    same = EndpointAddr(ID, ip_addrs=["1.2.3.4:5", "1.2.3.4:6", "1.2.3.4:5"])
    high = EndpointAddr(SecretKey(bytes(32)).public)
    assert low == same and hash(low) == hash(same) and low != ID
    assert EndpointAddr(ID) < low < high and high > low and high >= low and low <= same
    mixed = EndpointAddr(ID, relay_url="https://a")
    assert mixed < low
    with pytest.raises(AttributeError):
        low.id = ID
    with pytest.raises(TypeError):
        low < 5


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (None, AddrError),
        ({}, AddrError),
        ({"id": 5, "addrs": []}, AddrError),
        ({"id": str(ID)}, AddrError),
        ({"id": str(ID), "addrs": {}}, AddrError),
        ({"id": "x", "addrs": []}, KeyParsingError),
    ],
)
def test_endpoint_addr_from_json_rejects(value, error):
    with pytest.raises(error):
        EndpointAddr.from_json(value)


def test_endpoint_addr_wrong_types_rejected():
    for addrs in ("1.2.3.4:5", b"1.2.3.4:5", 5, [5], [b"1.2.3.4:5"]):
        with pytest.raises(TypeError, match="address"):
            EndpointAddr(ID, addrs)
    with pytest.raises(TypeError, match="list"):
        EndpointAddr(ID, ip_addrs="1.2.3.4:5")
    with pytest.raises(AddrError):
        EndpointAddr(ID, ["1.2.3.4"])
    with pytest.raises(AddrError):
        EndpointAddr(ID, ip_addrs=["localhost:1"])
    with pytest.raises(RelayUrlError):
        EndpointAddr(ID, relay_url="example.com")


def test_endpoint_addr_takes_text_wherever_an_address_is_wanted():
    expected = EndpointAddr(ID, [IpAddr(SocketAddr.parse("1.2.3.4:5")), RelayUrl("https://r.example")])
    assert EndpointAddr(ID, ["1.2.3.4:5", "https://r.example"]) == expected
    assert EndpointAddr(ID).with_addrs(["1.2.3.4:5"]).with_addrs(["https://r.example/"]) == expected


# --- postcard numbers


@given(st.integers(0, 2**64 - 1))
def test_varint_round_trips_and_is_minimal(value):
    encoded = encode_varint(value)
    assert len(encoded) == max(1, -(-value.bit_length() // 7))
    reader = PostcardReader(encoded)
    assert reader.varint(64) == value and reader.offset == len(encoded)


@pytest.mark.parametrize(
    ("data", "bits", "value"),
    [
        ("8a00", 16, 10),
        ("8a8000", 16, 10),
        ("ffff03", 16, 65535),
        ("ffff04", 16, None),
        ("8a808000", 16, None),
        ("80", 16, None),
        ("", 16, None),
        ("ffffffff0f", 32, 2**32 - 1),
        ("ffffffff10", 32, None),
        ("ffffffffffffffffff01", 64, 2**64 - 1),
        ("ffffffffffffffffff02", 64, None),
        ("8080808080808080808000", 64, None),
    ],
)
def test_varint_limits(data, bits, value):
    reader = PostcardReader(bytes.fromhex(data))
    if value is None:
        with pytest.raises(AddrError):
            reader.varint(bits)
    else:
        assert reader.varint(bits) == value
