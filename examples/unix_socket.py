"""Endpoints of one machine that talk over UNIX sockets instead of UDP, as a custom transport.

python examples/unix_socket.py serve /tmp/echo.sock            prints its address
python examples/unix_socket.py dial ADDRESS "hello"            in another terminal
"""

import asyncio
import os
import socket
import sys
import tempfile
from contextlib import suppress

from iroh_fast import (
    Connection,
    CustomAddr,
    CustomEndpoint,
    CustomInbox,
    Endpoint,
    EndpointAddr,
    EndpointTicket,
    IrohError,
    Router,
    presets,
)

ALPN = b"iroh-fast-example/unix-socket/0"
UNIX = 0x554E4958  # the number of this transport: any that nobody else uses


class UnixTransport:
    """Datagrams over a UNIX socket; addresses are paths of sockets."""

    def __init__(self, path: str) -> None:
        self.path = path

    async def bind(self, inbox: CustomInbox) -> CustomEndpoint:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            sock.bind(self.path)
        except OSError:
            sock.close()
            raise
        return UnixEndpoint(sock, self.path, inbox)


class UnixEndpoint(CustomEndpoint):
    max_datagram_size = 8_192

    def __init__(self, sock: socket.socket, path: str, inbox: CustomInbox) -> None:
        self.sock = sock
        self.path = path
        self.inbox = inbox
        self.local_addrs = (CustomAddr(UNIX, os.fsencode(path)),)
        self.loop = asyncio.get_running_loop()
        self.loop.add_reader(sock, self.readable)

    def readable(self) -> None:
        # A few at a time: the loop has others to serve. A socket without a name cannot be answered.
        with suppress(BlockingIOError):
            for _ in range(32):
                data, source = self.sock.recvfrom(65_535)
                if source:
                    self.inbox.put(CustomAddr(UNIX, os.fsencode(source)), data)

    def is_valid_send_addr(self, addr: CustomAddr) -> bool:
        return addr.id == UNIX

    def send(
        self, dst: CustomAddr, src: CustomAddr | None, data: bytes, segment_size: int | None
    ) -> None:
        # A full or missing socket loses the datagram, as a network does.
        with suppress(OSError):
            self.sock.sendto(data, os.fsdecode(dst.data))

    async def close(self) -> None:
        self.loop.remove_reader(self.sock)
        self.sock.close()
        os.unlink(self.path)


async def answer(conn: Connection) -> None:
    send, recv = await conn.accept_bi()
    await send.write_all((await recv.read_to_end(10_000)).upper())
    send.finish()
    await conn.wait_closed()


async def serve(path: str) -> None:
    # No UDP socket: only who may write to the socket reaches this endpoint.
    endpoint = await Endpoint.bind(
        preset=presets.minimal, ip_transports=False, custom_transports=[UnixTransport(path)]
    )
    async with Router(endpoint, {ALPN: answer}):
        print(EndpointTicket(EndpointAddr(endpoint.id, endpoint.custom_addrs)), flush=True)
        await asyncio.Event().wait()


async def dial(ticket: str, text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        transport = UnixTransport(os.path.join(folder, "dial.sock"))
        async with (
            Endpoint.bind(
                preset=presets.minimal, ip_transports=False, custom_transports=[transport]
            ) as endpoint,
            endpoint.connect(ticket, ALPN) as conn,
        ):
            send, recv = await conn.open_bi()
            await send.write_all(text.encode())
            send.finish()
            print((await recv.read_to_end(10_000)).decode())
            [path] = conn.paths
            print(f"over {path.remote_addr}")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", path]:
            work = serve(os.path.abspath(path))
        case ["dial", ticket, text]:
            work = dial(ticket, text)
        case _:
            sys.exit(__doc__)
    try:
        asyncio.run(work)
    except KeyboardInterrupt:
        sys.exit(130)
    except (IrohError, OSError) as error:
        sys.exit("\n".join([str(error), *getattr(error, "__notes__", ())]))
