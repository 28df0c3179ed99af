"""Address-validation tokens and the client's cache of tickets and tokens."""

from __future__ import annotations

import random as random_module

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iroh_fast.quic.tls.sessions import (
    MAX_TOKEN_BYTES,
    ClientSessionCache,
    ResumptionTicket,
    ServerTicket,
    ServerTicketStore,
)
from iroh_fast.quic.tls.tokens import (
    RetryToken,
    TokenCheck,
    TokenKey,
    TokenOutcome,
    ValidationToken,
    validate,
)

KEY = TokenKey(bytes(range(32)))
IP = bytes(10) + b"\xff\xff" + bytes((192, 0, 2, 1))
OTHER_IP = bytes(15) + b"\x01"
NOW = 1_700_000_000


@settings(max_examples=50, deadline=None)
@given(
    st.binary(min_size=16, max_size=16),
    st.integers(0, 0xFFFF),
    st.binary(max_size=20),
    st.integers(0, (1 << 64) - 1),
)
def test_retry_token_round_trip(ip16: bytes, port: int, odcid: bytes, now_s: int) -> None:
    token = KEY.seal_retry(ip16, port, odcid, now_s)
    assert KEY.open(token) == RetryToken(ip16, port, odcid, now_s)
    assert len(token) <= 76
    assert ip16 not in token


def test_validation_token_round_trip() -> None:
    assert KEY.open(KEY.seal_validation(IP, NOW)) == ValidationToken(IP, NOW)


def test_tokens_never_repeat() -> None:
    assert KEY.seal_retry(IP, 1, b"12345678", NOW) != KEY.seal_retry(IP, 1, b"12345678", NOW)
    one, two = (TokenKey(bytes(32), random_module.Random(7).randbytes) for _ in range(2))
    assert one.seal_retry(IP, 1, b"x", NOW) == two.seal_retry(IP, 1, b"x", NOW)


def test_foreign_and_damaged_tokens_are_none() -> None:
    token = KEY.seal_retry(IP, 4433, b"12345678", NOW)
    assert TokenKey(bytes(32)).open(token) is None
    for at in range(len(token)):
        damaged = bytearray(token)
        damaged[at] ^= 1
        assert KEY.open(bytes(damaged)) is None
        assert KEY.open(token[:at]) is None
    assert KEY.open(token + b"x") is None
    assert KEY.open(bytes(100_000)) is None


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=100))
def test_random_tokens_are_none(token: bytes) -> None:
    assert KEY.open(token) is None
    assert validate(KEY, token, IP, 1, NOW) == TokenCheck(TokenOutcome.NONE)


@pytest.mark.parametrize(
    ("ip16", "port", "after_s", "outcome"),
    [
        (IP, 4433, 0, TokenOutcome.RETRY),
        (IP, 4433, 15, TokenOutcome.RETRY),
        (IP, 4433, -5, TokenOutcome.RETRY),
        (IP, 4433, 16, TokenOutcome.INVALID),
        (IP, 4433, -6, TokenOutcome.INVALID),
        (IP, 4434, 0, TokenOutcome.INVALID),
        (OTHER_IP, 4433, 0, TokenOutcome.INVALID),
    ],
)
def test_retry_token_judgement(ip16: bytes, port: int, after_s: int, outcome: TokenOutcome) -> None:
    token = KEY.seal_retry(IP, 4433, b"original", NOW)
    check = validate(KEY, token, ip16, port, NOW + after_s)
    assert check.outcome is outcome
    assert check.original_dcid == (b"original" if outcome is TokenOutcome.RETRY else None)


def test_validation_token_judgement() -> None:
    token = KEY.seal_validation(IP, NOW)
    assert validate(KEY, token, IP, 1, NOW + 1000).outcome is TokenOutcome.ADDRESS
    assert validate(KEY, token, IP, 2, NOW + 1000).outcome is TokenOutcome.ADDRESS
    assert validate(KEY, token, OTHER_IP, 1, NOW).outcome is TokenOutcome.NONE
    assert validate(KEY, token, IP, 1, NOW + 15 * 86_400).outcome is TokenOutcome.NONE
    assert validate(KEY, b"", IP, 1, NOW).outcome is TokenOutcome.NONE
    short = validate(KEY, token, IP, 1, NOW + 11, validation_lifetime_s=10)
    assert short.outcome is TokenOutcome.NONE


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError):
        TokenKey(bytes(31))
    for ip16, port, odcid in ((bytes(4), 1, b""), (IP, 65_536, b""), (IP, 1, bytes(21))):
        with pytest.raises(ValueError):
            KEY.seal_retry(ip16, port, odcid, NOW)
    with pytest.raises(ValueError):
        KEY.seal_validation(bytes(4), NOW)
    assert repr(KEY) == "<TokenKey>"


# --- session_cache ---------------------------------------------------------------------


def ticket(peer: int, name: bytes, alpn: bytes = b"a", lifetime_s: int = 100) -> ResumptionTicket:
    return ResumptionTicket(
        peer=peer.to_bytes(32, "big"),
        suite=0x1301,
        identity=name,
        psk=bytes(32),
        alpn=alpn,
        transport_parameters=b"",
        issued_s=float(NOW),
        lifetime_s=lifetime_s,
        age_add=0,
        max_early_data=0,
    )


def peer(number: int) -> bytes:
    return number.to_bytes(32, "big")


def test_client_cache_returns_the_newest_once() -> None:
    cache = ClientSessionCache()
    for name in (b"1", b"2", b"3"):
        cache.put_ticket(ticket(1, name))
    for name in (b"3", b"2", b"1"):
        found = cache.take_ticket(peer(1), NOW)
        assert found is not None and found.identity == name
    assert cache.take_ticket(peer(1), NOW) is None
    assert len(cache) == 0


def test_client_cache_prefers_a_protocol() -> None:
    cache = ClientSessionCache()
    cache.put_ticket(ticket(1, b"1", alpn=b"x"))
    cache.put_ticket(ticket(1, b"2", alpn=b"y"))
    first = cache.take_ticket(peer(1), NOW, [b"x"])
    second = cache.take_ticket(peer(1), NOW, [b"x"])
    assert first is not None and first.identity == b"1"
    assert second is not None and second.identity == b"2"


def test_client_cache_is_bounded_and_drops_the_least_recently_used() -> None:
    cache = ClientSessionCache()
    for number in range(32):
        cache.put_ticket(ticket(number, b"t"))
        cache.put_ticket(ticket(number, b"u"))
    assert cache.take_ticket(peer(0), NOW) is not None  # refreshes peer 0
    cache.put_ticket(ticket(99, b"t"))
    assert len(cache) == 32
    assert cache.take_ticket(peer(0), NOW) is not None
    assert cache.take_ticket(peer(1), NOW) is None
    for index in range(20):
        cache.put_ticket(ticket(50, bytes((index,))))
    names = []
    while (found := cache.take_ticket(peer(50), NOW)) is not None:
        names.append(found.identity[0])
    assert names == list(range(19, 11, -1))


def test_client_cache_drops_expired_tickets() -> None:
    cache = ClientSessionCache()
    cache.put_ticket(ticket(1, b"long", lifetime_s=100))
    cache.put_ticket(ticket(1, b"short", lifetime_s=10))
    found = cache.take_ticket(peer(1), NOW + 10)
    assert found is not None and found.identity == b"long"
    assert len(cache) == 0


def test_client_cache_keeps_two_tokens_per_peer() -> None:
    cache = ClientSessionCache()
    for token in (b"1", b"2", b"2", b"3"):
        cache.put_token(peer(1), token)
    cache.put_token(peer(1), b"")
    cache.put_token(peer(1), bytes(MAX_TOKEN_BYTES + 1))
    assert [cache.take_token(peer(1)) for _ in range(3)] == [b"3", b"2", None]
    assert cache.take_token(peer(2)) is None
    assert len(cache) == 0


def test_server_store_is_bounded_and_single_use() -> None:
    store = ServerTicketStore()
    entry = ServerTicket(
        client=peer(1),
        suite=0x1301,
        psk=b"secret" * 5,
        alpn=b"a",
        transport_parameters=b"",
        age_add=0,
        issued_s=float(NOW),
    )
    for number in range(300):
        store.put(peer(number), entry)
    assert len(store) == 256
    assert store.take(peer(43), NOW) is None
    assert store.take(peer(44), NOW) is entry
    assert store.take(peer(44), NOW) is None
    assert store.take(peer(45), NOW + 86_400) is None
    assert len(store) == 254
    assert "secret" not in repr(entry)
