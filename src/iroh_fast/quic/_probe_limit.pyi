from typing import final

from iroh_fast.quic._random import RandomSource

@final
class ProbeLimit:
    def __new__(cls, random: RandomSource) -> ProbeLimit: ...
    @property
    def held(self) -> int: ...
