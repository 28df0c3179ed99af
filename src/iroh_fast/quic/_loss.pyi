from typing_extensions import disjoint_base

from iroh_fast.quic._state import ConnectionState

@disjoint_base
class LossRecovery(ConnectionState): ...
