"""One connection, as the forwarder sees it."""

import asyncio

class Port:
    connection_id: int | None
    @property
    def transport(self) -> asyncio.Transport | None: ...
    @property
    def endpoint_id(self) -> bytes | None: ...
