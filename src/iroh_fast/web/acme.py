"""Certificates from Let's Encrypt, or another server that speaks ACME (RFC 8555).

The messages are made and signed by the `acme` library of the certbot project, one blocking step
at a time in a worker thread; waiting happens here. Control of the host names is shown by files
under ``/.well-known/acme-challenge/`` on the plain HTTP listener (HTTP-01, RFC 8555 §8.3), so that
has to be reachable on port 80 of every name, or in handshakes of the HTTPS listener on port 443
(TLS-ALPN-01, `tls_challenge`).

Cached files have the names and the form of those of iroh's relay.
"""

from __future__ import annotations

import asyncio
import base64
import datetime
import hashlib
import ipaddress
import logging
import os
import ssl
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from .. import __version__
from ..errors import ConfigError
from . import tls_files as _tls
from .acme_config import AcmeConfig
from .tls_challenge import TlsChallenges

if TYPE_CHECKING:
    from acme import messages

__all__ = ["CHALLENGE_PATH", "AcmeCertificate", "AcmeError", "cache_name"]

logger = logging.getLogger("iroh_fast.web.acme")

CHALLENGE_PATH: Final = "/.well-known/acme-challenge/"
EXTRA: Final = (
    "cert_mode = \"LetsEncrypt\" needs further packages ({name}): pip install 'iroh-fast[acme]'"
)

AUTHORIZATION_POLLS_S: Final = tuple(2.0**n for n in range(5))
ORDER_POLLS_S: Final = tuple(2.0**n for n in range(10))
RETRY_EXPONENT_MAX: Final = 16
REQUEST_TIMEOUT_S: Final = 20
STEP_WAIT_S: Final = 2.0  # for a step under way when everything stops
# The wall clock may jump, and sleeps do not count while a machine is suspended.
RENEWAL_CHECK_S: Final = 3600.0
_ZERO: Final = datetime.timedelta(0)

T = TypeVar("T")


class AcmeError(Exception):
    """The server did not give a certificate this time."""


def cache_name(kind: str, items: Iterable[str], directory: str) -> str:
    """The file name of something cached, as in iroh's relay.

    Parameters
    ----------
    kind : str
        ``"cert"``: items are host names; ``"account"``: items are contact URLs.
    directory : str
        URL of the ACME directory.
    """
    digest = hashlib.sha256()
    for item in items:
        digest.update(item.encode() + b"\0")
    digest.update(directory.encode())
    name = base64.urlsafe_b64encode(digest.digest()).decode("ascii").rstrip("=")
    return f"cached_{kind}_{name}"


def renewal_time(chain: bytes) -> datetime.datetime:
    """When two thirds of the validity of the first certificate (PEM) have passed."""
    leaf = x509.load_pem_x509_certificate(chain)
    begin, end = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    return begin + (end - begin) * 2 / 3


def _utc_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)


def _private_file(path: Path, data: bytes) -> None:
    """Write a file that only its owner may read."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def _pkcs8(key: ec.EllipticCurvePrivateKey, encoding: serialization.Encoding) -> bytes:
    return key.private_bytes(
        encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


class AcmeCertificate:
    """The certificate of a server's host names, kept valid.

    `load_cached` uses what an earlier run left behind, `run` gets the first certificate and all
    later ones. Until there is one, TLS handshakes with the context fail.

    Parameters
    ----------
    context : ssl.SSLContext
        New handshakes use the newest certificate.
    config : AcmeConfig
    on_change : callable
        Called after another certificate has been loaded into the context.
    sleep, now : callable
        Waits a number of seconds; tells the time (UTC).

    Attributes
    ----------
    files : CertificateFiles
        The cached certificate: key and chain in one file, which may not exist yet.

    Raises
    ------
    ConfigError
        A library is missing, or the settings cannot work.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        config: AcmeConfig,
        *,
        on_change: Callable[[], object] = lambda: None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        now: Callable[[], datetime.datetime] = _utc_now,
    ) -> None:
        try:
            import acme  # noqa: F401
            import josepy  # noqa: F401
            import requests  # noqa: F401
        except ImportError as err:
            raise ConfigError(EXTRA.format(name=err.name)) from err
        if not config.hostnames or not config.contact:
            raise ConfigError("an ACME server needs a host name and a contact")
        for name in config.hostnames:
            _check_name(name)
        self._directory = config.directory
        if not self._directory.startswith("https://"):
            raise ConfigError(f"the URL of an ACME server begins with https://: {self._directory}")
        self._contact = f"mailto:{config.contact}"
        self._names = config.hostnames
        self._roots = config.roots
        if self._roots is not None:
            _root_context(self._roots)
        try:
            config.cert_dir.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise ConfigError(f"cannot make cert_dir {config.cert_dir}: {err}") from err
        if not os.access(config.cert_dir, os.W_OK):
            raise ConfigError(f"cert_dir {config.cert_dir} is not writable")
        self._account = config.cert_dir / cache_name("account", [self._contact], self._directory)
        cached = config.cert_dir / cache_name("cert", self._names, self._directory)
        self.files = _tls.CertificateFiles(context, cached, cached)
        self._renewal: datetime.datetime | None = None
        self._on_change = on_change
        self._sleep = sleep
        self._now = now
        self._in_tls = config.in_tls
        self._answers: dict[str, bytes] = {}
        self.in_handshakes = TlsChallenges()
        self._running: asyncio.Future[Any] | None = None

    @property
    def ready(self) -> bool:
        """Whether there is a certificate."""
        return self._renewal is not None

    def answer(self, path: str) -> bytes | None:
        """What the HTTP listener answers under `CHALLENGE_PATH`; None: not found."""
        return self._answers.get(path)

    def load_cached(self) -> bool:
        """Use the cached certificate; False if there is none that works."""
        if not self.files.cert.exists():
            return False
        try:
            self.files.load()
            self._renewal = renewal_time(self.files.cert.read_bytes())
        except (ConfigError, OSError, ValueError) as err:
            logger.warning("cached certificate not used: %s", err)
            return False
        return True

    async def run(self) -> None:
        """Get certificates whenever one is due; failures are logged and tried again."""
        failures = 0
        while True:
            while self._renewal is not None and (left := self._renewal - self._now()) > _ZERO:
                await self._sleep(min(left.total_seconds(), RENEWAL_CHECK_S))
            try:
                await self._obtain()
                failures = 0
            except Exception as err:  # whatever is wrong with a server out there, we go on
                delay = 2.0 ** min(failures, RETRY_EXPONENT_MAX)
                failures += 1
                logger.warning("no certificate, next attempt in %g s: %s", delay, err)
                logger.debug("how it failed", exc_info=True)
                await self._sleep(delay)

    async def _obtain(self) -> None:
        names = ", ".join(self._names)
        logger.info("asking %s for a certificate of %s", self._directory, names)
        session = _Session(self._directory, await self._step(self._account_key), self._roots)
        try:
            await self._step(session.begin, self._contact)
            key = _pkcs8(ec.generate_private_key(ec.SECP256R1()), serialization.Encoding.PEM)
            order = await self._step(session.order, key, self._names)
            for authorization in order.authorizations:
                await self._authorize(session, authorization)
            chain = await self._finalize(session, order)
        finally:
            self._answers.clear()
            self.in_handshakes.clear()
            if self._running is None or self._running.done():
                session.close()
            else:
                self._running.add_done_callback(lambda _: session.close())
        await self._step(self._store, key, chain)
        self.files.load()
        self._renewal = renewal_time(chain)
        self._on_change()
        logger.info("new certificate of %s, renewal at %s", names, self._renewal)

    async def _step(self, work: Callable[..., T], *arguments: object) -> T:
        """Run one blocking step in a thread.

        A thread cannot be cancelled, and what it uses must stay open until it is through: when
        this is cancelled it waits for that, but not for long.
        """
        self._running = step = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
        try:
            return await asyncio.shield(step)
        except asyncio.CancelledError:
            await asyncio.wait([step], timeout=STEP_WAIT_S)
            step.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise

    async def _authorize(
        self, session: _Session, authorization: messages.AuthorizationResource
    ) -> None:
        challenge = session.challenge(authorization, in_tls=self._in_tls)
        if challenge is None:
            return
        if self._in_tls:
            self.in_handshakes.show(authorization.body.identifier.value, challenge.content)
        else:
            self._answers[challenge.path] = challenge.content
        await self._step(session.answer, challenge)
        for delay in AUTHORIZATION_POLLS_S:
            await self._sleep(delay)
            if await self._step(session.authorized, authorization):
                return
        raise AcmeError(f"{authorization.body.identifier.value}: not validated in time")

    async def _finalize(self, session: _Session, order: messages.OrderResource) -> bytes:
        chain: bytes | None = await self._step(session.finalize, order)
        for delay in ORDER_POLLS_S:
            if chain is not None:
                return chain
            await self._sleep(delay)
            chain = await self._step(session.certificate, order)
        if chain is None:
            raise AcmeError("the order was not completed in time")
        return chain

    def _account_key(self) -> ec.EllipticCurvePrivateKey:
        """The key of the account: the cached one, else a new one."""
        try:
            key = serialization.load_der_private_key(self._account.read_bytes(), None)
            if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name == "secp256r1":
                return key
            logger.warning("cached account key not used: not ECDSA P-256")
        except FileNotFoundError:
            pass
        except (TypeError, ValueError) as err:
            logger.warning("cached account key not used: %s", err)
        key = ec.generate_private_key(ec.SECP256R1())
        part = self._account.with_name(self._account.name + ".part")
        _private_file(part, _pkcs8(key, serialization.Encoding.DER))
        part.replace(self._account)
        return key

    def _store(self, key: bytes, chain: bytes) -> None:
        """Replace the cached certificate by one that is known to work."""
        part = self.files.cert.with_name(self.files.cert.name + ".part")
        _private_file(part, key + chain)
        _tls.CertificateFiles(_tls.server_context(), part, part).load()
        part.replace(self.files.cert)


def _check_name(name: str) -> None:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        # There is no HTTP-01 for a wildcard.
        if name.isascii() and "*" not in name:
            return
    raise ConfigError(f"Let's Encrypt needs plain ASCII host names, not {name!r}")


# --- one conversation with the server, blocking -------------------------------------------


@dataclass(frozen=True, slots=True)
class _Challenge:
    path: str
    content: bytes
    body: messages.ChallengeBody
    response: Any


def _root_context(extra: Path) -> ssl.SSLContext:
    """A client context that trusts these roots, besides those its user adds."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(extra)
    except (OSError, ssl.SSLError) as err:
        raise ConfigError(f"cannot use the roots in {extra}: {err}") from err
    return context


class _Session:
    """One order, in steps that block: one thread at a time."""

    def __init__(self, directory: str, key: ec.EllipticCurvePrivateKey, roots: Path | None) -> None:
        from acme.client import ClientNetwork
        from josepy.jwa import ES256
        from josepy.jwk import JWKEC

        self._url = directory
        self._jwk = JWKEC(key=key)
        self._net = ClientNetwork(
            self._jwk,
            alg=ES256,
            user_agent=f"iroh_fast/{__version__}",
            timeout=REQUEST_TIMEOUT_S,
        )
        if roots is not None:
            self._net.session.mount("https://", _adapter(_root_context(roots)))

    def close(self) -> None:
        self._net.session.close()

    def begin(self, contact: str) -> None:
        """Read the directory, and make or find the account (RFC 8555 §7.3)."""
        from acme import errors, messages
        from acme.client import ClientV2

        self._client = ClientV2(ClientV2.get_directory(self._url, self._net), self._net)
        wanted = messages.NewRegistration(contact=(contact,), terms_of_service_agreed=True)
        try:
            self._client.new_account(wanted)
        except errors.ConflictError as err:
            # The account of this key exists.
            self._net.account = messages.RegistrationResource(uri=err.location, body=wanted)

    def order(self, key: bytes, names: Iterable[str]) -> messages.OrderResource:
        from acme import crypto_util

        return self._client.new_order(crypto_util.make_csr(key, list(names)))

    def challenge(
        self, authorization: messages.AuthorizationResource, *, in_tls: bool
    ) -> _Challenge | None:
        """What has to be shown for one name; None if nothing any more."""
        from acme import challenges, messages

        if authorization.body.status == messages.STATUS_VALID:
            return None
        wanted = "tls-alpn-01" if in_tls else "http-01"
        for body in authorization.body.challenges:
            given = body.chall.to_json()
            if given.get("type") == wanted:
                # The library knows one of them; token, authorization and response are alike.
                known = challenges.HTTP01.from_json({"type": "http-01", "token": given["token"]})
                assert isinstance(known, challenges.HTTP01)
                response, content = known.response_and_validation(self._jwk)
                return _Challenge(known.path, content.encode("ascii"), body, response)
        raise AcmeError(f"{authorization.body.identifier.value}: no {wanted} challenge offered")

    def answer(self, challenge: _Challenge) -> None:
        self._client.answer_challenge(challenge.body, challenge.response)

    def authorized(self, authorization: messages.AuthorizationResource) -> bool:
        """Whether the server has looked and found what it should; AcmeError if it did not."""
        from acme import messages

        seen, _ = self._client.poll(authorization)
        if seen.body.status == messages.STATUS_VALID:
            return True
        if seen.body.status in (messages.STATUS_PENDING, messages.STATUS_PROCESSING):
            return False
        reasons = [str(body.error) for body in seen.body.challenges if body.error is not None]
        raise AcmeError(
            f"{seen.body.identifier.value}: {seen.body.status.name}: {'; '.join(reasons)}"
        )

    def finalize(self, order: messages.OrderResource) -> bytes | None:
        """Send the signing request; the chain if it is there at once."""
        return self._chain(self._client.begin_finalization(order).body)

    def certificate(self, order: messages.OrderResource) -> bytes | None:
        """The chain in PEM, None while the server works on it."""
        from acme import messages

        return self._chain(messages.Order.from_json(self._fetch(order.uri).json()))

    def _chain(self, body: messages.Order) -> bytes | None:
        from acme import messages

        if body.status == messages.STATUS_VALID and body.certificate is not None:
            text: str = self._fetch(body.certificate).text
            return text.encode("ascii")
        if body.status == messages.STATUS_INVALID:
            raise AcmeError(f"the order failed: {body.error}")
        return None

    def _fetch(self, url: str) -> Any:
        """POST-as-GET (RFC 8555 §6.3)."""
        return self._net.post(url, None, new_nonce_url=self._client.directory["newNonce"])


def _adapter(context: ssl.SSLContext) -> Any:
    from requests.adapters import HTTPAdapter

    class Adapter(HTTPAdapter):
        """The usual roots are added to those of the context."""

        def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
            super().init_poolmanager(*args, ssl_context=context, **kwargs)

    return Adapter()
