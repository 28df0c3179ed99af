"""Settings of an ACME client; loads nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["LETS_ENCRYPT", "LETS_ENCRYPT_STAGING", "AcmeConfig"]

LETS_ENCRYPT: Final = "https://acme-v02.api.letsencrypt.org/directory"
LETS_ENCRYPT_STAGING: Final = "https://acme-staging-v02.api.letsencrypt.org/directory"


@dataclass(frozen=True, slots=True)
class AcmeConfig:
    """One certificate that an ACME server is asked for.

    Parameters
    ----------
    hostnames : tuple of str
        The names it is for; plain ASCII, no wildcards.
    contact : str
        Mail address of whom the server may write to.
    cert_dir : Path
        Keeps the account key and the certificate.
    directory : str
        URL of the server's directory (RFC 8555 §7.1.1), ``https``.
    in_tls : bool
        Show control of the names in TLS handshakes (TLS-ALPN-01: port 443), not by files that are
        fetched over plain HTTP (HTTP-01: port 80).
    roots : Path, optional
        PEM file of roots that are trusted at the server besides the usual ones.
    """

    hostnames: tuple[str, ...]
    contact: str
    cert_dir: Path
    directory: str = LETS_ENCRYPT
    roots: Path | None = None
    in_tls: bool = False
