"""Settings of the DNS server, its file, and the command."""

from __future__ import annotations

import argparse
import configparser
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import msgspec
import pytest
from dns_peer import packet, path_of

from iroh_fast.__main__ import main
from iroh_fast.cli import dns_server as command
from iroh_fast.dns_server import (
    DnsServerConfig,
    HttpsSettings,
    StoreSettings,
    ZoneSettings,
    config_file,
)
from iroh_fast.dns_server.config_file import duration
from iroh_fast.errors import ConfigError

ROOT = Path(__file__).parents[2]
LEAST = "[http]\nport = 0\n[dns]\nport = 0\n"

# The files that come with the released server.
DEVELOPMENT = """
pkarr_put_rate_limit = "disabled"

[http]
port = 8080
bind_addr = "127.0.0.1"

[https]
port = 8443
bind_addr = "127.0.0.1"
domains = ["localhost"]
cert_mode = "self_signed"

[dns]
port = 5300
bind_addr = "127.0.0.1"
default_soa = "dns1.irohdns.example hostmaster.irohdns.example 0 10800 3600 604800 3600"
default_ttl = 900
origins = ["irohdns.example.", "."]
rr_a = "127.0.0.1"
rr_ns = "ns1.irohdns.example."

[mainline]
enabled = true
"""
PRODUCTION = """
pkarr_put_rate_limit = "smart"

[https]
port = 443
listen_backlog = 4096
domains = ["irohdns.example.org"]
cert_mode = "lets_encrypt"
letsencrypt_prod = true

[dns]
port = 53
default_soa = "dns1.irohdns.example.org hostmaster.irohdns.example.org 0 10800 3600 604800 3600"
default_ttl = 30
origins = ["irohdns.example.org", "."]
rr_a = "203.0.10.10"
rr_ns = "ns1.irohdns.example.org."

[mainline]
enabled = false
"""


def read(text: str, **options) -> DnsServerConfig:
    """Of a file without unknown keys."""

    def unknown(message: str) -> None:
        raise AssertionError(message)

    return DnsServerConfig.from_toml(text, env={}, on_unknown=unknown, **options)


def test_file_for_development_of_the_released_server():
    config = read(DEVELOPMENT)
    assert config.http_bind_addr == ("127.0.0.1", 8080)
    assert config.https == HttpsSettings(("127.0.0.1", 8443))
    assert config.dns_bind_addr == ("127.0.0.1", 5300)
    assert config.zones.origins == ("irohdns.example.", ".") and config.zones.rr_a == "127.0.0.1"
    assert config.metrics_bind_addr == ("127.0.0.1", 9117)
    assert config.pkarr_put_rate_limit == "disabled" and config.mainline
    assert config.store == StoreSettings() and config.data_dir is None


def test_file_for_production_of_the_released_server_needs_a_contact():
    with pytest.raises(ConfigError, match="https.letsencrypt_contact"):
        read(PRODUCTION)
    added = PRODUCTION.replace("[dns]", 'letsencrypt_contact = "mailto:ops@example.org"\n[dns]')
    config = read(added)
    assert config.http_bind_addr is None and config.https is not None
    assert config.https.bind_addr == ("::", 443) and config.https.backlog == 4096
    acme = config.https.source(Path("x")).acme
    assert acme is not None and acme.contact == "ops@example.org"
    assert acme.hostnames == ("irohdns.example.org",) and "staging" not in acme.directory
    assert config.pkarr_put_rate_limit == "smart"


def test_least_file_and_defaults():
    config = read(LEAST)
    assert config.pkarr_put_rate_limit == "simple" and config.https is None
    assert config.http_bind_addr == config.dns_bind_addr == ("::", 0)
    assert config.zones == ZoneSettings() and config.zones.rr_a is None
    plain = DnsServerConfig()
    assert plain.http_bind_addr == ("::", 8080) and plain.dns_bind_addr == ("::", 5300)
    assert plain.https is not None and plain.https.bind_addr == ("::", 8443)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[http]\nport = 1", "dns"),
        ("[dns]\nport = 1", "neither http nor https"),
        (LEAST.replace("port = 0\n[dns]", 'port = "x"\n[dns]'), "http.port"),
        (LEAST.replace("port = 0\n[dns]", "port = 65536\n[dns]"), "http.port"),
        (
            LEAST.replace("port = 0\n[dns]", 'port = 0\nbind_addr = "somewhere"\n[dns]'),
            "http.bind_addr",
        ),
        (LEAST + 'default_soa = "a b 1 2 3"', "dns.default_soa"),
        (LEAST + 'default_soa = "a b 1 2 3 4 99999999999"', "dns.default_soa"),
        (LEAST + "origins = []", "dns.origins"),
        (LEAST + 'origins = "x"', "dns.origins"),
        (LEAST + 'origins = ["a..b"]', "dns.origins"),
        (LEAST + 'rr_a = "::1"', "dns.rr_a"),
        (LEAST + 'rr_aaaa = "127.0.0.1"', "dns.rr_aaaa"),
        (LEAST + "default_ttl = -1", "dns.default_ttl"),
        (LEAST + "udp_burst = 0", "dns.udp_burst"),
        (LEAST + "[metrics]\nbind_addr = '9117'", "metrics.bind_addr"),
        (LEAST + "[metrics]\ndisabled = 1", "metrics.disabled"),
        (LEAST + '[zone_store]\neviction = "soon"', "zone_store.eviction"),
        (LEAST + '[zone_store]\neviction = "7 fortnights"', "zone_store.eviction"),
        (LEAST + "[zone_store]\neviction = 0", "zone_store.eviction"),
        (LEAST + '[zone_store]\nmax_batch_time = "x"', "zone_store.max_batch_time"),
        (LEAST + "[zone_store]\nmax_records = 0", "zone_store.max_records"),
        (LEAST + '[zone_store]\ndurability = "none"', "zone_store.durability"),
        (LEAST + '[mainline]\nenabled = true\nbootstrap = ["x"]', "mainline.bootstrap"),
        ('pkarr_put_rate_limit = "off"\n' + LEAST, "pkarr_put_rate_limit"),
        ('trusted_proxies = ["x"]\n' + LEAST, "trusted_proxies"),
        ('max_future = "-1h"\n' + LEAST, "max_future"),
        (LEAST + "[https]\nport = 1\ndomains = []", "https.domains"),
        (LEAST + '[https]\nport = 1\ncert_mode = "manual"\ndomains = ["a", "b"]', "https.domains"),
        (LEAST + '[https]\nport = 1\ncert_mode = "Manual"', "https.cert_mode"),
        (LEAST + '[https]\nport = 1\ncert_mode = "lets_encrypt"', "https.letsencrypt_contact"),
        ("port = ", "not a TOML file"),
        ("http = 1\n[dns]\nport = 1", "http"),
    ],
)
def test_what_is_wrong_is_named(text, named):
    with pytest.raises(ConfigError, match=re.escape(named)) as caught:
        read(text)
    assert len(str(caught.value)) < 300


def test_unknown_keys_are_told_with_the_nearest_and_the_rest_counts():
    told: list[str] = []
    text = (
        "pkarr_rate_limit = 1\n" + LEAST + "origin = ['x']\n[zone_stor]\n[https]\nport = 1\nx = 1"
    )
    config = DnsServerConfig.from_toml(text, env={}, on_unknown=told.append)
    assert config.https is not None and config.zones == ZoneSettings()
    assert len(told) == 4
    assert "did you mean pkarr_put_rate_limit?" in told[0]
    assert any("unknown key dns.origin; did you mean dns.origins?" in line for line in told)
    assert any("zone_store" in line for line in told)
    assert any("https.x" in line and "cert_mode" in line for line in told)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7days", 604800.0), ("10s", 10.0), ("1h 30m", 5400.0), ("1day12hours", 129600.0),
        ("250ms", 0.25), ("2 weeks", 1209600.0), ("1M", 2630016.0), (" 5 min ", 300.0),
        (3, 3.0), (0.5, 0.5), ("1us", 1e-6),
    ],
)  # fmt: skip
def test_durations(text, seconds):
    assert duration("x", text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "7", "days", "7 days ago", "-1s", "1.5h", "1d" * 200, "1٣s1x"]
)
def test_text_that_is_no_duration(text):
    with pytest.raises(ConfigError, match="^x is a duration"):
        duration("x", text)


def test_secrets_and_folders_come_from_the_environment(monkeypatch, tmp_path):
    env = {"IROH_DNS_POSTGRES": "postgresql://u:secret@h/d", "IROH_DNS_ACME_URL": "https://acme"}
    config = DnsServerConfig.from_toml(LEAST + "[https]\nport = 0", env=env)
    assert config.store.postgres == env["IROH_DNS_POSTGRES"] and config.store_path is None
    assert config.https is not None and config.https.acme_url == "https://acme"
    monkeypatch.setenv("IROH_DNS_DATA_DIR", str(tmp_path))
    assert read(LEAST).store_path == tmp_path / "signed-packets-1.sqlite"
    assert read(LEAST).cert_dir == tmp_path / "cert_cache"
    assert read('data_dir = "/x"\n' + LEAST).folder == Path("/x")


# --- documents and files --------------------------------------------------------------------


@pytest.mark.source_tree
def test_example_of_the_documents_is_the_defaults_and_names_every_key():
    text = (ROOT / "docs" / "dns_server.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```toml\n(.*?)^```", text, re.M | re.S)
    config = read(example)
    default = DnsServerConfig()
    assert config.http_bind_addr == default.http_bind_addr and config.https == default.https
    assert config.dns_bind_addr == default.dns_bind_addr and config.zones == default.zones
    assert config.dns_limits == default.dns_limits and config.max_future == default.max_future
    assert config.metrics_bind_addr == default.metrics_bind_addr
    assert config.store == default.store
    assert config.pkarr_put_rate_limit == default.pkarr_put_rate_limit
    # What is commented out is right, too.
    for line in re.findall(r"^# (\w+ = [^#\n]*)", example, re.M):
        example = example.replace(f"# {line}", line)
    assert read(example).store.postgres is not None
    for table in vars(config_file).values():
        if isinstance(table, type) and issubclass(table, msgspec.Struct):
            for item in msgspec.structs.fields(table):
                assert re.search(rf"^#? ?\[?{item.name}\b", example, re.M), item.name


@pytest.mark.source_tree
def test_file_of_the_container_is_right():
    config = read((ROOT / "docker" / "dns-server.toml").read_text(encoding="utf-8"))
    assert config.folder == Path("/data") and config.dns_bind_addr == ("::", 53)


def parsed(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(words)


@pytest.mark.source_tree
def test_container_file_is_well_formed_and_what_it_copies_and_runs_exists():
    text = (ROOT / "docker" / "Containerfile").read_text(encoding="utf-8")
    lines = [line for line in text.replace("\\\n", "").splitlines() if line and line[0] != "#"]
    known = {
        *("FROM", "RUN", "COPY", "USER", "EXPOSE", "STOPSIGNAL", "ENTRYPOINT", "CMD", "VOLUME"),
    }
    assert {line.split()[0] for line in lines} <= known
    stages = re.findall(r"^FROM \S+ AS (\S+)$", text, re.M)
    # The last one is what is built unless another one is named.
    assert stages == ["build", "dns-server", "relay"]
    for line in lines:
        if line.startswith("COPY"):
            for name in line.split()[1:-1]:
                assert (ROOT / name).exists(), name
    (stage,) = re.findall(r"AS dns-server$(.*?)^FROM", text, re.M | re.S)
    (entry,) = re.findall(r"^ENTRYPOINT (.*)$", stage, re.M)
    (words,) = re.findall(r"^CMD (.*)$", stage, re.M)
    assert json.loads(entry) == ["python", "-m", "iroh_fast", "dns-server"]
    (copied,) = re.findall(r"^COPY docker/dns-server.toml (\S+)$", stage, re.M)
    assert parsed(json.loads(words)).config == Path(copied)


@pytest.mark.source_tree
def test_unit_of_systemd_is_well_formed_and_runs_the_command():
    unit = configparser.RawConfigParser(strict=True, delimiters="=")
    unit.optionxform = str
    path = ROOT / "systemd" / "iroh-fast-dns-server.service"
    unit.read_string(path.read_text(encoding="utf-8"))
    assert set(unit) - {"DEFAULT"} == {"Unit", "Service", "Install"}
    service = unit["Service"]
    for key, more in (("ExecStart", False), ("ExecStartPre", True)):
        program, name, *words = service[key].split()
        assert Path(program).name == "iroh-fast" and name == "dns-server"
        assert parsed(words).check_config is more and parsed(words).config is not None
    assert service["Environment"] == f"IROH_DNS_DATA_DIR=/var/lib/{service['StateDirectory']}"
    assert int(service["TimeoutStopSec"]) > 3


# --- the command ----------------------------------------------------------------------------


def run(*words: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "iroh_fast", "dns-server", *words],
        capture_output=True, text=True, timeout=120, **options,
    )  # fmt: skip


def test_version_and_options_that_exclude_each_other(capsys):
    for words, status in ((["--version"], 0), (["--dev", "-c", "x"], 2)):
        with pytest.raises(SystemExit) as ended:
            main(["dns-server", *words])
        assert ended.value.code == status
    assert "iroh_fast" in capsys.readouterr().out


def test_check_config_tells_what_is_wrong_and_what_is_right(tmp_path):
    path = tmp_path / "server.toml"
    path.write_text(LEAST + "prot = 1\n")
    done = run("-c", str(path), "--check-config")
    assert done.returncode == 0 and f"{path}: right; origins: irohdns.example., ." in done.stdout
    assert "unknown key dns.prot; did you mean dns.port?" in done.stderr
    path.write_text(LEAST + '[https]\nport = 0\ncert_mode = "manual"\ndomains = ["a.example"]')
    env = {**os.environ, "IROH_DNS_DATA_DIR": str(tmp_path)}
    for words in (("-c", str(path), "--check-config"), ("-c", str(path))):
        done = run(*words, env=env)
        assert done.returncode == 1 and "a.example.crt" in done.stderr
    done = run("-c", str(tmp_path / "missing.toml"))
    assert done.returncode == 1 and "missing.toml" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_command_serves_until_a_signal_and_keeps_what_it_accepted(tmp_path, number):
    path = tmp_path / "server.toml"
    path.write_text(
        f'data_dir = "{tmp_path}"\npkarr_put_rate_limit = "disabled"\n'
        '[http]\nport = 0\nbind_addr = "127.0.0.1"\n[dns]\nport = 0\nbind_addr = "127.0.0.1"\n'
        "[metrics]\ndisabled = true\n"
    )
    signed = packet()
    for turn in range(2):
        process = subprocess.Popen(
            [sys.executable, "-m", "iroh_fast", "dns-server", "-c", str(path)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert process.stdout is not None and process.stderr is not None
            first = process.stdout.readline()
            url = first.split()[-1].removesuffix("/pkarr") + path_of(signed)
            if turn == 0:
                asked = urllib.request.Request(url, signed.relay_payload, method="PUT")
                assert urllib.request.urlopen(asked, timeout=60).status == 204
            with urllib.request.urlopen(url, timeout=60) as answer:
                assert answer.read() == signed.relay_payload
            # Nothing but that there is no certificate to read again.
            process.send_signal(signal.SIGHUP)
            while "nothing to read again" not in process.stderr.readline():
                assert process.poll() is None
            told = first
            while "PkarrResolver(url)" not in told:
                told += process.stdout.readline()
            assert "DNS over HTTPS" in told and "/dns-query" in told
            process.send_signal(number)
            process.communicate(timeout=60)
            assert process.returncode == 0
        finally:
            process.kill()
            process.wait()


def test_dev_settings():
    config = command.read_config(None, dev=True)
    assert config.http_bind_addr == ("127.0.0.1", 8080) and config.https is None
    assert config.dns_bind_addr == ("127.0.0.1", 5300) and config.other_ports
    assert config.pkarr_put_rate_limit == "disabled" and config.store_path is None
    assert command.read_config(None) == DnsServerConfig()
