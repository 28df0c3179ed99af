"""The option `home_policy`: who chooses the home relay of an endpoint."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from relay_peer import config, until

from iroh_fast import Endpoint, RelayUrl, presets
from iroh_fast.errors import ConfigError
from iroh_fast.relay import Candidate, HomePolicy, ListOrder, RelayMap, RelayServer

pytestmark = [
    pytest.mark.filterwarnings("error::ResourceWarning"),
    pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning"),
]


class FromTheEnd:
    """The last relay of which no failure is known."""

    def choose(
        self, relays: RelayMap, report: object | None, states: Mapping[RelayUrl, Candidate]
    ) -> RelayUrl | None:
        urls = relays.urls()[::-1]
        good = [url for url in urls if url not in states or not states[url].failed]
        return next(iter(good or urls), None)


@contextlib.asynccontextmanager
async def bound(relays: Any, policy: Any, **options: Any) -> AsyncIterator[Endpoint]:
    options = {"relays": relays, "home_policy": policy, "ip_transports": False, **options}
    async with Endpoint.bind(preset=presets.minimal, **options) as ep:
        yield ep


def home(ep: Endpoint) -> tuple[str, ...]:
    return tuple(status.url for status in ep.watch_home_relay().value if status.connected)


async def test_policy_of_ones_own_chooses_and_fails_over() -> None:
    async with RelayServer(config()) as one, RelayServer(config()) as two, RelayServer(config()) as three:
        async with bound([one.url, two.url, three.url], FromTheEnd()) as ep:
            await ep.online()
            assert home(ep) == (three.url,) == ep.addr.relay_urls
            assert three.metrics()["connections"] == 1 and one.metrics()["connections"] == 0
            await three.stop()
            await until(lambda: home(ep) == (two.url,))
            assert ep.addr.relay_urls == (two.url,)
            await ep.remove_relay(two.url)
            await until(lambda: home(ep) == (one.url,))
            assert ep.metrics.snapshot()["socket:relay_home_change"] >= 3


async def test_order_of_the_list_without_reports_or_by_policy() -> None:
    async with RelayServer(config()) as one, RelayServer(config()) as two:
        for policy, reports in ((None, False), (ListOrder(), True)):
            async with bound([one.url, two.url], policy, net_report=reports) as ep:
                await ep.online()
                assert home(ep) == (one.url,)


@pytest.mark.parametrize("answer", ["https://elsewhere.example/", 5, ZeroDivisionError()])
async def test_policy_that_fails_is_logged_and_the_home_stays(
    answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Fails(ListOrder):
        broken = False

        def choose(self, *args: Any) -> Any:
            if not self.broken:
                return super().choose(*args)
            if isinstance(answer, Exception):
                raise answer
            return answer

    policy = Fails()
    async with RelayServer(config()) as one, RelayServer(config()) as two:
        async with bound([one.url], policy) as ep:
            await ep.online()
            policy.broken = True
            with caplog.at_level(logging.ERROR, "iroh_fast.relay.client"):
                await ep.insert_relay(two.url)
            assert "home policy" in caplog.text and "Fails" in caplog.text
            assert home(ep) == (one.url,)
            policy.broken = False
            await ep.remove_relay(one.url)
            await until(lambda: home(ep) == (two.url,))


async def test_policy_may_want_no_home() -> None:
    class Nobody:
        def choose(self, *args: object) -> None:
            return None

    policy: HomePolicy = Nobody()
    async with RelayServer(config()) as one, bound([one.url], policy) as ep:
        assert ep.watch_home_relay().value == () and ep.addr.is_empty
        assert one.metrics()["connections"] == 0


class Async:
    async def choose(self, *args: object) -> None:
        return None


@pytest.mark.parametrize("value", [5, "list", ListOrder, lambda *args: None, Async(), object()])
async def test_what_is_no_policy_is_refused_by_name(value: Any) -> None:
    with pytest.raises(ConfigError, match="home_policy"):
        Endpoint.bind(preset=presets.minimal, relays=[], home_policy=value)


async def test_policy_without_relays_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="home_policy .* relays"):
        Endpoint.bind(preset=presets.minimal, home_policy=ListOrder())
