"""Whom a TLS client trusts, and what a TLS server shows: X.509, for relays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn

from .alerts import Alert, TlsAlert

if TYPE_CHECKING:
    from cryptography import x509
    from OpenSSL import crypto

__all__ = ["TrustRoots", "X509Credentials"]

# Results of OpenSSL's chain building (X509_V_ERR_*) that have an alert of their own, with
# rustls's words.
_CHAIN_ERRORS: Final = {
    **dict.fromkeys((2, 18, 19, 20, 21, 24, 27), (Alert.UNKNOWN_CA, "UnknownIssuer")),
    9: (Alert.CERTIFICATE_EXPIRED, "NotValidYet"),
    10: (Alert.CERTIFICATE_EXPIRED, "Expired"),
    23: (Alert.CERTIFICATE_REVOKED, "Revoked"),
}


def _bad_certificate(what: str, alert: int = Alert.BAD_CERTIFICATE) -> NoReturn:
    raise TlsAlert(alert, f"invalid peer certificate: {what}")


class TrustRoots:
    """Certificate authorities a client trusts.

    Parameters
    ----------
    cafile, capath : str, optional
        PEM file, and folder in OpenSSL's hashed layout.
    certificates : iterable of bytes
        More of them, DER.
    insecure : bool
        Accept every certificate. For tests only.

    Notes
    -----
    Cost: `load` takes about 10 ms for the usual hundred roots; the result is kept, and may be
    used by any number of connections.
    """

    __slots__ = ("_cafile", "_capath", "_certificates", "_store", "insecure")

    def __init__(
        self,
        *,
        cafile: str | None = None,
        capath: str | None = None,
        certificates: Iterable[bytes] = (),
        insecure: bool = False,
    ) -> None:
        self._cafile = cafile
        self._capath = capath
        self._certificates = tuple(certificates)
        self._store: crypto.X509Store | None = None
        self.insecure = insecure

    @property
    def loaded(self) -> bool:
        """Whether `load` has nothing to do any more."""
        return self._store is not None or self.insecure

    def load(self) -> None:
        """Read everything, once; may run in a thread.

        Raises
        ------
        OSError
            A file cannot be read.
        ValueError
            A certificate cannot be parsed.
        """
        if self.loaded:
            return
        from cryptography import x509
        from OpenSSL import crypto

        store = crypto.X509Store()
        if self._cafile is not None or self._capath is not None:
            try:
                store.load_locations(self._cafile, self._capath)
            except crypto.Error as err:
                raise OSError(
                    f"no certificates in {self._cafile or self._capath}: {err}"
                ) from err
        for der in self._certificates:
            store.add_cert(crypto.X509.from_cryptography(x509.load_der_x509_certificate(der)))
        self._store = store

    def verify(
        self, certificate: x509.Certificate, chain: Sequence[x509.Certificate], server_name: str
    ) -> None:
        """Check a server's certificate for a name or IP address; TlsAlert when it does not do.

        Raises
        ------
        TlsAlert
            unknown_ca, certificate_expired, certificate_revoked, unsupported_certificate (it is
            not for servers) or bad_certificate (another name, or anything else).
        """
        if self.insecure:
            return
        self.load()
        try:
            self._check_chain(certificate, chain)
            _check_purpose(certificate)
            named = _matches(certificate, server_name)
        except TlsAlert:
            raise
        except Exception as err:
            # Readers are not equally strict, and fail each in their own way: not the caller's error.
            raise TlsAlert(
                Alert.BAD_CERTIFICATE, "invalid peer certificate: BadEncoding"
            ) from err
        if not named:
            _bad_certificate("NotValidForName")

    def _check_chain(
        self, certificate: x509.Certificate, chain: Sequence[x509.Certificate]
    ) -> None:
        from OpenSSL import crypto

        assert self._store is not None
        context = crypto.X509StoreContext(
            self._store,
            crypto.X509.from_cryptography(certificate),
            [crypto.X509.from_cryptography(other) for other in chain],
        )
        try:
            context.verify_certificate()
        except crypto.X509StoreContextError as err:
            code = err.errors[0] if err.errors else 0
            alert, text = _CHAIN_ERRORS.get(code, (Alert.BAD_CERTIFICATE, str(err)))
            _bad_certificate(text, alert)


def _check_purpose(certificate: x509.Certificate) -> None:
    from cryptography import x509

    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return  # RFC 5280 §4.2.1.12: without it any purpose will do
    purposes = x509.oid.ExtendedKeyUsageOID
    if not {purposes.SERVER_AUTH, purposes.ANY_EXTENDED_KEY_USAGE} & set(usage):
        _bad_certificate("InvalidPurpose", Alert.UNSUPPORTED_CERTIFICATE)


def _is_ip(name: str) -> bool:
    import ipaddress

    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _matches(certificate: x509.Certificate, name: str) -> bool:
    """RFC 6125: whether the certificate names this host or address."""
    import service_identity
    from service_identity import cryptography as identity

    check = (
        identity.verify_certificate_ip_address
        if _is_ip(name)
        else identity.verify_certificate_hostname
    )
    try:
        check(certificate, name)
    except (service_identity.CertificateError, service_identity.VerificationError, ValueError):
        return False
    return True


class X509Credentials:
    """A server's certificate chain and private key.

    Parameters
    ----------
    chain : bytes
        PEM, the server's own certificate first.
    key : bytes
        PEM, not encrypted: ECDSA (P-256 or P-384), Ed25519 or RSA.

    Raises
    ------
    ValueError
        They cannot be read, do not belong together, or are of another kind.
    """

    __slots__ = ("certificate", "chain", "key")

    def __init__(self, chain: bytes, key: bytes) -> None:
        from cryptography import x509
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

        certificates = x509.load_pem_x509_certificates(chain)
        try:
            private = serialization.load_pem_private_key(key, password=None)
            public = certificates[0].public_key()
        except (TypeError, UnsupportedAlgorithm) as err:
            raise ValueError(f"not a usable private key: {err}") from err
        usable = isinstance(private, (ed25519.Ed25519PrivateKey, rsa.RSAPrivateKey)) or (
            isinstance(private, ec.EllipticCurvePrivateKey)
            and isinstance(private.curve, (ec.SECP256R1, ec.SECP384R1))
        )
        if not usable:
            raise ValueError("the key must be ECDSA P-256 or P-384, Ed25519 or RSA")
        if private.public_key() != public:
            raise ValueError("the key does not belong to the certificate")
        self.certificate = certificates[0]
        self.chain = certificates[1:]
        self.key: Any = private
