from iroh_fast.quic._models import (
    COMPLETE as COMPLETE,
)
from iroh_fast.quic._models import (
    CUBIC as CUBIC,
)
from iroh_fast.quic._models import (
    NEW_RENO as NEW_RENO,
)
from iroh_fast.quic._models import (
    OFF as OFF,
)
from iroh_fast.quic._models import (
    SEARCHING as SEARCHING,
)
from iroh_fast.quic._models import (
    CongestionController as CongestionController,
)
from iroh_fast.quic._models import (
    MtuDiscovery as MtuDiscovery,
)
from iroh_fast.quic._models import (
    PacerModel as PacerModel,
)
from iroh_fast.quic._models import (
    RttEstimator as RttEstimator,
)
