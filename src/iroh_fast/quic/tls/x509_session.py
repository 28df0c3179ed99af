"""TLS sessions with X.509 server certificates, on aioquic's engine, unmodified.

Around it stands what it leaves open: encryption levels and sizes of messages, and certificates.
Importing the engine takes a third of a second, see `x509.preload`.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from aioquic import tls as engine
from aioquic.buffer import Buffer
from cryptography.hazmat.primitives.serialization import Encoding

from ._wire import NEW_SESSION_TICKET, SERVER_HELLO
from .alerts import NO_ALPN, Alert, TlsAlert, misbehaved
from .session import (
    DEFAULT_SUITES,
    EPOCH_HANDSHAKE,
    EPOCH_ONE_RTT,
    HELLO_RETRY_RANDOM,
    Output,
    Session,
)

if TYPE_CHECKING:
    from .trust import TrustRoots, X509Credentials

__all__ = ["X509TlsSession"]

logger = logging.getLogger("iroh_fast.quic")

_QUIC_TRANSPORT_PARAMETERS: Final = 57


class X509TlsSession(Session):
    """One side of one handshake in which the server has a certificate and the client nothing.

    There is no resumption: no tickets are asked for or sent, and 0-RTT is refused. Nobody proves
    an endpoint's key, and servers are not told what else a client offered.
    """

    __slots__ = ("_buffers", "_context", "_server_name", "_trust")

    def __init__(
        self,
        context: engine.Context,
        is_client: bool,
        transport_parameters: bytes,
        flight_bytes: int,
        keylog: Callable[[str], None] | None,
    ) -> None:
        super().__init__(is_client, keylog)
        self.early_data_accepted = False
        self._context: engine.Context | None = context
        self._server_name = ""
        self._trust: TrustRoots | None = None
        self._buffers: dict[engine.Epoch, Buffer] = {
            engine.Epoch.INITIAL: Buffer(capacity=4096 + len(transport_parameters)),
            engine.Epoch.HANDSHAKE: Buffer(capacity=flight_bytes),
            engine.Epoch.ONE_RTT: Buffer(capacity=64),
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
        if not server_name or len(server_name) > 253 or not server_name.isascii():
            raise ValueError(f"not a server name: {server_name[:80]!r}")
        if not alpns:
            raise ValueError("at least one ALPN is needed")
        names = _ascii(alpns)
        context = engine.Context(
            is_client=True,
            alpn_protocols=names,
            cipher_suites=[engine.CipherSuite(suite) for suite in DEFAULT_SUITES],
            server_name=server_name,
            verify_mode=ssl.CERT_NONE,  # our own check follows, with roots that stay loaded
        )
        # A key share goes with every group, so a HelloRetryRequest, which the engine does not
        # know, is never due; X25519 first, X448 is nobody's only choice.
        context._supported_groups = [
            engine.Group.X25519,
            engine.Group.SECP256R1,
            engine.Group.SECP384R1,
        ]
        self = cls(context, True, transport_parameters, 1024, keylog)
        self.client_alpn_offers = tuple(map(bytes, alpns))
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
        context = engine.Context(is_client=False, alpn_protocols=_ascii(alpns))
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
        context = self._context
        if context is None or context.state is not engine.State.CLIENT_HANDSHAKE_START:
            super().start()
        assert context is not None
        context.handle_message(b"", self._buffers)

    def take_output(self) -> Output:
        """Return and forget the CRYPTO bytes to send, as (epoch, bytes) in order."""
        output = []
        for epoch, buffer in self._buffers.items():
            if buffer.tell():
                output.append((int(epoch.value), buffer.data))
                buffer.seek(0)
        return output

    def _forget(self) -> None:
        self._trust = None
        if self.complete:
            self._context = None
            self._buffers = {}

    def _handle(self, kind: int, message: bytes) -> None:
        if self.complete:
            return  # a ticket: not asked for, but allowed
        context, states = self._context, engine.State
        assert context is not None
        before = context.state
        if kind == SERVER_HELLO and message[6:38] == HELLO_RETRY_RANDOM:
            misbehaved("IllegalHelloRetryRequestWithNoChanges")
        try:
            context.handle_message(message, self._buffers)
        except engine.Alert as alert:
            description = int(alert.description)
            reason = str(alert) or alert.description.name
            if description == Alert.NO_APPLICATION_PROTOCOL:
                reason = NO_ALPN
            raise TlsAlert(description, reason) from alert
        except Exception as err:
            # Nothing a peer sends may look like an error of this program.
            logger.debug("the TLS engine failed", exc_info=True)
            raise TlsAlert(Alert.INTERNAL_ERROR, "internal error") from err
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
            self._read_epoch = EPOCH_ONE_RTT
        elif context.state not in (states.CLIENT_EXPECT_SERVER_HELLO, states.SERVER_EXPECT_CLIENT_HELLO):
            self._read_epoch = EPOCH_HANDSHAKE

    def _check_kind(self, kind: int) -> None:
        if self.complete and not (self.is_client and kind == NEW_SESSION_TICKET):
            self._unexpected(kind, "NewSessionTicket" if self.is_client else "nothing")

    def _negotiated(self, context: engine.Context) -> None:
        """Take over what the peer's extensions say."""
        if context.alpn_negotiated is not None:
            self.alpn = context.alpn_negotiated.encode("ascii")
        if self.alpn is None or (self.is_client and self.alpn not in self.client_alpn_offers):
            raise TlsAlert(Alert.NO_APPLICATION_PROTOCOL, NO_ALPN)
        parameters = dict(context.received_extensions or ()).get(_QUIC_TRANSPORT_PARAMETERS)
        if parameters is None:
            misbehaved("MissingQuicTransportParameters", Alert.MISSING_EXTENSION)
        self.peer_transport_parameters = bytes(parameters)

    def _on_secret(self, direction: Any, epoch: Any, suite: Any, secret: bytes) -> None:
        context = self._context
        assert context is not None and context.key_schedule is not None
        write = direction is engine.Direction.ENCRYPT
        self.suite = int(suite)
        self._secrets.append((write, int(epoch.value), int(suite), secret))
        if epoch is engine.Epoch.ONE_RTT and write is not self.is_client:
            # The server's secret: at this moment the transcript ends with its Finished.
            self._exporter_secret = context.key_schedule.derive_secret(b"exp master")
        if self._keylog is not None and context.client_random is not None:
            who = "CLIENT" if write is self.is_client else "SERVER"
            kind = "TRAFFIC_SECRET_0"
            if epoch is not engine.Epoch.ONE_RTT:
                kind = "HANDSHAKE_TRAFFIC_SECRET"
            self._log(f"{who}_{kind}", context.client_random, secret)


def _ascii(alpns: Sequence[bytes]) -> list[str]:
    names = []
    for alpn in alpns:
        if not 1 <= len(alpn) <= 255 or not alpn.isascii():
            raise ValueError(f"not a protocol name this engine can use: {bytes(alpn[:16])!r}")
        names.append(bytes(alpn).decode("ascii"))
    return names
