"""Path policy: which of the ways to a remote endpoint its connections use.

All connections with one remote share a `RemoteState`: the addresses known for it, and the one that
is selected. The QUIC engine schedules by path status; the state sets the status, opens what is
missing (on the side that dialed) and closes what is redundant. It is pure: events and the time come
in, calls of `PathUser` and a deadline go out. `RemoteMap` gives it an event loop.
"""

from .map import RemoteMap
from .selection import better, rank
from .state import RemoteState

__all__ = ["RemoteMap", "RemoteState", "better", "rank"]
