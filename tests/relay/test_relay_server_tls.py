"""Certificates of the relay server: from files, reloaded, self-signed."""

from __future__ import annotations

import asyncio
import os
import ssl
import warnings

import pytest
from relay_peer import config, connected, head, request, until, where

from iroh_fast.errors import ConfigError
from iroh_fast.relay.server.config import RelayTlsConfig
from iroh_fast.relay.server.server import RelayServer
from iroh_fast.web import certificates as certificates_module
from iroh_fast.web.tls_files import self_signed


def write(folder):
    cert, key = self_signed()
    (folder / "default.crt").write_bytes(cert)
    (folder / "default.key").write_bytes(key)
    return cert


async def seen(server):
    """The certificate new clients get."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    _, writer = await asyncio.open_connection(*where(server, "https"), ssl=context)
    der = writer.get_extra_info("ssl_object").getpeercert(True)
    writer.transport.abort()
    return ssl.DER_cert_to_PEM_cert(der).encode()


def tls(folder, mode="Manual", **changes):
    return config(tls=RelayTlsConfig(mode, ("127.0.0.1", 0), cert_dir=folder, **changes))


async def test_manual_certificate_is_used_and_reloaded_on_demand(tmp_path):
    cert = write(tmp_path)
    async with RelayServer(tls(tmp_path)) as server:
        assert await seen(server) == cert
        server.certificate = cert
        async with connected(server) as client:
            newer = write(tmp_path)
            assert await seen(server) == cert
            assert server.reload_certificates()
            assert await seen(server) == newer
            await client.ping()  # connections stay as they are


async def test_manual_certificate_paths(tmp_path):
    cert = write(tmp_path)
    os.rename(tmp_path / "default.crt", tmp_path / "chain.pem")
    os.rename(tmp_path / "default.key", tmp_path / "secret.pem")
    paths = {"cert_path": tmp_path / "chain.pem", "key_path": tmp_path / "secret.pem"}
    async with RelayServer(tls(tmp_path / "nowhere", **paths)) as server:
        assert await seen(server) == cert


async def test_reloading_certificate_follows_the_files_and_keeps_the_old_when_broken(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(certificates_module, "RELOAD_CHECK_S", 0.05)
    cert = write(tmp_path)
    async with RelayServer(tls(tmp_path, "Reloading")) as server:
        assert await seen(server) == cert
        _, other_key = self_signed()
        (tmp_path / "default.key").write_bytes(other_key)
        assert not server.reload_certificates()  # does not fit
        assert await seen(server) == cert
        (tmp_path / "default.crt").write_bytes(b"nonsense")
        assert not server.reload_certificates()
        assert await seen(server) == cert
        (tmp_path / "default.crt").unlink()
        newer = write(tmp_path)
        for _ in range(100):
            if await seen(server) == newer:
                break
        else:
            pytest.fail("not reloaded")


@pytest.mark.parametrize("mode", ["Manual", "Reloading"])
async def test_missing_certificate_is_an_error_at_start(tmp_path, mode):
    server = RelayServer(tls(tmp_path, mode))
    with pytest.raises(ConfigError, match="default.crt"):
        await server.start()


async def test_address_discovery_by_another_service(tmp_path):
    cert = write(tmp_path)
    key = (tmp_path / "default.key").read_bytes()
    wanted = tls(tmp_path).with_changes(enable_quic_addr_discovery=True)

    class Service:
        closed = False
        replaced = []
        address = ("127.0.0.1", 7842)

        def counters(self):
            return {"qad_connections": 3}

        def replace_certificate(self, *pair):
            self.replaced.append(pair)

        async def close(self):
            Service.closed = True

    started = []

    async def factory(*arguments):
        started.append(arguments)
        return Service()

    async with RelayServer(wanted, qad=factory) as server:
        assert started == [(("127.0.0.1", 7842), cert, key)]
        assert server.addresses["quic"] == ("127.0.0.1", 7842)
        assert server.metrics()["qad_connections"] == 3
        newer = write(tmp_path)
        assert server.reload_certificates()
        assert Service.replaced == [(newer, (tmp_path / "default.key").read_bytes())]
    assert Service.closed


async def test_old_tls_versions_are_refused(tmp_path):
    write(tmp_path)
    async with RelayServer(tls(tmp_path)) as server:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_ciphers("ALL:@SECLEVEL=0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, OSError)):
            await asyncio.open_connection(*where(server, "https"), ssl=context)
        await until(lambda: server.metrics()["unauthenticated"] == 0)


async def test_plain_http_on_the_tls_port_ends_quietly(tmp_path):
    cert = write(tmp_path)
    async with RelayServer(tls(tmp_path)) as server:
        reader, writer = await asyncio.open_connection(*where(server, "https"))
        writer.write(head("/ping"))
        try:
            while await reader.read(1000):
                pass
        except OSError:
            pass
        writer.transport.abort()
        server.certificate = cert
        assert (await request(server, head("/ping"))).status == 200
