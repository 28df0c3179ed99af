import logging
from collections.abc import Callable
from typing import Final

from typing_extensions import disjoint_base

from iroh_fast.errors import CloseReason
from iroh_fast.quic._streams import QuicStream, StreamOwner
from iroh_fast.quic.qlog import QlogWriter
from iroh_fast.quic.tls.session import Session

logger: logging.Logger
FRAME_NAMES: Final[tuple[str, ...]]
ABANDON_REASONS: Final[dict[int, str]]

@disjoint_base
class Host: ...

@disjoint_base
class ConnectionState(StreamOwner):
    tls: Session
    qlog: QlogWriter | None
    host_random: Callable[[int], bytes]
    on_address_token: Callable[[bytes], None] | None
    @property
    def is_client(self) -> bool: ...
    @property
    def stable_id(self) -> int: ...
    @property
    def handshake_confirmed(self) -> bool: ...
    @property
    def alpn(self) -> bytes | None: ...
    @property
    def peer_id(self) -> bytes | None: ...
    @property
    def early_data_accepted(self) -> bool | None: ...
    @property
    def close_reason(self) -> CloseReason | None: ...
    @property
    def unconfirmed_streams(self) -> int: ...
    def poll_events(self) -> tuple[int, list[tuple[QuicStream, int]]]: ...
