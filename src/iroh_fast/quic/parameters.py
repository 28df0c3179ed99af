"""QUIC transport parameters (RFC 9000 §18) with the extensions iroh uses.

Extensions: DATAGRAM (RFC 9221), grease bit (RFC 9287), multipath draft, acknowledgement
frequency draft, address discovery draft, and n0's NAT traversal. The codec is compiled
(`_parameters`); connections use it without the objects of this module.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Final

from . import _parameters

__all__ = ["ParameterError", "PreferredAddress", "TransportParameters"]

VARINT_MAX: Final = (1 << 62) - 1
MAX_CID_BYTES: Final = 20
DEFAULT_MAX_UDP_PAYLOAD_SIZE: Final = 65_527
DEFAULT_ACK_DELAY_EXPONENT: Final = 3
DEFAULT_MAX_ACK_DELAY_MS: Final = 25
DEFAULT_ACTIVE_CONNECTION_ID_LIMIT: Final = 2


class ParameterError(ValueError):
    """The peer's parameters are unacceptable: close with TRANSPORT_PARAMETER_ERROR (0x08).

    Attributes
    ----------
    reason : str
        "malformed" (it does not parse) or "illegal value", as iroh puts it into the close frame.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(slots=True, frozen=True)
class PreferredAddress:
    """Where a server would rather be reached (RFC 9000 §18.2); iroh never sends it."""

    ipv4: tuple[bytes, int]  # 4 bytes, port; all zero = none
    ipv6: tuple[bytes, int]  # 16 bytes, port; all zero = none
    connection_id: bytes
    stateless_reset_token: bytes


@dataclass(slots=True)
class TransportParameters:
    """One side's transport parameters; the defaults are those of an absent parameter.

    Integers are in the units of RFC 9000 §18.2 (sizes in bytes, delays as named). None means
    "not sent" where that differs from every value.

    ``max_datagram_frame_size`` 0 (absent) refuses datagrams; ``initial_max_path_id`` None
    means no multipath, ``min_ack_delay_us`` None no ACK_FREQUENCY, ``n0_nat_traversal``
    None no NAT traversal, else the number of addresses accepted (1 … 255).
    ``address_discovery`` is 0 (sends reports), 1 (wants them), 2 (both) or None.
    """

    original_destination_connection_id: bytes | None = None
    max_idle_timeout_ms: int = 0
    stateless_reset_token: bytes | None = None
    max_udp_payload_size: int = DEFAULT_MAX_UDP_PAYLOAD_SIZE
    initial_max_data: int = 0
    initial_max_stream_data_bidi_local: int = 0
    initial_max_stream_data_bidi_remote: int = 0
    initial_max_stream_data_uni: int = 0
    initial_max_streams_bidi: int = 0
    initial_max_streams_uni: int = 0
    ack_delay_exponent: int = DEFAULT_ACK_DELAY_EXPONENT
    max_ack_delay_ms: int = DEFAULT_MAX_ACK_DELAY_MS
    disable_active_migration: bool = False
    preferred_address: PreferredAddress | None = None
    active_connection_id_limit: int = DEFAULT_ACTIVE_CONNECTION_ID_LIMIT
    initial_source_connection_id: bytes | None = None
    retry_source_connection_id: bytes | None = None
    max_datagram_frame_size: int = 0
    grease_quic_bit: bool = False
    initial_max_path_id: int | None = None
    min_ack_delay_us: int | None = None
    address_discovery: int | None = None
    n0_nat_traversal: int | None = None

    def encode(self, is_server: bool, random: Callable[[int], bytes] | None = None) -> bytes:
        """Encode for the TLS extension; values equal to the default are left out.

        Parameters
        ----------
        is_server : bool
            Whether we are the server; only a server may set the connection id it saw, the
            Retry one, a reset token or a preferred address.
        random : callable, optional
            ``random(n)`` returns n random bytes. With it, one reserved parameter
            (RFC 9000 §18.1) is added and the order is random, as iroh does; without it the
            order is ascending and nothing is added.

        Raises
        ------
        ValueError
            A value is out of range, or belongs to the other role.
        """
        _check_sizes(self)
        encoded = _parameters.encode(self, is_server, random)
        if encoded is None:
            raise ValueError("illegal value")
        return encoded

    @classmethod
    def decode(cls, data: bytes, from_server: bool) -> TransportParameters:
        """Decode and check the parameters of a peer.

        Unknown ones are ignored. Whether the connection ids are the right ones is for the
        connection to check.

        Raises
        ------
        ParameterError
            "malformed" for bad framing, lengths, non-minimal integers and duplicates;
            "illegal value" for values out of range or sent by the wrong role.
        """
        self = cls()
        result = _parameters.decode(data, from_server, self)
        if result:
            raise ParameterError("malformed" if result == -1 else "illegal value")
        if self.preferred_address is not None:
            self.preferred_address = PreferredAddress(*self.preferred_address)  # type: ignore[misc]
        return self

    def remembered_for_zero_rtt(self) -> TransportParameters:
        """Return a copy with only what a client may rely on in 0-RTT.

        Connection ids, reset token, preferred address and acknowledgement parameters belong
        to one connection (RFC 9000 §7.4.1); multipath is off as well, hence NAT traversal.
        """
        return replace(
            self,
            original_destination_connection_id=None,
            stateless_reset_token=None,
            preferred_address=None,
            initial_source_connection_id=None,
            retry_source_connection_id=None,
            ack_delay_exponent=DEFAULT_ACK_DELAY_EXPONENT,
            max_ack_delay_ms=DEFAULT_MAX_ACK_DELAY_MS,
            min_ack_delay_us=None,
            initial_max_path_id=None,
        )

    def accepts_zero_rtt_of(self, remembered: TransportParameters) -> bool:
        """Tell whether these new parameters honour `remembered`, under which 0-RTT was sent.

        No limit may have shrunk, and the extensions that are part of the agreement must be
        the same. A client whose 0-RTT was accepted with other parameters closes with
        PROTOCOL_VIOLATION "0-RTT accepted with incompatible transport parameters".
        """
        return _parameters.honours(self, remembered)


_INTEGERS: Final = tuple(
    field.name
    for field in fields(TransportParameters)
    if field.type in ("int", "int | None") and field.name != "n0_nat_traversal"
)
_CIDS: Final = tuple(
    field.name for field in fields(TransportParameters) if field.name.endswith("_connection_id")
)


def _check_sizes(p: TransportParameters) -> None:
    """Check that every value has a place on the wire; ValueError."""
    for name in _INTEGERS:
        value = getattr(p, name)
        if value is not None and not 0 <= value <= VARINT_MAX:
            raise ValueError(f"{name} is out of range")
    for name in _CIDS:
        value = getattr(p, name)
        if value is not None and len(value) > MAX_CID_BYTES:
            raise ValueError(f"{name} is too long")
    if p.stateless_reset_token is not None and len(p.stateless_reset_token) != 16:
        raise ValueError("stateless_reset_token must have 16 bytes")
    if p.n0_nat_traversal is not None and not 1 <= p.n0_nat_traversal <= 255:
        raise ValueError("n0_nat_traversal must be in 1..255")
    preferred = p.preferred_address
    if preferred is not None and (
        len(preferred.ipv4[0]) != 4
        or len(preferred.ipv6[0]) != 16
        or not 0 <= preferred.ipv4[1] <= 0xFFFF
        or not 0 <= preferred.ipv6[1] <= 0xFFFF
        or len(preferred.connection_id) > MAX_CID_BYTES
        or len(preferred.stateless_reset_token) != 16
    ):
        raise ValueError("preferred_address is malformed")
