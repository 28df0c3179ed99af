"""How often the addresses of one prefix are answered over UDP."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iroh_fast.dns_server._limits import PrefixLimiter
from iroh_fast.dns_server.service import DnsLimits
from iroh_fast.errors import ConfigError

ADMITTED, TRUNCATED, SILENT = range(3)
SECOND = 1_000_000_000


def admitted(limiter: PrefixLimiter, ip: str, now: int, n: int) -> int:
    return sum(limiter.ask(ip, now) == ADMITTED for _ in range(n))


def test_limiter_lets_a_burst_pass_and_then_the_rate() -> None:
    limiter = PrefixLimiter(10, 20)
    now = 5 * SECOND
    assert admitted(limiter, "192.0.2.1", now, 100) == 20
    assert admitted(limiter, "192.0.2.1", now + SECOND // 10, 100) == 1
    assert admitted(limiter, "192.0.2.1", now + 2 * SECOND, 100) in (18, 19)
    assert admitted(limiter, "192.0.2.1", now + 3600 * SECOND, 100) == 20
    assert limiter.refusals == 400 - 20 - 1 - 20 - 19 or limiter.refusals == 400 - 20 - 1 - 20 - 18


def test_limiter_hints_at_tcp_every_second_time() -> None:
    limiter = PrefixLimiter(1, 1)
    assert limiter.ask("192.0.2.1", SECOND) == ADMITTED
    assert [limiter.ask("192.0.2.1", SECOND) for _ in range(4)] == [
        TRUNCATED,
        SILENT,
        TRUNCATED,
        SILENT,
    ]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.255", True),
        ("192.0.2.1", "192.0.3.1", False),
        ("2001:db8:1:2::1", "2001:db8:1:2ff::1", False),
        ("2001:db8:1:200::1", "2001:db8:1:2ff::1", True),
        ("2001:db8:1:200::1", "2001:db8:1:300::1", False),
        ("2001:db8::1", "192.0.2.1", False),
        ("::ffff:192.0.2.9", "192.0.2.1", True),
    ],
)
def test_limiter_counts_prefixes(one: str, other: str, same: bool) -> None:
    limiter = PrefixLimiter(1, 5)
    assert admitted(limiter, one, SECOND, 10) == 5
    assert admitted(limiter, other, SECOND, 10) == (0 if same else 5)


@pytest.mark.parametrize("ip", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_limiter_leaves_this_machine_alone(ip: str) -> None:
    assert admitted(PrefixLimiter(1, 1), ip, SECOND, 1000) == 1000


def test_limiter_without_a_rate_admits_all() -> None:
    assert admitted(PrefixLimiter(), "192.0.2.1", SECOND, 1000) == 1000


def test_limiter_flood_of_prefixes_does_not_free_a_victim() -> None:
    """The table is of fixed size; the victim is the busiest, and keeps its place."""
    limiter = PrefixLimiter(1, 100)
    now = SECOND
    assert admitted(limiter, "192.0.2.1", now, 200) == 100
    for n in range(100_000):
        limiter.ask(f"{1 + n % 100}.{n // 100 % 256}.{n // 25_600}.1", now)
    assert admitted(limiter, "192.0.2.1", now, 200) == 0


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, SECOND)), max_size=200))
def test_limiter_never_gives_more_than_burst_and_rate(asked: list[tuple[int, int]]) -> None:
    limiter = PrefixLimiter(5, 7)
    start = now = SECOND
    given_to = dict.fromkeys(range(4), 0)
    for prefix, wait in asked:
        now += wait
        given_to[prefix] += limiter.ask(f"198.51.{prefix}.1", now) == ADMITTED
    for number in given_to.values():
        assert number <= 7 + 5 * (now - start) / SECOND + 1


@pytest.mark.parametrize("rate", [0, -1, 2_000_000, float("nan")])
def test_limiter_rate_out_of_range_is_told(rate: float) -> None:
    with pytest.raises(ValueError, match="rate"):
        PrefixLimiter(rate, 1)
    with pytest.raises(ConfigError, match="udp_rate"):
        DnsLimits(udp_rate=rate)


@pytest.mark.parametrize("name", ["udp_burst", "tcp_connections", "tcp_per_ip", "tcp_idle"])
def test_limits_out_of_range_are_told(name: str) -> None:
    for value in (0, -1):
        with pytest.raises(ConfigError, match=name):
            DnsLimits(**{name: value})  # type: ignore[arg-type]
