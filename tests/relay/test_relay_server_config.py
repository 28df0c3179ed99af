"""The TOML file, start-up errors, metrics and the command line of the relay server."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from relay_peer import authenticate, config, connected, head, request, upgraded, where

import iroh_fast
from iroh_fast import SecretKey
from iroh_fast.errors import BindError, ConfigError
from iroh_fast.relay.server import config_file
from iroh_fast.relay.server.access import AllowList, DenyList, Everyone, HttpAccess, SharedToken
from iroh_fast.relay.server.config import RelayLimits, RelayServerConfig
from iroh_fast.relay.server.metrics import UniqueKeys
from iroh_fast.relay.server.server import RelayServer
from iroh_fast.relay.wire import RelayDenied

read = RelayServerConfig.from_toml
KEY = SecretKey.generate().public
ROOT = Path(__file__).parents[2]


def test_empty_file_gives_the_defaults():
    found = read("", env={})
    assert found == RelayServerConfig(access=found.access)
    assert not found.other_ports and read("", dev=True).other_ports
    assert isinstance(found.access, Everyone)
    assert found.http_bind_addr == ("::", 80) and found.tls is None and found.enable_metrics
    assert found.key_cache_capacity == 1048576
    assert read("", dev=True).http_bind_addr == ("::", 3340)
    assert read('http_bind_addr = "127.0.0.1:99"', dev=True).http_bind_addr == ("127.0.0.1", 99)


def test_every_key_of_the_file():
    found = read(
        """
        enable_relay = true
        http_bind_addr = "0.0.0.0:8080"
        enable_quic_addr_discovery = true
        enable_metrics = false
        metrics_bind_addr = "127.0.0.1:1234"
        key_cache_capacity = 0
        [limits]
        accept_conn_limit = 1.5
        accept_conn_burst = 7
        [limits.client.rx]
        bytes_per_second = 1000
        max_burst_bytes = 500
        [tls]
        https_bind_addr = "[::1]:8443"
        quic_bind_addr = "[::1]:7000"
        hostname = "relay.example"
        cert_mode = "Reloading"
        cert_dir = "/etc/relay"
        manual_cert_path = "/etc/chain.pem"
        manual_key_path = "/etc/key.pem"
        prod_tls = false
        contact = "me@example.org"
        """,
        env={},
    )
    assert found.http_bind_addr == ("0.0.0.0", 8080)
    assert found.metrics_bind_addr == ("127.0.0.1", 1234) and not found.enable_metrics
    assert found.key_cache_capacity == 0 and found.enable_quic_addr_discovery
    limits = found.limits
    assert (limits.accept_rate, limits.accept_burst) == (1.5, 7)
    assert limits.client_bucket() == (500, 100)
    tls = found.tls
    assert tls is not None
    assert (tls.https_bind_addr, tls.quic_bind_addr) == (("::1", 8443), ("::1", 7000))
    assert tls.hostname == ("relay.example",) and tls.cert_mode == "Reloading"
    assert (str(tls.certificate), str(tls.private_key)) == ("/etc/chain.pem", "/etc/key.pem")
    assert not tls.prod_tls and tls.contact == "me@example.org"


def test_certificate_paths_have_defaults():
    tls = read('[tls]\ncert_mode = "Manual"\ncert_dir = "/x"\nhostname = ["a", "b"]').tls
    assert tls is not None and tls.hostname == ("a", "b")
    assert (tls.certificate, tls.private_key) == (Path("/x/default.crt"), Path("/x/default.key"))


def test_dev_ignores_the_certificate_for_http():
    assert read('[tls]\ncert_mode = "Manual"', dev=True).tls is None


def test_access_rules():
    assert isinstance(read('access = "everyone"').access, Everyone)
    assert isinstance(read(f'access.allowlist = ["{KEY}"]').access, AllowList)
    assert isinstance(read(f'access.denylist = ["{KEY:b32}"]').access, DenyList)
    assert isinstance(read('access.shared_token = ["a", "b"]', env={}).access, SharedToken)
    found = read('access.http = {url = "https://x.example/", bearer_token = "t"}', env={}).access
    assert isinstance(found, HttpAccess) and found.url == "https://x.example/"
    assert found._token == "t"
    env = {"IROH_RELAY_ACCESS_TOKEN": "z", "IROH_RELAY_HTTP_BEARER_TOKEN": "y"}
    assert read('access.shared_token = ["a"]', env=env).access._tokens == (b"z",)
    assert read('access.http = {url = "https://x.example/"}', env=env).access._token == "y"


@pytest.mark.parametrize(
    "text",
    [
        "enable_relay = 1",
        'enable_relay = "true"',
        "http_bind_addr = 80",
        'http_bind_addr = "localhost:80"',
        'http_bind_addr = "1.2.3.4:99999"',
        "key_cache_capacity = -1",
        "key_cache_capacity = true",
        "limits = 3",
        "limits.accept_conn_limit = 0",
        "limits.client.rx.bytes_per_second = 0",
        "limits.client.rx.bytes_per_second = 9",
        "limits.client.rx.max_burst_bytes = 9",
        "limits.client.rx.bytes_per_second = 4294967296",
        "[tls]",
        '[tls]\ncert_mode = "manual"',
        '[tls]\ncert_mode = "SelfSigned"',
        '[tls]\ncert_mode = "LetsEncrypt"',
        '[tls]\ncert_mode = "Manual"\nhostname = 3',
        "enable_quic_addr_discovery = true",
        'access = "nobody"',
        "access = {}",
        "access.shared_token = []",
        'access.shared_token = [""]',
        "access.shared_token = [1]",
        'access.allowlist = ["xyz"]',
        "access.allowlist = 3",
        "access.http = {}",
        'access.http = {url = "x"}',
        "not toml",
    ],
)
def test_errors_of_the_file(text):
    with pytest.raises(ConfigError):
        read(text, env={})


@given(st.text(max_size=200))
def test_any_text_is_a_configuration_or_an_error(text):
    try:
        read(text, env={})
    except ConfigError:
        pass


@pytest.mark.source_tree
def test_documented_example_is_complete_and_valid():
    text = (ROOT / "docs" / "relay.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```toml\n(.*?)```", text, re.S)
    # every setting stands there, some commented out
    active = re.sub(r"^# ?(\w+(\.\w+)* = .*)$", r"\1", example, flags=re.M)
    for key in (
        *("enable_relay", "http_bind_addr", "enable_quic_addr_discovery", "enable_metrics"),
        *("metrics_bind_addr", "key_cache_capacity", "access", "accept_conn_limit"),
        *("accept_conn_burst", "bytes_per_second", "max_burst_bytes", "https_bind_addr"),
        *("quic_bind_addr", "hostname", "cert_mode", "cert_dir", "manual_cert_path"),
        *("manual_key_path",),
    ):
        assert re.search(rf"^{key}\b", active, re.M), key
    found = read(example, env={})
    assert found.tls is not None and found.enable_relay


async def test_start_up_errors_leave_nothing_open():
    with pytest.raises(ConfigError, match="nothing to serve"):
        await RelayServer(RelayServerConfig(enable_relay=False, enable_metrics=False)).start()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = RelayServer(config(http_bind_addr=("127.0.0.1", port)))
        with pytest.raises(BindError, match=str(port)):
            await server.start()
    with pytest.raises(RuntimeError):
        await server.start()
    with pytest.raises(ConfigError):
        await RelayServer(config(bytes_per_second=5)).start()


async def test_wildcard_address_takes_ipv4_too():
    async with RelayServer(config(http_bind_addr=("::", 0))) as server:
        port = where(server)[1]
        for host in ("127.0.0.1", "::1"):
            if host == "::1" and not socket.has_ipv6:
                continue
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(head("/ping"))
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            writer.transport.abort()
        assert server.url == f"http://127.0.0.1:{port}/"


async def test_metrics_are_openmetrics_with_the_names_of_iroh():
    wanted = config(enable_metrics=True, metrics_bind_addr=("127.0.0.1", 0))
    async with RelayServer(wanted) as server:
        async with connected(server) as client:
            client.send_to(client, b"12345")
            await client.receive_contents()
            for data in (head("/metrics"), head("/any", "POST")):
                answer = await request(server, data, "metrics")
                assert answer.status == 200
                assert answer.headers["content-type"] == "text/plain; charset=utf-8"
            text = answer.body.decode()
    assert text.endswith("# EOF\n")
    values = dict(re.findall(r"^(\w+) ([\d.]+)$", text, re.M))
    for name, value in {
        "bytes_sent": 5,
        "bytes_recv": 5,
        "send_packets_sent": 1,
        "send_packets_recv": 1,
        "send_packets_dropped": 0,
        "got_ping": 1,
        "sent_pong": 1,
        "accepts": 1,
        "disconnects": 0,
        "unique_client_keys": 1,
        "http_connections": 1,
        "bytes_rx_ratelimited": 0,
        "conns_rx_ratelimited": 0,
        "qad_connections": 0,
    }.items():
        assert float(values[f"relayserver_{name}_total"]) == value, name
    assert float(values["iroh_fast_relay_connections"]) == 1


def test_unique_keys_are_counted_once_a_day(monkeypatch):
    import datetime

    keys = UniqueKeys()
    for key in (b"a", b"b", b"a"):
        keys.add(key)
    assert keys.count == 2

    class Tomorrow(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.datetime(2999, 1, 1, tzinfo=tz)

    monkeypatch.setattr("iroh_fast.relay.server.metrics.datetime.datetime", Tomorrow)
    keys.add(b"a")
    assert keys.count == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('acces.allowlist = ["00"]', ("acces", "did you mean access?")),
        ("[limit]\naccept_conn_limit = 1", ("limit", "did you mean limits?")),
        ("[limits]\naccept_con_limit = 1", ("limits.accept_con_limit", "limits.accept_conn_limit")),
        ("[limits.client.tx]\nbytes_per_second = 1", ("limits.client.tx", "rx")),
        ('[tls]\ncert_mode = "Manual"\ncertdir = "x"', ("tls.certdir", "tls.cert_dir")),
        ('access.http = {uri = "http://x/"}', ("access.http.uri", "access.http.url")),
        ('http_bind_addr = "localhost:80"', ("http_bind_addr", "localhost:80")),
        ("http_bind_addr = 80", ("http_bind_addr", "int")),
        ("access = true", ("access", "bool")),
        ('access.allowlist = ["zz"]', ("access.allowlist", "zz")),
        ("access.shared_token = []", ("access.shared_token", "token")),
        ('access.http = {url = "http://"}', ("access.http", "URL")),
        ("[limits]\naccept_conn_limit = nan", ("limits.accept_conn_limit",)),
        ("[limits]\naccept_conn_limit = inf", ("limits.accept_conn_limit",)),
        ("key_cache_capacity = -1", ("key_cache_capacity",)),
        ("a = = 1", ("line 1",)),
    ],
)
def test_mistakes_in_the_file_are_named(text, words):
    with pytest.raises(ConfigError) as caught:
        read(text, env={})
    for word in words:
        assert word in str(caught.value)


async def test_dev_takes_other_ports_where_its_own_are_in_use():
    settings = replace(read("enable_metrics = false", dev=True), http_bind_addr=("127.0.0.1", 0))
    async with RelayServer(settings) as first:
        again = replace(settings, http_bind_addr=first.addresses["http"])
        async with RelayServer(again) as second:
            assert second.addresses["http"][1] != first.addresses["http"][1]
        with pytest.raises(BindError, match="in use"):
            await RelayServer(replace(again, other_ports=False)).start()


# --- settings that change -----------------------------------------------------------------


async def test_reload_uses_new_rules_and_ends_clients_that_they_refuse():
    stays, goes = SecretKey.generate(), SecretKey.generate()
    async with RelayServer(config()) as server:
        async with connected(server, stays) as one, connected(server, goes) as two:
            server.reload(config(access=AllowList([stays.public]), bytes_per_second=100_000))
            assert await two.ended() == 1008
            await one.ping()
            async with upgraded(server, goes) as three:
                with pytest.raises(RelayDenied):
                    await authenticate(three)
        with pytest.raises(ConfigError):
            server.reload(config(bytes_per_second=5))
        assert isinstance(server.config.access, AllowList)


# --- command line -------------------------------------------------------------------------


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "iroh_fast", "relay", *arguments]


ENV = {
    **os.environ,
    "PYTHONPATH": str(Path(iroh_fast.__file__).parents[1]),
    "IROH_FAST_LOG": "INFO",
}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=60, env=ENV)


@pytest.mark.skipif(sys.platform == "win32", reason="ends the command by signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["int", "term"])
async def test_command_serves_until_a_signal(tmp_path, number):
    file = tmp_path / "relay.toml"
    file.write_text('http_bind_addr = "127.0.0.1:0"\nenable_metrics = false\n')
    process = subprocess.Popen(
        command("--dev", "-c", str(file)), stderr=subprocess.PIPE, text=True, env=ENV
    )
    assert process.stderr is not None
    try:
        port = None
        for line in process.stderr:
            if found := re.search(r"relay ready at http://127.0.0.1:(\d+)/", line):
                port = int(found[1])
                break
        assert port is not None
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head("/ping"))
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        process.send_signal(number)
        assert process.wait(20) == 0
        assert "stopping" in process.stderr.read()
        writer.transport.abort()
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_command_reports_errors_of_the_file(tmp_path):
    file = tmp_path / "relay.toml"
    file.write_text("enable_relay = 3")
    for path, words in ((file, "enable_relay"), (tmp_path, "cannot read")):
        done = run("-c", str(path))
        assert done.returncode == 1 and words in done.stderr
    done = run("--dev", "-c", str(tmp_path / "missing.toml"))
    assert done.returncode == 1 and "missing.toml" in done.stderr
    assert "--dev" in run("--help").stdout


def test_command_checks_a_file_without_serving(tmp_path):
    file = tmp_path / "relay.toml"
    file.write_text(f'access.allowlist = ["{KEY}"]')
    done = run("--check-config", "-c", str(file))
    assert (done.returncode, done.stdout.strip()) == (0, f"{file}: right; access: AllowList")
    file.write_text('[tls]\ncert_mode = "Manual"\ncert_dir = "nowhere"')
    done = run("--check-config", "-c", str(file))
    assert done.returncode == 1 and "nowhere" in done.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("enable_relay = false\nenable_metrics = false", "nothing to serve"),
        ('http_bind_addr = "[::]:1"\nhttp_bind_addr = "[::]:2"\n', "): http_bind_addr"),
        ('access.shared_token = ["s3cret"\nenable_relay = true', "not a TOML file"),
    ],
)  # fmt: skip
def test_checking_a_file_finds_what_starting_would(tmp_path, text, words):
    file = tmp_path / "relay.toml"
    file.write_text(text)
    done = run("-c", str(file), "--check-config")
    assert done.returncode == 1 and words in done.stderr and "s3cret" not in done.stderr


def test_file_may_begin_with_a_mark_of_byte_order(tmp_path):
    file = tmp_path / "relay.toml"
    file.write_text("enable_metrics = false", encoding="utf-8-sig")
    done = run("-c", str(file), "--check-config")
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="ends the command by signals")
def test_command_ends_in_good_order_however_many_signals_come(tmp_path):
    file, log = tmp_path / "relay.toml", tmp_path / "log"
    file.write_text('http_bind_addr = "127.0.0.1:0"\nenable_metrics = false\n')
    # A file: the command writes a line for each SIGHUP, and a pipe that nobody reads would stop it.
    with log.open("w") as stderr:
        process = subprocess.Popen(command("-c", str(file)), stderr=stderr, env=ENV)
    try:
        while "relay ready" not in log.read_text():
            assert process.poll() is None, log.read_text()
            time.sleep(0.01)
        while process.poll() is None:
            for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
                process.send_signal(number)
            time.sleep(0.001)
        assert process.returncode == 0
        assert "Traceback" not in log.read_text()
    finally:
        process.kill()
        process.wait()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGHUP")
async def test_command_reads_the_rules_again_at_sighup(tmp_path):
    file = tmp_path / "relay.toml"
    file.write_text('http_bind_addr = "127.0.0.1:0"\nenable_metrics = false\n')
    process = subprocess.Popen(command("-c", str(file)), stderr=subprocess.PIPE, text=True, env=ENV)
    assert process.stderr is not None
    try:
        said = iter(process.stderr)
        assert any("relay ready" in line for line in said)
        file.write_text(f'http_bind_addr = "127.0.0.1:0"\naccess.denylist = ["{KEY}"]\n')
        process.send_signal(signal.SIGHUP)
        assert any("settings read again" in line for line in said)
        file.write_text("acces = 1")
        process.send_signal(signal.SIGHUP)
        assert any("stay as they are" in line and "acces" in line for line in said)
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


# --- the documents ------------------------------------------------------------------------


@pytest.mark.source_tree
def test_file_of_the_documents_is_right_and_names_every_key():
    text = (ROOT / "docs" / "relay.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```toml\n(.*?)```", text, re.S)
    found = read(example, env={})
    assert found.tls is not None and found.metrics_bind_addr == ("127.0.0.1", 9090)
    # What is commented out there is right too, one rule of access at a time.
    for line in re.findall(r"^# ((?:\w+\.)?\w+ = [^#]*)", example, re.M):
        key = line.partition(" ")[0].rpartition(".")[2]
        if key in ("allowlist", "denylist"):
            line = line.replace("<endpoint id>", str(KEY))
        if key in ("allowlist", "denylist", "shared_token", "http"):
            assert not isinstance(read(line, env={}).access, Everyone)
        else:
            example = example.replace(f"# {line}", line)
    assert read(example, env={}).limits.max_burst_bytes == 1000000
    for table in (config_file.File, config_file.TlsTable, config_file.LimitsTable):
        for item in msgspec.structs.fields(table):
            if item.name != "dangerous_http_only":  # for iroh's own use
                assert item.name in example, item.name


@pytest.mark.source_tree
async def test_program_of_the_documents_runs(monkeypatch):
    text = (ROOT / "docs" / "relay.md").read_text(encoding="utf-8")
    program = re.search(r"```python\n(from iroh_fast.relay import RelayServer.*?)```", text, re.S)
    assert program is not None
    lines = [line for line in program[1].splitlines() if line]
    code = [line.replace("port=3340", "port=0") for line in lines]
    code[-1] = code[-1].replace("await server.wait_stopped()", "await server.stop()")
    body = "\n".join("    " + line for line in code)
    scope: dict[str, object] = {}
    exec(f"async def main():\n{body}", scope)
    await scope["main"]()


def test_relay_server_wrong_use_says_what_is_missing() -> None:
    with pytest.raises(TypeError, match="config is a RelayServerConfig, not str"):
        RelayServer("relay.toml")  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="start it"):
        _ = RelayServer(RelayServerConfig.dev()).url


async def test_reload_names_what_needs_a_restart(caplog):
    async with RelayServer(RelayServerConfig.dev()) as server:
        changed = RelayServerConfig.dev(
            port=server.addresses["http"][1],
            drain=1,
            limits=RelayLimits(bytes_per_second=1000, queue_packets=7),
        )
        server.reload(changed)
        (record,) = [one for one in caplog.records if one.levelname == "WARNING"]
        assert record.getMessage() == (
            "changed, but only after a restart: http_bind_addr, drain, limits.queue_packets"
        )
        caplog.clear()
        server.reload(RelayServerConfig.dev(access=AllowList([KEY])))
        assert not [one for one in caplog.records if one.levelname == "WARNING"]
