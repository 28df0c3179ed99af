"""The dialling side of a handshake between endpoints."""

from __future__ import annotations

from collections.abc import Callable

from nacl.bindings import crypto_scalarmult_base

from ._schedule import KDF, Kdf
from ._wire import (
    CERTIFICATE,
    CERTIFICATE_REQUEST,
    CERTIFICATE_VERIFY,
    ENCRYPTED_EXTENSIONS,
    FINISHED,
    NEW_SESSION_TICKET,
    SERVER_HELLO,
    alpn_extension,
    check_certificate_request,
    read_certificate,
    read_encrypted_extensions,
    read_server_hello,
    read_ticket,
    vector8,
    vector16,
    write_client_hello,
)
from .alerts import NO_CERTIFICATES, UNKNOWN_ISSUER, Alert, TlsAlert, misbehaved
from .identity import SPKI_PREFIX, Identity
from .rawkey import (
    CLIENT_SIGNATURE_CONTEXT,
    SERVER_SIGNATURE_CONTEXT,
    Handlers,
    Handshake,
    RawKeySession,
)
from .session import (
    EPOCH_HANDSHAKE,
    EPOCH_INITIAL,
    EPOCH_ONE_RTT,
    EPOCH_ZERO_RTT,
    HELLO_RETRY_RANDOM,
)
from .sessions import ResumptionTicket

__all__ = ["RawKeyClient"]

MAX_TICKETS_RECEIVED = 16  # per connection; later ones are ignored
MAX_TICKET_BYTES = 4096  # with the parameters it stands for; larger ones are not worth keeping


class RawKeyClient(RawKeySession):
    """Made by :meth:`factory.TlsSession.client`."""

    __slots__ = (
        "_certificate_requested",
        "_expected_peer",
        "_on_ticket",
        "_resumption_secret",
        "_started",
        "_suites",
        "_ticket",
        "_tickets_received",
    )

    def __init__(
        self,
        identity: Identity,
        handshake: Handshake,
        random: Callable[[int], bytes],
        keylog: Callable[[str], None] | None,
        now: Callable[[], float],
        *,
        expected_peer: bytes,
        suites: tuple[int, ...],
        ticket: ResumptionTicket | None,
        on_ticket: Callable[[ResumptionTicket], None] | None,
    ) -> None:
        super().__init__(True, identity, handshake, random, keylog, now)
        self.client_alpn_offers = handshake.alpns
        self._expected_peer = expected_peer
        self._suites = suites
        self._ticket = ticket
        self._on_ticket = on_ticket
        self._started = False
        self._certificate_requested = False
        self._resumption_secret: bytes | None = None
        self._tickets_received = 0

    def release_handshake_state(self) -> None:
        """As every session; what makes tickets stays while some may come."""
        parameters = self.peer_transport_parameters
        super().release_handshake_state()
        if self._on_ticket is not None:
            self.peer_transport_parameters = parameters

    def _forget(self) -> None:
        super()._forget()
        self._ticket = None

    # --- ClientHello -------------------------------------------------------------------

    def start(self) -> None:
        """Produce the ClientHello, and the 0-RTT secret if a ticket allows it. Once."""
        if self._started:
            super().start()
        self._started = True
        hs = self._progress()
        ticket = self._ticket
        # One call to the source of randomness: hello random, key, and bits for the order.
        noise = self._random(32 + 32 + 16)
        hs.client_random = noise[:32]
        hs.private_key = noise[32:64]
        self.early_data_offered = (
            ticket is not None and ticket.max_early_data > 0 and ticket.alpn in hs.alpns
        )
        kdf = KDF[ticket.suite] if ticket is not None else self._kdf
        psk = b"" if ticket is None else _offer(ticket, self._now(), kdf)
        hello = write_client_hello(
            hs.client_random,
            crypto_scalarmult_base(hs.private_key),
            b"".join([suite.to_bytes(2, "big") for suite in self._suites]),
            alpn_extension(hs.alpns),
            hs.transport_parameters,
            self._on_ticket is not None or ticket is not None,
            self.early_data_offered,
            noise[64:],
            psk,
        )
        if ticket is not None:
            hello = self._bind(hello, ticket, kdf)
        # Which hash the transcript takes is known with the ServerHello; until then, the bytes.
        hs.transcript = hello
        self._output.append((EPOCH_INITIAL, hello))
        self._expected = _AFTER_START

    def _bind(self, hello: bytes, ticket: ResumptionTicket, kdf: Kdf) -> bytes:
        """Put the binder in its place at the end of the ClientHello (RFC 8446 §4.2.11.2)."""
        truncated = hello[: -(2 + 1 + kdf.size)]
        early = kdf.extract(kdf.zeros, ticket.psk)
        binder = kdf.finished(
            kdf.derive(early, b"res binder", kdf.empty_hash), kdf.new(truncated).digest()
        )
        hello = truncated + vector16(vector8(binder))
        if self.early_data_offered:
            secret = kdf.derive(early, b"c e traffic", kdf.new(hello).digest())
            self._secrets.append((True, EPOCH_ZERO_RTT, ticket.suite, secret))
            self._log("CLIENT_EARLY_TRAFFIC_SECRET", hello[6:38], secret)
        return hello

    # --- the server's answers ----------------------------------------------------------

    def _server_hello(self, message: bytes) -> None:
        hs = self._progress()
        ticket = self._ticket
        suite, share, resumed = read_server_hello(
            message, HELLO_RETRY_RANDOM, self._suites, ticket is not None
        )
        kdf = self._kdf = KDF[suite]
        psk = None
        if resumed:
            assert ticket is not None
            if kdf is not KDF[ticket.suite]:
                misbehaved("ResumptionOfferedWithIncompatibleCipherSuite")
            psk = ticket.psk
            self.resumed = True
        self.suite = suite
        hs.transcript = kdf.transcript(hs.transcript)
        hs.transcript.update(message)
        self._derive_handshake_secrets(hs, psk, share)
        self._secrets += (
            (False, EPOCH_HANDSHAKE, suite, hs.server_secret),
            (True, EPOCH_HANDSHAKE, suite, hs.client_secret),
        )
        self._read_epoch = EPOCH_HANDSHAKE
        self._expected = _AFTER_SERVER_HELLO

    def _encrypted_extensions(self, message: bytes) -> None:
        hs = self._progress()
        alpn, parameters, early = read_encrypted_extensions(
            message, hs.alpns, self.early_data_offered
        )
        ticket = self._ticket
        if early and (
            ticket is None
            or not self.resumed
            or self.suite != ticket.suite
            or alpn != ticket.alpn
        ):
            # RFC 8446 §4.2.10: 0-RTT stands or falls with the ticket's suite and protocol.
            misbehaved("EarlyDataOfferedWithVariedCipherSuite")
        self.alpn = alpn
        self.peer_transport_parameters = parameters
        self.early_data_accepted = early
        hs.transcript.update(message)
        if self.resumed:
            self.peer_public_key = self._expected_peer
            self._expected = _AFTER_VERIFY
        else:
            self._expected = _AFTER_EXTENSIONS

    def _certificate_request(self, message: bytes) -> None:
        check_certificate_request(message)
        self._certificate_requested = True
        self._progress().transcript.update(message)
        self._expected = _AFTER_REQUEST

    def _certificate(self, message: bytes) -> None:
        hs = self._progress()
        entries = read_certificate(message)
        if not entries:
            raise TlsAlert(Alert.DECODE_ERROR, NO_CERTIFICATES)  # RFC 8446 §4.4.2.4
        # The identity is judged when the signature arrives, as iroh does.
        hs.peer_key = entries[0] if len(entries) == 1 else None
        hs.transcript.update(message)
        self._expected = _AFTER_CERTIFICATE

    def _certificate_verify_received(self, message: bytes) -> None:
        hs = self._progress()
        peer = self._expected_peer
        if hs.peer_key != SPKI_PREFIX + peer:
            raise TlsAlert(Alert.UNKNOWN_CA, UNKNOWN_ISSUER)
        self._check_certificate_verify(hs, peer, SERVER_SIGNATURE_CONTEXT, message)
        self._expected = _AFTER_VERIFY

    def _finished_received(self, message: bytes) -> None:
        hs = self._progress()
        assert self.suite is not None
        self._check_finished(hs, hs.server_secret, message)
        client, server = self._derive_application_secrets(hs)
        flight = b""
        if self._certificate_requested:
            flight = self._identity.certificate_message
            hs.transcript.update(flight)
            verify = self._certificate_verify(hs, CLIENT_SIGNATURE_CONTEXT)
            hs.transcript.update(verify)
            flight += verify
        finished = self._finished(hs, hs.client_secret)
        self._output.append((EPOCH_HANDSHAKE, flight + finished))
        self._secrets += (
            (False, EPOCH_ONE_RTT, self.suite, server),
            (True, EPOCH_ONE_RTT, self.suite, client),
        )
        if self._on_ticket is not None:
            hs.transcript.update(finished)
            self._resumption_secret = self._kdf.derive(
                hs.master, b"res master", hs.transcript.digest()
            )
        self._ticket = None
        self._done(_AFTER_FINISHED)

    def _new_session_ticket(self, message: bytes) -> None:
        lifetime, age_add, nonce, identity, early_data = read_ticket(message)
        if self._on_ticket is None or self._resumption_secret is None or lifetime == 0:
            return
        self._tickets_received += 1
        if self._tickets_received > MAX_TICKETS_RECEIVED:
            return
        assert self.suite is not None and self.alpn is not None
        assert self.peer_public_key is not None and self.peer_transport_parameters is not None
        if len(identity) + len(self.peer_transport_parameters) > MAX_TICKET_BYTES:
            return
        self._on_ticket(
            ResumptionTicket(
                peer=self.peer_public_key,
                suite=self.suite,
                identity=identity,
                psk=self._kdf.derive(self._resumption_secret, b"resumption", nonce),
                alpn=self.alpn,
                transport_parameters=self.peer_transport_parameters,
                issued_s=self._now(),
                lifetime_s=lifetime,
                age_add=age_add,
                max_early_data=early_data,
            )
        )


def _offer(ticket: ResumptionTicket, now_s: float, kdf: Kdf) -> bytes:
    """Content of pre_shared_key with zeros for the binder."""
    age = (int((now_s - ticket.issued_s) * 1000) + ticket.age_add) & 0xFFFFFFFF
    identity = vector16(ticket.identity) + age.to_bytes(4, "big")
    return vector16(identity) + vector16(vector8(kdf.zeros))


_AFTER_START: Handlers = {SERVER_HELLO: RawKeyClient._server_hello}
_AFTER_SERVER_HELLO: Handlers = {ENCRYPTED_EXTENSIONS: RawKeyClient._encrypted_extensions}
_AFTER_EXTENSIONS: Handlers = {
    CERTIFICATE_REQUEST: RawKeyClient._certificate_request,
    CERTIFICATE: RawKeyClient._certificate,
}
_AFTER_REQUEST: Handlers = {CERTIFICATE: RawKeyClient._certificate}
_AFTER_CERTIFICATE: Handlers = {CERTIFICATE_VERIFY: RawKeyClient._certificate_verify_received}
_AFTER_VERIFY: Handlers = {FINISHED: RawKeyClient._finished_received}
_AFTER_FINISHED: Handlers = {NEW_SESSION_TICKET: RawKeyClient._new_session_ticket}
