"""Connect with nothing but a key, with a relay and a lookup server of your own.

python -m iroh_fast relay --dev                   in one terminal,
python -m iroh_fast dns-server --dev              in another
python examples/by_key.py serve                   prints its id
python examples/by_key.py dial ID "hello"         anywhere on this machine

On other machines: --relay http://HOST:3340 --pkarr http://HOST:8080/pkarr --dns HOST:5300, with
the servers listening there.
"""

import argparse
import asyncio
import sys

from iroh_fast import Connection, Endpoint, IrohError, Router
from iroh_fast.aio.pending import Pending
from iroh_fast.lookup import DnsLookup, DnsResolver, PkarrPublisher

ALPN = b"iroh-fast-example/by-key/0"


def bind(servers: argparse.Namespace) -> Pending[Endpoint]:
    """An endpoint that publishes where it is, and finds others in the DNS by their key."""
    return Endpoint.bind(
        relays=[servers.relay],
        address_lookup=[PkarrPublisher(servers.pkarr), DnsLookup(servers.origin)],
        dns_resolver=DnsResolver([servers.dns]),
    )


async def answer(conn: Connection) -> None:
    send, recv = await conn.accept_bi()
    text = await recv.read_to_end(10_000)
    # repr: whoever is on the other side must not play with our terminal.
    print(f"{conn.remote_id:short} says: {text.decode(errors='replace')!r}", flush=True)
    await send.write_all(text.upper())
    send.finish()
    await conn.wait_closed()


async def serve(servers: argparse.Namespace) -> None:
    endpoint = await bind(servers)
    async with Router(endpoint, {ALPN: answer}):
        async with asyncio.timeout(10):
            await endpoint.online()  # then the relay is published, too
        print(endpoint.id, flush=True)
        await asyncio.Event().wait()


async def dial(servers: argparse.Namespace) -> None:
    async with bind(servers) as endpoint, endpoint.connect(servers.id, ALPN) as conn:
        send, recv = await conn.open_bi()
        await send.write_all(servers.text.encode())
        send.finish()
        print((await recv.read_to_end(10_000)).decode())
        info = await endpoint.remote_info(conn.remote_id)
        assert info is not None
        for known in info.addrs:
            print(known.addr, *known.sources)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--relay", default="http://127.0.0.1:3340")
    parser.add_argument("--pkarr", default="http://127.0.0.1:8080/pkarr")
    parser.add_argument("--dns", default="127.0.0.1:5300")
    parser.add_argument("--origin", default="irohdns.example.")
    commands = parser.add_subparsers(required=True)
    commands.add_parser("serve").set_defaults(work=serve)
    dialing = commands.add_parser("dial")
    dialing.add_argument("id")
    dialing.add_argument("text")
    dialing.set_defaults(work=dial)
    chosen = parser.parse_args()
    try:
        asyncio.run(chosen.work(chosen))
    except KeyboardInterrupt:
        sys.exit(130)
    except TimeoutError:
        sys.exit("nobody answers: are the relay and the DNS server running?")
    except (IrohError, OSError) as error:
        # The notes tell what was tried.
        sys.exit("\n".join([str(error), *getattr(error, "__notes__", ())]))
