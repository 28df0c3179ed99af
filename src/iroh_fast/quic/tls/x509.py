"""TLS 1.3 with X.509 server certificates, for the one kind of connection that needs it.

Endpoints prove raw public keys to each other (`quic.tls`); the QUIC listener of a relay is an
ordinary server with a certificate instead. The engine is aioquic's, unmodified. Around it stand
what it leaves open: encryption levels and sizes of messages are checked here, and so are
certificates, against roots that are loaded once instead of once per connection.

Importing aioquic's engine takes a third of a second: that happens in `preload`, which may run
in a thread, or else with the first session.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol

from .rawkey import (
    DEFAULT_SUITES,
    EPOCH_HANDSHAKE,
    EPOCH_INITIAL,
    EPOCH_ONE_RTT,
    MAX_HANDSHAKE_BYTES,
    MAX_MESSAGE_BYTES,
    Alert,
    Identity,
    TlsAlert,
)

if TYPE_CHECKING:
    from types import ModuleType

    from aioquic import tls as engine
    from aioquic.buffer import Buffer
    from cryptography import x509
    from OpenSSL import crypto

__all__ = [
    "ClientTls",
    "ServerTls",
    "TrustRoots",
    "X509Client",
    "X509Credentials",
    "X509Server",
    "X509TlsSession",
    "preload",
]

logger = logging.getLogger("iroh_fast.quic")

_QUIC_TRANSPORT_PARAMETERS: Final = 57
_SERVER_HELLO: Final = 2
_NEW_SESSION_TICKET: Final = 4
# RFC 8446 §6
_UNSUPPORTED_CERTIFICATE: Final = 43
_CERTIFICATE_REVOKED: Final = 44
_CERTIFICATE_EXPIRED: Final = 45
_INTERNAL_ERROR: Final = 80

# RFC 8446 §4.1.3: this ServerHello.random marks a HelloRetryRequest.
_HELLO_RETRY_RANDOM: Final = bytes.fromhex(
    "cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c"
)

# Results of OpenSSL's chain building (X509_V_ERR_*) that have an alert of their own, with
# rustls's words.
_CHAIN_ERRORS: Final = {
    **dict.fromkeys((2, 18, 19, 20, 21, 24, 27), (int(Alert.UNKNOWN_CA), "UnknownIssuer")),
    9: (_CERTIFICATE_EXPIRED, "NotValidYet"),
    10: (_CERTIFICATE_EXPIRED, "Expired"),
    23: (_CERTIFICATE_REVOKED, "Revoked"),
}
_REASONS: Final = {
    int(Alert.NO_APPLICATION_PROTOCOL): "peer doesn't support any known protocol",
}


class ClientTls(Protocol):
    """What a dialling connection takes its TLS session from."""

    @property
    def client(self) -> Callable[..., Any]: ...


class ServerTls(Protocol):
    """What an accepting connection takes its TLS session from."""

    @property
    def server(self) -> Callable[..., Any]: ...


def preload() -> ModuleType:
    """Import the engine; safe to call from any thread."""
    from aioquic import tls

    return tls


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

    def load(self) -> None:
        """Read everything, once; may run in a thread.

        Raises
        ------
        OSError
            A file cannot be read.
        ValueError
            A certificate cannot be parsed.
        """
        if self._store is not None or self.insecure:
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
        from cryptography import x509
        from OpenSSL import crypto

        self.load()
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
            alert, text = _CHAIN_ERRORS.get(code, (int(Alert.BAD_CERTIFICATE), str(err)))
            _bad_certificate(text, alert)
        try:
            usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        except x509.ExtensionNotFound:
            pass  # RFC 5280 §4.2.1.12: without it any purpose will do
        except ValueError:
            _bad_certificate("BadEncoding")
        else:
            purposes = x509.oid.ExtendedKeyUsageOID
            if not {purposes.SERVER_AUTH, purposes.ANY_EXTENDED_KEY_USAGE} & set(usage):
                _bad_certificate("InvalidPurpose", _UNSUPPORTED_CERTIFICATE)
        if not _matches(certificate, server_name):
            _bad_certificate("NotValidForName")


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


class X509Client:
    """Makes the TLS sessions of connections to one server: the `tls` of a dial.

    Parameters
    ----------
    server_name : str
        Host name or IP address the certificate must be for; a name is sent as SNI.
    trust : TrustRoots
    """

    __slots__ = ("server_name", "trust")

    def __init__(self, server_name: str, trust: TrustRoots) -> None:
        self.server_name = server_name
        self.trust = trust

    def client(
        self,
        identity: Identity,
        *,
        alpns: Sequence[bytes],
        transport_parameters: bytes,
        keylog: Callable[[str], None] | None = None,
        **unused: Any,
    ) -> X509TlsSession:
        """As `TlsSession.client`; what has no meaning here is ignored: keys and tickets."""
        return X509TlsSession.client(
            server_name=self.server_name,
            trust=self.trust,
            alpns=alpns,
            transport_parameters=transport_parameters,
            keylog=keylog,
        )


class X509Server:
    """Makes the TLS sessions of a server: the `tls` of a QUIC endpoint.

    Attributes
    ----------
    credentials : X509Credentials
        Of new connections; may be replaced at any time.
    """

    __slots__ = ("credentials",)

    def __init__(self, credentials: X509Credentials) -> None:
        self.credentials = credentials

    def server(
        self,
        identity: Identity,
        *,
        alpns: Sequence[bytes],
        transport_parameters: bytes,
        keylog: Callable[[str], None] | None = None,
        **unused: Any,
    ) -> X509TlsSession:
        """As `TlsSession.server`; what has no meaning here is ignored: keys and tickets."""
        return X509TlsSession.server(
            credentials=self.credentials,
            alpns=alpns,
            transport_parameters=transport_parameters,
            keylog=keylog,
        )


class X509TlsSession:
    """One side of one handshake in which the server has a certificate and the client nothing.

    The interface is that of `quic.tls.TlsSession`, without resumption: no tickets are asked for
    or sent, and 0-RTT is refused.

    Attributes
    ----------
    is_client, complete, suite, alpn, peer_transport_parameters :
        As in `TlsSession`.
    peer_public_key : None
        Nobody proves an endpoint's key here.
    client_alpn_offers : list of bytes
        On clients; servers are told the choice only.
    resumed, early_data_offered, early_data_accepted : bool
        Always False.
    """

    __slots__ = (
        "__weakref__",
        "_alert",
        "_buffers",
        "_context",
        "_engine",
        "_exporter_secret",
        "_keylog",
        "_hash",
        "_partial",
        "_received_bytes",
        "_secrets",
        "_server_name",
        "_trust",
        "alpn",
        "client_alpn_offers",
        "complete",
        "early_data_accepted",
        "early_data_offered",
        "is_client",
        "peer_public_key",
        "peer_transport_parameters",
        "resumed",
        "suite",
    )

    def __init__(
        self,
        context: engine.Context,
        is_client: bool,
        transport_parameters: bytes,
        flight_bytes: int,
        keylog: Callable[[str], None] | None,
    ) -> None:
        from aioquic.buffer import Buffer

        self.is_client = is_client
        self.complete = False
        self.suite: int | None = None
        self.alpn: bytes | None = None
        self.peer_public_key: bytes | None = None
        self.peer_transport_parameters: bytes | None = None
        self.client_alpn_offers: list[bytes] = []
        self.resumed = False
        self.early_data_offered = False
        self.early_data_accepted: bool | None = False
        self._engine = engine_ = preload()
        self._context: engine.Context | None = context
        self._keylog = keylog
        self._hash: Any = None
        self._alert: TlsAlert | None = None
        self._exporter_secret: bytes | None = None
        self._secrets: list[tuple[bool, int, int, bytes]] = []
        self._partial = b""
        self._received_bytes = 0
        self._server_name = ""
        self._trust: TrustRoots | None = None
        self._buffers: dict[Any, Buffer] = {
            engine_.Epoch.INITIAL: Buffer(capacity=4096 + len(transport_parameters)),
            engine_.Epoch.HANDSHAKE: Buffer(capacity=flight_bytes),
            engine_.Epoch.ONE_RTT: Buffer(capacity=64),
        }
        context.handshake_extensions = [(_QUIC_TRANSPORT_PARAMETERS, bytes(transport_parameters))]
        context.update_traffic_key_cb = self._on_secret

    @classmethod
    def client(
        cls,
        *,
        server_name: str,
        trust: TrustRoots,
        alpns: Sequence[bytes],
        transport_parameters: bytes,
        keylog: Callable[[str], None] | None = None,
    ) -> X509TlsSession:
        """Prepare the dialling side.

        Parameters
        ----------
        server_name : str
            Host name or IP address the certificate must be for; a name is sent as SNI.
        trust : TrustRoots
        alpns : sequence of bytes
            At least one, ASCII, preferred first.
        transport_parameters : bytes
            Encoded QUIC transport parameters.
        keylog : callable, optional
            Called with each NSS key-log line.

        Raises
        ------
        ValueError
            The name or a protocol cannot be used.
        """
        import ssl

        if not server_name or len(server_name) > 253 or not server_name.isascii():
            raise ValueError(f"not a server name: {server_name[:80]!r}")
        if not alpns:
            raise ValueError("at least one ALPN is needed")
        names = _ascii(alpns)
        engine_ = preload()
        context = engine_.Context(
            is_client=True,
            alpn_protocols=names,
            cipher_suites=[engine_.CipherSuite(suite) for suite in DEFAULT_SUITES],
            server_name=server_name,
            verify_mode=ssl.CERT_NONE,  # our own check follows, with roots that stay loaded
        )
        # A key share goes with every group, so a HelloRetryRequest, which the engine does not
        # know, is never due; X25519 first, X448 is nobody's only choice.
        context._supported_groups = [
            engine_.Group.X25519,
            engine_.Group.SECP256R1,
            engine_.Group.SECP384R1,
        ]
        self = cls(context, True, transport_parameters, 1024, keylog)
        self.client_alpn_offers = [bytes(alpn) for alpn in alpns]
        self._server_name = server_name
        self._trust = trust
        return self

    @classmethod
    def server(
        cls,
        *,
        credentials: X509Credentials,
        alpns: Sequence[bytes],
        transport_parameters: bytes,
        keylog: Callable[[str], None] | None = None,
    ) -> X509TlsSession:
        """Prepare the accepting side.

        Parameters
        ----------
        credentials : X509Credentials
        alpns : sequence of bytes
            Accepted protocols, ASCII, preferred first; a client must offer one of them.

        The other parameters are those of :meth:`client`.

        Raises
        ------
        ValueError
            A protocol cannot be used.
        """
        from cryptography.hazmat.primitives.serialization import Encoding

        engine_ = preload()
        context = engine_.Context(is_client=False, alpn_protocols=_ascii(alpns))
        context.certificate = credentials.certificate
        context.certificate_chain = credentials.chain
        context.certificate_private_key = credentials.key
        size = sum(
            len(c.public_bytes(Encoding.DER)) + 5
            for c in (credentials.certificate, *credentials.chain)
        )
        # Signature, Finished and the encrypted extensions besides.
        return cls(context, False, transport_parameters, size + len(transport_parameters) + 4096, keylog)

    # --- driving -----------------------------------------------------------------------

    def start(self) -> None:
        """Produce the ClientHello. For clients, once."""
        context, states = self._context, self._engine.State
        if context is None or context.state is not states.CLIENT_HANDSHAKE_START:
            raise RuntimeError("start() is for a fresh client session")
        context.handle_message(b"", self._buffers)

    def receive(self, epoch: int, data: bytes) -> None:
        """Process CRYPTO bytes of one epoch, in order and without gaps.

        Raises
        ------
        TlsAlert
            The handshake failed. The session is dead: every later call raises the same.
        """
        if self._alert is not None:
            raise TlsAlert(self._alert.description, self._alert.reason)
        try:
            self._receive(epoch, bytes(data))
        except TlsAlert as alert:
            self._fail(alert)
            raise

    def take_output(self) -> list[tuple[int, bytes]]:
        """Return and forget the CRYPTO bytes to send, as (epoch, bytes) in order."""
        output = []
        for epoch, buffer in self._buffers.items():
            if buffer.tell():
                output.append((int(epoch.value), buffer.data))
                buffer.seek(0)
        return output

    def take_secrets(self) -> list[tuple[bool, int, int, bytes]]:
        """Return and forget new traffic secrets, as (is_write, epoch, suite, secret)."""
        secrets, self._secrets = self._secrets, []
        return secrets

    def export_keying_material(self, label: bytes, context: bytes, length: int) -> bytes:
        """Derive `length` bytes bound to this connection (RFC 8446 §7.5).

        Raises
        ------
        RuntimeError
            The handshake is not complete.
        ValueError
            The label has more than 249 bytes, or `length` is not in 1 … 255 hash lengths.
        """
        if not self.complete or self._exporter_secret is None:
            raise RuntimeError("the handshake is not complete")
        from cryptography.hazmat.primitives import hashes

        algorithm = self._hash
        if len(label) > 249:
            raise ValueError("an exporter label has at most 249 bytes")
        if not 1 <= length <= 255 * algorithm.digest_size:
            raise ValueError(f"length must be in 1..{255 * algorithm.digest_size}")

        def digest(data: bytes) -> bytes:
            state = hashes.Hash(algorithm)
            state.update(data)
            return state.finalize()

        expand = self._engine.hkdf_expand_label
        secret = expand(algorithm, self._exporter_secret, bytes(label), digest(b""), algorithm.digest_size)
        exported: bytes = expand(algorithm, secret, b"exporter", digest(context), length)
        return exported

    def release_handshake_state(self) -> None:
        """Forget what a confirmed connection does not need; see `TlsSession`."""
        if not self.complete:
            raise RuntimeError("the handshake is not complete")
        self._secrets = []
        self._keylog = None
        self._trust = None
        self.client_alpn_offers = []
        self.peer_transport_parameters = None
        self._context = None
        self._buffers = {}

    # --- inside ------------------------------------------------------------------------

    def _fail(self, alert: TlsAlert) -> None:
        self._alert = TlsAlert(alert.description, alert.reason)  # without the traceback
        self._partial = b""
        self._trust = None

    def _read_epoch(self) -> int:
        if self.complete:
            return EPOCH_ONE_RTT
        assert self._context is not None
        state, states = self._context.state, self._engine.State
        if state in (states.CLIENT_EXPECT_SERVER_HELLO, states.SERVER_EXPECT_CLIENT_HELLO):
            return EPOCH_INITIAL
        return EPOCH_HANDSHAKE

    def _receive(self, epoch: int, data: bytes) -> None:
        if not data:
            return
        if epoch != self._read_epoch():
            raise TlsAlert(
                Alert.UNEXPECTED_MESSAGE, "received unexpected message: wrong encryption level"
            )
        if not self.complete:
            self._received_bytes += len(data)
            if self._received_bytes > MAX_HANDSHAKE_BYTES:
                raise TlsAlert(
                    Alert.DECODE_ERROR,
                    "received corrupt message of type HandshakePayloadTooLarge",
                )
        data = self._partial + data
        self._partial = b""
        start = 0
        while len(data) - start >= 4:
            stop = start + 4 + int.from_bytes(data[start + 1 : start + 4], "big")
            if stop - start - 4 > MAX_MESSAGE_BYTES:
                raise TlsAlert(
                    Alert.DECODE_ERROR,
                    "received corrupt message of type HandshakePayloadTooLarge",
                )
            if stop > len(data):
                break
            self._message(data[start:stop])
            start = stop
            if self._read_epoch() != epoch:
                # RFC 8446 §5.1: nothing may follow a message that changes keys.
                if start != len(data):
                    raise TlsAlert(
                        Alert.UNEXPECTED_MESSAGE,
                        "peer misbehaved: KeyEpochWithPendingFragment",
                    )
                return
        self._partial = data[start:]

    def _message(self, message: bytes) -> None:
        if self.complete:
            if self.is_client and message[0] == _NEW_SESSION_TICKET:
                return  # not asked for, but allowed
            raise TlsAlert(Alert.UNEXPECTED_MESSAGE, "received unexpected message")
        context, states = self._context, self._engine.State
        assert context is not None
        before = context.state
        if message[0] == _SERVER_HELLO and message[6:38] == _HELLO_RETRY_RANDOM:
            raise TlsAlert(
                Alert.ILLEGAL_PARAMETER,
                "peer misbehaved: IllegalHelloRetryRequestWithNoChanges",
            )
        try:
            context.handle_message(message, self._buffers)
        except self._engine.Alert as alert:
            description = int(alert.description)
            reason = _REASONS.get(description, str(alert) or alert.description.name)
            raise TlsAlert(description, reason) from alert
        except Exception as err:
            # Nothing a peer sends may look like an error of this program.
            logger.debug("the TLS engine failed", exc_info=True)
            raise TlsAlert(_INTERNAL_ERROR, "internal error") from err
        if before is states.CLIENT_EXPECT_CERTIFICATE_VERIFY:
            assert self._trust is not None
            assert context._peer_certificate is not None
            self._trust.verify(
                context._peer_certificate, context._peer_certificate_chain, self._server_name
            )
        elif before in (
            states.SERVER_EXPECT_CLIENT_HELLO,
            states.CLIENT_EXPECT_ENCRYPTED_EXTENSIONS,
        ):
            self._negotiated(context)
        if context.state in (states.CLIENT_POST_HANDSHAKE, states.SERVER_POST_HANDSHAKE):
            self.complete = True

    def _negotiated(self, context: engine.Context) -> None:
        """Take over what the peer's extensions say."""
        if context.alpn_negotiated is not None:
            self.alpn = context.alpn_negotiated.encode("ascii")
        if self.alpn is None or (self.is_client and self.alpn not in self.client_alpn_offers):
            description = int(Alert.NO_APPLICATION_PROTOCOL)
            raise TlsAlert(description, _REASONS[description])
        parameters = dict(context.received_extensions or ()).get(_QUIC_TRANSPORT_PARAMETERS)
        if parameters is None:
            raise TlsAlert(
                Alert.MISSING_EXTENSION, "peer misbehaved: MissingQuicTransportParameters"
            )
        self.peer_transport_parameters = bytes(parameters)

    def _on_secret(self, direction: Any, epoch: Any, suite: Any, secret: bytes) -> None:
        context = self._context
        assert context is not None and context.key_schedule is not None
        write = direction is self._engine.Direction.ENCRYPT
        self.suite = int(suite)
        self._secrets.append((write, int(epoch.value), int(suite), secret))
        if epoch is self._engine.Epoch.ONE_RTT and write is not self.is_client:
            # The server's secret: at this moment the transcript ends with its Finished.
            self._hash = context.key_schedule.algorithm
            self._exporter_secret = context.key_schedule.derive_secret(b"exp master")
        if self._keylog is not None:
            who = "CLIENT" if write is self.is_client else "SERVER"
            kind = "TRAFFIC_SECRET_0"
            if epoch is not self._engine.Epoch.ONE_RTT:
                kind = "HANDSHAKE_TRAFFIC_SECRET"
            random = context.client_random or b""
            self._keylog(f"{who}_{kind} {random.hex()} {secret.hex()}")


def _ascii(alpns: Sequence[bytes]) -> list[str]:
    names = []
    for alpn in alpns:
        if not 1 <= len(alpn) <= 255 or not alpn.isascii():
            raise ValueError(f"not a protocol name this engine can use: {bytes(alpn[:16])!r}")
        names.append(bytes(alpn).decode("ascii"))
    return names
