"""Certificates of a server: PEM files that may change while in use, and self-signed ones."""

from __future__ import annotations

import datetime
import ipaddress
import logging
import os
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import ConfigError

__all__ = ["CertificateFiles", "context_of", "self_signed", "self_signed_context", "server_context"]

logger = logging.getLogger("iroh_fast.web.tls")


def server_context() -> ssl.SSLContext:
    """A TLS server context without certificate: TLS 1.2 and 1.3, no client certificates, no ALPN."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class CertificateFiles:
    """A certificate chain and key in PEM files, loaded into a context and kept up to date.

    Parameters
    ----------
    context : ssl.SSLContext
        New handshakes use what was loaded last.
    cert, key : Path

    Raises
    ------
    ConfigError
        From `load`: the files cannot be used.
    """

    def __init__(self, context: ssl.SSLContext, cert: Path, key: Path) -> None:
        self.context = context
        self.cert = cert
        self.key = key
        self._stamp: tuple[object, ...] = ()

    def _look(self) -> tuple[object, ...]:
        found: list[object] = []
        for path in (self.cert, self.key):
            stat = path.stat()
            found += [stat.st_mtime_ns, stat.st_size, stat.st_ino]
        return tuple(found)

    def load(self) -> None:
        try:
            stamp = self._look()
            # A pair that does not fit must not get half-way into the context in use.
            server_context().load_cert_chain(self.cert, self.key)
            self.context.load_cert_chain(self.cert, self.key)
        except (OSError, ssl.SSLError) as err:
            raise ConfigError(
                f"cannot use the certificate {self.cert} with the key {self.key}: {err}"
            ) from err
        self._stamp = stamp

    def changed(self) -> bool:
        """Whether the files are other ones than those loaded; False while they are missing."""
        try:
            return self._look() != self._stamp
        except OSError:
            return False

    def reload(self) -> bool:
        """Load again; on failure the old pair stays and the log tells. True when it worked."""
        try:
            self.load()
        except ConfigError as err:
            logger.warning("certificate not reloaded: %s", err)
            return False
        logger.info("certificate reloaded from %s", self.cert)
        return True


def self_signed(
    names: Sequence[str] = ("localhost", "127.0.0.1", "::1"),
    *,
    critical: Mapping[str, bytes] | None = None,
) -> tuple[bytes, bytes]:
    """Make a certificate and key for development: PEM, ECDSA P-256, one year.

    Clients have to be told to trust it.

    Parameters
    ----------
    critical : mapping, optional
        Further extensions: DER by object identifier.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    def general_name(name: str) -> x509.GeneralName:
        try:
            return x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            return x509.DNSName(name)

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0])])
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=365))
        .add_extension(
            x509.SubjectAlternativeName([general_name(n) for n in names]), critical=False
        )
        # Not a CA: rustls refuses one as the certificate of a server.
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    )
    for oid, value in (critical or {}).items():
        extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)
        builder = builder.add_extension(extension, critical=True)
    certificate = builder.sign(key, hashes.SHA256())
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


def self_signed_context(
    names: Sequence[str] = ("localhost", "127.0.0.1", "::1"),
) -> tuple[ssl.SSLContext, bytes, bytes]:
    """A server context with a new self-signed certificate, and certificate and key in PEM."""
    cert, key = self_signed(names)
    return context_of(cert, key), cert, key


def context_of(cert: bytes, key: bytes) -> ssl.SSLContext:
    """A server context with a certificate and key in PEM."""
    import tempfile

    context = server_context()
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for name, data in (("cert.pem", cert), ("key.pem", key)):
            path = os.path.join(folder, name)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            paths.append(path)
        context.load_cert_chain(*paths)
    return context
