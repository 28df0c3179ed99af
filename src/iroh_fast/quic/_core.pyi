from collections.abc import Callable

from typing_extensions import disjoint_base

from iroh_fast.errors import CloseReason
from iroh_fast.quic._streams import StreamOwner
from iroh_fast.quic.qlog import QlogWriter
from iroh_fast.quic.tls.session import Session

@disjoint_base
class Host: ...

@disjoint_base
class Connection(StreamOwner):
    tls: Session
    qlog: QlogWriter | None
    host_random: Callable[[int], bytes]
    on_address_token: Callable[[bytes, bytes], None] | None
    @property
    def is_client(self) -> bool: ...
    @property
    def stable_id(self) -> int: ...
    @property
    def alpn(self) -> bytes | None: ...
    @property
    def peer_id(self) -> bytes | None: ...
    @property
    def early_data_accepted(self) -> bool | None: ...
    @property
    def close_reason(self) -> CloseReason | None: ...
