import logging
from collections.abc import Callable
from typing import final

logger: logging.Logger

@final
class RandomSource:
    def __new__(cls, source: Callable[[int], bytes] = ...) -> RandomSource: ...
    def take(self, n: int) -> bytes: ...
