"""One of our endpoints with the N0 preset as a process, for a network where its names lead to us.

python by_key.py serve SECRET ADDRESS:PORT        echoes until its input ends
python by_key.py dial ID                          connects with the id alone, and tells what came back
python by_key.py put URL HEX                      publishes a signed packet, once there is a server

Answers are lines of JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import urllib.request
from typing import Any

from iroh_fast import Connection, Endpoint, Router, SecretKey, presets

ALPN = b"iroh-fast-by-key/1"


def tell(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


async def echo(conn: Connection) -> None:
    async for send, recv in conn.bi_streams():
        async for piece in recv:
            await send.write_all(piece)
        send.finish()


async def serve(secret: str, address: str) -> None:
    endpoint = await Endpoint.bind(
        preset=presets.minimal, secret_key=SecretKey.parse(secret), bind_addrs=[address]
    )
    async with Router(endpoint, {ALPN: echo}):
        tell(id=str(endpoint.id))
        await asyncio.to_thread(sys.stdin.read)


async def dial(id: str) -> None:
    async with Endpoint.bind(preset=presets.n0_no_relay) as endpoint:
        conn = await endpoint.connect(id, ALPN)
        send, recv = await conn.open_bi()
        await send.write_all(b"by key")
        send.finish()
        tell(id=str(conn.remote_id), echoed=(await recv.read_to_end(100)).decode())


async def put(url: str, body: str) -> None:
    for _ in range(300):
        request = urllib.request.Request(url, bytes.fromhex(body), method="PUT")
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                tell(status=answer.status)
                return
        except urllib.error.HTTPError as error:
            tell(status=error.code)
            return
        except OSError:
            time.sleep(0.1)
    tell(status=None)


if __name__ == "__main__":
    role, *rest = sys.argv[1:]
    roles: dict[str, Any] = {"serve": serve, "dial": dial, "put": put}
    asyncio.run(roles[role](*rest))
