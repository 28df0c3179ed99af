"""The accepting side of a handshake between endpoints."""

from __future__ import annotations

from collections.abc import Callable

from nacl.bindings import crypto_scalarmult_base

from .._parameters import same_promises
from ._schedule import KDF, equal
from ._wire import (
    CERTIFICATE,
    CERTIFICATE_REQUEST_MESSAGE,
    CERTIFICATE_VERIFY,
    CLIENT_HELLO,
    FINISHED,
    ClientHello,
    read_certificate,
    read_client_hello,
    write_encrypted_extensions,
    write_server_hello,
    write_ticket,
)
from .alerts import BAD_ENCODING, NO_CERTIFICATES, UNKNOWN_ISSUER, Alert, TlsAlert, misbehaved
from .identity import Identity, spki_key
from .rawkey import (
    CLIENT_SIGNATURE_CONTEXT,
    SERVER_SIGNATURE_CONTEXT,
    Handlers,
    Handshake,
    RawKeySession,
)
from .session import EPOCH_HANDSHAKE, EPOCH_INITIAL, EPOCH_ONE_RTT, EPOCH_ZERO_RTT
from .sessions import (
    MAX_TICKET_AGE_SKEW_S,
    SERVER_TICKET_LIFETIME_S,
    ServerTicket,
    ServerTicketStore,
)

__all__ = ["RawKeyServer"]

TICKETS_SENT = 2
TICKET_BYTES = 32


class RawKeyServer(RawKeySession):
    """Made by :meth:`factory.TlsSession.server`."""

    __slots__ = ("_client_traffic", "_ticket_store", "_tickets_wanted")

    def __init__(
        self,
        identity: Identity,
        handshake: Handshake,
        random: Callable[[int], bytes],
        keylog: Callable[[str], None] | None,
        now: Callable[[], float],
        *,
        ticket_store: ServerTicketStore | None,
    ) -> None:
        super().__init__(False, identity, handshake, random, keylog, now)
        self._ticket_store = ticket_store
        self._tickets_wanted = False
        self._client_traffic = b""  # 1-RTT secret that is not yet to be used
        self._expected = _AT_FIRST

    def _forget(self) -> None:
        super()._forget()
        self._client_traffic = b""
        self._ticket_store = None

    # --- ClientHello and the answer ----------------------------------------------------

    def _client_hello(self, message: bytes) -> None:
        hs = self._progress()
        hello = read_client_hello(message, hs.alpns)
        suite = hello.suite
        hs.client_random = hello.random
        self.client_alpn_offers = hello.alpns
        self.alpn = hello.alpn
        self.peer_transport_parameters = hello.parameters
        self.suite = suite
        kdf = self._kdf = KDF[suite]
        self._tickets_wanted = hello.tickets_wanted
        self.early_data_offered = hello.early_data
        self.early_data_accepted = False
        session = self._resume(hs, message, hello) if hello.identity is not None else None
        hs.transcript = kdf.transcript(message)
        if self.early_data_accepted:
            assert session is not None
            secret = kdf.derive(
                kdf.extract(kdf.zeros, session.psk), b"c e traffic", hs.transcript.digest()
            )
            self._secrets.append((False, EPOCH_ZERO_RTT, suite, secret))
            self._log("CLIENT_EARLY_TRAFFIC_SECRET", hs.client_random, secret)
        self._send_flight(hs, hello, session)

    def _resume(self, hs: Handshake, message: bytes, hello: ClientHello) -> ServerTicket | None:
        """Choose a session to resume and decide about 0-RTT."""
        if self._ticket_store is None or not hello.tickets_wanted:
            return None
        # Our clients and iroh's offer one ticket. Of several, only the first is considered:
        # 0-RTT belongs to it, and a full handshake serves the rest.
        assert hello.identity is not None and hello.binder is not None
        now_s = self._now()
        session = self._ticket_store.take(hello.identity, now_s)
        if session is None or session.suite != self.suite:
            return None
        kdf = self._kdf
        early = kdf.extract(kdf.zeros, session.psk)
        expected = kdf.finished(
            kdf.derive(early, b"res binder", kdf.empty_hash),
            kdf.new(message[: -hello.binders_size]).digest(),
        )
        if not equal(expected, hello.binder):
            misbehaved("IncorrectBinder", Alert.DECRYPT_ERROR)
        self.resumed = True
        self.peer_public_key = session.client
        age_s = ((hello.age - session.age_add) & 0xFFFFFFFF) / 1000
        self.early_data_accepted = (
            hello.early_data
            and session.alpn == self.alpn
            and abs(now_s - session.issued_s - age_s) <= MAX_TICKET_AGE_SKEW_S
            and same_promises(session.transport_parameters, hs.transport_parameters)
        )
        return session

    def _send_flight(
        self, hs: Handshake, hello: ClientHello, session: ServerTicket | None
    ) -> None:
        suite = hello.suite
        noise = self._random(64)
        hs.private_key = noise[32:]
        server_hello = write_server_hello(
            noise[:32],
            hello.session_id,
            suite,
            crypto_scalarmult_base(hs.private_key),
            session is not None,
        )
        transcript = hs.transcript
        transcript.update(server_hello)
        self._output.append((EPOCH_INITIAL, server_hello))
        self._derive_handshake_secrets(hs, None if session is None else session.psk, hello.share)
        flight = write_encrypted_extensions(
            self.alpn, hs.transport_parameters, bool(self.early_data_accepted)
        )
        if session is None:
            flight += CERTIFICATE_REQUEST_MESSAGE + self._identity.certificate_message
            transcript.update(flight)
            verify = self._certificate_verify(hs, SERVER_SIGNATURE_CONTEXT)
            transcript.update(verify)
            flight += verify
        else:
            transcript.update(flight)
        finished = self._finished(hs, hs.server_secret)
        transcript.update(finished)
        self._output.append((EPOCH_HANDSHAKE, flight + finished))
        # RFC 9001 §5.7: nothing in 1-RTT is read before the client's Finished.
        self._client_traffic, server = self._derive_application_secrets(hs)
        self._secrets += (
            (True, EPOCH_HANDSHAKE, suite, hs.server_secret),
            (False, EPOCH_HANDSHAKE, suite, hs.client_secret),
            (True, EPOCH_ONE_RTT, suite, server),
        )
        self._read_epoch = EPOCH_HANDSHAKE
        self._expected = _CERTIFICATE if session is None else _FINISHED

    # --- the client's answers ----------------------------------------------------------

    def _certificate(self, message: bytes) -> None:
        hs = self._progress()
        entries = read_certificate(message)
        if not entries:
            raise TlsAlert(Alert.CERTIFICATE_REQUIRED, NO_CERTIFICATES)
        if len(entries) > 1:
            raise TlsAlert(Alert.UNKNOWN_CA, UNKNOWN_ISSUER)
        hs.peer_key = spki_key(entries[0])
        if hs.peer_key is None:
            raise TlsAlert(Alert.BAD_CERTIFICATE, BAD_ENCODING)
        hs.transcript.update(message)
        self._expected = _VERIFY

    def _certificate_verify_received(self, message: bytes) -> None:
        hs = self._progress()
        assert hs.peer_key is not None
        self._check_certificate_verify(hs, hs.peer_key, CLIENT_SIGNATURE_CONTEXT, message)
        self._expected = _FINISHED

    def _finished_received(self, message: bytes) -> None:
        hs = self._progress()
        assert self.suite is not None
        self._check_finished(hs, hs.client_secret, message)
        self._secrets.append((False, EPOCH_ONE_RTT, self.suite, self._client_traffic))
        if self._ticket_store is not None and self._tickets_wanted and self.alpn is not None:
            self._send_tickets(hs, self._ticket_store)
        self._client_traffic = b""
        self._done(_NOTHING)

    def _send_tickets(self, hs: Handshake, store: ServerTicketStore) -> None:
        assert self.suite is not None and self.alpn is not None
        assert self.peer_public_key is not None
        kdf = self._kdf
        resumption = kdf.derive(hs.master, b"res master", hs.transcript.digest())
        now_s = self._now()
        size = 4 + 32 + TICKET_BYTES
        noise = self._random(TICKETS_SENT * size)
        messages = b""
        for at in range(0, TICKETS_SENT * size, size):
            age_add = noise[at : at + 4]
            nonce = noise[at + 4 : at + 36]
            identity = noise[at + 36 : at + size]
            store.put(
                identity,
                ServerTicket(
                    client=self.peer_public_key,
                    suite=self.suite,
                    psk=kdf.derive(resumption, b"resumption", nonce),
                    alpn=self.alpn,
                    transport_parameters=hs.transport_parameters,
                    age_add=int.from_bytes(age_add, "big"),
                    issued_s=now_s,
                ),
            )
            messages += write_ticket(SERVER_TICKET_LIFETIME_S, age_add, nonce, identity)
        self._output.append((EPOCH_ONE_RTT, messages))


_NOTHING: Handlers = {}
_AT_FIRST: Handlers = {CLIENT_HELLO: RawKeyServer._client_hello}
_CERTIFICATE: Handlers = {CERTIFICATE: RawKeyServer._certificate}
_VERIFY: Handlers = {CERTIFICATE_VERIFY: RawKeyServer._certificate_verify_received}
_FINISHED: Handlers = {FINISHED: RawKeyServer._finished_received}
