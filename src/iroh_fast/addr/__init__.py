"""Socket, transport, relay and endpoint addresses, with their text, JSON and postcard forms.

All types are immutable, hashable, ordered and picklable.  Parsers are as strict as
iroh's, since what one side accepts and normalises the other must compare equal to.
"""

from __future__ import annotations

from .endpoints import AddrLike, EndpointAddr
from .postcard import PostcardReader, encode_varint
from .relay_url import RelayUrl
from .sockets import SocketAddr
from .transports import CustomAddr, IpAddr, RelayAddr, TransportAddr, TransportId

__all__ = [
    "AddrLike",
    "CustomAddr",
    "EndpointAddr",
    "IpAddr",
    "PostcardReader",
    "RelayAddr",
    "RelayUrl",
    "SocketAddr",
    "TransportAddr",
    "TransportId",
    "encode_varint",
]
