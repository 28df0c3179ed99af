"""Meet over a relay; data goes directly as soon as there is a way.

python -m iroh_fast relay --dev                             on a host that both can reach
python examples/relay.py serve http://HOST:3340             prints its id
python examples/relay.py dial http://HOST:3340 ID "hello"   anywhere else
"""

import asyncio
import sys

from iroh_fast import Connection, Endpoint, EndpointAddr, EndpointId, IrohError, Router, presets

ALPN = b"iroh-fast-example/relay/0"


async def answer(conn: Connection) -> None:
    send, recv = await conn.accept_bi()
    text = await recv.read_to_end(10_000)
    # repr: whoever is on the other side must not play with our terminal.
    print(f"{conn.remote_id:short} says: {text.decode(errors='replace')!r}", flush=True)
    await send.write_all(text.upper())
    send.finish()
    await conn.wait_closed()


async def serve(url: str) -> None:
    # From now on whoever knows the relay and our id can reach us.
    endpoint = await Endpoint.bind(preset=presets.minimal, relays=[url])
    async with Router(endpoint, {ALPN: answer}):
        async with asyncio.timeout(10):
            await endpoint.online()
        print(endpoint.id, flush=True)
        await asyncio.Event().wait()


async def dial(url: str, id: str, text: str) -> None:
    async with Endpoint.bind(preset=presets.minimal, relays=[url]) as endpoint:
        # An id and a relay are enough: both sides tell each other over it where they may be reached.
        addr = EndpointAddr(EndpointId(id), relay_url=url)
        async with asyncio.timeout(10):
            conn = await endpoint.connect(addr, ALPN)
        async with conn:
            send, recv = await conn.open_bi()
            await send.write_all(text.encode())
            send.finish()
            print((await recv.read_to_end(10_000)).decode())
            [path] = [path for path in conn.paths if path.is_selected]
            print(f"over {path.remote_addr}, {path.rtt * 1e3:.1f} ms")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", url]:
            work = serve(url)
        case ["dial", url, id, text]:
            work = dial(url, id, text)
        case _:
            sys.exit(__doc__)
    try:
        asyncio.run(work)
    except KeyboardInterrupt:
        sys.exit(130)
    except TimeoutError:
        sys.exit("nobody answers: is the relay running, and the other side connected to it?")
    except (IrohError, OSError) as error:
        # The notes tell what was tried.
        sys.exit("\n".join([str(error), *getattr(error, "__notes__", ())]))
