"""Relay configuration: URLs, defaults, tokens, JSON, shared maps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from iroh_fast.addr import RelayUrl
from iroh_fast.errors import ConfigError, RelayUrlError
from iroh_fast.relay.map import RelayConfig, RelayMap, RelayMode, RelayStatus, relay_map

VECTORS = json.loads(
    Path(__file__).parents[1].joinpath("vectors", "relay_frames.json").read_text(encoding="utf-8")
)
URLS = VECTORS["relay_url"]
DEFAULTS = VECTORS["default_relays"]


@pytest.mark.parametrize(("text", "normal"), URLS["normalise"])
def test_url_is_normalised(text: str, normal: str) -> None:
    assert RelayUrl(text) == normal


@pytest.mark.parametrize("text", URLS["invalid"])
def test_invalid_url_is_refused_by_config_and_map(text: str) -> None:
    with pytest.raises(RelayUrlError):
        RelayConfig(text)
    with pytest.raises(RelayUrlError):
        RelayMap([text])
    assert text not in RelayMap(["https://a.example"])


@pytest.mark.parametrize("text", ["ftp://x.y", "foo:bar", "wss://example.com/relay", "file:///x"])
def test_other_schemes_are_no_relay(text: str) -> None:
    with pytest.raises(RelayUrlError, match="http or https"):
        RelayConfig(text)


def test_map_keeps_the_order_in_which_relays_were_given() -> None:
    # DIFFERS: iroh sorts by URL; here the first one of a list is the home.
    urls = URLS["sorted_map"]
    for order in (urls, urls[::-1], urls[2:] + urls[:2]):
        relays = RelayMap(order)
        assert list(relays) == order
        assert list(relays.urls()) == order
        assert [relay.url for relay in relays.relays()] == order
        relays.insert(RelayConfig(order[0], None))
        assert list(relays) == order


@pytest.mark.parametrize(
    ("text", "url", "token"),
    [
        ("https://a.example/?token=s%20e+c", "https://a.example/", "s e c"),
        ("https://a.example/?x=1&token=t&y=2", "https://a.example/?x=1&y=2", "t"),
        ("https://a.example/?token=", "https://a.example/", None),
        ("https://a.example/?mytoken=t", "https://a.example/?mytoken=t", None),
        ("https://a.example/#token=t", "https://a.example/#token=t", None),
    ],
)
def test_token_of_a_url_becomes_the_token_and_leaves_the_url(
    text: str, url: str, token: str | None
) -> None:
    config = RelayConfig(text)
    assert (config.url, config.auth_token) == (url, token)
    relays = RelayMap([text])
    assert list(relays) == [url] and text in relays and relays[text] == config
    assert "secret" not in repr(RelayConfig("https://a.example/?token=secret"))
    assert relays.remove(text) == config and not relays
    # One that is given apart counts.
    assert RelayConfig(text, auth_token="other").auth_token == "other"


def test_default_and_staging_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IROH_FORCE_STAGING_RELAYS", raising=False)
    assert sorted(RelayMode.default()) == sorted(DEFAULTS["prod"])
    assert sorted(RelayMode.staging()) == sorted(DEFAULTS["staging"])
    assert {relay.quic_port for relay in RelayMode.default().relays()} == {DEFAULTS["quic_port"]}
    assert {relay.auth_token for relay in RelayMode.default().relays()} == {None}
    monkeypatch.setenv("IROH_FORCE_STAGING_RELAYS", "")
    assert sorted(RelayMode.default()) == sorted(DEFAULTS["prod"])
    monkeypatch.setenv("IROH_FORCE_STAGING_RELAYS", "1")
    assert sorted(RelayMode.default()) == sorted(DEFAULTS["staging"])
    assert RelayMode.default() is not RelayMode.default()


def test_option_of_an_endpoint_becomes_a_map() -> None:
    shared = RelayMap()
    assert relay_map(shared) is shared
    assert len(relay_map(None)) == 0
    assert sorted(relay_map("staging")) == sorted(DEFAULTS["staging"])
    mixed = relay_map(["http://a", RelayUrl("http://b"), RelayConfig("http://c", None)])
    assert [relay.quic_port for relay in mixed.relays()] == [7842, 7842, None]
    with pytest.raises(ConfigError, match="list of URLs"):
        relay_map("https://a.example")  # type: ignore[arg-type]


def test_trailing_dot_makes_another_relay() -> None:
    relays = RelayMap(["https://a.example."])
    assert "https://a.example./" in relays
    assert "https://a.example/" not in relays
    assert relays["HTTPS://A.example.:443"].url == "https://a.example./"


def test_insert_remove_and_extend_tell_subscribers_of_real_changes_only() -> None:
    relays = RelayMap(["https://a.example"])
    seen: list[tuple[str, ...]] = []
    cancel = relays.subscribe(lambda: seen.append(relays.urls()))
    first = relays["https://a.example"]
    assert relays.insert("https://b.example") is None
    assert relays.insert(RelayConfig("https://a.example", None)) == first
    assert len(seen) == 2
    relays.insert(RelayConfig("https://a.example", None))
    relays.extend(["https://b.example"])
    assert len(seen) == 2
    relays.extend(["https://b.example", "https://c.example"])
    assert seen[-1] == ("https://a.example/", "https://b.example/", "https://c.example/")
    assert relays.remove("https://x.example") is None
    assert len(seen) == 3
    removed = relays.remove("https://b.example")
    assert removed is not None and removed.url == "https://b.example/"
    cancel()
    cancel()
    relays.clear()
    assert len(relays) == 0 and len(seen) == 4


def test_mapping_keys_and_configs_must_agree() -> None:
    relays = RelayMap()
    relays["https://a.example"] = RelayConfig("https://a.example/")
    with pytest.raises(ConfigError):
        relays["https://b.example"] = RelayConfig("https://a.example/")
    with pytest.raises(KeyError):
        del relays["https://b.example"]
    for unknown in ("https://b.example", "no url"):
        with pytest.raises(KeyError):
            _ = relays[unknown]
    del relays["https://A.example:443"]
    assert dict(relays) == {}


def test_iterating_survives_changes() -> None:
    relays = RelayMap(["https://a.example", "https://b.example"])
    for url in relays:
        relays.remove(url)
    assert len(relays) == 0


def test_token_is_set_on_present_relays_and_never_shown() -> None:
    relays = RelayMap(["https://a.example"])
    assert relays.with_auth_token("s3cret") is relays
    relays.insert("https://b.example")
    assert [relay.auth_token for relay in relays.relays()] == ["s3cret", None]
    assert "s3cret" not in repr(relays)


@pytest.mark.parametrize("token", ["a\r\nb: c", "ü", "\x7f", "\x00"])
def test_token_unfit_for_a_header_is_refused_and_not_repeated(token: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RelayConfig("https://a.example", auth_token=token)
    assert token not in str(caught.value)


@pytest.mark.parametrize("port", [-1, 65536, 1.5, "7842", True])
def test_quic_port_out_of_range_is_refused(port: object) -> None:
    with pytest.raises(ConfigError):
        RelayConfig("https://a.example", port)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "port", "token"),
    [
        ({"url": "https://a.example"}, 7842, None),
        ({"url": "https://a.example", "quic": {}}, 7842, None),
        ({"url": "https://a.example", "quic": {"port": 1}, "auth_token": "t"}, 1, "t"),
        ({"url": "https://a.example", "quic": None}, None, None),
    ],
)
def test_config_from_json(value: object, port: int | None, token: str | None) -> None:
    config = RelayConfig.from_json(value)
    assert (config.quic_port, config.auth_token) == (port, token)
    assert RelayConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    assert ("auth_token" in config.to_json()) == (token is not None)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"url": 1},
        {"url": "https://a.example", "quic": 7842},
        {"url": "https://a.example", "quic": {"port": "x"}},
        {"url": "https://a.example", "auth_token": 5},
    ],
)
def test_config_from_json_of_another_shape_is_refused(value: object) -> None:
    with pytest.raises(ConfigError):
        RelayConfig.from_json(value)


def test_status_tells_state_and_reason() -> None:
    url = RelayUrl("https://a.example")
    error = OSError("gone")
    assert RelayStatus(url, "connected").connected
    status = RelayStatus(url, "connecting", error, "no")
    assert not status.connected and status.last_error is error and status.auth_denied_reason == "no"
    # Every failure is a new value, even with the same words.
    assert status != RelayStatus(url, "connecting", OSError("gone"), "no")
