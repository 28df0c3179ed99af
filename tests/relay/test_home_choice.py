"""The nearest relay as home: who is chosen when, in virtual time, and with relays that refuse."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from types import SimpleNamespace
from typing import Any, cast

import pytest
from relay_peer import config, until
from tests.virtual import VirtualLoop

from iroh_fast import Endpoint, RelayUrl, presets
from iroh_fast.net_report import NetReport
from iroh_fast.relay import AllowList, Candidate, Nearest, RelayConfig, RelayMap, RelayServer
from iroh_fast.relay.client.active import ActiveRelay
from iroh_fast.relay.client.choosing import FIRST_REPORT_S, REFUSED_S, HomeChoice

A, B, C = (RelayUrl(f"https://{name}.example/") for name in "abc")


def measured(preferred: RelayUrl | None = None, **milliseconds: float) -> NetReport:
    by_relay = {
        RelayUrl(f"https://{name}.example/"): ms / 1000 for name, ms in milliseconds.items()
    }
    return NetReport(relay_latency={"qad_v4": by_relay}, preferred_relay=preferred)


def up(*, home: bool = False) -> Candidate:
    return Candidate("connected", home, 0.0, False, True)


def failed(*, home: bool = False) -> Candidate:
    return Candidate("disconnected", home, 0.5, True, False)


def away(seconds: float) -> Candidate:
    return Candidate("disconnected", True, seconds, True, True)


@pytest.mark.parametrize(
    ("report", "states", "chosen"),
    [
        (None, {}, A),
        (None, {A: failed(home=True)}, B),
        (measured(), {B: up(home=True)}, B),  # nothing answered: nothing changes
        (measured(B, b=10), {}, B),
        (measured(B, b=10), {A: up(home=True)}, B),
        (measured(B, b=10), {A: up(home=True), B: up()}, B),
        # It answers, but does not take us: the next one by latency, then those that were silent.
        (measured(B, b=10, c=20), {B: failed(home=True)}, C),
        (measured(B, b=10), {B: failed(home=True)}, A),
        (measured(B, b=10, c=20), {B: failed(), A: up(home=True)}, A),  # better than none
        # Gone for a moment, as far as is known: only a report says more.
        (measured(B, b=10, c=20), {B: away(1.0)}, B),
        (measured(B, b=10, c=20), {B: away(4.0)}, C),
        (measured(C, c=20), {B: away(0.1)}, C),
        (measured(RelayUrl("https://z.example/")), {}, A),
    ],
)
def test_nearest(
    report: NetReport | None, states: dict[RelayUrl, Candidate], chosen: RelayUrl
) -> None:
    assert Nearest().choose(RelayMap([A, B, C]), report, states) == chosen


def test_nearest_of_no_relays() -> None:
    assert Nearest().choose(RelayMap(), None, {}) is None
    assert Nearest().choose(RelayMap(), measured(A, a=1), {}) is None


# --- when it is asked ---------------------------------------------------------------------


class Choosing:
    """A choice over three relays that are never really connected to."""

    def __init__(self, *relays: RelayUrl | RelayConfig, **options: Any) -> None:
        self.loop = asyncio.get_running_loop()
        self.map = RelayMap(relays or (A, B, C))
        self.active: dict[RelayUrl, Any] = {}
        self.home: RelayUrl | None = None
        self.homes: list[tuple[float, RelayUrl | None]] = []
        settings = {"policy": None, "report_due": True, **options}
        self.choice = HomeChoice(
            self.map, self.active, lambda: self.home, self._chosen, loop=self.loop, **settings
        )
        self.choice.begin()

    def _chosen(self, url: RelayUrl | None) -> None:
        if url != self.home:
            self.home = url
            self.homes.append((round(self.loop.time(), 3), url))
            if url is not None and url not in self.active:
                self.active[url] = self._relay(url)

    def _relay(self, url: RelayUrl) -> Any:
        relay = SimpleNamespace(
            url=url,
            state="connecting",
            error=None,
            was_connected=False,
            since=self.loop.time(),
            retried=0,
        )

        def candidate() -> Candidate:
            waiting = 0.0 if relay.state == "connected" else self.loop.time() - relay.since
            is_home = url == self.home
            return Candidate(
                relay.state, is_home, waiting, relay.error is not None, relay.was_connected
            )

        def retry_now() -> None:
            relay.retried += 1

        relay.candidate, relay.retry_now = candidate, retry_now
        return relay

    def connects(self, url: RelayUrl) -> None:
        relay = self.active[url]
        relay.state, relay.error, relay.was_connected = "connected", None, True
        self.choice.again()

    def fails(self, url: RelayUrl) -> None:
        relay = self.active[url]
        relay.state, relay.error = "disconnected", OSError("no")
        self.choice.again()

    def idle(self, url: RelayUrl) -> None:
        relay = self.active.pop(url)
        self.choice.unused(cast(ActiveRelay, relay))
        self.choice.again()


def case(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    loop = VirtualLoop()
    try:
        loop.run_until_complete(work())
    finally:
        loop.close()


def test_choice_among_several_waits_for_the_first_report() -> None:
    async def work() -> None:
        made = Choosing()
        await asyncio.sleep(0.3)
        assert not made.homes
        made.choice.reported(measured(B, b=10))
        assert made.homes == [(0.3, B)]
        assert made.choice.prefer_ipv6 is False
        made.choice.reported(NetReport(udp_v6=True, preferred_relay=B))
        assert made.choice.prefer_ipv6 is True
        made.choice.end()
        made.choice.reported(measured(C, c=1))
        assert len(made.homes) == 1

    case(work)


def test_choice_does_not_wait_for_ever_nor_without_need() -> None:
    async def work() -> None:
        late = Choosing()
        await asyncio.sleep(FIRST_REPORT_S + 0.001)
        assert late.homes == [(FIRST_REPORT_S, A)]
        began = round(asyncio.get_running_loop().time(), 3)
        nothing = Choosing()
        nothing.choice.reported(None)
        for made in (
            nothing,
            Choosing(A),
            Choosing(report_due=False),
            Choosing(policy=Nearest()),  # a policy of the user's is asked at once
        ):
            assert made.homes == [(began, A)]

    case(work)


def test_relay_that_refuses_is_not_tried_again_and_again() -> None:
    async def work() -> None:
        made = Choosing()
        made.choice.reported(measured(B, b=10, a=30))
        made.fails(B)
        made.connects(A)
        assert [url for _, url in made.homes] == [B, A]
        await asyncio.sleep(60)
        made.idle(B)
        for _ in range(10):
            made.choice.reported(measured(B, b=10, a=30))
        assert made.home == A and len(made.homes) == 2
        await asyncio.sleep(REFUSED_S)
        made.choice.again()
        assert made.home == B  # it may have changed its mind
        made.fails(B)
        made.idle(B)
        made.choice.again()
        assert made.home == A
        made.choice.network_changed()
        made.choice.again()
        assert made.home == B
        made.fails(B)
        made.idle(B)
        assert made.home == A
        made.map.insert(RelayConfig(B, auth_token="secret"))
        assert made.home == B

    case(work)


def test_relay_that_was_good_is_not_remembered_as_bad() -> None:
    async def work() -> None:
        made = Choosing()
        made.choice.reported(measured(B, b=10, a=30))
        made.connects(B)
        made.choice.reported(measured(C, c=1))
        made.active[B].error = OSError("gone")
        made.idle(B)
        made.choice.reported(measured(B, b=10))
        assert made.home == B

    case(work)


# --- with relays --------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def bound(*relays: str) -> AsyncIterator[Endpoint]:
    async with Endpoint.bind(presets.minimal, relays=relays, ip_transports=False) as ep:
        yield ep


async def test_relay_that_answers_but_does_not_let_us_in_is_passed_over() -> None:
    async with RelayServer(config(access=AllowList([]))) as closed, RelayServer(config()) as open_:
        async with bound(closed.url, open_.url) as ep:
            await ep.online()
            assert ep.addr.relay_urls == (open_.url,)
            report = await ep.watch_net_report().wait_for(lambda report: report is not None)
            assert report is not None and report.latency(closed.url) is not None
            await until(lambda: ep.metrics.snapshot()["socket:relay_conns_success"] == 1)
            assert ep.addr.relay_urls == (open_.url,)
