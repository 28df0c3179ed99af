import logging

from typing_extensions import disjoint_base

from iroh_fast.quic._loss import LossRecovery

logger: logging.Logger

@disjoint_base
class SecuredConnection(LossRecovery):
    def parameters(self, reset_token: bytes) -> bytes: ...
