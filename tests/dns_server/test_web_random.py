"""Whatever bytes and texts come: documented errors alone, and the same however they are cut."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from web_peer import request

from iroh_fast.dns_server import DnsServerConfig
from iroh_fast.dns_server.config_file import duration
from iroh_fast.dns_server.doh import _choose, _message
from iroh_fast.dns_server.rate import Clients
from iroh_fast.errors import BadQuery, ConfigError
from iroh_fast.web.message import Request
from iroh_fast.web.reading import MAX_HEAD_BYTES, Refused, RequestReader
from iroh_fast.web.tls_challenge import offered

LIMIT = 256

tokens = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=12)
values = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=20)
bodies = st.binary(max_size=LIMIT)


def in_chunks(body: bytes, size: int) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@st.composite
def requests(draw: st.DrawFn) -> tuple[list[tuple[str, str, bytes]], bytes]:
    """What is asked, and the bytes of it; a body in chunks comes last."""
    asked, data = [], b""
    for _ in range(draw(st.integers(1, 5))):
        method, path = draw(st.sampled_from(["GET", "PUT", "POST"])), f"/{draw(tokens)}"
        body = draw(bodies) if method != "GET" else None
        headers = {f"x-{draw(tokens)}": draw(values) for _ in range(draw(st.integers(0, 4)))}
        asked.append((method, path, body or b""))
        data += request(path, method, body, **headers)
    if draw(st.booleans()):
        body = draw(bodies.filter(len))
        asked.append(("PUT", "/chunks", body))
        data += request("/chunks", "PUT", transfer_encoding="chunked")
        data += in_chunks(body, draw(st.integers(1, 64)))
    return asked, data


def read_all(reader: RequestReader, pieces: list[bytes]) -> list[tuple[str, str, bytes]]:
    found = []
    for piece in pieces:
        reader.feed(piece)
        while reader.left:
            before = reader.left
            asked = reader.read()
            if asked is not None:
                found.append((asked.method, asked.target, asked.body))
            assert asked is not None or reader.left < before
    return found


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted(at % (len(data) + 1) for at in places)
    return [data[a:b] for a, b in zip([0, *ends], [*ends, len(data)])]


@given(requests(), st.lists(st.integers(0, 10_000), max_size=12))
def test_requests_are_read_alike_however_they_are_cut(
    asked: tuple[list[tuple[str, str, bytes]], bytes], places: list[int]
) -> None:
    expected, data = asked
    assert read_all(RequestReader(max_body=LIMIT), cut(data, places)) == expected


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.sampled_from(
                [
                    b"PUT / HTTP/1.1\r\n", b"content-length: 5\r\n", b"\r\n", b"\r\n\r\n",
                    b"transfer-encoding: chunked\r\n", b"5\r\nhello\r\n", b"0\r\n\r\n", b"\n",
                    b"GET /x HTTP/1.1\r\n\r\n", b"expect: 100-continue\r\n", b"ffffffffffffffff\r\n",
                    b"connection: upgrade\r\nupgrade: websocket\r\n", b"content-length: 99999999\r\n",
                ]
            ),
        ),
        max_size=30,
    )
)  # fmt: skip
def test_bytes_of_every_kind_are_requests_or_refused(pieces: list[bytes]) -> None:
    reader = RequestReader(max_body=LIMIT)
    for piece in pieces:
        reader.feed(piece)
        try:
            while reader.left:
                asked = reader.read()
                assert asked is None or len(asked.body) <= LIMIT
                if asked is not None and not reader.keep_alive:
                    return
        except Refused as refused:
            assert refused.status in (400, 413, 417, 431)
            return
        held = len(reader._held) + len(reader._body or b"") + reader._head_size
        assert held <= MAX_HEAD_BYTES + LIMIT + sum(map(len, pieces))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["x-forwarded-for", "x-real-ip", "forwarded"]), st.binary(max_size=40)
        )
    )
)
def test_whatever_proxies_write_names_a_client(headers: list[tuple[str, bytes]]) -> None:
    clients = Clients(["127.0.0.0/8", "::1"])
    assert clients.key(Request(headers=headers), "127.0.0.1")
    assert clients.key(Request(headers=headers), "198.51.100.1") == "198.51.100.1"


@given(st.text(max_size=60), st.booleans())
def test_every_accept_header_is_understood(text: str, has_message: bool) -> None:
    assert _choose(text, has_message) in (True, False, None)


@given(st.binary(max_size=60))
def test_base64_of_every_kind_is_bytes_or_a_bad_query(text: bytes) -> None:
    try:
        assert isinstance(_message(text), bytes)
    except BadQuery as err:
        assert str(err).isascii()


@given(
    st.one_of(
        st.text(max_size=30), st.from_regex(r"(\d{1,9} ?[a-zA-Z]{1,8} ?){1,4}", fullmatch=True)
    )
)
def test_durations_are_seconds_or_a_named_error(text: str) -> None:
    try:
        assert duration("x", text) >= 0
    except ConfigError as err:
        assert str(err).startswith("x is a duration")


@given(st.binary(max_size=400), st.booleans())
def test_beginnings_of_handshakes_of_every_kind(data: bytes, is_hello: bool) -> None:
    name, protocols = offered(b"\x16\x03\x01\x01\x00\x01\x00\x00\x80" + data if is_hello else data)
    assert isinstance(name, str) and isinstance(protocols, list)


def toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    return str(value) if isinstance(value, (int, float)) else f"'{value}'"


KEYS = (
    *(
        "pkarr_put_rate_limit",
        "data_dir",
        "max_future",
        "trusted_proxies",
        "http.port",
        "http.bind_addr",
    ),
    *(
        "http.listen_backlog",
        "https.port",
        "https.domains",
        "https.cert_mode",
        "dns.port",
        "dns.origins",
    ),
    *("https.letsencrypt_contact", "dns.default_soa", "dns.default_ttl", "dns.rr_a", "dns.rr_ns"),
    *(
        "dns.udp_rate",
        "dns.tcp_idle",
        "metrics.disabled",
        "metrics.bind_addr",
        "mainline.bootstrap",
    ),
    *("zone_store.eviction", "zone_store.max_records", "zone_store.postgres", "unknown.key", "dns"),
)
scalars = st.one_of(
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E, exclude_characters="'"), max_size=20),
    st.sampled_from(["127.0.0.1", "::", "7days", "manual", "smart", "example.", "10.0.0.0/8"]),
)  # fmt: skip


@given(
    st.dictionaries(
        st.sampled_from(KEYS), st.one_of(scalars, st.lists(scalars, max_size=3)), max_size=8
    )
)
def test_files_with_values_of_every_kind_are_settings_or_a_named_error(
    given_: dict[str, object],
) -> None:
    values = {"http.port": 0, "dns.port": 0, **given_}
    text = "".join(f"{key} = {toml(value)}\n" for key, value in values.items())
    try:
        DnsServerConfig.from_toml(text, env={}, on_unknown=lambda _: None)
    except ConfigError as err:
        assert len(str(err)) < 500
