"""A small ACME server (RFC 8555), and a clock for its client."""

from __future__ import annotations

import asyncio
import base64
import datetime
import hashlib
import json
import secrets
import ssl

import aiohttp
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from iroh_fast.web import acme as acme_module
from iroh_fast.web.tls_files import self_signed_context

ACME_IDENTIFIER = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class Clock:
    """The time as the code under test sees it: waits are over at once, but for those of renewal."""

    def __init__(self):
        self.delays = []
        self.offset = datetime.timedelta(0)
        self.ticks = asyncio.Event()

    def now(self):
        return datetime.datetime.now(datetime.timezone.utc) + self.offset

    async def sleep(self, delay):
        if delay == acme_module.RENEWAL_CHECK_S:
            await self.ticks.wait()
            return
        self.delays.append(delay)
        await asyncio.sleep(0.001)

    def forward(self, **by):
        self.offset += datetime.timedelta(**by)
        self.ticks.set()
        self.ticks = asyncio.Event()


class AcmeServer:
    """RFC 8555 as far as one client needs it; every request is checked like a real server does."""

    def __init__(self):
        self.validity = datetime.timedelta(days=90)
        self.kind = "http-01"  # of the challenge that is offered
        self.portal = ("127.0.0.1", 1)  # where names of the challenges lead
        self.refusals = 0  # orders to refuse
        self.pending = 0  # polls of an authorization before its state shows
        self.processing = 0  # polls of an order before its state shows
        self.problems = []
        self.requests = []
        self.accounts = {}
        self.new_accounts = []
        self.nonces = set()
        self.orders = []
        self.hosts = []
        self.issued = []
        self.key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Test CA")])
        now = datetime.datetime.now(datetime.timezone.utc)
        self.ca = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1000))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self.key, hashes.SHA256())
        )

    async def __aenter__(self):
        self._transports = {}

        @web.middleware
        async def keep(request, handler):
            self._transports[id(request.transport)] = request.transport
            return await handler(request)

        app = web.Application(middlewares=[keep])
        app.router.add_get("/directory", self._directory)
        app.router.add_head("/nonce", self._nonce)
        app.router.add_post("/{kind}/{index:.*}", self._post)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        context, self.roots, _ = self_signed_context()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        self.base = f"https://localhost:{site._server.sockets[0].getsockname()[1]}"
        self.url = f"{self.base}/directory"
        return self

    async def __aexit__(self, *_):
        await self._runner.cleanup()
        # Under TLS some stay open when the peer leaves without a goodbye, as `requests` does.
        for transport in self._transports.values():
            transport.abort()
        await asyncio.sleep(0.05)
        assert self.problems == []

    def pem(self):
        return self.ca.public_bytes(serialization.Encoding.PEM)

    def _fresh(self):
        nonce = encode(secrets.token_bytes(16))
        self.nonces.add(nonce)
        return {"Replay-Nonce": nonce}

    async def _directory(self, _):
        self.requests.append("directory")
        names = {"newNonce": "nonce", "newAccount": "account/new", "newOrder": "order/new"}
        return web.json_response({k: f"{self.base}/{path}" for k, path in names.items()})

    async def _nonce(self, _):
        return web.Response(headers=self._fresh())

    def _open(self, message, url):
        """The payload and the account of a request, whose signature is good."""
        head = json.loads(decode(message["protected"]))
        self.nonces.remove(head["nonce"])
        assert head["alg"] == "ES256" and head["url"] == url
        jwk = head["jwk"] if "jwk" in head else self.accounts[head["kid"]]
        assert ("jwk" in head) == url.endswith("/account/new")
        numbers = [int.from_bytes(decode(jwk[part]), "big") for part in "xy"]
        key = ec.EllipticCurvePublicNumbers(*numbers, ec.SECP256R1()).public_key()
        raw = decode(message["signature"])
        halves = [int.from_bytes(part, "big") for part in (raw[:32], raw[32:])]
        signed = f"{message['protected']}.{message['payload']}".encode()
        key.verify(encode_dss_signature(*halves), signed, ec.ECDSA(hashes.SHA256()))
        payload = decode(message["payload"])
        return json.loads(payload) if payload else None, jwk

    async def _post(self, request):
        kind, index = request.match_info["kind"], request.match_info["index"]
        self.requests.append(kind)
        try:
            payload, jwk = self._open(json.loads(await request.text()), self.base + request.path)
            handler = getattr(self, f"_{kind}")
            status, body, headers = await handler(index, payload, jwk)
        except Exception as err:
            self.problems.append(err)
            raise
        headers = {**headers, **self._fresh()}
        if isinstance(body, bytes):
            return web.Response(body=body, headers=headers)
        kind = "application/json" if status < 400 else "application/problem+json"
        return web.json_response(body, status=status, headers=headers, content_type=kind)

    async def _account(self, _, payload, jwk):
        known = next((url for url, key in self.accounts.items() if key == jwk), None)
        if known is None:
            url = f"{self.base}/account/{len(self.accounts)}"
            self.accounts[url] = jwk
            self.new_accounts.append(payload)
        return (200 if known else 201), {"status": "valid"}, {"Location": known or url}

    async def _order(self, index, payload, _):
        if index == "new":
            if self.refusals:
                self.refusals -= 1
                problem = {"type": "urn:ietf:params:acme:error:serverInternal", "detail": "no"}
                return 500, problem, {}
            index = len(self.orders)
            parts = [
                {"name": i["value"], "token": encode(secrets.token_bytes(32)), "state": "pending"}
                for i in payload["identifiers"]
            ]
            self.orders.append({"parts": parts, "polls": self.processing, "chain": None})
            return 201, self._order_body(index), {"Location": f"{self.base}/order/{index}"}
        order = self.orders[int(index)]
        order["polls"] -= 1
        return 200, self._order_body(int(index)), {}

    def _order_body(self, index):
        order = self.orders[index]
        body = {
            "status": "pending",
            "identifiers": [{"type": "dns", "value": p["name"]} for p in order["parts"]],
            "authorizations": [
                f"{self.base}/authorization/{index}-{n}" for n in range(len(order["parts"]))
            ],
            "finalize": f"{self.base}/finalize/{index}",
        }
        if order["chain"]:
            body["status"] = "processing"
            if order["polls"] <= 0:
                body.update(status="valid", certificate=f"{self.base}/chain/{index}")
        return body

    def _part(self, index):
        order, _, number = index.partition("-")
        return self.orders[int(order)]["parts"][int(number)]

    def _challenge_body(self, index):
        part = self._part(index)
        body = {
            "type": self.kind,
            "url": f"{self.base}/challenge/{index}",
            "token": part["token"],
            "status": part["state"],
        }
        if part["state"] == "invalid":
            kind = "urn:ietf:params:acme:error:unauthorized"
            body["error"] = {"type": kind, "detail": "wrong content"}
        return body

    async def _authorization(self, index, payload, _):
        assert payload is None
        part = self._part(index)
        challenge = self._challenge_body(index)
        if part["state"] != "pending" and part["polls"] > 0:
            part["polls"] -= 1
            challenge = {**challenge, "status": "pending"}
            challenge.pop("error", None)
        body = {
            "identifier": {"type": "dns", "value": part["name"]},
            "status": challenge["status"],
            "challenges": [
                {
                    "type": "dns-01",
                    "url": f"{self.base}/no",
                    "token": part["token"],
                    "status": "pending",
                },
                challenge,
            ],
        }
        return 200, body, {}

    async def _challenge(self, index, payload, jwk):
        assert payload == {}
        part = self._part(index)
        canonical = json.dumps(
            {name: jwk[name] for name in ("crv", "kty", "x", "y")}, separators=(",", ":")
        )
        thumb = encode(hashlib.sha256(canonical.encode()).digest())
        part["state"], part["polls"] = "invalid", self.pending
        look = self._fetches if self.kind == "http-01" else self._sees
        if await look(part, f"{part['token']}.{thumb}"):
            part["state"] = "valid"
        self.hosts.append(part["name"])
        up = f'<{self.base}/authorization/{index}>;rel="up"'
        return 200, {**self._challenge_body(index), "status": "pending"}, {"Link": up}

    async def _fetches(self, part, authorization):
        """HTTP-01, RFC 8555 §8.3."""
        url = "http://{}:{}/.well-known/acme-challenge/".format(*self.portal) + part["token"]
        try:
            async with (
                aiohttp.ClientSession(headers={"Host": part["name"]}) as session,
                session.get(url) as answer,
            ):
                return answer.status == 200 and await answer.text() == authorization
        except aiohttp.ClientError:
            return False

    async def _sees(self, part, authorization):
        """TLS-ALPN-01, RFC 8737 §3."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["acme-tls/1"])
        try:
            _, writer = await asyncio.open_connection(
                *self.portal, ssl=context, server_hostname=part["name"]
            )
        except (OSError, ssl.SSLError):
            return False
        tls = writer.get_extra_info("ssl_object")
        chosen, shown = tls.selected_alpn_protocol(), tls.getpeercert(True)
        writer.transport.abort()
        certificate = x509.load_der_x509_certificate(shown)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        identifier = certificate.extensions.get_extension_for_oid(ACME_IDENTIFIER)
        digest = hashlib.sha256(authorization.encode()).digest()
        return (
            chosen == "acme-tls/1"
            and list(names) == [x509.DNSName(part["name"])]
            and identifier.critical
            and identifier.value.value == b"\x04\x20" + digest
        )

    async def _finalize(self, index, payload, _):
        order = self.orders[int(index)]
        assert all(part["state"] == "valid" for part in order["parts"])
        csr = x509.load_der_x509_csr(decode(payload["csr"]))
        assert csr.is_signature_valid
        names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        wanted = [part["name"] for part in order["parts"]]
        assert sorted(names.value.get_values_for_type(x509.DNSName)) == sorted(wanted)
        begin = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(hours=1)
        leaf = (
            x509.CertificateBuilder()
            .subject_name(csr.subject)
            .issuer_name(self.ca.subject)
            .public_key(csr.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(begin + self.validity)
            .add_extension(names.value, critical=not csr.subject.rdns)
            .sign(self.key, hashes.SHA256())
        )
        order["chain"] = leaf.public_bytes(serialization.Encoding.PEM) + self.pem()
        self.issued.append(leaf)
        return 200, self._order_body(int(index)), {}

    async def _chain(self, index, payload, _):
        assert payload is None
        return 200, self.orders[int(index)]["chain"], {}
