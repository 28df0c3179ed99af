"""Paths that are chosen by a function of the user."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import pytest
from pairs import Net, both_ways, eventually, online, selected

from iroh_fast import Endpoint, EndpointAddr, PathTuple, presets
from iroh_fast.addr import RelayAddr
from iroh_fast.errors import ConfigError
from iroh_fast.relay.server.server import RelayServer

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_stray_errors")]

Found = Iterable[tuple[PathTuple, float]]


def relay_first(current: PathTuple | None, found: Found) -> PathTuple | None:
    """Relays, as long as there are any."""
    return next((path for path, _ in found if path.kind == "relay"), None)


async def test_selector_may_stay_with_the_relay(net: Net, relay: RelayServer) -> None:
    calls: list[tuple[PathTuple | None, dict[PathTuple, float]]] = []

    def selector(current: PathTuple | None, found: Found) -> PathTuple | None:
        calls.append((current, dict(found)))
        return relay_first(current, calls[-1][1].items())

    server = await net.bind(relays=[relay.url])
    client = await net.bind(relays=[relay.url], path_selector=selector)
    await online(server, client)
    pair = await net.dial(client, server, EndpointAddr(server.id, relay_url=relay.url))
    await eventually(lambda: any(path.is_ip and path.validated for path in pair.client.paths))
    await eventually(lambda: any(len(found) > 1 for _, found in calls))
    await both_ways(pair, 10_000)
    assert selected(pair.client) == RelayAddr(relay.url)
    why = pair.client.why_relayed()
    assert why is not None and why.startswith("the path_selector chose the relay, though ip:")
    current, found = next((current, found) for current, found in calls if len(found) > 1)
    assert current == PathTuple("relay", RelayAddr(relay.url))
    assert {path.kind for path in found} == {"relay", "ipv4"}
    assert all(rtt > 0 for rtt in found.values())


@pytest.mark.parametrize("wrong", [KeyError("oh"), PathTuple("relay", RelayAddr("http://x/"))])
async def test_selector_that_fails_leaves_the_choice_to_the_default(
    net: Net, relay: RelayServer, wrong: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def selector(current: PathTuple | None, found: Found) -> PathTuple | None:
        if isinstance(wrong, Exception):
            raise wrong
        return wrong  # type: ignore[no-any-return]

    server = await net.bind(relays=[relay.url])
    client = await net.bind(relays=[relay.url], path_selector=selector)
    await online(server, client)
    with caplog.at_level(logging.WARNING, "iroh_fast.net"):
        pair = await net.dial(client, server, EndpointAddr(server.id, relay_url=relay.url))
        await both_ways(pair, 10_000)
    assert "path_selector" in caplog.text


@pytest.mark.parametrize("wrong", [PathTuple, "rtt", 5])
def test_selector_of_a_wrong_kind_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="path_selector is a function"):
        Endpoint.bind(preset=presets.minimal, path_selector=wrong)


def test_selector_that_would_wait_is_refused() -> None:
    async def selector(current: PathTuple | None, found: Found) -> PathTuple | None:
        return None

    with pytest.raises(ConfigError, match="path_selector is a plain function"):
        Endpoint.bind(preset=presets.minimal, path_selector=selector)  # type: ignore[arg-type]
