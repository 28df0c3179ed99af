"""A relay server of ours beside the receiver of a transfer over a link."""

from __future__ import annotations

from typing import Any

from _child import main

from iroh_fast.relay import RelayServer, RelayServerConfig


class Server:
    async def start(self, address: None, host: str) -> dict[str, Any]:
        self.server = RelayServer(RelayServerConfig.dev(host=host))
        await self.server.__aenter__()
        return {"address": self.server.url, "versions": {}}


if __name__ == "__main__":
    main(Server, Server)
