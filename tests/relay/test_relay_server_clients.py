"""Clients of the relay server: authentication, forwarding, duplicates, pings, limits, bad input."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import websockets
from hypothesis import given, settings
from hypothesis import strategies as st
from relay_peer import RawClient, config, connected, until, upgraded, where

from iroh_fast import PublicKey, SecretKey
from iroh_fast._relay import build_message, decode_frame
from iroh_fast.relay import AccessControl
from iroh_fast.relay.server._bucket import TokenBucket
from iroh_fast.relay.server._forward import HEALTH_DUPLICATE, HEALTH_RESTORED
from iroh_fast.relay.server.config import RelayTlsConfig
from iroh_fast.relay.server.server import RelayServer
from iroh_fast.relay.wire import ClientHandshake

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "relay_frames.json").read_text())
SECRETS = [SecretKey(bytes.fromhex(item["secret"])) for item in VECTORS["keys"]]
SELF_SIGNED = RelayTlsConfig("SelfSigned", ("127.0.0.1", 0))
GONE = {"type": 8}
BOTH = pytest.mark.parametrize("tls", [None, SELF_SIGNED], ids=["plain", "tls"])


# --- authentication -----------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 2])
@BOTH
async def test_client_is_let_in(version, tls):
    async with RelayServer(config(tls=tls)) as server:
        async with connected(server, version=version) as client:
            (found,) = server.forwarder.find(client.key)
            assert found.version == version and found.is_active and found.connection_id == 0
        await until(lambda: server.forwarder.find(client.key) == [])


async def test_wrong_signature_is_told_and_closed():
    async with RelayServer(config()) as server:
        async with upgraded(server) as client:
            challenge = await client.receive_payload()
            answer = bytearray(ClientHandshake(client.secret).feed(challenge))
            answer[-1] ^= 1
            client.send_message(bytes(answer))
            assert await client.receive_payload() == b"\x03\x11signature invalid"
            assert await client.ended() is None
        assert server.metrics()["accepts"] == 0


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x01",
        b"\x09" + bytes(8),
        b"\x00" * 17,
        b"\x01" + bytes(31),
        b"\x01\x02" + bytes(31) + b"\x40" + bytes(64),
    ],
)
async def test_malformed_answer_is_closed_without_a_frame(payload):
    async with RelayServer(config()) as server:
        async with upgraded(server) as client:
            await client.receive_payload()
            client.send_message(payload)
            assert await client.receive_payload() is None
        await until(lambda: server.metrics()["unauthenticated"] == 0)


@pytest.mark.parametrize("header", ["****", "AAAA", "A" * 5000])
async def test_malformed_authentication_header_is_closed_behind_the_101(header):
    async with RelayServer(config()) as server:
        async with upgraded(server, x_iroh_relay_client_auth_v1=header) as client:
            assert await client.receive_payload() is None


async def test_authentication_header_without_exporter_falls_back_to_the_challenge():
    header = VECTORS["handshake"]["key_material"][0]["header_value"]
    async with RelayServer(config()) as server:
        async with connected(server, x_iroh_relay_client_auth_v1=header) as client:
            await client.ping()


async def test_authentication_by_keying_material_needs_no_challenge():
    item = VECTORS["handshake"]["key_material"][0]
    material = bytes.fromhex(item["exporter_output"])
    secret = SecretKey(bytes.fromhex(item["secret"]))
    async with RelayServer(config(), exporter=lambda _t: lambda *_: material) as server:
        async with upgraded(
            server, secret, x_iroh_relay_client_auth_v1=item["header_value"]
        ) as client:
            assert await client.receive_payload() == b"\x02"
            await client.ping()
            assert server.forwarder.find(client.key)


async def test_handshake_tolerates_text_pings_fragments_and_pipelining():
    async with RelayServer(config()) as server:
        async with upgraded(server) as client:
            client.send_message(b"hello", 1)
            client.send_message(b"are you there", 9)
            challenge = await client.receive_payload()
            answer = ClientHandshake(client.secret).feed(challenge)
            first = bytearray(build_message(2, answer[:50], b"abcd"))
            first[0] = 2
            second = bytearray(build_message(2, answer[50:], b"efgh"))
            second[0] = 0x80
            client.send_raw(bytes(first) + build_message(9, b"between", bytes(4)) + bytes(second))
            # what comes behind the answer waits until the client is let in
            client.send(type=9, data=b"too-soon")
            found = [await client.receive_any() for _ in range(4)]
            assert found == [
                (10, b"are you there"), (10, b"between"), (2, b"\x02"), (2, b"\x0atoo-soon")
            ]  # fmt: skip


@pytest.mark.parametrize(
    "flood", [build_message(2, bytes(5000), bytes(4)), b"\x82\x00", b"\xf2\x80" + bytes(4)]
)
async def test_handshake_breaking_websocket_rules_is_closed(flood):
    async with RelayServer(config()) as server:
        async with upgraded(server) as client:
            await client.receive_payload()
            client.send_raw(flood)
            assert await client.ended() in (1002, 1009)


# --- forwarding ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "item", VECTORS["forwarding"], ids=lambda item: item["receive"][:2] + item["receive"][66:72]
)
async def test_forwarding_vectors(item):
    async with RelayServer(config()) as server:
        async with connected(server, SECRETS[0]) as a, connected(server, SECRETS[1]) as b:
            clients = {c.key.hex(): c for c in (a, b)}
            clients[item["sender"]].send_message(bytes.fromhex(item["receive"]))
            receiver = clients[item["receive"][2:66]]
            assert (await receiver.receive_payload()).hex() == item["deliver"]


@BOTH
@pytest.mark.parametrize("size", [1, 91, 92, 93, 1200, 16384, 65499, 65500, 65501, 65502])
async def test_forwarding_sizes(tls, size):
    contents = os.urandom(size)
    async with RelayServer(config(tls=tls)) as server:
        async with connected(server) as a, connected(server) as b:
            for i in range(3):
                a.send_to(b, contents, ecn=i)
                assert await b.receive() == {
                    "type": 6, "src": a.key, "ecn": i, "segment_size": None, "contents": contents
                }  # fmt: skip
            if size <= 65500:
                a.send_to(b, contents, segment=1200)
                frame = await b.receive()
                assert frame["segment_size"] == 1200 and frame["contents"] == contents
            counted = server.metrics()
            assert (
                counted["send_packets_recv"] == counted["send_packets_sent"] == 3 + (size <= 65500)
            )
            assert (
                counted["bytes_recv"]
                == counted["bytes_sent"]
                == counted["send_packets_sent"] * size
            )


async def test_forwarding_keeps_the_order_over_many_frames():
    async with RelayServer(config()) as server:
        async with connected(server) as a, connected(server) as b, connected(server) as c:

            async def send(client, mark):
                for i in range(2000):
                    client.send_to(b, mark + i.to_bytes(4, "big") * (i % 60 + 1))
                    if i % 16 == 0:
                        await client.writer.drain()
                        await asyncio.sleep(0)

            sending = asyncio.gather(send(a, b"a"), send(c, b"c"))
            found: dict[bytes, list[int]] = {b"a": [], b"c": []}
            while sum(map(len, found.values())) < 4000:
                contents = await b.receive_contents()
                found[contents[:1]].append(int.from_bytes(contents[1:5], "big"))
            await sending
            assert found[b"a"] == found[b"c"] == list(range(2000))


async def test_forwarding_to_oneself_and_to_nobody():
    async with RelayServer(config()) as server:
        async with connected(server) as a:
            a.send_to(a, b"note to self")
            assert await a.receive_contents() == b"note to self"
            a.send_to(bytes(SecretKey.generate().public), b"anybody there?")
            await a.ping()  # nobody is told
            assert server.metrics()["send_packets_dropped"] == 1


async def test_forwarding_at_scale_finds_everyone():
    """Enough clients to make the tables grow, each writing to the next."""
    async with RelayServer(config()) as server, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(server)) for _ in range(150)]
        for i, client in enumerate(clients):
            client.send_to(clients[(i + 1) % 150], i.to_bytes(2, "big"))
        for i, client in enumerate(clients):
            assert await client.receive_contents() == ((i - 1) % 150).to_bytes(2, "big")
        for client in clients[:100]:
            client.writer.transport.abort()
        await until(lambda: len(server.forwarder) == 50)
        a, b = clients[120], clients[130]
        a.send_to(b, b"still here")
        while (frame := await b.receive())["type"] == 8:
            pass
        assert frame["contents"] == b"still here"


FRAMES = st.lists(
    st.one_of(
        st.tuples(st.just("single"), st.integers(1, 3000)),
        st.tuples(st.just("batch"), st.integers(1, 3000)),
        st.tuples(st.just("fragments"), st.integers(2, 3000)),
        st.tuples(st.just("huge"), st.integers(60000, 65000)),
        st.tuples(st.just("ping"), st.just(0)),
        st.tuples(st.just("text"), st.integers(0, 300000)),
        st.tuples(st.just("ws-ping"), st.integers(0, 125)),
        st.tuples(st.just("long-type"), st.integers(1, 300)),
    ),
    max_size=12,
)


@settings(max_examples=20)
@given(
    FRAMES,
    st.lists(st.integers(1, 70000), min_size=1, max_size=6),
    st.randoms(use_true_random=False),
)
def test_forwarding_of_any_chunking_is_the_same(frames, steps, random):
    asyncio.run(forward_chunked(frames, steps, random))


async def forward_chunked(frames, steps, random):
    async with RelayServer(config()) as server:
        async with connected(server) as a, connected(server) as b:
            stream, want, pings, pongs = b"", [], 0, 0
            for kind, size in frames:
                contents = random.randbytes(size)
                frame = b"\x04" + b.key + b"\x01" + contents
                mask = random.randbytes(4)
                if kind == "batch":
                    frame = b"\x05" + b.key + b"\x01\x00\x07" + contents
                elif kind == "long-type":
                    frame = b"\x80\x00\x00\x04" + frame[1:]
                if kind == "ping":
                    stream += build_message(2, b"\x09" + bytes(8), mask)
                    pings += 1
                elif kind == "text":
                    stream += build_message(1, contents, mask)
                elif kind == "ws-ping":
                    stream += build_message(9, contents, mask)
                    pongs += 1
                elif kind == "fragments":
                    cut = random.randrange(len(frame))
                    first = bytearray(build_message(2, frame[:cut], mask))
                    first[0] = 2
                    last = bytearray(build_message(2, frame[cut:], mask))
                    last[0] = 0x80
                    stream += bytes(first) + build_message(10, b"?", mask) + bytes(last)
                    want.append((None, contents))
                else:
                    stream += build_message(2, frame, mask)
                    want.append((7 if kind == "batch" else None, contents))
            position = i = 0
            while position < len(stream):
                a.send_raw(stream[position : position + steps[i % len(steps)]])
                position += steps[i % len(steps)]
                i += 1
                await asyncio.sleep(0)
            for segment, contents in want:
                frame = await b.receive()
                assert (frame["src"], frame["ecn"], frame["segment_size"]) == (a.key, 1, segment)
                assert frame["contents"] == contents
            found = [await a.receive_any() for _ in range(pings + pongs)]
            assert sum(opcode == 2 for opcode, _ in found) == pings


async def test_independent_websocket_client_gets_through():
    async with RelayServer(config()) as server:
        async with connected(server) as a:
            uri = server.url.replace("http", "ws") + "relay?token=x"
            async with websockets.connect(
                uri, subprotocols=["iroh-relay-v2"], compression=None
            ) as ws:
                handshake = ClientHandshake(SecretKey.generate())
                while not handshake.done:
                    if (reply := handshake.feed(await ws.recv())) is not None:
                        await ws.send(reply)
                await (await ws.ping())
                await ws.send([b"\x04" + a.key, b"\x00frag", b"mented"])
                frame = await a.receive()
                assert frame["contents"] == b"fragmented"
                a.send_to(frame["src"], b"x" * 70 * 100)
                assert decode_frame(await ws.recv(), sender="server")["contents"] == b"x" * 7000
            assert ws.close_code == 1000
            assert await a.receive() == {"type": 8, "endpoint": frame["src"]}


# --- duplicates, gone ---------------------------------------------------------------------


async def test_newer_connection_of_a_key_takes_over_and_the_older_comes_back():
    secret = SecretKey.generate()
    async with RelayServer(config()) as server:
        async with connected(server) as peer, connected(server, secret) as old:
            async with connected(server, secret) as new:
                assert await old.receive() == {"type": 13, "status": 1}
                peer.send_to(old, b"to the newer")
                assert await new.receive_contents() == b"to the newer"
                old.send_to(peer, b"from the older")  # may still send and ping
                assert await peer.receive_contents() == b"from the older"
                await old.ping()
                assert server.metrics()["clients_inactive_added"] == 1
                assert [c.is_active for c in server.forwarder.find(old.key)] == [True, False]
            assert await old.receive() == {"type": 13, "status": 0}
            peer.send_to(old, b"back again")
            assert await old.receive_contents() == b"back again"
            assert server.metrics()["clients_inactive_removed"] == 1
            assert server.metrics()["keys"] == 2
        await until(lambda: server.metrics()["keys"] == 0)


async def test_duplicate_notices_of_version_1_are_texts():
    secret = SecretKey.generate()
    async with RelayServer(config()) as server:
        async with connected(server, secret, version=1) as old:
            async with connected(server, secret):
                assert await old.receive() == {"type": 11, "text": HEALTH_DUPLICATE.decode()}
            assert await old.receive() == {"type": 11, "text": HEALTH_RESTORED.decode()}


async def test_inactive_connection_ends_quietly_and_the_latest_of_many_takes_over():
    secret = SecretKey.generate()
    async with RelayServer(config()) as server, AsyncExitStack() as stack:
        peer = await stack.enter_async_context(connected(server))
        clients = [await stack.enter_async_context(connected(server, secret)) for _ in range(4)]
        clients[1].writer.transport.abort()
        await until(lambda: len(server.forwarder.find(clients[0].key)) == 3)
        clients[3].writer.transport.abort()
        await until(lambda: len(server.forwarder.find(clients[0].key)) == 2)
        peer.send_to(clients[0], b"who?")
        assert await clients[2].receive() == {"type": 13, "status": 1}
        assert await clients[2].receive() == {"type": 13, "status": 0}
        assert await clients[2].receive_contents() == b"who?"


@pytest.mark.covers("iroh-relay: unlimited duplicates")
async def test_connections_of_one_key_are_bounded():
    """iroh keeps any number; here the oldest has to go."""
    secret = SecretKey.generate()
    async with RelayServer(config()) as server, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(server, secret)) for _ in range(18)]
        assert [await client.ended() for client in clients[:2]] == [1001, 1001]
        assert len(server.forwarder.find(clients[0].key)) == 16
        clients[17].writer.transport.abort()
        assert await clients[16].receive() == {"type": 13, "status": 1}
        assert await clients[16].receive() == {"type": 13, "status": 0}


async def test_gone_is_told_to_those_who_received_when_the_last_connection_ends():
    secret = SecretKey.generate()
    async with RelayServer(config()) as server:
        async with connected(server) as receiver, connected(server) as sender:
            async with connected(server, secret) as first:
                first.send_to(receiver, b"x")
                sender.send_to(first, b"y")
                assert await receiver.receive_contents() == b"x"
                assert await first.receive_contents() == b"y"
                async with connected(server, secret):
                    pass
                assert (await first.receive())["status"] == 1
                assert (await first.receive())["status"] == 0
                await receiver.ping()  # a switch is no end
            assert await receiver.receive() == {"type": 8, "endpoint": first.key}
            await sender.ping()  # who only sent is not told


async def test_gone_reaches_a_receiver_that_reconnected():
    secret = SecretKey.generate()
    async with RelayServer(config()) as server:
        async with connected(server) as leaver:
            async with connected(server, secret) as receiver:
                leaver.send_to(receiver, b"x")
                await receiver.receive_contents()
            await until(lambda: len(server.forwarder) == 1)
            async with connected(server, secret) as again:
                leaver.writer.transport.abort()
                assert await again.receive() == {"type": 8, "endpoint": leaver.key}


# --- bad input ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "item",
    [item for item in VECTORS["frames"]["decode_errors"] if item["side"] != "client"],
    ids=lambda item: item["name"].replace(" ", "-"),
)
async def test_bad_frames_end_only_their_sender(item):
    async with RelayServer(config()) as server:
        async with connected(server) as bad, connected(server) as a, connected(server) as b:
            bad.send_message(bytes.fromhex(item["hex"]))
            assert await bad.ended() == 1002
            a.send_to(b, b"as if nothing had happened")
            assert await b.receive_contents() == b"as if nothing had happened"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x82\x00", 1002),  # not masked
        (b"\xc2\x80" + bytes(4), 1002),  # reserved bit
        (b"\x83\x80" + bytes(4), 1002),  # unknown opcode
        (b"\x80\x80" + bytes(4), 1002),  # continuation of nothing
        (b"\x02\x80" + bytes(4) + b"\x82\x80" + bytes(4), 1002),  # message within a message
        (b"\x09\x80" + bytes(4), 1002),  # fragmented ping
        (b"\x82\xfe\x00\x05" + bytes(4), 1002),  # length not in its shortest form
        (b"\x88\x81" + bytes(5), 1002),  # half a close code
        (b"\x88\x82" + bytes(4) + b"\x03\xed", 1002),  # reserved close code
        (b"\x82\xff" + (65536 + 9).to_bytes(8, "big") + bytes(4), 1002),  # no frame can be so long
        (b"\x82\xff" + (2**20 + 1).to_bytes(8, "big") + bytes(4), 1009),
        (b"\x81\xff" + (2**20 + 1).to_bytes(8, "big") + bytes(4), 1009),
        (b"\x82\xff" + (2**63).to_bytes(8, "big") + bytes(4), 1002),
        ((b"\x02" + build_message(2, bytes(40000), bytes(4))[1:]) * 2, 1002),
        (b"\x02\x80" + bytes(4) + (b"\x00" + build_message(2, bytes(60000), bytes(4))[1:]) * 2, 1002),
        (b"\x88\x80" + bytes(4), 1000),  # an orderly end
        (b"\x88\x82" + bytes(4) + b"\x03\xe8", 1000),
    ],
)  # fmt: skip
async def test_bad_websocket_frames_close_with_a_code(data, code):
    async with RelayServer(config()) as server:
        async with connected(server) as client:
            client.send_raw(data)
            assert await client.ended() == code
        await until(lambda: len(server.forwarder) == 0)


async def test_text_is_ignored_and_bounded():
    async with RelayServer(config()) as server:
        async with connected(server) as client:
            client.send_raw(build_message(1, bytes(2**20), b"abcd") * 2)
            await client.ping()
            assert server.metrics()["text_messages"] == 2
            part = bytearray(build_message(1, bytes(2**19), b"abcd"))
            part[0] = 1
            client.send_raw(bytes(part))
            part[0] = 0
            client.send_raw(bytes(part) * 2)
            assert await client.ended() == 1009


async def test_pongs_nobody_asked_for_are_ignored():
    async with RelayServer(config()) as server:
        async with connected(server) as client:
            client.send(type=10, data=bytes(8))
            client.send_message(b"??", 10)
            await client.ping()


@settings(max_examples=30)
@given(st.binary(max_size=500), st.booleans())
def test_garbage_ends_its_sender_at_most(data, framed):
    async def scenario():
        async with RelayServer(config()) as server:
            async with connected(server) as bad, connected(server) as a, connected(server) as b:
                if framed:
                    bad.send_message(data)
                else:
                    bad.send_raw(data)
                bad.writer.write_eof()
                a.send_to(b, b"fine")
                assert await b.receive_contents() == b"fine"
                await bad.ended()
            await until(lambda: len(server.forwarder) == 0)

    asyncio.run(scenario())


@pytest.mark.covers("iroh-relay: receiver-kill")
@pytest.mark.parametrize(
    "frame",
    [
        lambda key: b"\x04" + key + b"\x00",
        lambda key: b"\x05" + key + b"\x00\x00\x00",
        lambda key: b"\x05" + key + b"\x00\x04\xb0",
        lambda key: b"\x04" + key + b"\x00" + bytes(65503),
        lambda key: b"\x05" + key + b"\x00\x04\xb0" + bytes(65501),
    ],
    ids=["empty", "empty-batch-0", "empty-batch", "one-too-long", "batch-one-too-long"],
)
async def test_unforwardable_datagram_hurts_nobody(frame):
    """An iroh relay accepts these from a sender and then drops the destination."""
    async with RelayServer(config()) as server:
        async with connected(server) as a, connected(server) as b:
            a.send_message(frame(b.key))
            a.send_to(b, b"next")
            assert await b.receive_contents() == b"next"
            await a.ping()
            assert server.metrics()["unusable_datagrams"] == 1


async def test_batch_with_segment_size_0_of_the_largest_size_is_forwarded():
    async with RelayServer(config()) as server:
        async with connected(server) as a, connected(server) as b:
            a.send_message(b"\x05" + b.key + b"\x00\x00\x00" + bytes(65501))
            frame = await b.receive()
            assert (frame["type"], len(frame["contents"])) == (6, 65501)


async def test_frame_beyond_the_limit_ends_its_sender():
    async with RelayServer(config()) as server:
        async with connected(server) as a, connected(server) as b:
            a.send_message(b"\x04" + b.key + b"\x00" + bytes(65504))
            assert await a.ended() == 1002
            await b.ping()


# --- pings --------------------------------------------------------------------------------


@BOTH
async def test_silent_client_is_pinged_and_dropped_without_a_pong(tls):
    async with RelayServer(config(tls=tls, ping_interval=100, ping_jitter=0)) as server:
        async with connected(server) as client:
            server.forwarder.skip(90)
            await client.ping()  # it would see one of the server
            server.forwarder.skip(110)
            frame = await client.receive()
            assert frame["type"] == 9
            client.send(type=10, data=frame["data"])
            await client.ping()
            server.forwarder.skip(110)
            again = await client.receive()
            assert again["type"] == 9 and again["data"] != frame["data"]
            client.send(type=10, data=bytes(8))  # not the answer
            await client.ping()
            assert server.metrics()["ping_timeouts"] == 0
            server.forwarder.skip(110)
            await client.ended()
            assert server.metrics()["ping_timeouts"] == 1


async def test_busy_client_is_not_pinged():
    async with RelayServer(config(ping_interval=100, ping_jitter=0)) as server:
        async with connected(server) as client:
            for _ in range(5):
                server.forwarder.skip(50)
                await client.ping()


# --- slow readers -------------------------------------------------------------------------


def slow(client: RawClient) -> None:
    client.writer.transport.pause_reading()


@BOTH
async def test_client_that_reads_nothing_is_dropped_and_the_sender_lives(tls):
    limits = config(tls=tls, write_timeout=1000, ping_interval=100_000)
    async with RelayServer(limits) as server:
        async with connected(server) as a, connected(server) as b:
            slow(b)
            contents = bytes(60000)
            while server.metrics()["queue_full"] == 0:
                a.send_to(b, contents)
                await a.ping()
            assert server.metrics()["out_buffer_bytes"] < 5 * 2**20
            server.forwarder.skip(1100)  # what it took before counts once
            server.forwarder.skip(1100)
            assert server.metrics()["write_timeouts"] == 1
            # what is told to the sender is that the other one is gone, if it ever sent
            await a.ping()
        await until(lambda: server.metrics()["out_buffer_bytes"] == 0)


async def test_queue_is_bounded_by_packets_and_by_bytes():
    limits = {"queue_packets": 100, "queue_bytes": 100_000, "write_timeout": 30}
    async with RelayServer(config(**limits)) as server:
        async with connected(server) as a, connected(server) as b:
            slow(b)
            (connection,) = server.forwarder.find(b.key)
            for size, _most in ((10, 100), (50_000, 2)):
                async with asyncio.timeout(60):
                    full = server.metrics()["queue_full"]
                    while server.metrics()["queue_full"] < full + 50:
                        a.send_to(b, bytes(size))
                        await a.writer.drain()
                        await asyncio.sleep(0)
                        if size == 10:  # fill the socket first
                            a.send_to(b, bytes(60_000))
                packets, nbytes = connection.queued
                assert packets <= 100 and nbytes <= 100_000
            b.writer.transport.resume_reading()

            async def read_to_the_end():
                while await b.receive_contents() != b"end":
                    pass

            reading = asyncio.ensure_future(read_to_the_end())
            await until(lambda: connection.queued == (0, 0))
            a.send_to(b, b"end")
            await reading


async def test_slow_reader_that_makes_progress_is_kept():
    async with RelayServer(config(write_timeout=100, ping_interval=10_000)) as server:
        async with connected(server) as a, connected(server) as b:
            slow(b)
            (connection,) = server.forwarder.find(b.key)

            async def fill():
                while connection.queued[1] < 1_000_000:
                    a.send_to(b, bytes(60_000))
                    await a.ping()

            for _ in range(3):
                await fill()
                before = connection.queued
                server.forwarder.skip(60)
                async with asyncio.timeout(60):
                    while connection.queued == before:
                        b.writer.transport.resume_reading()
                        await asyncio.sleep(0.001)
                slow(b)
            assert server.forwarder.find(b.key) == [connection]
            assert server.metrics()["write_timeouts"] == 0
            await fill()
            server.forwarder.skip(110)
            server.forwarder.skip(110)
            assert server.metrics()["write_timeouts"] == 1


async def test_pings_to_a_client_that_does_not_read_take_no_memory():
    async with RelayServer(config(write_timeout=30)) as server:
        async with connected(server) as a, connected(server) as b:
            slow(b)
            (connection,) = server.forwarder.find(b.key)
            while server.metrics()["queue_full"] == 0:
                a.send_to(b, bytes(60_000))
                await a.writer.drain()
                await asyncio.sleep(0)
            for _ in range(5000):
                b.send(type=9, data=os.urandom(8))
            b.send(type=9, data=b"the-last")
            await b.writer.drain()
            await until(lambda: server.metrics()["got_ping"] >= 5003)
            assert connection.queued[1] < 4 * 2**20 + 20_000
            b.writer.transport.resume_reading()
            seen = []
            while not seen or seen[-1] != b"the-last":
                frame = await b.receive()
                if frame["type"] == 10:
                    seen.append(frame["data"])
            assert len(seen) <= 513


# --- rate limit ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "item", VECTORS["token_bucket"], ids=lambda item: str(item["bytes_per_second"])
)
def test_token_bucket_vectors(item):
    bucket = TokenBucket(item["max"], item["refill_per_100ms"])
    for step in item["steps"]:
        assert bucket.consume(step["bytes"], step["now_ms"]) == step["limited_until_ms"]
        assert bucket.fill == step["fill_after"]


@pytest.mark.parametrize("maximum, refill", [(0, 1), (1, 0), (-1, 1)])
def test_token_bucket_refuses_what_would_never_pass(maximum, refill):
    with pytest.raises(ValueError):
        TokenBucket(maximum, refill)


@given(st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 10**6)), max_size=20))
def test_token_bucket_never_gives_more_than_the_rate(steps):
    bucket, now, taken, free_at = TokenBucket(1234, 100), 0, 0, 0
    for wait, nbytes in steps:
        now = max(now + wait, free_at)
        # before each take, everything taken is covered by the size and the time
        assert taken <= 1234 + (now // 100) * 100
        free_at = bucket.consume(nbytes, now) or now
        taken += nbytes
        assert bucket.fill <= 1234


async def test_sender_over_its_rate_is_told_once_and_slowed_down():
    async with RelayServer(config(bytes_per_second=200_000)) as server:
        async with connected(server) as a, connected(server) as b:
            assert server.metrics()["conns_rx_ratelimited"] == 0
            for _ in range(100):
                a.send_to(b, bytes(1200))
            for _ in range(100):
                assert len(await b.receive_contents()) == 1200
            # 20 kB pass at once, the other 100 kB at 200 kB/s; nothing is lost
            assert await a.receive() == {"type": 13, "status": 2}
            await a.ping()
            counted = server.metrics()
            assert counted["conns_rx_ratelimited"] == 1 and counted["bytes_rx_ratelimited"] > 0


async def test_sender_over_its_rate_is_not_read_from():
    async with RelayServer(config(bytes_per_second=10_000)) as server:
        async with connected(server) as a:
            (connection,) = server.forwarder.find(a.key)
            a.send_to(a, bytes(60_000))  # takes six seconds
            await until(lambda: server.metrics()["conns_rx_ratelimited"] == 1)
            assert not connection.transport.is_reading()
            assert server.set_client_rate(None)
            assert connection.transport.is_reading()
            assert await a.receive() == {"type": 13, "status": 2}
            assert len(await a.receive_contents()) == 60_000


async def test_rate_limit_is_not_told_to_version_1():
    async with RelayServer(config(bytes_per_second=100_000)) as server:
        async with connected(server, version=1) as a:
            a.send_to(a, bytes(15_000))
            assert len(await a.receive_contents()) == 15_000
            await a.ping()
            assert server.metrics()["conns_rx_ratelimited"] == 1


async def test_rate_limit_can_be_changed_live():
    async with RelayServer(config(bytes_per_second=10_000, ping_interval=60)) as server:
        async with connected(server) as a, connected(server) as b:
            for _ in range(100):
                a.send_to(b, bytes(1200))  # would take twelve seconds
            await until(lambda: server.metrics()["conns_rx_ratelimited"] == 1)
            assert not server.set_client_rate(5)
            assert server.set_client_rate(None)
            for _ in range(100):
                await b.receive_contents()
            assert server.set_client_rate(10_000)
            b.send_to(a, bytes(5000))
            await until(lambda: server.metrics()["conns_rx_ratelimited"] == 2)


# --- the API ------------------------------------------------------------------------------


async def test_disconnect_ends_all_or_one_connection_of_an_endpoint():
    secret = SecretKey.generate()
    async with RelayServer(config()) as server, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(server, secret)) for _ in range(3)]
        ids = sorted(c.connection_id for c in server.forwarder.find(clients[0].key))
        assert server.disconnect(secret.public, ids[1])
        assert await clients[1].ended() == 1001
        assert not server.disconnect(secret.public, ids[1])
        assert not server.disconnect(SecretKey.generate().public)
        await clients[0].receive()
        await clients[0].ping()
        assert server.disconnect(PublicKey(clients[0].key))
        assert [await clients[i].ended() for i in (0, 2)] == [1001, 1001]


@BOTH
async def test_stop_ends_every_connection_and_may_be_repeated(tls):
    server = RelayServer(config(tls=tls))
    await server.start()
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(server)) for _ in range(5)]
        waiting = await stack.enter_async_context(upgraded(server))
        await asyncio.gather(server.stop(), server.stop())
        await server.stop()
        for client in (*clients, waiting):
            assert await client.ended() in (1001, None)
    assert len(server.forwarder) == 0 and server.metrics()["unauthenticated"] == 0
    with pytest.raises(OSError):
        await asyncio.open_connection(*where(server))
    await server.wait_stopped()


class Rude(AccessControl):
    """Its end fails."""

    async def close(self):
        raise ValueError("a mistake of somebody else")


async def test_stop_ends_although_access_control_fails(caplog):
    server = RelayServer(config(access=Rude()))
    await server.start()
    await asyncio.gather(server.stop(), server.wait_stopped())
    assert "a mistake of somebody else" in caplog.text


async def test_cancelling_stop_ends_the_drain_and_stops_all_the_same():
    server = RelayServer(config(drain=1000.0))
    await server.start()
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(server)) for _ in range(5)]
        stopping = asyncio.ensure_future(server.stop())
        assert await clients[0].ended() == 1001
        stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopping
        for client in clients[1:]:
            assert await client.ended() == 1001
    await server.wait_stopped()
    assert len(server.forwarder) == 0


async def test_use_before_the_start_is_told():
    server = RelayServer(config())
    key = SecretKey.generate().public
    for use in (
        server.metrics, lambda: server.disconnect(key), lambda: server.set_client_rate(1000),
        lambda: server.reload(config()),
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match="was not started"):
            use()
    with pytest.raises(RuntimeError, match="was not started"):
        await server.wait_stopped()
    await server.stop()
    async with server:
        for wrong in (5, None, bytes(key)):
            with pytest.raises(TypeError, match="endpoint_id is an EndpointId"):
                server.disconnect(wrong)
            with pytest.raises(TypeError, match="config is a RelayServerConfig"):
                server.reload(wrong)
        assert not server.disconnect(str(key))


async def test_stop_flushes_what_is_queued():
    server = RelayServer(config())
    await server.start()
    async with connected(server) as a, connected(server) as b:
        for _ in range(200):
            a.send_to(b, bytes(10_000))
        await a.ping()
        stopping = asyncio.ensure_future(server.stop())
        count = 0
        while (frame := await b.receive()) is not None:
            count += frame["type"] == 6
        await stopping
        assert count + server.metrics()["queue_full"] == 200


async def test_stop_spreads_the_ends_over_the_drain_time(monkeypatch):
    server = RelayServer(config(drain=1000))
    await server.start()
    loop = asyncio.get_running_loop()
    waited, still_there = [], []

    def timeout_at(due):
        waited.append(due - loop.time())
        still_there.append(len(server.forwarder))
        return asyncio.timeout(0)

    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(server)) for _ in range(4)]
        monkeypatch.setattr("iroh_fast.relay.server.server.asyncio.timeout_at", timeout_at)
        await server.stop()
        monkeypatch.undo()
        assert [await client.ended() for client in clients] == [1001] * 4
    assert waited == pytest.approx([0, 250, 500, 750], abs=100)
    assert still_there == [4, 3, 2, 1]
