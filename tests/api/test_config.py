"""Options: defaults, checks, presets and the choice of sockets."""

from __future__ import annotations

import dataclasses
import inspect
import pickle
import typing
from datetime import timedelta
from ipaddress import ip_address
from typing import Any

import pytest

from iroh_fast import (
    AckFrequencyConfig,
    BindAddr,
    Endpoint,
    EndpointConfig,
    EndpointHooks,
    MtuDiscoveryConfig,
    QuicTransportConfig,
    SecretKey,
    ServerConfig,
    SocketAddr,
    presets,
)
from iroh_fast.config import plan_sockets
from iroh_fast.errors import ConfigError
from iroh_fast.lookup import (
    DnsLookup,
    EndpointData,
    MemoryLookup,
    PkarrPublisher,
    PkarrResolver,
)
from iroh_fast.relay import RelayMap

RELAY = ["https://127.0.0.1:1"]


def test_transport_defaults_are_those_of_iroh() -> None:
    config = QuicTransportConfig()
    assert config.max_concurrent_bidi_streams == config.max_concurrent_uni_streams == 100
    assert config.max_idle_timeout == 30
    assert config.stream_receive_window is None  # begins with iroh's, see test_windows
    assert config.receive_window == 2**62 - 1
    assert config.send_window is None
    assert config.initial_rtt == 0.333
    assert config.mtu_discovery == MtuDiscoveryConfig(
        interval=600, upper_bound=65_487, black_hole_cooldown=60, minimum_change=20
    )
    assert config.keep_alive_interval == 5
    assert config.max_concurrent_multipath_paths == 8
    assert config.default_path_max_idle_timeout == 15
    assert config.default_path_keep_alive_interval == 5
    assert config.max_remote_nat_traversal_addresses == 32
    assert config.datagram_send_buffer_size == 2**20
    assert config.qlog_dir is None


def test_transport_durations_accept_timedelta_and_become_seconds() -> None:
    config = QuicTransportConfig(
        max_idle_timeout=timedelta(minutes=2),  # type: ignore[arg-type]
        keep_alive_interval=None,
    )
    assert config.max_idle_timeout == 120.0
    assert isinstance(config.max_idle_timeout, float)
    assert config.keep_alive_interval is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_concurrent_multipath_paths": 7}, "at least 8"),
        ({"max_concurrent_multipath_paths": 257}, "256"),
        ({"default_path_max_idle_timeout": 16}, "at most 15"),
        ({"default_path_keep_alive_interval": 6}, "at most 5"),
        ({"max_remote_nat_traversal_addresses": 7}, "at least 8"),
        ({"max_idle_timeout": 0}, "None switches it off"),
        ({"max_idle_timeout": -1}, "positive"),
        ({"max_idle_timeout": "30s"}, "number of seconds"),
        ({"max_idle_timeout": float("nan")}, "positive"),
        ({"max_concurrent_bidi_streams": -1}, "between 0 and"),
        ({"max_concurrent_uni_streams": 2**60 + 1}, "between 0 and"),
        ({"stream_receive_window": 0}, "between 1 and"),
        ({"receive_window": 2**62}, "between 1 and"),
        ({"max_stream_receive_window": 0}, "between 1 and"),
        ({"max_stream_receive_window": 9, "stream_receive_window": 10}, "is below stream_receive"),
        ({"receive_window_growth": -1}, "between 0 and"),
        ({"max_send_window": 0}, "between 1 and"),
        ({"send_window": 1.5}, "integer"),
        ({"send_fairness": 1}, "True or False"),
        ({"packet_threshold": 2}, "between 3 and"),
        ({"time_threshold": 1.0}, "above 1"),
        ({"initial_rtt": None}, "number of seconds"),
        ({"initial_mtu": 1199}, "between 1200 and"),
        ({"min_mtu": 1300}, "is below min_mtu"),
        ({"mtu_discovery": True}, "MtuDiscoveryConfig"),
        ({"ack_frequency": 2}, "AckFrequencyConfig"),
        ({"crypto_buffer_size": 100}, "between 4096 and"),
        ({"congestion_controller": "bbr3"}, "cubic"),
        ({"qlog_dir": b"/tmp"}, "path as text"),
    ],
)
def test_transport_wrong_value_raises_with_reason(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        QuicTransportConfig(**options)
    assert next(iter(options)) in str(caught.value)
    with pytest.raises(ValueError):
        QuicTransportConfig().replace(**options)


@pytest.mark.parametrize("value", [{"upper_bound": 100}, {"interval": 0}, {"minimum_change": 0}])
def test_mtu_discovery_wrong_value_raises(value: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        MtuDiscoveryConfig(**value)


def test_ack_frequency_keeps_none_as_the_peers_delay() -> None:
    assert AckFrequencyConfig().max_ack_delay is None
    config = AckFrequencyConfig(max_ack_delay=timedelta(milliseconds=10))  # type: ignore[arg-type]
    assert config.max_ack_delay == 0.01
    with pytest.raises(ConfigError):
        AckFrequencyConfig(max_ack_delay=0)


def test_transport_config_is_frozen_hashable_and_picklable() -> None:
    config = QuicTransportConfig(initial_mtu=1400, ack_frequency=AckFrequencyConfig())
    with pytest.raises(AttributeError):
        config.initial_mtu = 1500  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(config)) == config
    assert hash(config) == hash(config.replace())
    assert config.replace(pad_to_mtu=True) != config


def test_qlog_from_env_is_taken_only_when_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QLOGDIR", raising=False)
    config = QuicTransportConfig()
    assert config.with_qlog_from_env("a") is config
    monkeypatch.setenv("QLOGDIR", "/some/where")
    assert config.with_qlog_from_env("a").qlog_dir == "/some/where"
    assert config.with_qlog_from_env("a").qlog_prefix == "a"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1.2.3.4:5", BindAddr("1.2.3.4", 5)),
        ("[::1]:0", BindAddr("::1", 0)),
        ("[fe80::1%3]:9", BindAddr("fe80::1%3", 9)),
        (("127.0.0.1", 80), BindAddr("127.0.0.1", 80)),
        (SocketAddr(ip_address("10.0.0.1"), 7), BindAddr("10.0.0.1", 7)),
        (SocketAddr(ip_address("fe80::2"), 7, 4), BindAddr("fe80::2%4", 7)),
        (BindAddr("::", 3, prefix_len=64), BindAddr("::", 3, prefix_len=64)),
    ],
)
def test_bind_addr_parse_accepts_all_forms(value: Any, expected: BindAddr) -> None:
    assert BindAddr.parse(value) == expected


@pytest.mark.parametrize(
    "value",
    ["localhost:1", "1.2.3.4", "1.2.3.4:", "1.2.3.4:x", "1.2.3.4:65536", "::1:5", "[1.2.3.4]:5",
     "", ("1.2.3.4",), ("1.2.3.4", "5"), 5, "1.2.3.4:-1", "1.2.3.4:١"],
)  # fmt: skip
def test_bind_addr_parse_refuses_names_and_malformed_text(value: Any) -> None:
    with pytest.raises(ConfigError):
        BindAddr.parse(value)


@pytest.mark.parametrize(("host", "prefix"), [("1.2.3.4", 33), ("::1", 129), ("::1", -1)])
def test_bind_addr_prefix_out_of_range_raises(host: str, prefix: int) -> None:
    with pytest.raises(ConfigError, match="prefix_len"):
        BindAddr(host, 0, prefix_len=prefix)


def test_bind_addr_is_default_route_without_prefix() -> None:
    assert BindAddr("1.2.3.4").default_route is True
    assert BindAddr("1.2.3.4", prefix_len=8).default_route is False
    assert BindAddr("1.2.3.4", prefix_len=8, default_route=True).default_route is True


V4, V6 = BindAddr("0.0.0.0", 0, required=True), BindAddr("::", 0, required=False)


@pytest.mark.parametrize(
    ("given", "plan"),
    [
        ([], [V4, V6]),
        (["127.0.0.1:0"], [BindAddr("127.0.0.1"), V6]),
        (["[::1]:0"], [BindAddr("::1"), V4]),
        (["127.0.0.1:1", "[::1]:2"], [BindAddr("127.0.0.1", 1), BindAddr("::1", 2)]),
        (
            [BindAddr("10.0.0.1", 0, prefix_len=8)],
            [BindAddr("10.0.0.1", 0, prefix_len=8), V4, V6],
        ),
    ],
)
def test_plan_sockets_replaces_only_the_same_family(given: list[Any], plan: list[BindAddr]) -> None:
    assert plan_sockets(given) == plan


def test_plan_sockets_two_default_routes_of_one_family_raise() -> None:
    with pytest.raises(ConfigError, match="both default-route"):
        plan_sockets(["127.0.0.1:0", "127.0.0.2:0"])


def test_presets_apply_in_order() -> None:
    def mine(config: EndpointConfig) -> None:
        config.alpns = [b"a"]

    config = EndpointConfig()
    config.apply([presets.minimal, mine, EndpointConfig(max_tls_tickets=7)])
    assert (config.alpns, config.max_tls_tickets) == ([b"a"], 7)


@pytest.mark.parametrize("staging", [False, True])
def test_presets_of_number_0_are_those_of_iroh(
    staging: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IROH_FORCE_STAGING_RELAYS", "1" if staging else "")
    host = "staging-dns.iroh.link" if staging else "dns.iroh.link"
    for preset, relays, published in ((presets.n0, True, 1), (presets.n0_no_relay, False, 2)):
        config = EndpointConfig()
        config.apply(preset)
        config.check()
        assert config.address_lookup is not None
        publisher, resolver, dns = config.address_lookup
        assert isinstance(publisher, PkarrPublisher) and isinstance(resolver, PkarrResolver)
        assert isinstance(dns, DnsLookup) and dns.origin == f"{host}."
        assert publisher.url == resolver.url == f"https://{host}/pkarr"
        assert publisher.addr_filter is not None
        addrs = EndpointData(["192.0.2.1:1", "https://relay.example"]).addrs
        assert len(list(publisher.addr_filter(addrs))) == published
        if not relays:
            assert config.relays is None
            continue
        assert isinstance(config.relays, RelayMap)
        names = {url.host.rstrip(".") for url in config.relays.urls()}
        assert names and all((".staging-relay." in name) == staging for name in names)


def test_presets_the_default_is_that_of_iroh() -> None:
    assert inspect.signature(Endpoint.bind).parameters["preset"].default is presets.n0
    config = EndpointConfig()
    assert config.relays is None and not config.address_lookup, "a bare config is the minimal one"


def test_presets_options_given_directly_win() -> None:
    memory = MemoryLookup()
    config = EndpointConfig()
    config.apply(presets.n0)
    config.update({"relays": None, "address_lookup": [memory], "proxy": "http://proxy.example"})
    config.check()
    assert config.relays is None and config.address_lookup == (memory,)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"proxy": "http://x"}, "give relays as well"),
        ({"ip_transports": False}, "no way to send"),
        ({"alpns": b"single"}, "list of protocol names"),
        ({"alpns": [b""]}, "1 to 255"),
        ({"alpns": ["text"]}, "bytes"),
        ({"bind_addrs": "127.0.0.1:0"}, "list of addresses"),
        ({"bind_addrs": ("127.0.0.1", 0)}, "list of addresses"),
        ({"max_tls_tickets": -1}, "between 0 and"),
        ({"window_budget": -1}, "between 0 and"),
        ({"window_budget": 1.5}, "integer"),
        ({"key_exchange": ["X25519MLKEM768"]}, "x25519"),
        ({"transport": {}}, "QuicTransportConfig"),
        ({"transport": None}, "transport"),
        ({"secret_key": "00" * 32}, "secret_key.*parse"),
        ({"secret_key": bytes(32)}, "secret_key.*from_bytes"),
        ({"secret_key": SecretKey(bytes(32)).public}, "secret_key"),
        ({"hooks": EndpointHooks()}, "hooks is a list"),
        ({"hooks": [EndpointHooks]}, "hooks.*instance"),
        ({"hooks": [5]}, "hooks"),
        ({"external_addrs": "1.2.3.4:5"}, "external_addrs"),
        ({"external_addrs": ["1.2.3.4"]}, "external_addrs.*1.2.3.4"),
        ({"bind_addrs": 5}, "bind_addrs"),
        ({"bind_addrs": None}, "bind_addrs"),
        ({"bind_addrs": [4433]}, "4433"),
        ({"bind_addrs": ["localhost:0"]}, "localhost"),
        ({"bind_addrs": [BindAddr(f"127.0.0.{i}", prefix_len=32) for i in range(1, 18)]}, "at most"),
        ({"key_exchange": None}, "key_exchange"),
        ({"ip_transports": "no"}, "ip_transports"),
        ({"keylog": 1}, "keylog"),
        ({"linger": "x"}, "linger"),
        ({"linger": -1}, "linger must be 0 or a positive number"),
        ({"relays": 5}, "relays"),
        ({"relays": "other"}, "relays"),
        ({"relays": ["x"]}, "relays.*'x'"),
        ({"relays": [None]}, "relays"),
        ({"relays": RELAY, "ca": "path/ca.pem"}, "ca is a CaConfig"),
        ({"relays": RELAY, "proxy": 5}, "proxy"),
        ({"relays": RELAY, "proxy": "foo"}, "proxy"),
    ],
)
def test_endpoint_config_check_names_the_option(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        EndpointConfig(**options).check()


def test_endpoint_config_off_values_pass() -> None:
    config = EndpointConfig(relays=None, proxy=None)
    config.update({"portmapper": False, "address_lookup": []})
    config.check()


def test_endpoint_config_errors_hold_no_secret() -> None:
    for wrong in ("ab" * 32, b"\xab" * 32):
        with pytest.raises(ConfigError) as info:
            EndpointConfig(secret_key=wrong).check()  # type: ignore[arg-type]
        assert "abab" not in str(info.value) and "xab" not in str(info.value)


@pytest.mark.parametrize("preset", [None, 5, EndpointConfig, [None]])
def test_endpoint_config_wrong_preset_is_named(preset: Any) -> None:
    with pytest.raises(ConfigError, match="preset"):
        EndpointConfig().apply(preset)


def test_bind_takes_exactly_the_options_of_the_config() -> None:
    fields = {item.name: item.default for item in dataclasses.fields(EndpointConfig)}
    parameters = inspect.signature(Endpoint.bind).parameters
    assert {name: p.default for name, p in parameters.items() if name != "preset"} == fields
    hints = typing.get_type_hints(Endpoint.bind)
    assert {*fields, "preset", "return"} == set(hints)
    assert hints["secret_key"] == SecretKey | None


def test_server_config_checks_alpns() -> None:
    assert ServerConfig(alpns=[b"a", b"b"]).alpns == (b"a", b"b")  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        ServerConfig(alpns=(b"x" * 256,))
