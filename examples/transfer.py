"""Send a file to whoever has the ticket.

python examples/transfer.py send big.iso            prints a ticket
python examples/transfer.py receive TICKET out.iso  on the other machine
"""

import argparse
import asyncio
import struct
import sys
import time
from pathlib import Path

from iroh_fast import Connection, Endpoint, IrohError, Router, presets

ALPN = b"iroh-fast-example/transfer/0"
BLOCK = 1 << 20


class Progress:
    """One line on the terminal, renewed ten times a second."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        self.start = self.shown = time.perf_counter()

    def add(self, size: int) -> None:
        self.done += size
        now = time.perf_counter()
        if now - self.shown > 0.1 or self.done == self.total:
            self.shown = now
            rate = self.done / max(now - self.start, 1e-9) / 1e6
            percent = 100 * self.done // max(self.total, 1)
            end = "\n" if self.done == self.total else "\r"
            print(f"{percent:3d} %  {rate:,.0f} MB/s", end=end, file=sys.stderr, flush=True)


async def send(path: Path) -> None:
    sent = asyncio.Event()

    async def handler(conn: Connection) -> None:
        print(f"sending to {conn.remote_id:short}", file=sys.stderr)
        stream = await conn.open_uni()
        with path.open("rb", buffering=0) as file:
            progress = Progress(path.stat().st_size)
            await stream.write_all(struct.pack("!Q", progress.total))
            while block := file.read(BLOCK):
                await stream.write_all(block)
                progress.add(len(block))
        stream.finish()
        # The receiver closes with code 0 when it has stored everything.
        reason = await conn.wait_closed()
        if reason.kind == "application" and reason.code == 0:
            sent.set()
        else:
            print(f"transfer failed: {reason}", file=sys.stderr)

    endpoint = await Endpoint.bind(preset=presets.minimal)
    async with Router(endpoint, {ALPN: handler}):
        print(endpoint.ticket, flush=True)
        await sent.wait()


async def receive(ticket: str, path: Path) -> None:
    async with Endpoint.bind(preset=presets.minimal) as endpoint:
        # If anything goes wrong in here, the sender sees code 1.
        conn = await endpoint.connect(ticket, ALPN)
        conn.close_on_exit(1, b"not complete")
        async with conn:
            stream = await conn.accept_uni()
            (size,) = struct.unpack("!Q", await stream.readexactly(8))
            progress = Progress(size)
            with path.open("wb") as file:
                async for chunk in stream:
                    file.write(chunk)
                    progress.add(len(chunk))
            if progress.done != size:
                sys.exit(f"got {progress.done} of {size} bytes")
            conn.close(0, b"done")


def main() -> None:
    parser = argparse.ArgumentParser(description="Send a file by ticket.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("send")
    command.add_argument("path", type=Path)
    command = commands.add_parser("receive")
    command.add_argument("ticket")
    command.add_argument("path", type=Path)
    args = parser.parse_args()
    try:
        if args.command == "send":
            if not args.path.is_file():
                sys.exit(f"{args.path} is not a file")
            asyncio.run(send(args.path))
        else:
            asyncio.run(receive(args.ticket, args.path))
    except KeyboardInterrupt:
        sys.exit(130)
    except (IrohError, OSError) as error:
        # The notes tell what was tried.
        sys.exit("\n".join([str(error), *getattr(error, "__notes__", ())]))


if __name__ == "__main__":
    main()
