"""Files, options and answers of name servers: bytes that come from operators and from services."""

from __future__ import annotations

import json
import socket
import tempfile
from pathlib import Path

import dns.message
import dns.name
import dns.rcode
import dns.rrset

from iroh_fast import EndpointId, SecretKey, Signature
from iroh_fast.errors import (
    AddrError,
    ConfigError,
    DialError,
    DnsError,
    KeyParsingError,
    RelayUrlError,
    SignatureParsingError,
)
from iroh_fast.net.bind import BindAddr
from iroh_fast.relay import RelayConfig
from iroh_fast.relay.server.config import RelayServerConfig
from iroh_fast.web.proxy import Proxy
from iroh_fast.web.resolver.hosts import Hosts
from iroh_fast.web.resolver.message import (
    AAAA,
    TXT,
    A,
    Alias,
    Question,
    is_format_error,
    is_refusal,
    is_truncated,
    rcode_text,
    read_answer,
)
from iroh_fast.web.resolver.system import parse_resolv_conf

# --- files and options ---------------------------------------------------------------------

_folder: list[tempfile.TemporaryDirectory[str]] = []


def temporary(name: str, data: bytes) -> Path:
    if not _folder:
        _folder.append(tempfile.TemporaryDirectory())
    path = Path(_folder[0].name, name)
    path.write_bytes(data)
    return path


def run_config(data: bytes) -> None:
    """The first byte chooses what reads the rest."""
    kind, rest = data[:1], data[1:]
    text = rest.decode("utf-8", "replace")
    try:
        if kind in (b"F", b"D"):
            config = RelayServerConfig.from_toml(text, dev=kind == b"D", env={})
            config.check()
        elif kind == b"H":
            hosts = Hosts(str(temporary("hosts", rest)))
            for family in (socket.AF_INET, socket.AF_INET6):
                for address in hosts.addresses("a.example", family):
                    socket.inet_pton(family, address)
        elif kind == b"N":
            found = parse_resolv_conf(text)
            assert len(found.nameservers) <= 8 and len(found.search) <= 16 and found.ndots <= 15
        elif kind == b"R":
            try:
                value = json.loads(rest)
            except (ValueError, RecursionError):
                return
            relay = RelayConfig.from_json(value)
            assert RelayConfig.from_json(relay.to_json()) == relay
        elif kind == b"P":
            assert "@" not in repr(Proxy.parse(text))
        elif kind == b"B":
            BindAddr.parse(text)
        elif kind == b"K":
            secret = SecretKey.load_or_create(temporary("key", rest))
            assert SecretKey.parse(secret.to_bytes().hex()) == secret
        elif kind == b"Z":
            id = EndpointId.from_z32(text)
            assert EndpointId.from_z32(f"{id:z32}") == id
        else:
            assert Signature(rest).to_bytes() == rest
    except (
        AddrError,
        ConfigError,
        DialError,
        KeyParsingError,
        RelayUrlError,
        SignatureParsingError,
    ) as error:
        assert str(error)


FILE = """
enable_relay = true
http_bind_addr = "[::]:80"
enable_quic_addr_discovery = true
enable_metrics = true
metrics_bind_addr = "127.0.0.1:9090"
key_cache_capacity = 1000
[tls]
cert_mode = "Manual"
https_bind_addr = "0.0.0.0:443"
quic_bind_addr = "0.0.0.0:7842"
hostname = ["a.example", "b.example"]
cert_dir = "/tmp"
contact = "a@b.example"
prod_tls = false
[limits]
accept_conn_limit = 1.5
accept_conn_burst = 5
[limits.client.rx]
bytes_per_second = 1000
max_burst_bytes = 10
[access]
"""


def config_seeds() -> list[bytes]:
    secret = SecretKey(bytes(range(32)))
    id = str(secret.public)
    rules = [
        f'allowlist = ["{id}"]',
        f'denylist = ["{id}", "{id}"]',
        'shared_token = ["one", "two"]',
        'http = { url = "https://access.example/x", bearer_token = "t" }',
    ]
    files = [FILE + rule for rule in rules] + ['access = "everyone"', ""]
    letsencrypt = files[0].replace('"Manual"', '"LetsEncrypt"')
    hosts = "127.0.0.1 localhost a.example # text\n::1 localhost\nfe80::1%lo b.example.\n"
    relay = RelayConfig("https://relay.example/", quic_port=7, auth_token="t")
    return [
        *(kind + file.encode() for kind in (b"F", b"D") for file in [*files, letsencrypt]),
        b"H" + hosts.encode(),
        b"H127.0.0.1\0 a.example\n",
        b"R" + json.dumps(relay.to_json()).encode(),
        b'R{"url": "https://a./", "quic": {"port": 5}}',
        b"Phttp://user:pa%20ss@proxy.example:8080/",
        b"Nnameserver 127.0.0.1:5353\nsearch a.example b\noptions ndots:3 rotate\n",
        b"Phttps://[::1]:1",
        b"B0.0.0.0:5",
        b"B[::1]:0",
        b"K" + secret.to_bytes().hex().encode() + b"\n",
        b"K" + secret.to_bytes(),
        b"Z" + f"{secret.public:z32}".encode(),
        b"S" + bytes(64),
    ]


# --- name servers --------------------------------------------------------------------------


def run_dns(data: bytes) -> None:
    """The answer to a question for an IPv4 or IPv6 address, or for texts, as the first byte says."""
    kind = (A, AAAA, TXT)[data[0] % 3 if data else 0]
    question = Question.of("relay.example.", kind)
    query = question.query()
    # Of whoever guesses the number of the question; without it nothing is read.
    answer = query.wire[:2] + data[3:]
    if not query.is_answered_by(answer):
        return
    is_truncated(answer), is_format_error(answer)
    if is_refusal(answer):
        assert rcode_text(answer).isprintable()
    try:
        records = read_answer(question, answer)
    except Alias as alias:
        assert alias.name and alias.steps <= 8 and 0 <= alias.ttl <= 86400
    except DnsError as error:
        assert str(error).isprintable()
    else:
        for value in records.values:
            assert kind == TXT or len(value[0]) in (4, 16)


def dns_seeds() -> list[bytes]:
    seeds = []
    for first, kind, text in (
        (b"\0", "A", "192.0.2.1"),
        (b"\1", "AAAA", "2001:db8::1"),
        (b"\2", "TXT", '"relay=https://a/" "b"'),
    ):
        question = dns.message.make_query("relay.example.", kind)
        question.id = 0
        for code in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN, dns.rcode.SERVFAIL):
            reply = dns.message.make_response(question)
            reply.set_rcode(code)
            seeds.append(first + reply.to_wire())
        reply = dns.message.make_response(question)
        name = question.question[0].name
        reply.answer.append(dns.rrset.from_text(name, 60, "IN", kind, text))
        seeds.append(first + reply.to_wire())
        reply = dns.message.make_response(question)
        other = dns.name.from_text("other.example.")
        reply.answer.append(dns.rrset.from_text(name, 60, "IN", "CNAME", "other.example."))
        reply.answer.append(dns.rrset.from_text(other, 60, "IN", kind, text))
        seeds.append(first + reply.to_wire())
        reply.answer.append(dns.rrset.from_text(other, 60, "IN", "CNAME", "relay.example."))
        seeds.append(first + reply.to_wire())
    return seeds
