"""What is wrong with a TLS server, in words."""

from __future__ import annotations

import ssl
from typing import Final

__all__ = ["certificate_fault", "tls_fault"]

# Results of OpenSSL's verification, X509_V_ERR_ of <openssl/x509_vfy.h>.
_UNKNOWN_ISSUER: Final = {2, 18, 19, 20, 21, 27}
_WRONG_NAME: Final = {62, 63, 64}
_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10


def certificate_fault(err: ssl.SSLCertVerificationError, name: str) -> str:
    """Say what is wrong with a certificate: who issued it, whom it is for, or when."""
    code = err.verify_code
    if code in _UNKNOWN_ISSUER:
        return f"the certificate of {name} is of an unknown issuer ({err.verify_message})"
    if code in _WRONG_NAME:
        return f"the certificate that was shown is not valid for the name {name}"
    if code == _EXPIRED:
        return f"the certificate of {name} has expired"
    if code == _NOT_YET_VALID:
        return f"the certificate of {name} is not valid yet; is the clock right?"
    return f"the certificate of {name} is not accepted: {err.verify_message}"


def tls_fault(err: ssl.SSLError, name: str) -> str:
    """Say why a TLS handshake failed."""
    if isinstance(err, ssl.SSLCertVerificationError):
        return f"TLS failed: {certificate_fault(err, name)}"
    if err.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"):
        return f"TLS failed: {name} does not speak TLS there ({err.reason})"
    return f"TLS failed: {err.reason or err}"
