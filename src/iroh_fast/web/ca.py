"""Which servers to trust."""

from __future__ import annotations

import functools
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .._check import check_flag, check_items, kind_of, shown
from ..errors import ConfigError

__all__ = ["CaConfig", "trusted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CaConfig:
    """Which certificates of servers to trust.

    Parameters
    ----------
    roots : {"embedded", "system", "none"}
        Mozilla's list as packaged by `certifi`, what the operating system trusts, or nothing
        but `extra`.
    extra : sequence of bytes or str
        More roots: DER as `bytes`, PEM as `str`.
    insecure : bool
        Accept any certificate.  For tests only.
    """

    roots: Literal["embedded", "system", "none"] = "embedded"
    extra: Sequence[bytes | str] = ()
    insecure: bool = False

    def __post_init__(self) -> None:
        if self.roots not in ("embedded", "system", "none"):
            raise ConfigError(
                f'roots is "embedded", "system" or "none", not {shown(self.roots)}; '
                "certificates of your own are extra=[...]"
            )
        extra = tuple(check_items("extra", self.extra, "certificates"))
        for root in extra:
            if not isinstance(root, (bytes, str)):
                raise ConfigError(
                    f"a certificate of extra is PEM text or DER bytes, not {kind_of(root)}"
                )
        object.__setattr__(self, "extra", extra)
        check_flag("insecure", self.insecure)

    def context(self) -> ssl.SSLContext:
        """Make a client context: TLS 1.2 or later, no ALPN, no client certificate.

        Raises
        ------
        ConfigError
            An extra root is not a certificate.

        Notes
        -----
        Cost: tens of milliseconds for the embedded roots; keep the result.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif self.roots == "embedded":
            import certifi

            context.load_verify_locations(certifi.where())
        elif self.roots == "system":
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        for root in self.extra:
            try:
                context.load_verify_locations(cadata=root)
            except (ssl.SSLError, ValueError) as err:
                raise ConfigError(f"an extra root is not a certificate: {err}") from err
        return context


@functools.lru_cache(maxsize=8)  # relays, HTTPS and DNS of an endpoint share one
def _context(config: CaConfig) -> ssl.SSLContext:
    return config.context()


def trusted(ca: CaConfig | ssl.SSLContext | None) -> ssl.SSLContext:
    """The client context of an option `ca`, None for the embedded roots; nobody may change it.

    Raises
    ------
    ConfigError
        An extra root is not a certificate.
    """
    if isinstance(ca, ssl.SSLContext):
        return ca
    return _context(ca or CaConfig())
