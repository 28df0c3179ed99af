"""A side that announces other transport parameters than it would."""

from __future__ import annotations

from typing import Any

from impostor import vi
from sim import varint

from iroh_fast.quic.tls import TlsSession


def tweak(raw: bytes, changes: dict[int, bytes | None]) -> bytes:
    """Encoded transport parameters with some values replaced or added; None leaves one out."""
    found: dict[int, bytes] = {}
    at = 0
    while at < len(raw):
        key, at = varint(raw, at)
        size, at = varint(raw, at)
        found[key] = raw[at : at + size]
        at += size
    return b"".join(
        vi(key) + vi(len(value)) + value
        for key, value in {**found, **changes}.items()
        if value is not None
    )


class Announcing:
    """For ``client_options={"tls": Announcing({1: vi(5)})}`` of a pair."""

    def __init__(self, changes: dict[int, bytes | None]) -> None:
        self.changes = changes
        #: what was announced, per connection
        self.sent: list[bytes] = []

    def change(self, parameters: bytes) -> bytes:
        self.sent.append(tweak(parameters, self.changes))
        return self.sent[-1]

    def client(self, *args: Any, transport_parameters: bytes, **options: Any) -> TlsSession:
        return TlsSession.client(
            *args, transport_parameters=self.change(transport_parameters), **options
        )

    def server(self, *args: Any, transport_parameters: bytes, **options: Any) -> TlsSession:
        return TlsSession.server(
            *args, transport_parameters=self.change(transport_parameters), **options
        )
