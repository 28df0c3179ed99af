"""The published `iroh` package as a remote-controlled process.

It is the real Rust stack, and it runs apart from the tests: a crash, a hang or a busy
event loop on one side must not be able to hide behind the other.

Requests come as lines of JSON on stdin, ``{"n": 1, "op": "bind", ...}``; answers go out as
lines on stdout in any order, ``{"n": 1, "ok": ...}`` or ``{"n": 1, "error": {...}}``.
Every public method of :class:`Peer` whose name does not start with an underscore is an
operation.  Endpoints, connections and streams are named by short handles.  Bytes travel as
hex; large data is named by a seed and a size (see ``pattern``) and answered with a hash.

``PEER_TRACE=TRACE`` in the environment makes the Rust stack log every packet and frame to
stderr; other levels log less.
"""

from __future__ import annotations

import asyncio
import ctypes
import hashlib
import itertools
import json
import os
import random
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import iroh
import pattern
from iroh import iroh_ffi

READ_SIZE = 256 * 1024
ECHO_LIMIT = 64 * 1024 * 1024


def patch_copy_loop() -> None:
    """Write into the binding's buffers with one copy instead of one call per byte.

    As published, `iroh` assigns the bytes of everything that is sent one by one, which limits
    it to about 6 MB/s.  Reading is fast as it is.
    """

    def write(self: Any, value: Any) -> None:
        with self._reserve(len(value)):
            start = ctypes.cast(self.rbuf.data, ctypes.c_void_p).value + self.rbuf.len
            ctypes.memmove(start, value if type(value) is bytes else bytes(value), len(value))

    iroh_ffi._UniffiRustBufferBuilder.write = write


class Peer:
    """State of the process: what the handles stand for, and the operations."""

    def __init__(self) -> None:
        self._objects: dict[str, Any] = {}
        self._count = itertools.count(1)
        self._jobs: dict[int, asyncio.Task[None]] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._served: dict[str, list[str]] = {}

    # --- handles

    def _put(self, kind: str, thing: Any) -> str:
        handle = f"{kind}{next(self._count)}"
        self._objects[handle] = thing
        return handle

    def _put_conn(self, conn: iroh.Connection) -> dict[str, Any]:
        return {
            "conn": self._put("c", conn),
            "remote_id": str(conn.remote_id()),
            "alpn": conn.alpn().hex(),
            "side": conn.side().name,
        }

    def _put_bi(self, stream: iroh.BiStream) -> dict[str, str]:
        return {"send": self._put("s", stream.send()), "recv": self._put("r", stream.recv())}

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def drop(self, handle: str) -> None:
        """Let go of an object; the last handle of a connection closes it."""
        self._objects.pop(handle, None)

    # --- endpoints

    async def bind(
        self,
        addr: str = "127.0.0.1:0",
        alpns: tuple[str, ...] = (),
        secret: str | None = None,
        relays: tuple[str, ...] = (),
        n0: bool = False,
    ) -> dict[str, Any]:
        """Open an endpoint without relays unless some are given; with `n0` it looks others up."""
        known = iroh.RelayMap.empty()
        for url in relays:
            known.insert(iroh.RelayConfig(url=url, quic_port=None, auth_token=None))
        options = iroh.EndpointOptions(
            preset=iroh.preset_n0() if n0 else iroh.preset_minimal(),
            bind_addr=addr,
            secret_key=bytes.fromhex(secret) if secret else None,
            alpns=[bytes.fromhex(alpn) for alpn in alpns],
            relay_mode=iroh.RelayMode.custom(known) if relays else iroh.RelayMode.disabled(),
        )
        endpoint = await iroh.Endpoint.bind(options)
        return {
            "ep": self._put("e", endpoint),
            "id": str(endpoint.id()),
            "sockets": endpoint.bound_sockets(),
            "addrs": endpoint.addr().direct_addresses(),
        }

    async def close_endpoint(self, ep: str) -> None:
        await self._objects[ep].close()

    async def sockets(self, ep: str) -> list[str]:
        return self._objects[ep].bound_sockets()

    async def addrs(self, ep: str) -> list[str]:
        """Tell the addresses at which the endpoint believes to be reachable."""
        return self._objects[ep].addr().direct_addresses()

    async def endpoint_stats(self, ep: str) -> dict[str, int]:
        return {name: item.value for name, item in self._objects[ep].stats().items()}

    async def relay_url(self, ep: str) -> str | None:
        """Wait until the home relay is connected; gives its URL."""
        await self._objects[ep].online()
        return self._objects[ep].addr().relay_url()

    async def connect(
        self, ep: str, id: str, addrs: list[str], alpn: str, relay: str | None = None
    ) -> dict[str, Any]:
        """Dial and wait for the handshake."""
        target = iroh.EndpointAddr(iroh.EndpointId.from_string(id), relay, addrs)
        return self._put_conn(await self._objects[ep].connect(target, bytes.fromhex(alpn)))

    async def accept(self, ep: str) -> dict[str, Any]:
        """Accept the next connection attempt and wait for the handshake."""
        incoming = await self._objects[ep].accept_next()
        if incoming is None:
            raise EOFError("endpoint closed")
        accepting = await incoming.accept()
        return self._put_conn(await accepting.connect())

    async def answer(self, ep: str, how: str) -> dict[str, Any]:
        """Answer the next attempt with "refuse", "retry" or "ignore"."""
        incoming = await self._objects[ep].accept_next()
        if incoming is None:
            raise EOFError("endpoint closed")
        validated = await incoming.remote_addr_validated()
        await getattr(incoming, how)()
        return {"validated": validated}

    async def accept_retry(self, ep: str) -> dict[str, Any]:
        """Send a Retry to attempts until one comes with its token, then accept that."""
        retries = 0
        while True:
            incoming = await self._objects[ep].accept_next()
            if await incoming.remote_addr_validated():
                accepting = await incoming.accept()
                return {**self._put_conn(await accepting.connect()), "retries": retries}
            retries += 1
            await incoming.retry()

    async def serve(self, ep: str) -> None:
        """Accept everything from now on and echo streams and datagrams."""
        self._served[ep] = []
        self._spawn(self._accept_loop(ep))

    async def served(self, ep: str) -> list[str]:
        """Tell the connections that :meth:`serve` accepted so far."""
        return self._served[ep]

    async def _accept_loop(self, ep: str) -> None:
        endpoint = self._objects[ep]
        while (incoming := await endpoint.accept_next()) is not None:
            self._spawn(self._serve_one(ep, incoming))

    async def _serve_one(self, ep: str, incoming: iroh.Incoming) -> None:
        try:
            conn = await (await incoming.accept()).connect()
        except iroh.IrohError:
            return
        handle = self._put_conn(conn)["conn"]
        self._served[ep].append(handle)
        await self.echo(handle)

    # --- connections

    async def echo(self, conn: str) -> None:
        """Echo every stream and datagram of a connection from now on."""
        connection = self._objects[conn]
        self._spawn(self._until_closed(self._echo_bi(connection)))
        self._spawn(self._until_closed(self._echo_uni(connection)))
        self._spawn(self._until_closed(self._echo_datagrams(connection)))

    async def _until_closed(self, work: Awaitable[None]) -> None:
        try:
            await work
        except iroh.IrohError:
            pass

    async def _echo_bi(self, conn: iroh.Connection) -> None:
        while True:
            stream = await conn.accept_bi()
            self._spawn(self._until_closed(self._copy(stream.recv(), stream.send())))
            del stream  # or the last one would stay open when its copying has failed

    async def _echo_uni(self, conn: iroh.Connection) -> None:
        while True:
            recv = await conn.accept_uni()
            self._spawn(self._until_closed(self._answer_uni(conn, recv)))
            del recv

    async def _answer_uni(self, conn: iroh.Connection, recv: iroh.RecvStream) -> None:
        data = await recv.read_to_end(ECHO_LIMIT)
        send = await conn.open_uni()
        await send.write_all(data)
        await send.finish()
        await send.stopped()

    async def _echo_datagrams(self, conn: iroh.Connection) -> None:
        while True:
            conn.send_datagram(await conn.read_datagram())

    async def _copy(self, recv: iroh.RecvStream, send: iroh.SendStream) -> None:
        while data := await recv.read(READ_SIZE):
            await send.write_all(data)
        await send.finish()
        await send.stopped()

    async def close(self, conn: str, code: int = 0, reason: str = "") -> None:
        self._objects[conn].close(code, bytes.fromhex(reason))

    async def closed(self, conn: str) -> str:
        """Wait for the end of a connection; gives the text of the reason."""
        return await self._objects[conn].closed()

    async def close_reason(self, conn: str) -> str | None:
        return self._objects[conn].close_reason()

    async def conn_stats(self, conn: str) -> dict[str, Any]:
        connection = self._objects[conn]
        return {
            **vars(connection.stats()),
            "rtt_ms": connection.rtt(),
            "paths": [
                {key: str(value) for key, value in vars(path).items()}
                for path in connection.paths()
            ],
        }

    async def limits(self, conn: str, bi: int | None = None, uni: int | None = None) -> None:
        connection = self._objects[conn]
        if bi is not None:
            connection.set_max_concurrent_bi_streams(bi)
        if uni is not None:
            connection.set_max_concurrent_uni_streams(uni)

    async def open_bi(self, conn: str) -> dict[str, str]:
        return self._put_bi(await self._objects[conn].open_bi())

    async def open_uni(self, conn: str) -> dict[str, str]:
        return {"send": self._put("s", await self._objects[conn].open_uni())}

    async def accept_bi(self, conn: str) -> dict[str, str]:
        return self._put_bi(await self._objects[conn].accept_bi())

    async def accept_uni(self, conn: str) -> dict[str, str]:
        return {"recv": self._put("r", await self._objects[conn].accept_uni())}

    async def echo_client(self, conn: str, streams: int, size: int, seed: int) -> int:
        """Send different data on many streams at once; tell how many echoes were right."""
        connection = self._objects[conn]

        async def one(index: int) -> bool:
            data = pattern.data(seed + index, size)
            stream = await connection.open_bi()
            send, recv = stream.send(), stream.recv()

            async def write() -> None:
                await send.write_all(data)
                await send.finish()

            _, back = await asyncio.gather(write(), recv.read_to_end(size + 1))
            return back == data

        return sum(await asyncio.gather(*map(one, range(streams))))

    async def random_echo_client(self, conn: str, seed: int, count: int) -> list[str]:
        """Use an echo on many streams, each in another way; tell what came back wrong."""
        connection = self._objects[conn]
        wrong = []

        async def one(index: int) -> None:
            rng = random.Random(seed * 1000 + index)
            fate = rng.choice(("whole", "whole", "reset", "stop"))
            size = rng.choice((0, 1, 100, 5_000, 70_000, 400_000))
            data = pattern.data(index, size)
            cut = rng.randrange(size + 1)
            stream = await connection.open_bi()
            send, recv = stream.send(), stream.recv()

            async def write() -> None:
                try:
                    await send.write_all(data[:cut] if fate == "reset" else data)
                    await (send.reset(index) if fate == "reset" else send.finish())
                except iroh.IrohError:
                    if fate != "stop":
                        raise

            async def read() -> bytes:
                got = b""
                try:
                    while piece := await recv.read(10_000):
                        got += piece
                        if fate == "stop" and len(got) >= cut:
                            await recv.stop(index)
                            break
                except iroh.IrohError:  # nothing is left to be stopped, or the echo broke off
                    if fate == "whole":
                        raise
                return got

            _, got = await asyncio.gather(write(), read())
            if not data.startswith(got) or (fate == "whole" and len(got) != size):
                wrong.append(f"{index}: {fate} {size} cut {cut} got {len(got)}")

        await asyncio.gather(*map(one, range(count)))
        return wrong

    # --- datagrams

    async def max_datagram_size(self, conn: str) -> int | None:
        return self._objects[conn].max_datagram_size()

    async def send_datagram(self, conn: str, data: str) -> None:
        self._objects[conn].send_datagram(bytes.fromhex(data))

    async def send_datagrams(self, conn: str, seed: int, sizes: list[int]) -> None:
        """Send one datagram of each size, waiting for room."""
        connection = self._objects[conn]
        for size in sizes:
            await connection.send_datagram_wait(pattern.data(seed + size, size))

    async def read_datagram(self, conn: str) -> str:
        return (await self._objects[conn].read_datagram()).hex()

    async def read_datagrams(self, conn: str, count: int) -> list[list[Any]]:
        """Wait for `count` datagrams; gives size and hash of each."""
        connection = self._objects[conn]
        found = []
        for _ in range(count):
            data = await connection.read_datagram()
            found.append([len(data), pattern.digest([data])])
        return found

    # --- streams

    async def stream_id(self, stream: str) -> str:
        return await self._objects[stream].id()

    async def write(self, send: str, data: str) -> None:
        await self._objects[send].write_all(bytes.fromhex(data))

    async def write_some(self, send: str, seed: int, size: int) -> int:
        """Write once; tell how many bytes were taken."""
        return await self._objects[send].write(pattern.data(seed, size))

    async def send_pattern(
        self, send: str, seed: int, size: int, finish: bool = True, step: int = READ_SIZE
    ) -> dict[str, Any]:
        """Send `size` bytes of a sequence; gives their hash."""
        stream = self._objects[send]
        hasher = hashlib.blake2b(digest_size=32)
        start = time.monotonic()
        for piece in pattern.chunks(seed, size, step):
            hasher.update(piece)
            await stream.write_all(piece)
        if finish:
            await stream.finish()
        return {"hash": hasher.hexdigest(), "seconds": time.monotonic() - start}

    async def finish(self, send: str) -> None:
        await self._objects[send].finish()

    async def reset(self, send: str, code: int) -> None:
        await self._objects[send].reset(code)

    async def stopped(self, send: str) -> int | None:
        return await self._objects[send].stopped()

    async def read(self, recv: str, size: int) -> str:
        return (await self._objects[recv].read(size)).hex()

    async def read_exact(self, recv: str, size: int) -> str:
        return (await self._objects[recv].read_exact(size)).hex()

    async def read_to_end(self, recv: str, limit: int = ECHO_LIMIT) -> str:
        return (await self._objects[recv].read_to_end(limit)).hex()

    async def receive(self, recv: str) -> dict[str, Any]:
        """Read to the end; gives size and hash."""
        stream = self._objects[recv]
        hasher = hashlib.blake2b(digest_size=32)
        size = 0
        start = time.monotonic()
        while data := await stream.read(READ_SIZE):
            hasher.update(data)
            size += len(data)
        return {"size": size, "hash": hasher.hexdigest(), "seconds": time.monotonic() - start}

    async def stop(self, recv: str, code: int) -> None:
        await self._objects[recv].stop(code)

    async def received_reset(self, recv: str) -> int | None:
        return await self._objects[recv].received_reset()

    # --- requests

    async def cancel(self, target: int) -> bool:
        """Cancel a request that is still waiting; it answers with an error."""
        task = self._jobs.get(target)
        return task is not None and task.cancel()

    async def _run(
        self, number: int, op: str, request: dict[str, Any], reply: Callable[[Any], None]
    ) -> None:
        try:
            if op.startswith("_"):
                raise AttributeError(op)
            reply({"n": number, "ok": await getattr(self, op)(**request)})
        except iroh.IrohError as error:
            reply({"n": number, "error": {"kind": error.kind().name, "message": error.message()}})
        except asyncio.CancelledError:
            reply({"n": number, "error": {"kind": "CANCELLED", "message": ""}})
        except Exception as error:
            if not isinstance(error, EOFError):
                traceback.print_exc()
            reply({"n": number, "error": {"kind": type(error).__name__, "message": str(error)}})
        finally:
            self._jobs.pop(number, None)

    async def _main(self, out: int) -> None:
        loop = asyncio.get_running_loop()
        iroh_ffi.uniffi_set_event_loop(loop)
        requests = asyncio.StreamReader(limit=2**26)
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(requests), sys.stdin)

        def reply(answer: Any) -> None:
            line = json.dumps(answer).encode() + b"\n"
            while line:
                line = line[os.write(out, line) :]

        reply({"ready": os.getpid()})
        while line := await requests.readline():
            request = json.loads(line)
            number, op = request.pop("n"), request.pop("op")
            self._jobs[number] = asyncio.ensure_future(self._run(number, op, request, reply))
        for thing in list(self._objects.values()):
            if isinstance(thing, iroh.Endpoint):
                await thing.close()


def main() -> None:
    # The Rust stack may print to stdout: keep the answers on a descriptor of their own.
    out = os.dup(1)
    os.dup2(2, 1)
    if level := os.environ.get("PEER_TRACE"):
        iroh.set_log_level(iroh.LogLevel[level])
    patch_copy_loop()
    asyncio.run(Peer()._main(out))


if __name__ == "__main__":
    main()
