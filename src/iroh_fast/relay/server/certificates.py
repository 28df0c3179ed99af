"""Where the certificate of a relay server comes from, and how it stays current."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from ...errors import ConfigError
from ...web import tls_files
from .config import RelayTlsConfig

if TYPE_CHECKING:
    from ...web.acme import AcmeCertificate

__all__ = ["Certificates"]

RELOAD_CHECK_S: Final = 10.0
RELOAD_ALWAYS_S: Final = 24 * 3600.0
_LOCAL_NAMES: Final = ("localhost", "127.0.0.1", "::1")


class Certificates:
    """The TLS context of a server, by its settings.

    Parameters
    ----------
    tls : RelayTlsConfig
    on_change : callable
        Called when new connections get another certificate; False when somebody kept the old one.

    Attributes
    ----------
    context : ssl.SSLContext
        New handshakes use the newest certificate.
    self_signed : bytes or None
        The certificate in PEM, when it is self-signed.

    Raises
    ------
    ConfigError
        The settings cannot work, or files cannot be read.
    """

    def __init__(self, tls: RelayTlsConfig, on_change: Callable[[], bool]) -> None:
        self.context: ssl.SSLContext
        self.self_signed: bytes | None = None
        self._on_change = on_change
        self._hostname = tls.hostname
        self._key = b""
        self._files: tls_files.CertificateFiles | None = None
        self._acme: AcmeCertificate | None = None
        self._reloads = tls.cert_mode == "Reloading"
        if tls.cert_mode == "SelfSigned":
            names = tls.hostname or _LOCAL_NAMES
            self.context, self.self_signed, self._key = tls_files.self_signed_context(names)
            return
        self.context = tls_files.server_context()
        if tls.cert_mode == "LetsEncrypt":
            from ...web.acme import AcmeCertificate

            if tls.http_only:
                raise ConfigError("Let's Encrypt cannot be used while TLS is off")
            self._acme = AcmeCertificate(self.context, tls.acme(), on_change=on_change)
            self._files = self._acme.files
            self._acme.load_cached()
            return
        self._files = tls_files.CertificateFiles(self.context, tls.certificate, tls.private_key)
        self._files.load()

    @property
    def acme_answer(self) -> Callable[[str], bytes | None] | None:
        """What the plain listener answers to an ACME server for a path."""
        return None if self._acme is None else self._acme.answer

    @property
    def work(self) -> Callable[[], Awaitable[None]] | None:
        """What has to run beside the server, if anything."""
        if self._acme is not None:
            return self._acme.run
        return self._watch if self._reloads else None

    def pem(self) -> tuple[bytes, bytes]:
        """Chain and key, for QUIC."""
        if self._files is None:
            assert self.self_signed is not None
            return self.self_signed, self._key
        if self._acme is not None and not self._acme.ready:
            # QUIC listens from the start; clients do not trust this and come back.
            return tls_files.self_signed(self._hostname)
        return self._files.cert.read_bytes(), self._files.key.read_bytes()

    def reload(self) -> bool:
        """Read the files again; tells whether that worked."""
        return self._files is not None and self._files.reload() and self._on_change()

    async def _watch(self) -> None:
        files = self._files
        assert files is not None
        loop = asyncio.get_running_loop()
        last = loop.time()
        while True:
            await asyncio.sleep(RELOAD_CHECK_S)
            if files.changed() or loop.time() - last >= RELOAD_ALWAYS_S:
                last = loop.time()
                self.reload()
