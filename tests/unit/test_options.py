"""Every field of every class of options refuses what it cannot take, when the object is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

import iroh_fast
from iroh_fast import dns_server, relay
from iroh_fast.config import EndpointConfig
from iroh_fast.errors import ConfigError

HUGE = 10**5000  # more digits than Python prints


class Odd:
    """Nothing that any option takes."""

    def __repr__(self) -> str:
        return "<odd>"


def endpoint_options(**options: Any) -> EndpointConfig:
    config = EndpointConfig(**options)
    config.check()
    return config


# How each class is made, and what its other fields need.
CLASSES: dict[type, tuple[Callable[..., Any], dict[str, Any]]] = {
    iroh_fast.QuicTransportConfig: (iroh_fast.QuicTransportConfig, {}),
    iroh_fast.MtuDiscoveryConfig: (iroh_fast.MtuDiscoveryConfig, {}),
    iroh_fast.AckFrequencyConfig: (iroh_fast.AckFrequencyConfig, {}),
    iroh_fast.EndpointConfig: (endpoint_options, {}),
    iroh_fast.ServerConfig: (iroh_fast.ServerConfig, {"alpns": [b"x"]}),
    iroh_fast.BindAddr: (iroh_fast.BindAddr, {"host": "127.0.0.1"}),
    iroh_fast.Reject: (iroh_fast.Reject, {}),
    dns_server.DnsServerConfig: (dns_server.DnsServerConfig, {}),
    dns_server.HttpsSettings: (dns_server.HttpsSettings, {}),
    dns_server.StoreSettings: (dns_server.StoreSettings, {}),
    dns_server.ZoneSettings: (dns_server.ZoneSettings, {}),
    relay.RelayServerConfig: (relay.RelayServerConfig, {}),
    relay.RelayLimits: (relay.RelayLimits, {}),
    relay.RelayTlsConfig: (relay.RelayTlsConfig, {}),
    relay.CaConfig: (relay.CaConfig, {}),
    relay.Proxy: (relay.Proxy, {"host": "proxy", "port": 1, "tls": False}),
    relay.RelayConfig: (relay.RelayConfig, {"url": "http://relay"}),
}
FIELDS = [(cls, item.name) for cls in CLASSES for item in dataclasses.fields(cls)]
# Where the text of the error names it otherwise.
NAMED = {(relay.RelayConfig, "url"): "URL"}


def test_every_public_class_of_options_is_tried() -> None:
    names = {*iroh_fast.__all__, *relay.__all__, *dns_server.__all__}
    rooms = (iroh_fast, relay, dns_server)
    public = {next(getattr(r, n) for r in rooms if n in r.__all__) for n in names}
    of_options = {cls for cls in public if isinstance(cls, type) and cls.__name__.endswith("Config")}
    assert of_options <= set(CLASSES)


@pytest.mark.parametrize(("cls", "name"), FIELDS, ids=lambda value: getattr(value, "__name__", value))
def test_option_of_a_wrong_type_is_an_error_that_names_it(cls: type, name: str) -> None:
    make, rest = CLASSES[cls]
    for wrong in (Odd(), [Odd()], HUGE, float("nan")):
        with pytest.raises((ConfigError, TypeError, ValueError)) as caught:
            make(**{**rest, name: wrong})
        assert NAMED.get((cls, name), name) in str(caught.value)
        assert len(str(caught.value)) < 250


NUMBERS = [
    (cls, item.name)
    for cls in CLASSES
    for item in dataclasses.fields(cls)
    if str(item.type).split(" ")[0] in ("int", "float")
]


@pytest.mark.parametrize(("cls", "name"), NUMBERS, ids=lambda value: getattr(value, "__name__", value))
def test_number_out_of_range_or_of_another_type_is_refused(cls: type, name: str) -> None:
    make, rest = CLASSES[cls]
    for wrong in (-1, True, "5", float("inf"), 2**80):
        with pytest.raises((ConfigError, TypeError, ValueError), match=name):
            make(**{**rest, name: wrong})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"port": 99999}, "port of http_bind_addr must be between 0 and 65535, not 99999"),
        ({"host": "relay.example.org"}, "names are not resolved"),
        ({"host": ""}, "host of http_bind_addr is empty"),
        ({"access": "everyone"}, "access is an object of AccessControl"),
        ({"limits": {}}, "limits is an object of RelayLimits"),
        ({"metrics_bind_addr": "127.0.0.1:9090"}, "metrics_bind_addr is a pair"),
        ({"drain": -1}, "drain must be 0 or a positive"),
    ],
)
def test_relay_server_settings_are_checked_when_they_are_made(
    options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        relay.RelayServerConfig.dev(**options)


def test_relay_server_settings_take_localhost_and_give_back_what_they_took() -> None:
    assert relay.RelayServerConfig.dev(host="localhost").http_bind_addr == ("127.0.0.1", 0)
    settings = relay.RelayTlsConfig("Manual", ["::1", 0], cert_dir="certs", hostname=["a", "b"])  # type: ignore[arg-type]
    assert settings.https_bind_addr == ("::1", 0)
    assert settings.hostname == ("a", "b")
    assert settings.certificate.parts == ("certs", "default.crt")


def test_relay_limits_that_let_nothing_pass_or_mean_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match="bytes_per_second must be at least 10"):
        relay.RelayLimits(bytes_per_second=5)
    with pytest.raises(ConfigError, match="accept_burst needs limits.accept_rate"):
        relay.RelayLimits(accept_burst=5)
    with pytest.raises(ConfigError, match="accept_conn_burst needs limits.accept_conn_limit"):
        relay.RelayServerConfig.from_toml("[limits]\naccept_conn_burst = 5")


def test_rules_of_a_relay_are_read_when_they_are_made() -> None:
    """A rule that fits nobody by mistake denies everyone, or lets everyone in."""
    peer = iroh_fast.SecretKey.generate().public
    for rule in (relay.AllowList, relay.DenyList):
        of_text, of_object = rule([str(peer)]), rule([peer])
        assert of_text.still_allowed(peer) == of_object.still_allowed(peer) == (rule is relay.AllowList)
        for wrong in (str(peer), peer, 5):
            with pytest.raises(ConfigError, match="endpoint_ids is a list"):
                rule(wrong)
        with pytest.raises(ConfigError, match="not an endpoint id"):
            rule(["typo"])
        with pytest.raises(ConfigError, match="EndpointId or its text"):
            rule([5])
    with pytest.raises(ConfigError, match=r"write \[token\]") as caught:
        relay.SharedToken("secret")
    assert "secret" not in str(caught.value)
    for wrong in ([], [""], [b"secret"], 5):
        with pytest.raises(ConfigError, match="token"):
            relay.SharedToken(wrong)
    for options in ({"timeout": 0}, {"concurrency": 0}, {"bearer_token": 5}):
        (name,) = options
        with pytest.raises(ConfigError, match=name):
            relay.HttpAccess("http://localhost", **options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="url is text"):
        relay.HttpAccess(5)  # type: ignore[arg-type]
