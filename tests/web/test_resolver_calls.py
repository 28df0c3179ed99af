"""Calls of the resolver: their time, staggered ones, changes of the network, resolvers of users."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Coroutine, Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from name_server import name_server, resolver_with, says, silent

from iroh_fast.errors import (
    ConfigError,
    DnsNoResponse,
    DnsNxDomain,
    DnsResolveFailed,
    DnsStaggered,
    DnsTimeout,
    IrohError,
)
from iroh_fast.web.ca import CaConfig
from iroh_fast.web.resolver import DnsResolver, as_resolver
from iroh_fast.web.resolver.stagger import DNS_STAGGER_S, staggered

Run = Callable[[Coroutine[Any, Any, Any]], Any]


class Scripted:
    """A resolver of one's own: each call takes some time, then gives or raises something."""

    def __init__(self, *script: tuple[float, Any]) -> None:
        self.script = list(script)
        self.calls: list[float] = []
        self.cancelled = 0
        self.cleared = 0
        self.resets = 0

    async def _next(self) -> Any:
        loop = asyncio.get_running_loop()
        self.calls.append(round(loop.time(), 6))
        delay, result = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        try:
            await asyncio.sleep(delay)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if isinstance(result, Exception):
            raise result
        return result

    async def lookup_ipv4(self, host: str) -> Iterable[IPv4Address]:
        return await self._next()  # type: ignore[no-any-return]

    async def lookup_ipv6(self, host: str) -> Iterable[IPv6Address]:
        return await self._next()  # type: ignore[no-any-return]

    async def lookup_txt(self, host: str) -> Iterable[Sequence[bytes]]:
        return await self._next()  # type: ignore[no-any-return]

    def clear_cache(self) -> None:
        self.cleared += 1

    def reset(self) -> Scripted:
        self.resets += 1
        return self


V4 = [ipaddress.IPv4Address("192.0.2.1")]


def test_call_has_three_seconds(virtual: Run) -> None:
    async def main() -> None:
        inner = Scripted((2.9, V4), (99.0, V4))
        resolver = DnsResolver.custom(inner)
        assert await resolver.lookup_ipv4("a.") == V4
        with pytest.raises(DnsTimeout) as caught:
            await resolver.lookup_ipv4("a.")
        assert asyncio.get_running_loop().time() == pytest.approx(5.9)
        assert isinstance(caught.value, TimeoutError) and "within 3 s" in str(caught.value)
        await asyncio.sleep(0)
        assert inner.cancelled == 1

    virtual(main())


def test_both_families_have_their_own_time(virtual: Run) -> None:
    async def main() -> None:
        inner = Scripted((0.5, V4), (99.0, []))
        resolver = DnsResolver.custom(inner)
        assert await resolver.lookup_ipv4_ipv6("a.") == V4
        assert inner.calls == [0.0, 0.0]
        assert asyncio.get_running_loop().time() == pytest.approx(3.0)

    virtual(main())


def test_addresses_of_a_url_come_as_soon_as_their_family_is_there(virtual: Run) -> None:
    async def main() -> None:
        inner = Scripted((2.0, V4), (0.5, [ipaddress.IPv6Address("::7")]))
        loop = asyncio.get_running_loop()
        seen = [
            (str(ip), loop.time())
            async for ip in DnsResolver.custom(inner).resolve_host_all("http://a/")
        ]
        assert seen == [("::7", 0.5), ("192.0.2.1", 2.0)]

    virtual(main())


def test_change_of_the_network_begins_a_call_anew_with_new_time(virtual: Run) -> None:
    async def main() -> None:
        inner = Scripted((99.0, V4), (99.0, V4), (2.5, V4))
        resolver = DnsResolver.custom(inner)
        loop = asyncio.get_running_loop()
        loop.call_later(2.0, resolver.reset)
        loop.call_later(4.0, resolver.reset)
        assert await resolver.lookup_ipv4("a.") == V4
        assert inner.calls == [0.0, 2.0, 4.0] and loop.time() == 6.5
        assert (inner.cancelled, inner.resets) == (2, 2)

    virtual(main())


def test_result_that_is_there_wins_over_a_change_of_the_network(virtual: Run) -> None:
    class Changing(Scripted):
        async def lookup_ipv4(self, host: str) -> Iterable[IPv4Address]:
            found = await self._next()
            resolver.reset()
            return found  # type: ignore[no-any-return]

    inner = Changing((1.0, V4))
    resolver = DnsResolver.custom(inner)
    assert virtual(resolver.lookup_ipv4("a.")) == V4
    assert (inner.calls, inner.resets) == ([0.0], 1)


def test_change_of_the_network_wins_over_the_time(virtual: Run) -> None:
    async def main() -> None:
        inner = Scripted((99.0, V4), (1.0, V4))
        resolver = DnsResolver.custom(inner)
        loop = asyncio.get_running_loop()
        loop.call_later(3.0, resolver.reset)
        assert await resolver.lookup_ipv4("a.") == V4
        assert inner.calls == [0.0, 3.0] and loop.time() == 4.0

    virtual(main())


def test_one_resolver_serves_one_loop_after_the_other(virtual: Run) -> None:
    resolver = DnsResolver.custom(Scripted((1.0, V4)))
    for _ in range(3):
        assert virtual(resolver.lookup_ipv4("a.")) == V4


async def test_reset_asks_the_servers_of_now_and_keeps_answers(tmp_path: Any) -> None:
    conf = tmp_path / "resolv.conf"
    async with name_server(silent) as old, name_server(says(("", "A", 60, "192.0.2.1"))) as new:
        conf.write_text(f"nameserver 127.0.0.1:{new.port}\n")
        async with resolver_with(conf=conf, timeout=60) as resolver:
            await resolver.lookup_ipv4("kept.")
            conf.write_text(f"nameserver 127.0.0.1:{old.port}\n")
            waits = asyncio.create_task(resolver.lookup_ipv4("a."))
            while not old.queries:
                await asyncio.sleep(0.005)
            conf.write_text(f"# again\nnameserver 127.0.0.1:{new.port}\n")
            resolver.reset()
            assert [str(ip) for ip in await waits] == ["192.0.2.1"]
            asked = len(new.queries)
            await resolver.lookup_ipv4("kept.")
            assert len(new.queries) == asked


# --- staggered


def test_staggered_calls_begin_at_their_times_whatever_others_do(virtual: Run) -> None:
    async def main() -> None:
        inner = Scripted((0.0, DnsNxDomain(host="a.")))
        with pytest.raises(DnsStaggered) as caught:
            await staggered(lambda: inner._next(), DNS_STAGGER_S, what="a.", uniform=lambda: 0.5)
        assert inner.calls == [0.0, 0.2, 0.3, 0.6, 1.0, 2.0, 3.0]
        assert len(caught.value.errors) == 7
        assert all(isinstance(error, DnsNxDomain) for error in caught.value.errors)
        assert caught.value.host == "a." and "there is no such name" in str(caught.value)

    virtual(main())


def test_staggered_calls_that_have_not_begun_cost_no_task(virtual: Run) -> None:
    async def main() -> None:
        inner = Scripted(*[(99.0, V4)] * 7)
        before = len(asyncio.all_tasks())
        lookup = asyncio.create_task(staggered(lambda: inner._next(), DNS_STAGGER_S))
        await asyncio.sleep(0.1)
        assert len(asyncio.all_tasks()) == before + 2
        lookup.cancel()
        await asyncio.gather(lookup, return_exceptions=True)
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == before

    virtual(main())


@pytest.mark.parametrize(("drawn", "factor"), [(0.0, 0.8), (1.0, 1.2)])
def test_staggered_delays_are_changed_by_a_fifth(virtual: Run, drawn: float, factor: float) -> None:
    async def main() -> None:
        inner = Scripted((0.0, DnsNxDomain()))
        with pytest.raises(DnsStaggered):
            await staggered(lambda: inner._next(), DNS_STAGGER_S, uniform=lambda: drawn)
        assert inner.calls == pytest.approx([0.0, *(d * factor for d in DNS_STAGGER_S)])

    virtual(main())


def test_first_success_ends_all_other_calls(virtual: Run) -> None:
    async def main() -> None:
        inner = Scripted((99.0, V4), (0.5, V4), (99.0, V4))
        resolver = DnsResolver.custom(inner)
        assert await resolver.lookup_ipv4_staggered("a.", [0.2, 0.4, 5.0]) == V4
        now = asyncio.get_running_loop().time()
        assert 0.66 <= now <= 0.74 and len(inner.calls) == 3
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()} and inner.cancelled == 2

    virtual(main())


def test_silent_servers_end_a_staggered_lookup_after_six_seconds(virtual: Run) -> None:
    async def main() -> None:
        with pytest.raises(DnsStaggered) as caught:
            await DnsResolver.custom(Scripted((99.0, V4))).lookup_txt_staggered("a.")
        assert all(isinstance(error, DnsTimeout) for error in caught.value.errors)
        assert 5.4 <= asyncio.get_running_loop().time() <= 6.6

    virtual(main())


def test_cancelled_staggered_lookup_leaves_nothing(virtual: Run) -> None:
    async def main() -> None:
        task = asyncio.create_task(
            DnsResolver.custom(Scripted((99.0, V4))).lookup_ipv4_ipv6_staggered("a.")
        )
        await asyncio.sleep(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for _ in range(5):
            await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    virtual(main())


# --- what users give


async def test_resolver_of_a_user_is_wrapped_and_its_failures_are_ours() -> None:
    inner = Scripted((0.0, KeyError("k")))
    resolver = as_resolver("dns_resolver", inner)
    with pytest.raises(DnsResolveFailed, match="'k'") as caught:
        await resolver.lookup_txt("a.")
    assert isinstance(caught.value, IrohError) and isinstance(caught.value, OSError)
    inner.script = [(0.0, TimeoutError())]
    with pytest.raises(DnsTimeout):
        await resolver.lookup_txt("a.")
    inner.script = [(0.0, [])]
    with pytest.raises(DnsNoResponse):
        await resolver.lookup_ipv4("a.")
    inner.script = [(0.0, ["192.0.2.9"])]
    assert [str(ip) for ip in await resolver.lookup_ipv4("a.")] == ["192.0.2.9"]
    inner.script = [(0.0, ["not an address"])]
    with pytest.raises(DnsResolveFailed):
        await resolver.lookup_ipv4("a.")
    resolver.clear_cache()
    assert inner.cleared == 1
    assert as_resolver("dns_resolver", resolver) is resolver and resolver.nameservers == ()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"nameservers": "192.0.2.1"}, "nameservers"),
        ({"nameservers": ["dns.example"]}, "nameservers"),
        ({"nameservers": ["192.0.2.1:0"]}, "port"),
        ({"nameservers": [("192.0.2.1", 53)]}, "nameservers"),
        ({"nameservers": ["192.0.2.1"] * 33}, "32"),
        ({"fallback_nameservers": [7]}, "fallback_nameservers"),
        ({"fallback": "always"}, "deferred"),
        ({"system": "yes"}, "system"),
        ({"ca": "pem"}, "ca"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": None}, "timeout"),
    ],
)
def test_wrong_option_is_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        DnsResolver(**options)


@pytest.mark.parametrize("value", [None, "192.0.2.1", DnsResolver, Scripted, object()])
def test_what_is_no_resolver_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match="dns_resolver"):
        as_resolver("dns_resolver", value)
    with pytest.raises(ConfigError, match="resolver"):
        DnsResolver.custom(value)


async def test_last_endpoint_closes_a_resolver_and_its_roots_count() -> None:
    resolver = DnsResolver(["192.0.2.1"])
    ca = CaConfig(roots="none")
    resolver.attach(ca)
    resolver.attach(CaConfig(insecure=True))
    assert resolver._ca is ca
    await resolver.detach()
    await resolver.detach()
