from typing import Self, final

from iroh_fast.quic._random import RandomSource

@final
class IdTable:
    def __new__(cls, random: RandomSource, reset_key: bytes) -> Self: ...
    @property
    def live(self) -> int: ...
    def __len__(self) -> int: ...
