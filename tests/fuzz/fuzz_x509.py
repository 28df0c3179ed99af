"""TLS with certificates, as relays and those who ask them for their address speak it.

``x509``: a handshake of two real sessions, in which somebody changes the messages to a server
(first byte even) or to a client (odd), as the pieces of the input say.  ``certificate``: what the
authority signs that is trusted, whatever it is.
"""

from __future__ import annotations

import datetime
import struct
from functools import cache
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from fuzz_connection import pieces

from iroh_fast.quic.tls import TlsAlert
from iroh_fast.quic.tls.x509 import TrustRoots, X509Credentials
from iroh_fast.quic.tls.x509_session import X509TlsSession

NAME = "relay.example"
ALPN = b"fuzz/1"
PARAMETERS = b"\x01\x02\x67\x10"
KEEP, OVERWRITE, INSERT, DELETE, REPLACE, DROP, TWICE = range(7)
ED25519 = bytes.fromhex("300506032b6570")  # AlgorithmIdentifier


class Authority(NamedTuple):
    key: Ed25519PrivateKey
    certificate: x509.Certificate
    leaf_key: Ed25519PrivateKey
    leaf: x509.Certificate


def issue(subject: str, key: Any, issuer: str, signer: Any, *extensions: Any) -> x509.Certificate:
    """The same bytes in every run: fixed keys, dates and number."""

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(77)
        .not_valid_before(datetime.datetime(2020, 1, 1))
        .not_valid_after(datetime.datetime(2120, 1, 1))
    )
    for value in extensions:
        builder = builder.add_extension(value, critical=isinstance(value, x509.BasicConstraints))
    return builder.sign(signer, None)


@cache
def authority() -> Authority:
    key, leaf_key = (Ed25519PrivateKey.from_private_bytes(bytes((n,)) * 32) for n in (1, 2))
    names = [x509.DNSName(NAME), x509.DNSName("*.other.example")]
    return Authority(
        key,
        issue("root", key, "root", key, x509.BasicConstraints(True, None)),
        leaf_key,
        issue(
            "leaf",
            leaf_key,
            "root",
            key,
            x509.SubjectAlternativeName(names),
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
        ),
    )


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


@cache
def trust() -> TrustRoots:
    return TrustRoots(certificates=[der(authority().certificate)])


@cache
def credentials() -> X509Credentials:
    found = authority()
    return X509Credentials(
        found.leaf.public_bytes(serialization.Encoding.PEM)
        + found.certificate.public_bytes(serialization.Encoding.PEM),
        found.leaf_key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


def changed(message: bytes, flags: int, piece: bytes) -> bytes:
    """A message after one change; with flag 8 its length field still fits."""
    kind = flags & 7
    at = int.from_bytes(piece[:2], "big") % (len(message) + 1)
    rest = piece[2:]
    if kind == OVERWRITE:
        message = message[:at] + rest + message[at + len(rest) :]
    elif kind == INSERT:
        message = message[:at] + rest + message[at:]
    elif kind == DELETE:
        message = message[:at] + message[at + len(rest) :]
    elif kind == REPLACE:
        message = message[:1] + rest
    elif kind == DROP:
        return b""
    elif kind == TWICE:
        return message * 2
    if flags & 8 and len(message) >= 4:
        message = message[:1] + (len(message) - 4).to_bytes(3, "big") + message[4:]
    return message


def messages(data: bytes) -> list[bytes]:
    found = []
    while data:
        size = 4 + int.from_bytes(data[1:4], "big")
        found.append(data[:size])
        data = data[size:]
    return found


def run_x509(data: bytes) -> None:
    to_client = bool(data[0] & 1) if data else False
    script = iter(pieces(data[1:]))
    client = X509TlsSession.client(
        server_name=NAME, trust=trust(), alpns=[ALPN], transport_parameters=PARAMETERS
    )
    server = X509TlsSession.server(
        credentials=credentials(), alpns=[ALPN], transport_parameters=PARAMETERS
    )
    victim = client if to_client else server
    client.start()
    touched = False
    try:
        for _ in range(3):
            for source, target in ((client, server), (server, client)):
                for epoch, output in source.take_output():
                    for message in messages(output):
                        given = message
                        if target is victim and (change := next(script, None)) is not None:
                            given = changed(message, *change)
                            touched |= given != message
                        target.receive(epoch, given)
    except TlsAlert as alert:
        assert 0 <= alert.description <= 255 and alert.reason
        # The engine's own mistakes are none of ours, and end as internal errors.
        assert touched, alert
        return
    for session in (client, server):
        if session.complete:
            assert session.alpn == ALPN
    assert touched or (client.complete and server.complete)


def x509_seeds() -> list[bytes]:
    """Changes of each message alone: to the server there are two, to the client five."""
    change = bytes.fromhex("0004")
    ops = [
        (OVERWRITE, change + bytes(2)),
        (OVERWRITE, bytes.fromhex("0028") + b"\xff\xff"),
        (INSERT | 8, change + b"\0\x2b\0\x02\x03\x04"),
        (DELETE | 8, change + bytes(8)),
        (REPLACE, b"\0\0" + b"\0\0\0"),
        (REPLACE | 8, b"\0\0" + bytes(60)),
        (DROP, b""),
        (TWICE, b""),
    ]
    certificate = der(authority().leaf)
    listed = len(certificate).to_bytes(3, "big") + certificate + b"\0\0"
    for entries in (listed, listed * 3, listed[:-1], b"\0\0\x01x\0\0"):
        body = b"\0" + len(entries).to_bytes(3, "big") + entries
        ops.append((REPLACE | 8, b"\0\0" + bytes(3) + body))
    seeds = []
    for role, count in ((0, 2), (1, 5)):
        for number in range(count):
            for flags, piece in ops:
                before = struct.pack("!BH", KEEP, 0) * number
                seeds.append(
                    bytes((role,)) + before + struct.pack("!BH", flags, len(piece)) + piece
                )
    return seeds


# --- certificates alone --------------------------------------------------------------------


def size_of(content: bytes) -> bytes:
    size = len(content)
    if size < 128:
        return bytes((size,))
    return b"\x81" + bytes((size,)) if size < 256 else b"\x82" + size.to_bytes(2, "big")


def sequence(content: bytes) -> bytes:
    return b"\x30" + size_of(content) + content


def signed(data: bytes) -> bytes:
    """A certificate of the authority, whatever is in it."""
    return sequence(data + ED25519 + b"\x03\x41\0" + authority().key.sign(data))


def run_certificate(data: bytes) -> None:
    """What is to be signed; the authority signs anything."""
    if not 2 <= len(data) < 30_000:
        return
    try:
        certificate = x509.load_der_x509_certificate(signed(data))
    except (ValueError, x509.InvalidVersion):
        return  # the engine would refuse it, too
    try:
        trust().verify(certificate, [authority().certificate], NAME)
    except TlsAlert as alert:
        assert alert.reason


def certificate_seeds() -> list[bytes]:
    found = authority()
    extensions = [
        x509.SubjectAlternativeName([x509.DNSName(NAME)]),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]),
        x509.BasicConstraints(True, 0),
        x509.KeyUsage(True, False, False, False, False, True, False, False, False),
        x509.NameConstraints([x509.DNSName("example")], None),
        x509.SubjectAlternativeName([x509.RFC822Name("a@b"), x509.UniformResourceIdentifier("u:")]),
    ]
    seeds = [found.leaf.tbs_certificate_bytes, found.certificate.tbs_certificate_bytes]
    for one in extensions:
        made = issue("leaf", found.leaf_key, "root", found.key, one)
        seeds.append(made.tbs_certificate_bytes)
    # A name of a kind that not all readers know, and the same extension again.
    seeds.append(seeds[0].replace(b"\x0c\x04root", b"\x03\x04root"))
    seeds.append(twice(seeds[0]))
    return seeds


def twice(data: bytes) -> bytes:
    """What is to be signed of a certificate, with its last extension twice."""
    at = data.rindex(b"\x06\x03\x55\x1d") - 2
    last = data[at:]
    # Three lengths around it grow: of the whole, of the extensions and of their list.
    start = data.rindex(b"\xa3", 0, data.index(b"\x06\x03\x55\x1d"))
    listed = data[data.index(b"\x30", start + 2) + 2 :] + last
    inner = b"\x30" + size_of(listed) + listed
    outer = b"\xa3" + size_of(inner) + inner
    body = data[2 if data[1] < 128 else 2 + (data[1] & 127) : start] + outer
    return sequence(body)
