"""Certificates that a trusted authority signed, and that are not as they should be."""

from __future__ import annotations

import fuzz_x509
import pytest
from cryptography import x509
from fuzz_x509 import NAME, authority, signed, trust, twice

from iroh_fast.quic.tls import TlsAlert

BAD_CERTIFICATE = 42


def test_certificate_of_the_authority_is_taken() -> None:
    certificate = x509.load_der_x509_certificate(signed(authority().leaf.tbs_certificate_bytes))
    trust().verify(certificate, [], NAME)


def test_certificate_that_not_all_readers_understand_is_an_alert() -> None:
    """Each reader fails with an exception of its own; a connection knows what an alert is."""
    data = authority().leaf.tbs_certificate_bytes.replace(b"\x0c\x04root", b"\x03\x04root")
    certificate = x509.load_der_x509_certificate(signed(data))
    with pytest.raises(TlsAlert, match="invalid peer certificate: BadEncoding") as caught:
        trust().verify(certificate, [], NAME)
    assert caught.value.description == BAD_CERTIFICATE


def test_certificate_with_an_extension_twice_is_an_alert() -> None:
    data = twice(authority().leaf.tbs_certificate_bytes)
    with pytest.raises(TlsAlert, match="invalid peer certificate"):
        trust().verify(x509.load_der_x509_certificate(signed(data)), [], NAME)


def test_certificate_with_an_odd_one_behind_it_is_an_alert() -> None:
    odd = authority().leaf.tbs_certificate_bytes.replace(b"\x0c\x04root", b"\x03\x04root")
    chain = [x509.load_der_x509_certificate(fuzz_x509.signed(odd))]
    with pytest.raises(TlsAlert, match="BadEncoding"):
        trust().verify(authority().leaf, chain, NAME)
