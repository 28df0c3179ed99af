"""The keys that are connected."""

from typing import final

@final
class PeerTable: ...
