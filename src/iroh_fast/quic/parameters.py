"""QUIC transport parameters (RFC 9000 §18) with the extensions iroh uses.

Extensions: DATAGRAM (RFC 9221), grease bit (RFC 9287), multipath draft, acknowledgement
frequency draft, address discovery draft, and n0's NAT traversal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Final, NoReturn

from aioquic.buffer import Buffer, BufferReadError

__all__ = ["MAX_PARAMETERS_BYTES", "ParameterError", "PreferredAddress", "TransportParameters"]

VARINT_MAX: Final = (1 << 62) - 1
MAX_CID_BYTES: Final = 20
MAX_PARAMETERS_BYTES: Final = 16_384  # as much as one TLS message can carry
MAX_STREAM_COUNT: Final = 1 << 60  # RFC 9000 §4.6
DEFAULT_MAX_UDP_PAYLOAD_SIZE: Final = 65_527
DEFAULT_ACK_DELAY_EXPONENT: Final = 3
DEFAULT_MAX_ACK_DELAY_MS: Final = 25
DEFAULT_ACTIVE_CONNECTION_ID_LIMIT: Final = 2

ORIGINAL_DESTINATION_CONNECTION_ID: Final = 0x00
MAX_IDLE_TIMEOUT: Final = 0x01
STATELESS_RESET_TOKEN: Final = 0x02
MAX_UDP_PAYLOAD_SIZE: Final = 0x03
INITIAL_MAX_DATA: Final = 0x04
INITIAL_MAX_STREAM_DATA_BIDI_LOCAL: Final = 0x05
INITIAL_MAX_STREAM_DATA_BIDI_REMOTE: Final = 0x06
INITIAL_MAX_STREAM_DATA_UNI: Final = 0x07
INITIAL_MAX_STREAMS_BIDI: Final = 0x08
INITIAL_MAX_STREAMS_UNI: Final = 0x09
ACK_DELAY_EXPONENT: Final = 0x0A
MAX_ACK_DELAY: Final = 0x0B
DISABLE_ACTIVE_MIGRATION: Final = 0x0C
PREFERRED_ADDRESS: Final = 0x0D
ACTIVE_CONNECTION_ID_LIMIT: Final = 0x0E
INITIAL_SOURCE_CONNECTION_ID: Final = 0x0F
RETRY_SOURCE_CONNECTION_ID: Final = 0x10
MAX_DATAGRAM_FRAME_SIZE: Final = 0x20
INITIAL_MAX_PATH_ID: Final = 0x3E
GREASE_QUIC_BIT: Final = 0x2AB2
MIN_ACK_DELAY: Final = 0xFF04DE1B
ADDRESS_DISCOVERY: Final = 0x9F81A176
N0_NAT_TRAVERSAL: Final = 0x3D7F91120401


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


def _malformed() -> NoReturn:
    raise ParameterError("malformed")


def _illegal() -> NoReturn:
    raise ParameterError("illegal value")


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
        blobs: list[bytes] = []
        _check(self, is_server, ValueError)
        for key, name, default in _INTEGERS:
            value = getattr(self, name)
            if value != default:
                blobs.append(_encoded_id(key) + _integer(value))
        for key, name, _minimum in _CIDS:
            value = getattr(self, name)
            if value is not None:
                blobs.append(_encoded_id(key) + _varint(len(value)) + value)
        if self.stateless_reset_token is not None:
            blobs.append(_encoded_id(STATELESS_RESET_TOKEN) + b"\x10" + self.stateless_reset_token)
        if self.disable_active_migration:
            blobs.append(_encoded_id(DISABLE_ACTIVE_MIGRATION) + b"\x00")
        if self.grease_quic_bit:
            blobs.append(_encoded_id(GREASE_QUIC_BIT) + b"\x00")
        if self.n0_nat_traversal is not None:
            # INTEROP: one raw byte, not a varint.
            blobs.append(_encoded_id(N0_NAT_TRAVERSAL) + bytes((1, self.n0_nat_traversal)))
        if self.preferred_address is not None:
            blobs.append(_encoded_id(PREFERRED_ADDRESS) + _encode_preferred(self.preferred_address))
        if random is None:
            return b"".join(blobs)
        noise = random(9 + 15 + len(blobs))
        blobs.append(_reserved(noise[:9], noise[9:24]))
        for i in range(len(blobs) - 1, 0, -1):  # Fisher-Yates, one byte per step
            j = noise[23 + i] % (i + 1)
            blobs[i], blobs[j] = blobs[j], blobs[i]
        return b"".join(blobs)

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
        if len(data) > MAX_PARAMETERS_BYTES:
            _malformed()
        self = cls()
        buf = Buffer(data=data)
        seen: set[int] = set()
        try:
            while not buf.eof():
                key = buf.pull_uint_var()
                value = buf.pull_bytes(buf.pull_uint_var())
                name = _INTEGER_NAMES.get(key)
                if name is not None:
                    setattr(self, name, _decode_integer(value))
                elif key in _DECODERS:
                    name, decoder = _DECODERS[key]
                    setattr(self, name, decoder(value))
                if key in seen:
                    _malformed()
                seen.add(key)
        except BufferReadError:
            raise ParameterError("malformed") from None
        _check(self, from_server, ParameterError)
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
        return (
            all(getattr(self, name) >= getattr(remembered, name) for name in _MUST_NOT_SHRINK)
            and (self.grease_quic_bit or not remembered.grease_quic_bit)
            # INTEROP: iroh refuses any change of these two, also a larger one.
            and self.address_discovery == remembered.address_discovery
            and self.n0_nat_traversal == remembered.n0_nat_traversal
        )


# id, attribute, value of an absent parameter; all are varints
_INTEGERS: Final = tuple(
    (key, name, next(f.default for f in fields(TransportParameters) if f.name == name))
    for key, name in (
        (MAX_IDLE_TIMEOUT, "max_idle_timeout_ms"),
        (MAX_UDP_PAYLOAD_SIZE, "max_udp_payload_size"),
        (INITIAL_MAX_DATA, "initial_max_data"),
        (INITIAL_MAX_STREAM_DATA_BIDI_LOCAL, "initial_max_stream_data_bidi_local"),
        (INITIAL_MAX_STREAM_DATA_BIDI_REMOTE, "initial_max_stream_data_bidi_remote"),
        (INITIAL_MAX_STREAM_DATA_UNI, "initial_max_stream_data_uni"),
        (INITIAL_MAX_STREAMS_BIDI, "initial_max_streams_bidi"),
        (INITIAL_MAX_STREAMS_UNI, "initial_max_streams_uni"),
        (ACK_DELAY_EXPONENT, "ack_delay_exponent"),
        (MAX_ACK_DELAY, "max_ack_delay_ms"),
        (ACTIVE_CONNECTION_ID_LIMIT, "active_connection_id_limit"),
        (MAX_DATAGRAM_FRAME_SIZE, "max_datagram_frame_size"),
        (INITIAL_MAX_PATH_ID, "initial_max_path_id"),
        (MIN_ACK_DELAY, "min_ack_delay_us"),
        (ADDRESS_DISCOVERY, "address_discovery"),
    )
)
_INTEGER_NAMES: Final = {key: name for key, name, _ in _INTEGERS}
_CIDS: Final = (
    (ORIGINAL_DESTINATION_CONNECTION_ID, "original_destination_connection_id", 0),
    (INITIAL_SOURCE_CONNECTION_ID, "initial_source_connection_id", 0),
    (RETRY_SOURCE_CONNECTION_ID, "retry_source_connection_id", 0),
)
_MUST_NOT_SHRINK: Final = (
    "initial_max_data",
    "initial_max_stream_data_bidi_local",
    "initial_max_stream_data_bidi_remote",
    "initial_max_stream_data_uni",
    "initial_max_streams_bidi",
    "initial_max_streams_uni",
    "active_connection_id_limit",
    "max_datagram_frame_size",
)


def _varint(value: int) -> bytes:
    if value < 0x40:
        return bytes((value,))
    if value < 0x4000:
        return (value | 0x4000).to_bytes(2, "big")
    if value < 0x4000_0000:
        return (value | 0x8000_0000).to_bytes(4, "big")
    return (value | 0xC000_0000_0000_0000).to_bytes(8, "big")


def _integer(value: int) -> bytes:
    encoded = _varint(value)
    return bytes((len(encoded),)) + encoded


_ENCODED_IDS: Final = {
    key: _varint(key)
    for key in (
        *_INTEGER_NAMES,
        *(key for key, _, _ in _CIDS),
        STATELESS_RESET_TOKEN,
        DISABLE_ACTIVE_MIGRATION,
        GREASE_QUIC_BIT,
        N0_NAT_TRAVERSAL,
        PREFERRED_ADDRESS,
    )
}
_encoded_id = _ENCODED_IDS.__getitem__


def _reserved(seed: bytes, value: bytes) -> bytes:
    """Build a reserved parameter: id 31·N + 27, at most 15 bytes of `value`."""
    count = int.from_bytes(seed[:8], "big") % ((VARINT_MAX - 27) // 31 + 1)
    body = value[: seed[8] & 15]
    key = 31 * count + 27
    if key in _ENCODED_IDS:
        key = 27  # nobody assigned this one
    return _varint(key) + bytes((len(body),)) + body


def _encode_preferred(address: PreferredAddress) -> bytes:
    body = b"".join(
        (
            address.ipv4[0],
            address.ipv4[1].to_bytes(2, "big"),
            address.ipv6[0],
            address.ipv6[1].to_bytes(2, "big"),
            bytes((len(address.connection_id),)),
            address.connection_id,
            address.stateless_reset_token,
        )
    )
    return _varint(len(body)) + body


def _decode_integer(value: bytes) -> int:
    size = len(value)
    # INTEROP: noq compares the length with the minimal one, so only that is legal.
    if size not in (1, 2, 4, 8) or size != 1 << (value[0] >> 6):
        _malformed()
    number = int.from_bytes(value, "big") & ((1 << (8 * size - 2)) - 1)
    if size > 1 and number < 1 << (4 * size - 2):
        _malformed()
    return number


def _decode_cid(value: bytes) -> bytes:
    if len(value) > MAX_CID_BYTES:
        _malformed()
    return value


def _decode_reset_token(value: bytes) -> bytes:
    if len(value) != 16:
        _malformed()
    return value


def _decode_flag(value: bytes) -> bool:
    if value:
        _malformed()
    return True


def _decode_nat(value: bytes) -> int:
    if len(value) != 1:
        _malformed()
    return value[0]


def _decode_preferred(value: bytes) -> PreferredAddress:
    buf = Buffer(data=value)
    address = PreferredAddress(
        ipv4=(buf.pull_bytes(4), buf.pull_uint16()),
        ipv6=(buf.pull_bytes(16), buf.pull_uint16()),
        connection_id=_decode_cid(buf.pull_bytes(buf.pull_uint8())),
        stateless_reset_token=buf.pull_bytes(16),
    )
    if not buf.eof():
        _malformed()
    return address


_DECODERS: Final[dict[int, tuple[str, Callable[[bytes], object]]]] = {
    **{key: (name, _decode_cid) for key, name, _ in _CIDS},
    STATELESS_RESET_TOKEN: ("stateless_reset_token", _decode_reset_token),
    DISABLE_ACTIVE_MIGRATION: ("disable_active_migration", _decode_flag),
    GREASE_QUIC_BIT: ("grease_quic_bit", _decode_flag),
    N0_NAT_TRAVERSAL: ("n0_nat_traversal", _decode_nat),
    PREFERRED_ADDRESS: ("preferred_address", _decode_preferred),
}


def _unspecified(address: PreferredAddress) -> bool:
    return not any(address.ipv4[0]) and not any(address.ipv6[0])


def _check(p: TransportParameters, from_server: bool, error: type[ValueError]) -> None:
    """Check ranges and roles; the same rules for what we send and what we get."""
    preferred = p.preferred_address
    if (
        p.max_udp_payload_size < 1200
        or p.ack_delay_exponent > 20
        or p.max_ack_delay_ms >= 1 << 14
        or p.active_connection_id_limit < 2
        or p.initial_max_streams_bidi > MAX_STREAM_COUNT
        or p.initial_max_streams_uni > MAX_STREAM_COUNT
        or (p.initial_max_path_id is not None and p.initial_max_path_id > 0xFFFF_FFFF)
        or (p.min_ack_delay_us is not None and p.min_ack_delay_us > p.max_ack_delay_ms * 1000)
        or (p.address_discovery is not None and p.address_discovery > 2)
        or p.n0_nat_traversal == 0
        or (
            preferred is not None
            and (not preferred.connection_id or _unspecified(preferred))
        )
        or (
            not from_server
            and (
                p.original_destination_connection_id is not None
                or p.retry_source_connection_id is not None
                or p.stateless_reset_token is not None
                or preferred is not None
            )
        )
    ):
        raise error("illegal value")
    if error is ParameterError:
        return  # the decoder cannot produce anything else
    for _, name, _ in _INTEGERS:
        value = getattr(p, name)
        if value is not None and not 0 <= value <= VARINT_MAX:
            raise error(f"{name} is out of range")
    for _, name, _ in _CIDS:
        value = getattr(p, name)
        if value is not None and len(value) > MAX_CID_BYTES:
            raise error(f"{name} is too long")
    if p.stateless_reset_token is not None and len(p.stateless_reset_token) != 16:
        raise error("stateless_reset_token must have 16 bytes")
    if p.n0_nat_traversal is not None and not 1 <= p.n0_nat_traversal <= 255:
        raise error("n0_nat_traversal must be in 1..255")
    if preferred is not None and (
        len(preferred.ipv4[0]) != 4
        or len(preferred.ipv6[0]) != 16
        or not 0 <= preferred.ipv4[1] <= 0xFFFF
        or not 0 <= preferred.ipv6[1] <= 0xFFFF
        or len(preferred.connection_id) > MAX_CID_BYTES
        or len(preferred.stateless_reset_token) != 16
    ):
        raise error("preferred_address is malformed")
