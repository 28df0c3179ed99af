"""Relay frames and their WebSocket framing, for both ends of a relay connection.

`WsReader` and `ClientReader` take a byte stream apart, `ClientWriter` puts one together: these are what a
relay client runs per datagram. The server forwards in ``relay/server/_forward``. The compiled rooms are
`_websocket`, `_frames` and `_client`.
"""

from __future__ import annotations

from ._client import ClientReader, ClientWriter
from ._frames import (
    DATAGRAM,
    DATAGRAM_BATCH,
    ENDPOINT_GONE,
    HEALTH,
    MAX_BATCH_CONTENTS,
    MAX_DATAGRAM_CONTENTS,
    PING,
    PONG,
    RESTARTING,
    STATUS,
    TEXT,
    WS_CLOSED,
    WS_PINGED,
    WS_PONGED,
    RelayFrameError,
    build_datagram,
    build_frame,
    decode_frame,
    encode_frame,
    is_valid_key,
)
from ._websocket import WsProtocolError, WsReader, build_message

__all__ = [
    "DATAGRAM",
    "DATAGRAM_BATCH",
    "ENDPOINT_GONE",
    "HEALTH",
    "MAX_BATCH_CONTENTS",
    "MAX_DATAGRAM_CONTENTS",
    "PING",
    "PONG",
    "RESTARTING",
    "STATUS",
    "TEXT",
    "WS_CLOSED",
    "WS_PINGED",
    "WS_PONGED",
    "ClientReader",
    "ClientWriter",
    "RelayFrameError",
    "WsProtocolError",
    "WsReader",
    "build_datagram",
    "build_frame",
    "build_message",
    "decode_frame",
    "encode_frame",
    "is_valid_key",
]
