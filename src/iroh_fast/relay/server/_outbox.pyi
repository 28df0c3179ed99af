"""What waits for clients."""

from typing import final

@final
class Outbox: ...
