"""The transport core against aioquic, in one process and on a virtual clock.

aioquic authenticates by X.509, we by raw public keys, so here our connections use
aioquic's TLS engine behind the interface of `TlsSession`. Everything else is ours.
"""

from __future__ import annotations

import datetime
import heapq
import logging
import random
import ssl
from collections import deque
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from aioquic import tls
from aioquic.buffer import Buffer
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection as AioConnection
from aioquic.quic.connection import QuicConnectionId, QuicConnectionState
from aioquic.quic.packet import QuicProtocolVersion, encode_quic_retry, pull_quic_header
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from sim import ErrorCatcher, calm, frames, kinds

from iroh_fast.quic._connection import QuicConnection
from iroh_fast.quic._endpoint import QuicEndpoint
from iroh_fast.quic.tls import Identity, TlsAlert

MS = 1_000_000
SECOND = 1_000_000_000
HQ = "hq-interop"
CLIENT = ("10.0.0.1", 1111)
SERVER = ("10.0.0.2", 2222)
TRANSPORT_PARAMETERS = 0x39

covers = pytest.mark.covers


@cache
def certificate(extra: int = 0) -> tuple[Any, Any]:
    """A self-signed certificate, with `extra` bytes of padding in it, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    start = datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=36_500))
    )
    if extra:
        blob = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), bytes(extra))
        builder = builder.add_extension(blob, critical=False)
    return builder.sign(key, hashes.SHA256()), key


class HqTls:
    """`aioquic.tls.Context` as a `TlsSession`."""

    padding = 0
    suites: list[tls.CipherSuite] | None = None

    def __init__(self, is_client: bool, alpns: list[bytes], parameters: bytes) -> None:
        self.is_client = is_client
        self.context = c = tls.Context(
            is_client=is_client,
            alpn_protocols=[a.decode() for a in alpns],
            cipher_suites=self.suites,
            server_name="localhost" if is_client else None,
            verify_mode=ssl.CERT_NONE,
        )
        c.handshake_extensions = [(TRANSPORT_PARAMETERS, parameters)]
        if not is_client:
            c.certificate, c.certificate_private_key = certificate(self.padding)
        c.update_traffic_key_cb = self.on_key
        self.buffers = {
            tls.Epoch.INITIAL: Buffer(capacity=16_384),
            tls.Epoch.HANDSHAKE: Buffer(capacity=65_536),
            tls.Epoch.ONE_RTT: Buffer(capacity=16_384),
        }
        self.secrets: list[tuple[bool, int, int, bytes]] = []
        self.early_data_offered = False
        self.early_data_accepted = None
        self.resumed = False
        self.peer_public_key = bytes(32)

    @classmethod
    def client(
        cls, identity: Identity, *, alpns: list[bytes], transport_parameters: bytes, **_: Any
    ) -> HqTls:
        return cls(True, alpns, transport_parameters)

    @classmethod
    def server(
        cls, identity: Identity, *, alpns: list[bytes], transport_parameters: bytes, **_: Any
    ) -> HqTls:
        return cls(False, alpns, transport_parameters)

    def on_key(
        self, direction: tls.Direction, epoch: tls.Epoch, suite: tls.CipherSuite, secret: bytes
    ) -> None:
        self.secrets.append((direction is tls.Direction.ENCRYPT, epoch.value, int(suite), secret))

    def start(self) -> None:
        self.context.handle_message(b"", self.buffers)

    def receive(self, epoch: int, data: bytes) -> None:
        try:
            self.context.handle_message(data, self.buffers)
        except tls.Alert as alert:
            raise TlsAlert(int(alert.description), str(alert)) from alert

    def take_output(self) -> list[tuple[int, bytes]]:
        out = []
        for epoch, buffer in self.buffers.items():
            if buffer.tell():
                out.append((epoch.value, buffer.data))
                buffer.seek(0)
        return out

    def take_secrets(self) -> list[tuple[bool, int, int, bytes]]:
        out, self.secrets = self.secrets, []
        return out

    @property
    def complete(self) -> bool:
        return self.context.state in (
            tls.State.CLIENT_POST_HANDSHAKE,
            tls.State.SERVER_POST_HANDSHAKE,
        )

    @property
    def alpn(self) -> bytes | None:
        name = self.context.alpn_negotiated
        return name.encode() if name else None

    @property
    def peer_transport_parameters(self) -> bytes | None:
        return dict(self.context.received_extensions or ()).get(TRANSPORT_PARAMETERS)

    def release_handshake_state(self) -> None:
        pass


class World:
    """Our endpoint, one aioquic connection, and a network between them."""

    def __init__(
        self,
        ours_is_client: bool,
        *,
        seed: int = 0,
        latency: int = 15 * MS,
        transport: Any = None,
        padding: int = 0,
        suites: list[tls.CipherSuite] | None = None,
        **options: Any,
    ) -> None:
        self.rng = random.Random(seed)
        self.now = 10**12
        self.latency = latency
        self.loss = 0.0
        self.filters: list[Callable[[bool, bytes], bool]] = []
        self.ours_is_client = ours_is_client
        self.ours_at, self.theirs_at = (CLIENT, SERVER) if ours_is_client else (SERVER, CLIENT)
        self.flying: list[tuple[int, int, bool, tuple[str, int], tuple[str, int], bytes]] = []
        self.count = 0
        self.sent: dict[bool, list[bytes]] = {True: [], False: []}
        self.transport = transport or calm()
        hq = type("Hq", (HqTls,), {"padding": padding, "suites": suites})
        self.endpoint = QuicEndpoint(
            Identity(b"\3" * 32),
            random=self.rng.randbytes,
            clock=lambda: self.now,
            wall_clock=lambda: self.now / 1e9,
            tls=hq,
        )
        self.retry = False
        self.validated: list[bool] = []
        self.endpoint.on_incoming = self.on_incoming
        self.ours: QuicConnection | None = None
        self.configuration = QuicConfiguration(
            is_client=not ours_is_client,
            alpn_protocols=[HQ],
            verify_mode=ssl.CERT_NONE,
            max_datagram_frame_size=65_536,
            **{"supported_versions": [QuicProtocolVersion.VERSION_1], **options},
        )
        self.theirs: AioConnection | None = None
        self.their_timer: float | None = None
        self.events: deque[Any] = deque()
        self.received: dict[int, bytearray] = {}
        self.ended: set[int] = set()
        self.catcher = ErrorCatcher()
        if ours_is_client:
            cert, key = certificate(padding)
            self.configuration.certificate, self.configuration.private_key = cert, key
            self.ours = self.endpoint.connect(
                [SERVER],
                expected_peer=bytes(32),
                alpns=[HQ.encode()],
                transport=self.transport,
                now=self.now,
            )
        else:
            self.theirs = AioConnection(configuration=self.configuration)
            self.theirs.connect(SERVER, now=self.seconds)

    @property
    def seconds(self) -> float:
        return self.now / 1e9

    def on_incoming(self, incoming: Any) -> None:
        self.validated.append(incoming.validated)
        if self.retry and not incoming.validated:
            incoming.retry()
        else:
            self.ours = incoming.accept([HQ.encode()], self.transport, self.now)

    def send(self, from_us: bool, data: bytes, dst: tuple[str, int]) -> None:
        self.sent[from_us].append(data)
        for f in self.filters:
            if f(from_us, data):
                return
        if self.rng.random() < self.loss:
            return
        self.count += 1
        src = self.ours_at if from_us else self.theirs_at
        heapq.heappush(self.flying, (self.now + self.latency, self.count, from_us, src, dst, data))

    def make_server(self, data: bytes, src: tuple[str, int]) -> None:
        header = pull_quic_header(Buffer(data=data), host_cid_length=8)
        original, retry_scid = header.destination_cid, None
        if self.retry:
            if not header.token:
                self.original = header.destination_cid
                self.send(
                    False,
                    encode_quic_retry(
                        version=1,
                        source_cid=b"retryscd",
                        destination_cid=header.source_cid,
                        original_destination_cid=header.destination_cid,
                        retry_token=b"the token",
                    ),
                    src,
                )
                return
            assert header.token == b"the token" and header.destination_cid == b"retryscd"
            original, retry_scid = self.original, b"retryscd"
        self.theirs = AioConnection(
            configuration=self.configuration,
            original_destination_connection_id=original,
            retry_source_connection_id=retry_scid,
        )

    def deliver(
        self, from_us: bool, src: tuple[str, int], dst: tuple[str, int], data: bytes
    ) -> None:
        if from_us:
            if dst != self.theirs_at:
                return
            if self.theirs is None:
                self.make_server(data, src)
            if self.theirs is not None:
                self.theirs.receive_datagram(data, src, now=self.seconds)
        elif dst == self.ours_at:
            self.endpoint.receive_datagram(data, src, self.now, local=dst)

    def flush(self) -> None:
        for c in list(self.endpoint.connections.values()):
            while (out := self.endpoint.transmit(c, self.now, 10)) is not None:
                remote, _, _, segment, data, _ = out
                for at in range(0, len(data), segment):
                    self.send(True, data[at : at + segment], remote)
        for remote, _, data in self.endpoint.take_replies():
            self.send(True, data, remote)
        if self.theirs is not None:
            for data, dst in self.theirs.datagrams_to_send(now=self.seconds):
                self.send(False, data, dst)
            self.their_timer = self.theirs.get_timer()
            while (event := self.theirs.next_event()) is not None:
                self.on_event(event)

    def on_event(self, event: Any) -> None:
        self.events.append(event)
        if isinstance(event, events.StreamDataReceived):
            self.received.setdefault(event.stream_id, bytearray()).extend(event.data)
            if event.end_stream:
                self.ended.add(event.stream_id)

    def step(self, until: int | None = None) -> bool:
        self.flush()
        times = [
            t
            for c in self.endpoint.connections.values()
            if (t := self.endpoint.timeout(c)) is not None
        ]
        if self.flying:
            times.append(self.flying[0][0])
        if self.their_timer is not None:
            times.append(int(self.their_timer * 1e9) + 1000)
        if not times or (until is not None and min(times) > until):
            if until is not None:
                self.now = max(self.now, until)
            return False
        self.now = max(self.now, min(times))
        while self.flying and self.flying[0][0] <= self.now:
            _, _, from_us, src, dst, data = heapq.heappop(self.flying)
            self.deliver(from_us, src, dst, data)
        for c in list(self.endpoint.connections.values()):
            due = self.endpoint.timeout(c)
            if due is not None and due <= self.now:
                self.endpoint.handle_timeout(c, self.now)
        if (
            self.theirs is not None
            and self.their_timer is not None
            and self.their_timer <= self.seconds
        ):
            self.theirs.handle_timer(now=self.seconds)
        self.flush()
        return True

    def until(self, done: Callable[[], Any], limit: int = 60 * SECOND) -> int:
        start = self.now
        for _ in range(200_000):
            if done():
                return self.now - start
            if not self.step() or self.now - start > limit:
                break
        assert done(), (
            f"not within {limit / SECOND} s: {self.ours} {self.ours and self.ours.close_reason} {self.events}"
        )
        return self.now - start

    def run_for(self, duration: int) -> None:
        end = self.now + duration
        while self.step(end):
            pass

    def connect(self, limit: int = 60 * SECOND) -> QuicConnection:
        self.until(
            lambda: (
                self.ours is not None
                and self.ours.handshake_confirmed
                and self.theirs is not None
                and any(isinstance(e, events.HandshakeCompleted) for e in self.events)
            ),
            limit,
        )
        assert self.ours is not None
        return self.ours

    def upload(self, data: bytes, limit: int = 60 * SECOND) -> None:
        """From us to aioquic, on a new stream."""
        assert self.ours is not None
        stream = self.ours.open_stream(True)
        offset = 0

        def done() -> bool:
            nonlocal offset
            if offset < len(data) or stream.send_state == "ready":
                while offset < len(data) and (n := stream.write(data, offset)):
                    offset += n
                if offset == len(data):
                    stream.finish()
            return stream.id in self.ended and stream.send_state == "acked"

        self.until(done, limit)
        assert bytes(self.received[stream.id]) == data
        assert self.theirs is not None
        self.theirs.send_stream_data(stream.id, b"", end_stream=True)
        self.until(lambda: stream.read() == b"", limit)

    def download(self, data: bytes, limit: int = 60 * SECOND) -> None:
        """From aioquic to us, on a new stream."""
        assert self.ours is not None and self.theirs is not None
        number = self.theirs.get_next_available_stream_id()
        self.theirs.send_stream_data(number, data, end_stream=True)
        got = bytearray()
        stream = None
        ended = False

        def done() -> bool:
            nonlocal stream, ended
            stream = stream or self.ours.accept_stream(True)
            if stream is not None:
                while (chunk := stream.read()) is not None:
                    if not chunk:
                        ended = True
                        break
                    got.extend(chunk)
            return ended

        self.until(done, limit)
        assert bytes(got) == data
        stream.finish()

    def both_ways(self, size: int, limit: int = 60 * SECOND) -> None:
        data = self.rng.randbytes(size)
        self.upload(data, limit)
        self.download(data, limit)


@pytest.fixture(params=[True, False], ids=["our-client", "our-server"])
def make_world(request):
    worlds = []

    def make(**options):
        world = World(request.param, **options)
        logging.getLogger("iroh_fast").addHandler(world.catcher)
        worlds.append(world)
        return world

    yield make
    for world in worlds:
        logging.getLogger("iroh_fast").removeHandler(world.catcher)
        assert not world.catcher.records


def terminated(world):
    return [e for e in world.events if isinstance(e, events.ConnectionTerminated)]


@covers("runner:handshake")
def test_handshake_and_small_transfer(make_world):
    w = make_world()
    c = w.connect()
    assert c.alpn == HQ.encode()
    assert not c.has_multipath
    w.both_ways(1024)
    assert "retry" not in {k for side in w.sent.values() for d in side for k in kinds(d)}
    w.run_for(SECOND)
    assert c.path_info(0)["in_flight"] == 0
    assert c.close_reason is None and not terminated(w)


@covers("runner:transfer")
def test_large_transfer_with_small_windows(make_world):
    w = make_world(
        transport=calm(stream_receive_window=20_000, receive_window=30_000),
        max_data=40_000,
        max_stream_data=25_000,
    )
    w.connect()
    for _ in range(2):
        w.both_ways(300_000)


@covers("runner:longrtt")
def test_long_round_trip(make_world):
    w = make_world(latency=750 * MS)
    w.connect()
    w.both_ways(1024)


@covers("runner:transferloss")
@pytest.mark.parametrize("seed", range(3))
def test_transfer_with_loss(make_world, seed):
    w = make_world(seed=seed)
    w.connect()
    w.loss = 0.03
    w.both_ways(500_000, 120 * SECOND)


@covers("runner:handshakeloss")
def test_handshakes_with_heavy_loss(make_world):
    for seed in range(12):
        w = make_world(seed=seed)
        w.loss = 0.25
        w.connect()
        w.both_ways(1024)


@covers("runner:handshakecorruption")
def test_corrupted_datagrams_are_ignored(make_world):
    w = make_world(seed=5)
    send = w.send

    def corrupt(from_us, data, dst):
        if w.rng.random() < 0.1:
            broken = bytearray(data)
            broken[w.rng.randrange(len(broken))] ^= 0x10
            data = bytes(broken)
        send(from_us, data, dst)

    w.send = corrupt
    w.connect()
    w.both_ways(200_000)


@covers("runner:chacha20")
@pytest.mark.parametrize(
    "suite",
    [
        tls.CipherSuite.AES_128_GCM_SHA256,
        tls.CipherSuite.AES_256_GCM_SHA384,
        tls.CipherSuite.CHACHA20_POLY1305_SHA256,
    ],
)
def test_every_cipher_suite(make_world, suite):
    w = make_world(suites=[suite], cipher_suites=[suite])
    w.connect()
    w.both_ways(50_000)


@covers("runner:retry")
def test_retry(make_world):
    w = make_world()
    w.retry = True
    c = w.connect()
    server_sent = w.sent[not w.ours_is_client]
    assert [kinds(d) for d in server_sent].count(["retry"]) == 1
    if not w.ours_is_client:
        assert w.validated == [False, True]
    w.both_ways(20_000)
    assert c.close_reason is None


@covers("runner:keyupdate")
@pytest.mark.parametrize("by_us", [True, False])
def test_key_update(make_world, by_us):
    w = make_world()
    c = w.connect()
    w.both_ways(10_000)
    for _ in range(3):
        if by_us:
            c.force_key_update()
        else:
            w.theirs.request_key_update()
        w.both_ways(200_000)
        w.run_for(SECOND)
    assert c.close_reason is None and not terminated(w)


@covers("runner:rebind-port")
@pytest.mark.parametrize("moved", [("10.0.0.1", 3333), ("10.7.7.7", 1111)])
def test_rebinding_of_the_client(make_world, moved):
    w = make_world()
    c = w.connect()
    w.both_ways(20_000)
    if w.ours_is_client:
        w.ours_at = moved
    else:
        w.theirs_at = moved
    before = len(w.sent[True])
    w.both_ways(200_000)
    if not w.ours_is_client:
        assert c.path_info(0)["remote"] == moved
        assert c.path_info(0)["validated"]
        assert frames(c)["path_challenge"] >= 1
        assert frames(c, "frame_rx")["path_response"] >= 1
    else:
        assert frames(c)["path_response"] >= 1
        # and the answer is a whole datagram
        assert 1200 in {len(d) for d in w.sent[True][before:]}
    assert c.close_reason is None and not terminated(w)


@covers("runner:connectionmigration")
def test_new_connection_id_of_the_peer(make_world):
    w = make_world()
    c = w.connect()
    w.run_for(SECOND)
    w.theirs.change_connection_id()
    w.both_ways(20_000)
    c.network_changed()
    w.both_ways(20_000)
    assert frames(c)["retire_connection_id"] >= 1
    assert frames(c, "frame_rx")["retire_connection_id"] >= 1


def test_peer_without_connection_ids_must_not_bring_any(monkeypatch):
    monkeypatch.setattr(AioConnection, "_replenish_connection_ids", lambda self: None)
    w = World(True, connection_id_length=0)
    w.connect()
    w.both_ways(20_000)
    assert w.ours.close_reason is None
    w.theirs._host_cids.append(
        QuicConnectionId(cid=b"12345678", sequence_number=1, stateless_reset_token=bytes(16))
    )
    w.theirs.send_ping(1)
    w.run_for(SECOND)
    assert w.ours.close_reason is not None and w.ours.close_reason.code == 0x0A


@covers("runner:multiplexing")
def test_many_streams(make_world):
    w = make_world(transport=calm(max_concurrent_bidi_streams=50))
    c = w.connect()
    for _ in range(300):
        w.upload(b"32 bytes" * 4)
    assert frames(c)["stream"] >= 300


def test_many_streams_of_the_peer(make_world):
    w = make_world(transport=calm(max_concurrent_bidi_streams=20))
    w.connect()
    for _ in range(100):
        w.download(b"32 bytes" * 4)


def test_datagrams(make_world):
    w = make_world()
    c = w.connect()
    c.send_datagram(b"from us")
    w.theirs.send_datagram_frame(b"from them")
    w.run_for(SECOND)
    assert [e.data for e in w.events if isinstance(e, events.DatagramFrameReceived)] == [b"from us"]
    assert c.read_datagram() == b"from them"


def test_reset_and_stop(make_world):
    w = make_world()
    c = w.connect()
    ours = c.open_stream(True)
    ours.write(b"x")
    w.run_for(SECOND)
    ours.reset(7)
    w.theirs.reset_stream(ours.id, 8)
    w.run_for(SECOND)
    assert [e.error_code for e in w.events if isinstance(e, events.StreamReset)] == [7]
    assert ours.reset_code == 8
    second = c.open_stream(True)
    second.write(b"x")
    w.run_for(SECOND)
    w.theirs.stop_stream(second.id, 9)
    w.run_for(SECOND)
    assert second.stop_code == 9
    assert c.close_reason is None


@covers("runner:blackhole")
def test_dark_phases(make_world):
    w = make_world()
    c = w.connect()
    w.filters.append(lambda *_: (w.now // SECOND) % 4 == 3)
    for _ in range(5):
        w.both_ways(300_000)
        w.run_for(500 * MS)
    assert c.close_reason is None


@pytest.mark.parametrize("by_us", [True, False])
def test_close(make_world, by_us):
    w = make_world()
    c = w.connect()
    if by_us:
        c.close(42, b"bye")
        w.until(lambda: terminated(w))
        (event,) = terminated(w)
        assert (event.error_code, event.reason_phrase) == (42, "bye")
    else:
        w.theirs.close(43, reason_phrase="tschuess")
        w.until(lambda: c.close_reason)
        assert (c.close_reason.kind, c.close_reason.code, c.close_reason.reason) == (
            "application",
            43,
            b"tschuess",
        )
    w.until(lambda: not w.endpoint.connections)
    assert w.endpoint.known_ids() == 0


def test_idle_timeout_is_the_smaller_one(make_world):
    w = make_world(transport=calm(max_idle_timeout=50.0), idle_timeout=5.0)
    c = w.connect()
    start = w.now
    w.until(lambda: c.close_reason)
    assert c.close_reason.kind == "timed_out"
    assert 4 * SECOND <= w.now - start <= 6 * SECOND


# ---------------------------------------------------------------- one role only
@covers("runner:versionnegotiation")
def test_their_client_falls_back_to_our_version():
    w = World(
        False, supported_versions=[QuicProtocolVersion.VERSION_2, QuicProtocolVersion.VERSION_1]
    )
    w.connect()
    assert kinds(w.sent[True][0]) == ["version"]
    w.both_ways(10_000)


def test_our_client_gives_up_without_a_common_version():
    w = World(True)
    c = w.ours
    w.flush()
    initial = w.sent[True][0]
    dcid, scid = initial[6:26], initial[27:35]
    w.deliver(
        False, SERVER, CLIENT, b"\xc0\0\0\0\0\x08" + scid + b"\x14" + dcid + b"\x6b\x33\x43\xcf"
    )
    assert c.close_reason.kind == "version_mismatch"


@covers("noq:server_can_send_3_inital_packets")
@covers("runner:amplificationlimit")
def test_big_certificate_stays_within_the_amplification_limit():
    w = World(False, padding=7500)
    w.filters.append(lambda from_us, data: not from_us and len(w.sent[False]) > 1)
    w.run_for(40 * MS)
    assert len(w.sent[True]) == 3
    w.run_for(3 * SECOND)
    assert sum(len(d) for d in w.sent[True]) <= 3 * 1200
    w.filters.clear()
    w.connect()
    assert sum(len(d) for d in w.sent[True] if "short" not in kinds(d)) > 7500
    w.both_ways(10_000)


@pytest.mark.parametrize("seed", range(6))
def test_big_certificate_with_loss(seed):
    for ours_is_client in (True, False):
        w = World(ours_is_client, padding=7500, seed=seed)
        w.loss = 0.2
        w.connect()
        w.both_ways(5000)


@covers("noq:large_initial")
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("loss", [0, 0.3])
def test_client_hello_over_several_packets(seed, loss):
    for ours_is_client in (True, False):
        w = World(ours_is_client, seed=seed)
        if ours_is_client:
            w = World(True, seed=seed)
            many = [HQ.encode(), *(b"protocol number %d" % i for i in range(120))]
            w.endpoint.connections.clear()
            w.ours = w.endpoint.connect(
                [SERVER], expected_peer=bytes(32), alpns=many, transport=w.transport, now=w.now
            )
        else:
            w.configuration.alpn_protocols = [HQ, *(f"protocol number {i}" for i in range(120))]
            w.theirs = AioConnection(configuration=w.configuration)
            w.theirs.connect(SERVER, now=w.seconds)
        w.loss = loss
        w.connect()
        w.both_ways(3000)


def test_alpn_mismatch_is_told_to_their_client():
    w = World(False)
    w.configuration.alpn_protocols = ["other"]
    w.theirs = AioConnection(configuration=w.configuration)
    w.theirs.connect(SERVER, now=w.seconds)
    w.until(lambda: terminated(w))
    assert terminated(w)[0].error_code & ~0xFF == 0x100


def test_server_forgets_a_client_that_vanishes():
    w = World(False)
    c = w.connect()
    w.filters.append(lambda *_: True)
    w.until(lambda: c.close_reason, 100 * SECOND)
    assert c.close_reason.kind == "timed_out"
    assert w.endpoint.known_ids() == 0
    assert w.theirs._state in list(QuicConnectionState)
