"""Signed packets: DNS records under the signature of the endpoint that they are about (pkarr, BEP 44)."""

from __future__ import annotations

import threading
import time
from typing import Any, Final, Self

from .. import _dns
from .._check import Buffer
from ..errors import DnsMessageError, KeyParsingError, SignatureError, SignedPacketError
from ..keys import EndpointId, PublicKey, SecretKey, as_bytes
from . import z32
from .attributes import format_values, parse_values
from .info import EndpointData, EndpointInfo

__all__ = ["MAX_DNS_SIZE", "SignedPacket", "fitting", "next_timestamp"]

HEADER_SIZE: Final = 104  # key 32, signature 64, timestamp 8
MAX_DNS_SIZE: Final = 1000
MAX_SIZE: Final = HEADER_SIZE + MAX_DNS_SIZE
TTL: Final = 30  # seconds

_last_timestamp = 0
_timestamps = threading.Lock()


def next_timestamp() -> int:
    """Microseconds since 1970, more than ever before in this process, whatever the clock does."""
    global _last_timestamp
    with _timestamps:
        _last_timestamp = max(time.time_ns() // 1000, _last_timestamp + 1)
        return _last_timestamp


def _to_sign(timestamp: int, dns: bytes) -> bytes:
    return b"3:seqi%de1:v%d:%s" % (timestamp, len(dns), dns)  # BEP 44, without salt


def _owner(key: bytes, name: str) -> bytes:
    """The name below the key that `name` stands for, as iroh understands it."""
    zone = z32.encode(key)
    name = name.removesuffix(".")
    last = name.rpartition(".")[2]
    if last in ("", "@"):
        return _dns.name_from_text(zone)
    return _dns.name_from_text(name if last == zone else f"{name}.{zone}")


class SignedPacket:
    """DNS records of one endpoint, signed by it.  Immutable; what is one was verified.

    Make one with `from_endpoint_info`, `from_bytes` or `from_relay_payload`.

    Notes
    -----
    Layout: key (32 bytes), signature (64), timestamp (8, big-endian), DNS message (at most 1000).
    What relays and servers exchange is the same without the key: the relay payload.
    """

    __slots__ = ("_raw",)
    _raw: bytes

    def __init__(self) -> None:
        raise TypeError("use from_endpoint_info, from_bytes or from_relay_payload")

    @classmethod
    def from_bytes_unchecked(cls, data: Buffer, /) -> Self:
        """Take bytes that were verified before, such as those of a store of one's own."""
        packet = cls.__new__(cls)
        packet._raw = as_bytes(data, "a signed packet")
        return packet

    @classmethod
    def from_bytes(cls, data: Buffer, /) -> Self:
        """Verify a packet.

        Raises
        ------
        SignedPacketError
            `kind` says what is wrong: ``TooShort``, ``TooLarge``, ``InvalidKey``,
            ``SignatureError`` or ``DnsError``, in this order.

        Notes
        -----
        Strict as in iroh: neither the key nor R of small order, S below the group order.  Times,
        names and types of records are not looked at.
        """
        raw = as_bytes(data, "a signed packet")
        if len(raw) < HEADER_SIZE:
            raise SignedPacketError(
                "TooShort",
                f"a signed packet of {len(raw)} bytes, at least {HEADER_SIZE} are needed",
            )
        if len(raw) > MAX_SIZE:
            raise SignedPacketError(
                "TooLarge", f"a signed packet of {len(raw)} bytes, {MAX_SIZE} are allowed"
            )
        dns = raw[HEADER_SIZE:]
        _verify(raw[:32], raw[32:96], _to_sign(int.from_bytes(raw[96:104], "big"), dns))
        try:
            _dns.check_message(dns)
        except DnsMessageError as err:
            raise SignedPacketError("DnsError", f"a signed packet holds {err}") from None
        return cls.from_bytes_unchecked(raw)

    @classmethod
    def from_relay_payload(cls, id: EndpointId | Buffer, payload: Buffer, /) -> Self:
        """Verify what a relay sent, or was sent, for an endpoint.  Raises as `from_bytes`."""
        return cls.from_bytes(bytes(id) + as_bytes(payload, "a relay payload"))

    @classmethod
    def from_endpoint_info(
        cls,
        info: EndpointInfo,
        secret_key: SecretKey,
        /,
        *,
        ttl: int = TTL,
        timestamp: int | None = None,
    ) -> Self:
        """Sign what is known of an endpoint with the key of this endpoint.

        Parameters
        ----------
        ttl : int
            How long resolvers keep it, in seconds.
        timestamp : int, optional
            Microseconds since 1970; else now, and more than any one before.

        Raises
        ------
        SignedPacketError
            ``PacketTooLarge``: more than 1000 bytes.  ``DnsError``: one of the values is longer
            than 255 bytes.  See `fitting`.
        ValueError
            The key is another endpoint's.
        """
        if secret_key.public != info.id:
            raise ValueError("the secret key belongs to another endpoint")
        return cls.from_txt(secret_key, "_iroh", info.to_txt(), ttl=ttl, timestamp=timestamp)

    @classmethod
    def from_txt(
        cls,
        secret_key: SecretKey,
        name: str,
        values: list[str],
        /,
        *,
        ttl: int = TTL,
        timestamp: int | None = None,
    ) -> Self:
        """Sign TXT records of any name below the key; ``@`` or nothing is the key itself.

        Raises as `from_endpoint_info`.
        """
        try:
            owner = _owner(bytes(secret_key.public), name)
            dns = _dns.txt_message(owner, [value.encode("utf-8") for value in values], ttl)
        except DnsMessageError as err:
            raise SignedPacketError("DnsError", str(err)) from None
        return cls.from_dns(secret_key, dns, timestamp=timestamp)

    @classmethod
    def from_dns(
        cls, secret_key: SecretKey, dns: Buffer, /, *, timestamp: int | None = None
    ) -> Self:
        """Sign a DNS message; a server answers with the records whose name ends with the key.

        Raises as `from_endpoint_info`.
        """
        raw = as_bytes(dns, "dns")
        if len(raw) > MAX_DNS_SIZE:
            raise SignedPacketError(
                "PacketTooLarge", f"the records take {len(raw)} bytes, {MAX_DNS_SIZE} are allowed"
            )
        try:
            _dns.check_message(raw)
        except DnsMessageError as err:
            raise SignedPacketError("DnsError", str(err)) from None
        if timestamp is None:
            timestamp = next_timestamp()
        signature = bytes(secret_key.sign(_to_sign(timestamp, raw)))
        head = bytes(secret_key.public) + signature + timestamp.to_bytes(8, "big")
        return cls.from_bytes_unchecked(head + raw)

    def to_bytes(self) -> bytes:
        """Return the whole packet."""
        return self._raw

    @property
    def relay_payload(self) -> bytes:
        """The packet without its key."""
        return self._raw[32:]

    @property
    def public_key(self) -> bytes:
        """Whose it is: 32 bytes."""
        return self._raw[:32]

    @property
    def signature(self) -> bytes:
        """64 bytes."""
        return self._raw[32:96]

    @property
    def timestamp(self) -> int:
        """When it was signed, by the clock of its owner, in microseconds since 1970."""
        return int.from_bytes(self._raw[96:104], "big")

    @property
    def dns(self) -> bytes:
        """The DNS message."""
        return self._raw[HEADER_SIZE:]

    def txt_values(self, name: str = "_iroh", /) -> list[str]:
        """Values of the TXT records of a name below the key, case of letters included.

        A record that is not UTF-8 is left out.
        """
        found = []
        for value in _dns.txt_values(self._raw[HEADER_SIZE:], _owner(self._raw[:32], name)):
            try:
                found.append(value.decode("utf-8"))
            except UnicodeDecodeError:
                continue
        return found

    def endpoint_info(self) -> EndpointInfo:
        """Read what it says of the endpoint.

        Raises
        ------
        EndpointInfoError
            A TXT record has no ``=``.
        """
        id = PublicKey._from_valid(self._raw[:32])
        return EndpointInfo(id, EndpointData(*parse_values(self.txt_values())))

    def more_recent_than(self, other: SignedPacket, /) -> bool:
        """Whether it replaces another one: signed later or, at the same time, the larger message."""
        # Both begin with the timestamp, which is big-endian.
        return self._raw[96:] > other._raw[96:]

    def __eq__(self, other: object) -> bool:
        return self._raw == other._raw if isinstance(other, SignedPacket) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._raw)

    def __repr__(self) -> str:
        return f"SignedPacket({z32.encode(self._raw[:32])}, timestamp={self.timestamp})"

    def __reduce__(self) -> tuple[Any, ...]:
        return SignedPacket.from_bytes_unchecked, (self._raw,)


def _verify(key: bytes, signature: bytes, message: bytes) -> None:
    # A signature that verifies is by a point of the curve: only failures need the check of it.
    try:
        PublicKey._from_valid(key).verify(message, signature)
    except SignatureError:
        pass
    else:
        return
    try:
        PublicKey(key)
    except KeyParsingError as err:
        raise SignedPacketError("InvalidKey", f"a signed packet under no key: {err}") from None
    raise SignedPacketError("SignatureError", "the signature of the packet is not by its key")


def fitting(info: EndpointInfo, /) -> EndpointInfo:
    """Leave out addresses until what is left fits into a signed packet.

    Those go that no record can hold, then the last one that is no relay, and so on; user data stays.

    DIFFERS: iroh publishes nothing then.
    """
    user_data = info.data.user_data
    sized = []
    for addr in info.data.addrs:
        (value,) = format_values((addr,), None)
        sized.append((addr, len(value.encode("utf-8"))))
    kept = [(addr, size) for addr, size in sized if size <= 255]
    total = 70 + sum(13 + size for _, size in kept)
    if user_data is not None:
        total += 13 + len(f"user-data={user_data}".encode())
    # From the end, relays last: the sort is stable.
    going: set[int] = set()
    for index in sorted(range(len(kept) - 1, -1, -1), key=lambda i: kept[i][0].is_relay):
        if total <= MAX_DNS_SIZE:
            break
        going.add(index)
        total -= 13 + kept[index][1]
    if not going and len(kept) == len(sized):
        return info
    kept = [entry for index, entry in enumerate(kept) if index not in going]
    return EndpointInfo(info.id, EndpointData([addr for addr, _ in kept], user_data))
