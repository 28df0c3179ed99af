"""Streams of a connection: ordered bytes, one or both ways.

The objects here are thin handles.  As long as data, window or stream credit is there,
no call waits, makes a future or touches the event loop.
"""

from __future__ import annotations

from .half import StreamId
from .handles import BiStream, ConnectionLike, RecvStream, SendStream
from .reading import UnorderedChunks

__all__ = ["BiStream", "ConnectionLike", "RecvStream", "SendStream", "StreamId", "UnorderedChunks"]
