"""Where the certificate of a server comes from, and how it stays current."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from . import tls_files

if TYPE_CHECKING:
    import ssl

    from .acme import AcmeCertificate
    from .acme_config import AcmeConfig

__all__ = ["CertificateSource", "Certificates"]

RELOAD_CHECK_S: Final = 10.0
RELOAD_ALWAYS_S: Final = 24 * 3600.0
LOCAL_NAMES: Final = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class CertificateSource:
    """Where a certificate is from: an ACME server, two files, or made at every start.

    Parameters
    ----------
    names : tuple of str
        What a certificate made here is for; none: this machine.
    acme : AcmeConfig, optional
    files : tuple of (Path, Path), optional
        Chain and key in PEM.
    watch : bool
        Read the files again when they change, and every day.
    """

    names: tuple[str, ...] = ()
    acme: AcmeConfig | None = None
    files: tuple[Path, Path] | None = None
    watch: bool = False

    def check(self) -> None:
        """Try to read the files; ConfigError names them when they cannot be used."""
        if self.acme is None and self.files is not None:
            tls_files.CertificateFiles(tls_files.server_context(), *self.files).load()


class Certificates:
    """The TLS context of a server, by its settings.

    Parameters
    ----------
    source : CertificateSource
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

    def __init__(
        self, source: CertificateSource, on_change: Callable[[], bool] = lambda: True
    ) -> None:
        self.context: ssl.SSLContext
        self.self_signed: bytes | None = None
        self._on_change = on_change
        self._source = source
        self._key = b""
        self._files: tls_files.CertificateFiles | None = None
        self._acme: AcmeCertificate | None = None
        if source.acme is not None:
            from .acme import AcmeCertificate

            self.context = tls_files.server_context()
            self._acme = AcmeCertificate(self.context, source.acme, on_change=on_change)
            self._files = self._acme.files
            self._acme.load_cached()
        elif source.files is not None:
            self.context = tls_files.server_context()
            self._files = tls_files.CertificateFiles(self.context, *source.files)
            self._files.load()
        else:
            names = source.names or LOCAL_NAMES
            self.context, self.self_signed, self._key = tls_files.self_signed_context(names)

    @property
    def acme_answer(self) -> Callable[[str], bytes | None] | None:
        """What the plain listener answers to an ACME server for a path."""
        return None if self._acme is None else self._acme.answer

    @property
    def choose(self) -> Callable[[Callable[[], bytes]], ssl.SSLContext | None] | None:
        """What a TLS listener is asked by for another context, see `ListenerSettings`."""
        return None if self._acme is None else self._acme.in_handshakes.choose

    @property
    def work(self) -> Callable[[], Awaitable[None]] | None:
        """What has to run beside the server, if anything."""
        if self._acme is not None:
            return self._acme.run
        return self._watch if self._source.watch and self._files is not None else None

    def pem(self) -> tuple[bytes, bytes]:
        """Chain and key, for QUIC."""
        if self._files is None:
            assert self.self_signed is not None
            return self.self_signed, self._key
        if self._acme is not None and not self._acme.ready:
            # QUIC listens from the start; clients do not trust this and come back.
            return tls_files.self_signed(self._source.names)
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
