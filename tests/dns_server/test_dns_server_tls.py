"""Certificates of the DNS server: from files, reloaded, by ACME within handshakes and beside them."""

from __future__ import annotations

import asyncio
import functools
import ssl
import sys

import pytest
from acme_authority import AcmeServer, Clock
from dns_peer import serving
from web_peer import connected, request, until

from iroh_fast.dns_server import DnsServer, DnsServerConfig, HttpsSettings
from iroh_fast.errors import ConfigError
from iroh_fast.web import acme as acme_module
from iroh_fast.web import certificates as certificates_module
from iroh_fast.web.acme import AcmeCertificate
from iroh_fast.web.tls_challenge import TlsChallenges, offered
from iroh_fast.web.tls_files import self_signed

NAME = "dns.example.com"


def write(folder, name=NAME):
    cert, key = self_signed((name,))
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.crt").write_bytes(cert)
    (folder / f"{name}.key").write_bytes(key)
    return cert


async def shown(address, name=NAME):
    """The certificate that a client gets."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    async with connected(address, ssl=context, server_hostname=name) as client:
        assert (await client.ask(request("/"))).body == b"Hi!"
        der = client.writer.get_extra_info("ssl_object").getpeercert(True)
        return ssl.DER_cert_to_PEM_cert(der).encode()


async def test_manual_certificate_is_read_again_on_demand_and_when_it_changes(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(certificates_module, "RELOAD_CHECK_S", 0.05)
    first = write(tmp_path / "cert_cache")
    https = HttpsSettings(("127.0.0.1", 0), (NAME,), "manual")
    async with serving(https=https, data_dir=tmp_path) as server:
        address = server.addresses["https"]
        assert await shown(address) == first
        assert server.https_url == f"https://{NAME}:{address[1]}/"
        second = write(tmp_path / "cert_cache")
        assert server.reload_certificates()
        assert await shown(address) == second
        third = write(tmp_path / "cert_cache")
        async with asyncio.timeout(60):
            while await shown(address) != third:
                await asyncio.sleep(0.01)
        (tmp_path / "cert_cache" / f"{NAME}.key").write_bytes(b"nonsense")
        assert not server.reload_certificates()
        assert await shown(address) == third


async def test_names_of_files_hold_nothing_but_letters_digits_dots_and_dashes(tmp_path):
    write(tmp_path / "cert_cache", "aexample..com")
    https = HttpsSettings(("127.0.0.1", 0), ("a_/example/..\\com",), "manual")
    async with serving(https=https, data_dir=tmp_path):
        pass
    missing = DnsServer(DnsServerConfig.dev(https=https, data_dir=tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"aexample\.\.com\.crt"):
        await missing.start()


@pytest.fixture
async def clock(monkeypatch):
    clock = Clock()
    patched = functools.partial(AcmeCertificate, sleep=clock.sleep, now=clock.now)
    monkeypatch.setattr(acme_module, "AcmeCertificate", patched)
    return clock


def by_acme(authority, folder):
    (folder / "roots.pem").write_bytes(authority.roots)
    return HttpsSettings(
        ("127.0.0.1", 0),
        (NAME, "other.example.com"),
        "lets_encrypt",
        letsencrypt_contact="mailto:ops@example.com",
        acme_url=authority.url,
        acme_ca=folder / "roots.pem",
    )


async def test_certificate_by_handshakes_needs_nothing_but_https(tmp_path, clock):
    async with AcmeServer() as authority:
        authority.kind = "tls-alpn-01"
        changes = {
            "https": by_acme(authority, tmp_path),
            "http_bind_addr": None,
            "data_dir": tmp_path,
        }
        async with serving(**changes) as server:
            authority.portal = server.addresses["https"]
            await until(lambda: server._certificates._acme.ready)
            context = ssl.create_default_context(cadata=authority.pem().decode())
            if sys.version_info >= (3, 13):  # the test CA is simpler than strict checks want
                context.verify_flags &= ~ssl.VERIFY_X509_STRICT
            for name in (NAME, "other.example.com"):
                async with connected(
                    server.addresses["https"], ssl=context, server_hostname=name
                ) as client:
                    assert (await client.ask(request("/"))).body == b"Hi!"
            assert authority.hosts == [NAME, "other.example.com"]
            # What was shown to the authority is gone.
            assert not server._certificates._acme.in_handshakes._contexts
        assert authority.new_accounts[0]["contact"] == ["mailto:ops@example.com"]


async def test_certificate_by_files_where_plain_http_is_on_port_80(tmp_path, clock, monkeypatch):
    settings = DnsServerConfig.dev(http_bind_addr=("127.0.0.1", 80), https=HttpsSettings())
    async with AcmeServer() as authority:
        settings = settings.with_changes(https=by_acme(authority, tmp_path), data_dir=tmp_path)
        source = settings.certificates()
        assert source is not None and source.acme is not None and not source.acme.in_tls
        # The port cannot be had in a test.
        monkeypatch.setattr(DnsServerConfig, "certificates", lambda self: source)
        changes = {"https": settings.https, "data_dir": tmp_path}
        async with serving(**changes) as server:
            authority.portal = server.addresses["http"]
            await until(lambda: server._certificates._acme.ready)
        assert authority.hosts == [NAME, "other.example.com"]


# --- the beginning of a handshake -----------------------------------------------------------


def hello(name, protocols):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols(protocols)
    out = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return out.read()


@pytest.mark.parametrize("name", [None, "a.example", "Long." + "x" * 60 + ".example"])
@pytest.mark.parametrize("protocols", [[], ["acme-tls/1"], ["h2", "http/1.1"]])
def test_beginning_of_a_handshake_is_read(name, protocols):
    data = hello(name, protocols)
    assert offered(data) == ((name or "").lower(), protocols)
    # What is not there yet, or nonsense, is nothing and no error.
    for size in range(len(data)):
        cut = offered(data[:size])
        assert cut[0] in ("", (name or "").lower())
    for at in range(0, len(data), 3):
        for value in (0, 0xFF):
            offered(data[:at] + bytes((value,)) + data[at + 1 :])


def test_only_who_offers_the_protocol_of_acme_alone_is_shown_the_proof():
    challenges = TlsChallenges()

    def peek():
        raise AssertionError("nobody looks while there is nothing to show")

    assert challenges.choose(peek) is None
    challenges.show("A.example", b"token.thumb")
    assert challenges.choose(lambda: hello("a.example", ["acme-tls/1"])) is not None
    for data in (
        hello("a.example", []),
        hello("a.example", ["h2", "acme-tls/1"]),
        hello("b.example", ["acme-tls/1"]),
        b"GET / HTTP/1.1\r\n\r\n",
        b"",
    ):
        assert challenges.choose(lambda data=data: data) is None
    challenges.clear()
    assert challenges.choose(peek) is None
