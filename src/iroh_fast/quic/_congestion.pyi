from iroh_fast.quic._models import (
    COMPLETE as COMPLETE,
    CUBIC as CUBIC,
    NEW_RENO as NEW_RENO,
    OFF as OFF,
    SEARCHING as SEARCHING,
    CongestionController as CongestionController,
    MtuDiscovery as MtuDiscovery,
    PacerModel as PacerModel,
    RttEstimator as RttEstimator,
)
