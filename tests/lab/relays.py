"""Relay servers of a world, ours and the real one, with a certificate of the world's own authority."""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.lab.lan import entered
from tests.lab.namespaces import LabError

if TYPE_CHECKING:
    from tests.lab.hosts import Host

__all__ = ["Relay", "make_certificates"]

ROOT = Path(__file__).parents[2]
START_S = 30.0
#: Names of relays that the certificate of a world is for.
NAMES = ["relay.test", *(f"relay{i}.test" for i in range(2, 10))]


def make_certificates(folder: Path) -> tuple[Path, tuple[Path, Path]]:
    """An authority and a certificate by it for all relays: files of its PEM, and of certificate and key."""
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)

    def builder(name: str) -> tuple[ec.EllipticCurvePrivateKey, x509.CertificateBuilder]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = x509.CertificateBuilder(subject_name=subject, public_key=key.public_key())
        made = made.serial_number(x509.random_serial_number())
        return key, made.not_valid_before(now - day).not_valid_after(now + 30 * day)

    authority_key, authority = builder("authority of the lab")
    authority_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority of the lab")])
    authority = authority.issuer_name(authority_name)
    authority = authority.add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
    root = authority.sign(authority_key, hashes.SHA256())
    key, leaf = builder(NAMES[0])
    names = x509.SubjectAlternativeName([x509.DNSName(name) for name in NAMES])
    leaf = leaf.issuer_name(authority_name).add_extension(names, False)
    leaf = leaf.add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
    signed = leaf.sign(authority_key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    ca, certificate, private = folder / "ca.pem", folder / "relay.crt", folder / "relay.key"
    ca.write_bytes(root.public_bytes(pem))
    certificate.write_bytes(signed.public_bytes(pem) + root.public_bytes(pem))
    private.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return ca, (certificate, private)


class Relay:
    """A relay server as a process on a host, at the usual ports: 80, 443, and 7842 of UDP.

    Attributes
    ----------
    host : Host
    kind : str
        ``"ours"`` or ``"iroh-relay"``.
    url : str
    log : Path
        What it says.
    """

    def __init__(self, host: Host, kind: str, name: str, key_pair: tuple[Path, Path]) -> None:
        if kind not in ("ours", "iroh-relay"):
            raise ValueError(f"no such relay: {kind!r}; there are ours and iroh-relay")
        if name not in NAMES:
            raise ValueError(f"{name!r} is none of the names of relays: {', '.join(NAMES)}")
        self.host, self.kind, self.name = host, kind, name
        self.url = f"https://{name}/"
        self.log = host.world.folder / f"{host.label}.log"
        self._config = host.world.folder / f"{host.label}.toml"
        certificate, key = key_pair
        self._config.write_text(
            f"""\
enable_relay = true
http_bind_addr = "[::]:80"
enable_metrics = false
enable_quic_addr_discovery = true

[tls]
cert_mode = "Manual"
manual_cert_path = "{certificate}"
manual_key_path = "{key}"
https_bind_addr = "[::]:443"
quic_bind_addr = "[::]:7842"
"""
        )
        self._process: subprocess.Popen[Any] | None = None

    def start(self) -> None:
        """Run it; returns when its sockets are open."""
        config = str(self._config)
        if self.kind == "ours":
            command = [sys.executable, "-m", "iroh_fast", "relay", "-c", config]
        else:
            from tests.interop.rust import program

            command = [program("iroh-relay"), "-c", config]
        with self.log.open("ab") as log:
            env = {**os.environ, "IROH_FAST_LOG": "DEBUG", "RUST_LOG": "info"}
            options = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, "env": env}
            self._process = self.host.popen(command, **options)
        self._wait()

    def _wait(self) -> None:
        """Until it takes connections, of all kinds: QAD is the last that it opens."""
        end = time.monotonic() + START_S
        assert self._process is not None
        while self._process.poll() is None and time.monotonic() < end:
            with contextlib.suppress(OSError), entered(self.host):
                socket.create_connection(("127.0.0.1", 443), 1).close()
                # The socket is there already: then this address is taken.
                probe = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
                with probe:
                    try:
                        probe.bind(("::", 7842))
                    except OSError:
                        return
            time.sleep(0.02)
        raise LabError(f"{self.kind} did not start: {self.log.read_text()[-2000:]}")

    def stop(self, *, kill: bool = False) -> None:
        """End it, gracefully or at once."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        if kill:
            process.kill()
        else:
            process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def restart(self) -> None:
        """End it and run it again, at the same ports."""
        self.stop()
        self.start()
