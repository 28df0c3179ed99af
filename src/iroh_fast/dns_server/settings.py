"""Tables of settings of a DNS server: TLS, zones, store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from .._check import (
    check_address,
    check_choice,
    check_flag,
    check_integer,
    check_path,
    check_seconds,
    check_text,
    check_texts,
)
from ..errors import ConfigError
from ..web.acme_config import LETS_ENCRYPT, LETS_ENCRYPT_STAGING, AcmeConfig
from ..web.certificates import CertificateSource
from .static import DEFAULT_SOA, StaticRecords, origin_records
from .store import PacketStore, Retention

__all__ = [
    "BACKLOG",
    "Address",
    "CertMode",
    "HttpsSettings",
    "StoreSettings",
    "ZoneSettings",
]

Address: TypeAlias = tuple[str, int]
CertMode = Literal["manual", "lets_encrypt", "self_signed"]

HTTPS_PORT: Final = 8443
BACKLOG: Final = 1024

_CERT_MODES: Final = ("manual", "lets_encrypt", "self_signed")


@dataclass(frozen=True, slots=True)
class HttpsSettings:
    """The listener with TLS.

    Parameters
    ----------
    bind_addr : tuple of (str, int)
        ``"::"`` takes IPv4 too.
    domains : tuple of str
        Names the certificate is for.
    cert_mode : str
        ``"self_signed"``: a new certificate at every start, for tests; ``"manual"``: PEM files in
        `DnsServerConfig.cert_dir`, read again on SIGHUP and when they change; ``"lets_encrypt"``:
        fetched and renewed by ACME, needs the extra ``acme``.
    letsencrypt_contact : str, optional
        Mail address for Let's Encrypt, which requires it.
    letsencrypt_prod : bool
        False: its staging server, whose certificates nobody trusts.
    backlog : int
        Connections that wait to be accepted.
    acme_url : str, optional
        Directory of another ACME server.
    acme_ca : Path, optional
        PEM file of roots that are trusted at the ACME server besides the usual ones.
    """

    bind_addr: Address = ("::", HTTPS_PORT)
    domains: tuple[str, ...] = ("localhost",)
    cert_mode: CertMode = "self_signed"
    letsencrypt_contact: str | None = None
    letsencrypt_prod: bool = False
    backlog: int = BACKLOG
    acme_url: str | None = None
    acme_ca: Path | None = None

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "bind_addr", check_address("https.bind_addr", self.bind_addr))
        put(self, "domains", check_texts("https.domains", self.domains, "host names"))
        check_choice("https.cert_mode", self.cert_mode, _CERT_MODES)
        check_text("https.letsencrypt_contact", self.letsencrypt_contact, none=True)
        check_flag("https.letsencrypt_prod", self.letsencrypt_prod)
        check_integer("https.backlog", self.backlog, 1, 2**31 - 1)
        check_text("https.acme_url", self.acme_url, none=True)
        put(self, "acme_ca", check_path("https.acme_ca", self.acme_ca, none=True))
        if not self.domains:
            raise ConfigError("https.domains is empty: name what clients call this server")
        if self.cert_mode == "manual" and len(self.domains) != 1:
            raise ConfigError('https.domains has exactly one name with cert_mode = "manual"')
        if self.cert_mode == "lets_encrypt" and self.letsencrypt_contact is None:
            raise ConfigError(
                'https.letsencrypt_contact is needed with cert_mode = "lets_encrypt": '
                "a mail address"
            )

    def source(self, cert_dir: Path, *, in_tls: bool = True) -> CertificateSource:
        """Where the certificate comes from.

        Parameters
        ----------
        in_tls : bool
            How an ACME server is shown who has the names: here, or over plain HTTP.
        """
        if self.cert_mode == "self_signed":
            return CertificateSource(names=self.domains)
        if self.cert_mode == "manual":
            name = "".join(c for c in self.domains[0] if c.isascii() and (c.isalnum() or c in "-."))
            return CertificateSource(
                files=(cert_dir / f"{name}.crt", cert_dir / f"{name}.key"), watch=True
            )
        contact = self.letsencrypt_contact or ""  # checked above
        usual = LETS_ENCRYPT if self.letsencrypt_prod else LETS_ENCRYPT_STAGING
        acme = AcmeConfig(
            hostnames=self.domains,
            contact=contact.removeprefix("mailto:"),
            cert_dir=cert_dir,
            directory=self.acme_url or usual,
            roots=self.acme_ca,
            in_tls=in_tls,
        )
        return CertificateSource(names=self.domains, acme=acme)


@dataclass(frozen=True, slots=True)
class ZoneSettings:
    """What the server has authority over.

    Parameters
    ----------
    origins : tuple of str
        Names below which endpoints are found; ``"."`` is everything. All are absolute.
    default_soa : str
        Primary name server, mailbox, serial, refresh, retry, expire and the seconds that
        resolvers may remember a name that does not exist.
    default_ttl : int
        Not used: packets bring theirs along.
    rr_a, rr_aaaa, rr_ns : str, optional
        Addresses and name server of each origin itself.
    """

    origins: tuple[str, ...] = ("irohdns.example.", ".")
    default_soa: str = DEFAULT_SOA
    default_ttl: int = 900
    rr_a: str | None = None
    rr_aaaa: str | None = None
    rr_ns: str | None = None

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "origins", check_texts("dns.origins", self.origins, "names"))
        check_integer("dns.default_ttl", self.default_ttl, 0, 2**32 - 1)
        for name in ("default_soa", "rr_a", "rr_aaaa", "rr_ns"):
            check_text(f"dns.{name}", getattr(self, name), none=name != "default_soa")
        origin_records(self.records())

    def records(self) -> StaticRecords:
        """What the DNS side answers from."""
        return StaticRecords(
            origins=self.origins,
            default_soa=self.default_soa,
            rr_a=self.rr_a,
            rr_aaaa=self.rr_aaaa,
            rr_ns=self.rr_ns,
        )


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Where packets are kept, and for how long.

    Parameters
    ----------
    eviction, eviction_interval : float
        Seconds from the last publish until a packet goes, and between looks for such.
    max_records : int
        Packets at the same time; see `iroh_fast.dns_server.Retention` for who has to go.
    durability : str
        ``"process"``: what was accepted survives ``kill -9``; ``"power"``: a power cut, too.
    postgres : str, optional
        Database of several servers behind one name, such as ``"postgresql://user@host/db"``.
        None: an SQLite file in `DnsServerConfig.data_dir`.
    in_memory : bool
        Keep nothing beyond the end of the server.
    """

    eviction: float = 7 * 86400.0
    eviction_interval: float = 10.0
    max_records: int = 4_000_000
    durability: Literal["process", "power"] = "process"
    postgres: str | None = None
    in_memory: bool = False

    def __post_init__(self) -> None:
        for name in ("eviction", "eviction_interval"):
            seconds = check_seconds(f"zone_store.{name}", getattr(self, name))
            object.__setattr__(self, name, seconds)
        check_integer("zone_store.max_records", self.max_records, 1, 2**31)
        check_choice("zone_store.durability", self.durability, ("process", "power"))
        check_text("zone_store.postgres", self.postgres, none=True)
        check_flag("zone_store.in_memory", self.in_memory)
        if self.postgres is not None and self.in_memory:
            raise ConfigError("zone_store.postgres and zone_store.in_memory exclude each other")

    def make(self, path: Path | None) -> PacketStore:
        """The store, not opened yet."""
        retention = Retention(self.max_records, self.eviction, self.eviction_interval)
        if self.postgres is not None:
            from .postgres import PostgresStore

            return PostgresStore(self.postgres, retention=retention)
        from .sqlite import SqliteStore

        return SqliteStore(path, retention=retention, durability=self.durability)
