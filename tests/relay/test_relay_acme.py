"""Certificates by ACME: the relay server against a small ACME server made here."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import ssl
import sys
import threading
from pathlib import Path

import pytest
from acme_authority import AcmeServer, Clock
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from relay_peer import config, head, request, until, where

from iroh_fast.errors import ConfigError
from iroh_fast.relay.server.config import RelayServerConfig, RelayTlsConfig
from iroh_fast.relay.server.server import RelayServer
from iroh_fast.web import acme as acme_module
from iroh_fast.web.acme import CHALLENGE_PATH, AcmeCertificate, cache_name
from iroh_fast.web.tls_files import self_signed, server_context

VECTORS = json.loads(
    (Path(__file__).parents[1] / "vectors" / "relay_frames.json").read_text(encoding="utf-8")
)
NAME = "relay.example.com"


@pytest.fixture
async def clock(monkeypatch):
    clock = Clock()
    patched = functools.partial(AcmeCertificate, sleep=clock.sleep, now=clock.now)
    monkeypatch.setattr(acme_module, "AcmeCertificate", patched)
    return clock


@pytest.fixture
async def authority(tmp_path):
    async with AcmeServer() as authority:
        (tmp_path / "roots.pem").write_bytes(authority.roots)
        yield authority


def settings(folder, url="https://localhost:1/directory", names=(NAME,), **changes):
    tls = RelayTlsConfig(
        "LetsEncrypt",
        ("127.0.0.1", 0),
        ("127.0.0.1", 0),
        folder / "certs",
        hostname=names,
        contact="ops@example.com",
        acme_url=url,
        acme_ca=folder / "roots.pem",
    )
    return config(tls=tls, **changes)


def relay(authority, folder, **changes):
    return RelayServer(settings(folder, authority.url, **changes))


async def seen(server, authority, name=NAME):
    """The certificate a client gets that checks everything."""
    context = ssl.create_default_context(cadata=authority.pem().decode())
    if sys.version_info >= (3, 13):  # the test CA is simpler than strict checks want
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    _, writer = await asyncio.open_connection(
        *where(server, "https"), ssl=context, server_hostname=name
    )
    der = writer.get_extra_info("ssl_object").getpeercert(True)
    writer.transport.abort()
    return x509.load_der_x509_certificate(der)


async def ready(server):
    await until(lambda: server._certificates._acme.ready)


# --- with a server


async def test_first_certificate(tmp_path, authority, clock):
    authority.refusals = 10**6
    authority.pending, authority.processing = 2, 3
    async with relay(authority, tmp_path) as server:
        authority.portal = where(server, "http")
        await until(lambda: len(clock.delays) > 2)
        with pytest.raises((ssl.SSLError, ConnectionError)):  # no certificate yet
            await seen(server, authority)
        authority.refusals = 0
        await ready(server)
        certificate = await seen(server, authority)
        token = authority.orders[0]["parts"][0]["token"]
        gone = await request(server, head(CHALLENGE_PATH + token), "http")
        assert gone.status == 404
    assert [certificate] == authority.issued
    assert certificate.subject.rdns == []
    assert isinstance(certificate.public_key().curve, ec.SECP256R1)
    assert authority.hosts == [NAME]
    assert authority.new_accounts == [
        {"contact": ["mailto:ops@example.com"], "termsOfServiceAgreed": True}
    ]
    # two polls in vain and one that tells; then the order, which answers at the third
    assert clock.delays[-6:] == [1, 2, 4, 1, 2, 4]

    cached = tmp_path / "certs" / cache_name("cert", [NAME], authority.url)
    account = tmp_path / "certs" / cache_name("account", ["mailto:ops@example.com"], authority.url)
    assert sorted(os.listdir(tmp_path / "certs")) == sorted([cached.name, account.name])
    text = cached.read_bytes()
    assert text.startswith(b"-----BEGIN PRIVATE KEY-----")
    assert text.endswith(authority.pem())
    key = serialization.load_der_private_key(account.read_bytes(), None)
    assert isinstance(key.curve, ec.SECP256R1)
    if sys.platform != "win32":
        assert cached.stat().st_mode & 0o777 == account.stat().st_mode & 0o777 == 0o600


async def test_restart_uses_the_cache_and_asks_nobody(tmp_path, authority, clock):
    async with relay(authority, tmp_path) as server:
        authority.portal = where(server, "http")
        await ready(server)
    asked = len(authority.requests)
    async with relay(authority, tmp_path) as server:
        assert [await seen(server, authority)] == authority.issued
        clock.forward(days=59)
        await asyncio.sleep(0.05)
        assert [await seen(server, authority)] == authority.issued
    assert len(authority.requests) == asked


async def test_renewal_replaces_the_certificate_in_use(tmp_path, authority, clock):
    names = (NAME, "other.example.com")
    replaced = []

    class Discovery:
        address = ("127.0.0.1", 7842)

        def counters(self):
            return {}

        def replace_certificate(self, certificate, key):
            replaced.append((certificate, key))

        async def close(self):
            pass

    started = []

    async def factory(_, certificate, key):
        started.append(x509.load_pem_x509_certificate(certificate))
        return Discovery()

    wanted = settings(tmp_path, authority.url, names, enable_quic_addr_discovery=True)
    async with RelayServer(wanted, qad=factory) as server:
        authority.portal = where(server, "http")
        await ready(server)
        for name in names:
            assert await seen(server, authority, name) == authority.issued[0]
        clock.forward(days=60)
        await until(lambda: len(replaced) == 2)
        # The clock of the test is ahead of that in certificates: it would be due at once again.
        authority.refusals = 10**6
        for name in names:
            assert await seen(server, authority, name) == authority.issued[-1]
    assert authority.issued[0] != authority.issued[1]
    assert started[0].subject == started[0].issuer  # stands in until there is one
    assert [x509.load_pem_x509_certificate(pair[0]) for pair in replaced] == authority.issued
    assert authority.hosts[:4] == [*names, *names]
    assert len(authority.new_accounts) == 1  # the account was found again


async def test_builtin_address_discovery_takes_the_certificate(tmp_path, authority, clock):
    wanted = settings(tmp_path, authority.url, enable_relay=False, enable_quic_addr_discovery=True)
    async with RelayServer(wanted) as server:
        authority.portal = where(server, "http")  # there for the challenges
        await ready(server)
        assert server._qad._tls.credentials.certificate == authority.issued[0]


async def test_refused_orders_are_repeated_after_longer_and_longer_waits(
    tmp_path, authority, clock, caplog
):
    authority.refusals = 4
    async with relay(authority, tmp_path) as server:
        authority.portal = where(server, "http")
        await ready(server)
    assert clock.delays == [1, 2, 4, 8, 1]  # the last one is the poll of the authorization
    assert "next attempt in 8 s" in caplog.text


async def test_failed_challenge_is_told_and_repeated(tmp_path, authority, clock, caplog):
    async with relay(authority, tmp_path) as server:
        await until(lambda: "wrong content" in caplog.text)
        assert not server._certificates._acme.ready
        authority.portal = where(server, "http")
        await ready(server)
        assert [await seen(server, authority)] == authority.issued
    assert f"{NAME}: invalid" in caplog.text


@pytest.mark.parametrize(
    "part, polls, words",
    [
        ("pending", [1, 2, 4, 8, 16], "not validated in time"),
        ("processing", [1, *(2**n for n in range(10))], "not completed in time"),
    ],
)
async def test_polling_ends(tmp_path, authority, clock, caplog, part, polls, words):
    setattr(authority, part, 10**6)
    async with relay(authority, tmp_path) as server:
        authority.portal = where(server, "http")
        await until(lambda: words in caplog.text)
    assert clock.delays[: len(polls)] == polls


async def test_unusable_cache_is_replaced(tmp_path, authority, clock, caplog):
    folder = tmp_path / "certs"
    folder.mkdir()
    for kind, item in (("cert", NAME), ("account", "mailto:ops@example.com")):
        (folder / cache_name(kind, [item], authority.url)).write_bytes(b"nonsense")
    async with relay(authority, tmp_path) as server:
        authority.portal = where(server, "http")
        await ready(server)
        assert [await seen(server, authority)] == authority.issued
    assert "cached certificate not used" in caplog.text
    assert "cached account key not used" in caplog.text


async def test_certificate_for_another_key_is_not_stored(tmp_path, authority, clock, caplog):
    stranger, _ = self_signed()
    real = authority._chain

    async def wrong(*arguments):
        status, _, headers = await real(*arguments)
        return status, stranger, headers

    authority._chain = wrong
    async with relay(authority, tmp_path) as server:
        authority.portal = where(server, "http")
        await until(lambda: "no certificate, next attempt in 2 s" in caplog.text)
        assert not server._certificates._acme.files.cert.exists()
        authority._chain = real
        await ready(server)
        assert await seen(server, authority) == authority.issued[-1]


async def test_server_that_is_not_trusted(tmp_path, authority, clock, caplog):
    (tmp_path / "roots.pem").write_bytes(self_signed()[0])
    async with relay(authority, tmp_path) as server:
        await until(lambda: "CERTIFICATE_VERIFY_FAILED" in caplog.text)
        assert not server._certificates._acme.ready
    assert authority.requests == []


# --- without


def test_waits_grow_up_to_a_day(virtual, tmp_path):
    delays = []

    async def sleep(delay):
        delays.append(delay)
        if len(delays) == 20:
            raise asyncio.CancelledError

    async def main():
        tls = RelayTlsConfig("LetsEncrypt", cert_dir=tmp_path, hostname=(NAME,), contact="a@b")
        certificate = AcmeCertificate(server_context(), tls.acme(), sleep=sleep)

        async def fail():
            raise OSError("no network")

        certificate._obtain = fail
        with pytest.raises(asyncio.CancelledError):
            await certificate.run()

    virtual(main())
    assert delays == [2 ** min(n, 16) for n in range(20)]


@pytest.mark.parametrize("item", VECTORS["acme_cache_names"], ids=lambda item: item["file"][:12])
def test_cache_names(item):
    kind, items = ("cert", item["domains"]) if "domains" in item else ("account", item["contact"])
    assert cache_name(kind, items, item["directory"]) == item["file"]


def test_directory_and_environment():
    text = '[tls]\ncert_mode = "LetsEncrypt"\nhostname = "a.example"\ncontact = "a@b"\n'
    tls = RelayServerConfig.from_toml(text, env={}).tls
    assert tls.acme().directory == "https://acme-v02.api.letsencrypt.org/directory"
    tls = RelayServerConfig.from_toml(text + "prod_tls = false", env={}).tls
    assert tls.acme().directory == "https://acme-staging-v02.api.letsencrypt.org/directory"
    env = {"IROH_RELAY_ACME_URL": "https://acme.example/", "IROH_RELAY_ACME_CA": "ca.pem"}
    tls = RelayServerConfig.from_toml(text, env=env).tls
    assert (tls.acme().directory, tls.acme_ca) == ("https://acme.example/", Path("ca.pem"))


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"hostname": ()}, "tls.hostname"),
        ({"contact": None}, "tls.contact"),
        ({"hostname": ("*.example.com",)}, "plain ASCII host names"),
        ({"hostname": ("bücher.example",)}, "plain ASCII host names"),
        ({"hostname": ("192.0.2.1",)}, "plain ASCII host names"),
        ({"acme_url": "http://acme.example"}, "https://"),
        ({"acme_ca": Path("missing.pem")}, "missing.pem"),
        ({"http_only": True}, "TLS is off"),
        ({"cert_dir": Path(__file__) / "below"}, "cert_dir"),
    ],
)
async def test_settings_that_cannot_work(tmp_path, changes, words):
    good = {"cert_dir": tmp_path, "hostname": (NAME,), "contact": "a@b"}
    tls = RelayTlsConfig("LetsEncrypt", ("127.0.0.1", 0), **{**good, **changes})
    with pytest.raises(ConfigError, match=words):
        await RelayServer(config(tls=tls)).start()


@pytest.mark.parametrize("package", ["acme", "josepy", "requests"])
async def test_missing_extra(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / "roots.pem").write_bytes(self_signed()[0])
    with pytest.raises(ConfigError, match=r"pip install 'iroh-fast\[acme\]'"):
        await RelayServer(settings(tmp_path)).start()


async def test_what_runs_in_a_thread_is_through_before_the_work_ends(tmp_path):
    tls = settings(tmp_path).tls
    (tmp_path / "roots.pem").write_bytes(self_signed()[0])
    certificate = AcmeCertificate(server_context(), tls.acme())
    may_end, through = threading.Event(), []

    def work():
        may_end.wait(10)
        through.append(True)

    task = asyncio.create_task(certificate._step(work))
    await until(lambda: certificate._running is not None)
    task.cancel()
    for _ in range(10):
        await asyncio.sleep(0)
    assert not task.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert through == [True]
