"""The published `iroh` as a child process that uses relays; see ``peer.py`` of the interop tests."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
from typing import Any

import iroh
import peer


class RelayPeer(peer.Peer):
    """Adds what is about relays to the operations."""

    async def bind_relay(
        self,
        url: str,
        addr: str,
        alpns: list[str],
        token: str | None = None,
        secret: str | None = None,
    ) -> dict[str, Any]:
        """Open an endpoint that knows one relay and no address lookup."""
        relays = iroh.RelayMap.empty()
        relays.insert(iroh.RelayConfig(url=url, quic_port=None, auth_token=token))
        options = iroh.EndpointOptions(
            preset=iroh.preset_minimal(),
            bind_addr=addr,
            secret_key=bytes.fromhex(secret) if secret else None,
            alpns=[bytes.fromhex(alpn) for alpn in alpns],
            relay_mode=iroh.RelayMode.custom(relays),
        )
        endpoint = await iroh.Endpoint.bind(options)
        return {
            "ep": self._put("e", endpoint),
            "id": str(endpoint.id()),
            "sockets": endpoint.bound_sockets(),
        }

    async def deafen(self) -> int:
        """Make every UDP socket of this process drop what comes in (Linux); tells how many."""
        code = struct.pack("HBBI", 0x06, 0, 0, 0)  # a packet filter that returns 0: keep nothing
        buffer = ctypes.create_string_buffer(code)
        program = struct.pack("HxxxxxxP", 1, ctypes.addressof(buffer))
        count = 0
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(name))) as sock:
                if sock.type == socket.SOCK_DGRAM and sock.family != socket.AF_UNIX:
                    sock.setsockopt(socket.SOL_SOCKET, 26, program)  # SO_ATTACH_FILTER
                    count += 1
        return count

    async def online(self, ep: str) -> str | None:
        """Wait until the endpoint has a home relay; gives its URL."""
        await self._objects[ep].online()
        return self._objects[ep].addr().relay_url()

    async def connect_relay(self, ep: str, id: str, url: str, alpn: str) -> dict[str, Any]:
        """Dial by the relay alone."""
        target = iroh.EndpointAddr(iroh.EndpointId.from_string(id), url, [])
        return self._put_conn(await self._objects[ep].connect(target, bytes.fromhex(alpn)))


if __name__ == "__main__":
    import asyncio

    out = os.dup(1)
    os.dup2(2, 1)
    if level := os.environ.get("PEER_TRACE"):
        iroh.set_log_level(iroh.LogLevel[level])
    peer.patch_copy_loop()
    asyncio.run(RelayPeer()._main(out))
