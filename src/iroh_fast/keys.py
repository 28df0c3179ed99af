"""Ed25519 identities: secret keys, endpoint ids, signatures and their text forms.

An endpoint is known by its public key.  The bytes of a key are kept exactly as
given and everything (equality, hash, order) goes by them, as in iroh.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from typing import Any, Final, NoReturn, Self, TypeAlias

from ._check import Buffer
from .errors import KeyParsingError, SignatureError, SignatureParsingError

__all__ = ["EndpointId", "PublicKey", "SecretKey", "Signature"]

KEY_SIZE: Final = 32
SIGNATURE_SIZE: Final = 64

# Curve constants, RFC 8032 §5.1.
_P: Final = 2**255 - 19
_L: Final = 2**252 + 27742317777372353535851937790883648493
_D: Final = -121665 * pow(121666, -1, _P) % _P
_SIGN_BIT: Final = 1 << 255

# y of the two pairs of points of order 8; 0 has order 4, p - 1 order 2, 1 is neutral.
_ORDER_8_Y: Final = (
    0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7,
    0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826,
)
# Every encoding of a point of small order; 0 and 1 also fit in as p and p + 1.
_SMALL_ORDER: Final = frozenset(
    (y | sign).to_bytes(32, "little")
    for y in (0, 1, _P - 1, _P, _P + 1, *_ORDER_8_Y)
    for sign in (0, _SIGN_BIT)
)

_B32: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"  # RFC 4648 §6
_Z32: Final = "ybndrfg8ejkmcpqxot1uwisza345h769"  # z-base-32
_B32_TO_Z32: Final = str.maketrans(_B32, _Z32)
_Z32_TO_B32: Final = str.maketrans(_Z32, _B32)
_B32_SYMBOLS: Final = frozenset(_B32 + _B32.lower())
_Z32_SYMBOLS: Final = frozenset(_Z32)
_HEX_SYMBOLS: Final = frozenset("0123456789abcdef")


def as_bytes(data: Buffer, name: str = "data") -> bytes:
    """Return `data` as `bytes`, copying only when it is something else.

    Raises
    ------
    TypeError
        `data` is not bytes-like (an int is not taken for a size); the text has the `name`.
    """
    if type(data) is bytes:
        return data
    try:
        return bytes(memoryview(data))
    except TypeError:  # the value itself may be a secret
        raise TypeError(f"{name} is bytes, not {type(data).__name__}") from None


def base32_encode(data: bytes) -> str:
    """Encode as RFC 4648 base32, lower case, without padding."""
    return base64.b32encode(data).decode("ascii").rstrip("=").lower()


def base32_decode(text: str) -> bytes:
    """Decode RFC 4648 base32 of any case, without padding.

    Raises
    ------
    ValueError
        With arguments (message, index of the first offending character).  Stricter
        than `base64`: impossible lengths and non-zero trailing bits are errors.
    """
    for index, symbol in enumerate(text):
        if symbol not in _B32_SYMBOLS:
            raise ValueError(f"invalid base32 symbol at {index}", index)
    count = len(text)
    if count % 8 in (1, 3, 6):
        raise ValueError(f"invalid base32 length {count}", count - count % 8)
    data = base64.b32decode(text.upper() + "=" * (-count % 8))
    unused_bits = count * 5 % 8
    if unused_bits and _B32.index(text[-1].upper()) & ((1 << unused_bits) - 1):
        raise ValueError(f"non-zero trailing bits at {count - 1}", count - 1)
    return data


def _is_point(key: bytes) -> bool:
    """Tell whether 32 bytes decompress to a point of the curve.

    The check of RFC 8032 §5.1.3, but as in iroh a y of p or more and a sign bit on
    x = 0 are let through.  OpenSSL does no check at all, libsodium a stricter one.
    """
    y = int.from_bytes(key, "little") & (_SIGN_BIT - 1)
    y2 = y * y % _P
    # x^2 = u/v exists when u*v is a square: v is never 0 since -1/d is no square.
    uv = (y2 - 1) * (_D * y2 + 1) % _P
    return uv == 0 or pow(uv, (_P - 1) // 2, _P) == 1


def may_verify(key: bytes, signature: bytes) -> bool:
    """What a strict verification asks besides the equation.

    S is below the group order (if it is, its top byte nearly tells), and neither the key nor R
    is of small order.
    """
    return (
        (signature[63] < 0x10 or int.from_bytes(signature[32:], "little") < _L)
        and signature[:32] not in _SMALL_ORDER
        and key not in _SMALL_ORDER
    )


def _parse_32_bytes(text: str) -> bytes:
    """Decode the text of a key: 64 lower-case hex digits or 52 of base32."""
    if not isinstance(text, str):
        raise TypeError(f"a key is parsed from str, not {type(text).__name__}")
    # INTEROP: iroh picks the encoding by the length in UTF-8 bytes.
    size = len(text.encode("utf-8", "surrogatepass"))
    if size == 2 * KEY_SIZE:
        if not _HEX_SYMBOLS.issuperset(text):
            hint = "; hex must be lower-case" if _HEX_SYMBOLS.issuperset(text.lower()) else ""
            raise KeyParsingError(f"failed to decode hex{hint}", reason="hex")
        return bytes.fromhex(text)
    if size == 52:
        try:
            return base32_decode(text)
        except ValueError as err:
            raise KeyParsingError(f"failed to decode base32: {err.args[0]}", reason="base32") from None
    raise KeyParsingError(
        f"a key is 64 hex or 52 base32 characters, got {size} bytes of text", reason="length"
    )


def _check_length(data: bytes) -> bytes:
    if len(data) != KEY_SIZE:
        raise KeyParsingError(f"a key is {KEY_SIZE} bytes, got {len(data)}", reason="length")
    return data


class Signature:
    """An Ed25519 signature: any 64 bytes.

    Parameters
    ----------
    data : Buffer or Signature
        R then S (RFC 8032 §5.1.6).

    Raises
    ------
    SignatureParsingError
        `data` is not 64 bytes.
    """

    __slots__ = ("_raw",)
    _raw: bytes

    def __init__(self, data: Buffer | Signature, /) -> None:
        raw = data._raw if isinstance(data, Signature) else as_bytes(data, "a signature")
        if len(raw) != SIGNATURE_SIZE:
            raise SignatureParsingError(f"a signature is {SIGNATURE_SIZE} bytes, got {len(raw)}")
        self._raw = raw

    @classmethod
    def from_bytes(cls, data: Buffer, /) -> Self:
        """Make a signature from 64 bytes; the same as calling the class."""
        return cls(data)

    def to_bytes(self) -> bytes:
        """Return the 64 bytes."""
        return self._raw

    def __bytes__(self) -> bytes:
        return self._raw

    def __str__(self) -> str:
        """Return 128 lower-case hex digits."""
        return self._raw.hex()

    def __repr__(self) -> str:
        return f"Signature({self._raw.hex()})"

    def __eq__(self, other: object) -> bool:
        return self._raw == other._raw if isinstance(other, Signature) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._raw)

    def __reduce__(self) -> tuple[type[Self], tuple[bytes]]:
        return type(self), (self._raw,)


class PublicKey:
    """An Ed25519 public key, which is the id of an endpoint.

    Immutable, hashable, ordered by its bytes, picklable.  ``str()`` gives 64 hex
    digits; format specs ``short``, ``z32`` and ``b32`` give the other text forms.

    Parameters
    ----------
    key : str, Buffer or PublicKey
        Text (64 lower-case hex digits, or 52 of base32 in any case), or 32 bytes.

    Raises
    ------
    KeyParsingError
        Not a key; `reason` tells why.

    Notes
    -----
    Cost: one modular exponentiation (tens of microseconds) to check the point.
    """

    __slots__ = ("_raw",)
    _raw: bytes

    def __init__(self, key: str | Buffer | PublicKey, /) -> None:
        if isinstance(key, PublicKey):
            self._raw = key._raw
            return
        if isinstance(key, str):
            raw = _parse_32_bytes(key)
        else:
            raw = _check_length(as_bytes(key, "a key"))
        if not _is_point(raw):
            raise KeyParsingError("the bytes are not a point of the curve", reason="point")
        self._raw = raw

    @classmethod
    def _from_valid(cls, raw: bytes) -> Self:
        """Wrap 32 bytes already known to be a point."""
        key = cls.__new__(cls)
        key._raw = raw
        return key

    @classmethod
    def from_bytes(cls, data: Buffer, /) -> Self:
        """Make a key from 32 bytes.  Raises `KeyParsingError`."""
        if isinstance(data, str):
            raise TypeError("from_bytes wants bytes, not str; use parse")
        return cls(data)

    @classmethod
    def parse(cls, text: str, /) -> Self:
        """Make a key from its text.  Raises `KeyParsingError`.

        z-base-32 is not accepted here, see `from_z32`.
        """
        if not isinstance(text, str):
            raise TypeError(f"a key is parsed from str, not {type(text).__name__}")
        return cls(text)

    @classmethod
    def from_z32(cls, text: str, /) -> Self:
        """Make a key from z-base-32, the form used in DNS names.

        Raises
        ------
        KeyParsingError
            Wrong symbol (case counts), impossible length or non-zero trailing bits:
            reason ``"base32"``.  Not 32 bytes, or not a point: reason ``"point"``.
        """
        if not isinstance(text, str):
            raise TypeError(f"a key is parsed from str, not {type(text).__name__}")
        if not _Z32_SYMBOLS.issuperset(text):
            raise KeyParsingError("failed to decode z-base-32: invalid symbol", reason="base32")
        try:
            raw = base32_decode(text.translate(_Z32_TO_B32))
        except ValueError as err:
            raise KeyParsingError(
                f"failed to decode z-base-32: {err.args[0]}", reason="base32"
            ) from None
        if len(raw) != KEY_SIZE:
            # INTEROP: iroh reports a wrong length as invalid key data here.
            raise KeyParsingError(f"a key is {KEY_SIZE} bytes, got {len(raw)}", reason="point")
        return cls(raw)

    def to_bytes(self) -> bytes:
        """Return the 32 bytes as they were given."""
        return self._raw

    def to_z32(self) -> str:
        """Return the 52 characters of z-base-32."""
        text = base64.b32encode(self._raw).decode("ascii").rstrip("=")
        return text.translate(_B32_TO_Z32)

    def fmt_short(self) -> str:
        """Return the first 10 hex digits, for logs; nothing parses this."""
        return self._raw[:5].hex()

    def verify(self, message: Buffer, signature: Signature | Buffer, /) -> None:
        """Check that `signature` is by this key over `message`.

        Strict as in iroh: S below the group order, neither the key nor R of small
        order, equation without cofactor.

        Raises
        ------
        SignatureError
            It is not.
        SignatureParsingError
            `signature` is not 64 bytes.
        """
        from nacl.bindings import crypto_sign_open
        from nacl.exceptions import BadSignatureError

        raw = Signature(signature)._raw
        if not may_verify(self._raw, raw):
            raise SignatureError
        try:
            crypto_sign_open(raw + as_bytes(message, "message"), self._raw)
        except BadSignatureError:
            raise SignatureError from None

    def __bytes__(self) -> bytes:
        return self._raw

    def __str__(self) -> str:
        return self._raw.hex()

    def __repr__(self) -> str:
        return f"PublicKey({self._raw.hex()})"

    def __format__(self, spec: str) -> str:
        form = _FORMATS.get(spec)
        return form(self) if form else format(str(self), spec)

    def __eq__(self, other: object) -> bool:
        return self._raw == other._raw if isinstance(other, PublicKey) else NotImplemented

    def __lt__(self, other: PublicKey) -> bool:
        return self._raw < other._raw if isinstance(other, PublicKey) else NotImplemented

    def __le__(self, other: PublicKey) -> bool:
        return self._raw <= other._raw if isinstance(other, PublicKey) else NotImplemented

    def __gt__(self, other: PublicKey) -> bool:
        return self._raw > other._raw if isinstance(other, PublicKey) else NotImplemented

    def __ge__(self, other: PublicKey) -> bool:
        return self._raw >= other._raw if isinstance(other, PublicKey) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._raw)

    def __reduce__(self) -> tuple[type[Self], tuple[bytes]]:
        return type(self), (self._raw,)


_FORMATS: Final[dict[str, Callable[[PublicKey], str]]] = {
    "short": PublicKey.fmt_short,
    "z32": PublicKey.to_z32,
    "b32": lambda key: base32_encode(key._raw),
}

EndpointId: TypeAlias = PublicKey
"""The id of an endpoint is its public key."""


def _about(error: OSError, path: str) -> OSError:
    """Name the file that a user asked for, not the one beside it that is renamed at the end."""
    folder = os.path.dirname(path) or "."
    if isinstance(error, FileNotFoundError) and not os.path.isdir(folder):
        why = f"there is no directory {folder}; make it first"
    else:
        why = os.strerror(error.errno) if error.errno else str(error)
    return type(error)(error.errno, f"the secret key cannot be kept: {why}", path)


class SecretKey:
    """An Ed25519 secret key: the 32-byte seed of RFC 8032.

    Its text never appears by accident: ``repr`` hides it and pickling is refused.
    Use `to_bytes` or `to_hex` to store it.  CPython cannot wipe `bytes`, so the
    seed stays in memory until it is overwritten by chance.
    """

    __slots__ = ("_keypair", "_public", "_seed")
    _seed: bytes
    _keypair: bytes  # seed then public key, as libsodium wants it
    _public: PublicKey

    def __init__(self, data: Buffer, /) -> None:
        from nacl.bindings import crypto_sign_seed_keypair

        seed = _check_length(as_bytes(data, "a key"))
        public, keypair = crypto_sign_seed_keypair(seed)
        self._seed = seed
        self._keypair = keypair
        self._public = PublicKey._from_valid(public)

    @classmethod
    def generate(cls) -> Self:
        """Make a new key from the random source of the operating system."""
        return cls(os.urandom(KEY_SIZE))

    @classmethod
    def from_bytes(cls, data: Buffer, /) -> Self:
        """Make a key from its 32 bytes, any of which are valid.

        Raises
        ------
        KeyParsingError
            Not 32 bytes.
        """
        return cls(data)

    @classmethod
    def parse(cls, text: str, /) -> Self:
        """Make a key from 64 lower-case hex digits or 52 characters of base32.

        Raises
        ------
        KeyParsingError
            The text is neither; the message does not repeat it.
        """
        return cls(_parse_32_bytes(text))

    @classmethod
    def load_or_create(cls, path: str | os.PathLike[str], /) -> Self:
        """Read a key from a file, or make a new one and write it there.

        The file holds 64 hex digits and a line end; what `to_bytes` gives, written as it
        is, is read too.  A new file is for its owner alone (mode 0600), and appears whole or
        not at all: of several processes that start at once, all get the same key.

        Raises
        ------
        KeyParsingError
            The file holds something else.
        OSError
            It cannot be read or written; ``filename`` is `path`.  Directories are not made.
        """
        text = os.fspath(path) if isinstance(path, os.PathLike) else path
        if not isinstance(text, str):
            raise TypeError(f"path is text or a Path, not {type(text).__name__}")
        try:
            return cls._load(text)
        except FileNotFoundError:
            pass
        key = cls.generate()
        try:
            return key if key._create(text) else cls._load(text)
        except OSError as error:
            raise _about(error, text) from error

    def _create(self, path: str) -> bool:
        """Write a new file; False if another process was faster."""
        fresh = f"{path}.{os.getpid()}.{os.urandom(4).hex()}"
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with open(fd, "w", encoding="ascii") as file:
                file.write(self.to_hex() + "\n")
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(fresh, path)  # fails if another process was faster
            except FileExistsError:
                return False
            except OSError:  # a file system without links
                os.rename(fresh, path)
        finally:
            try:
                os.unlink(fresh)
            except FileNotFoundError:
                pass
        return True

    @classmethod
    def _load(cls, path: str) -> Self:
        with open(path, "rb") as file:
            data = file.read(256)
        if len(data) == KEY_SIZE:
            return cls(data)
        try:
            return cls.parse(data.decode("ascii").strip())
        except (KeyParsingError, UnicodeDecodeError):
            # What the file holds stays out of the message.
            raise KeyParsingError(f"{path} holds no secret key: 64 hex digits or 32 bytes") from None

    @property
    def public(self) -> EndpointId:
        """The public key, which is the id of an endpoint using this key."""
        return self._public

    def to_bytes(self) -> bytes:
        """Return the 32-byte seed.  Keep it secret."""
        return self._seed

    def to_hex(self) -> str:
        """Return the seed as 64 hex digits, as `parse` takes it.  Keep it secret."""
        return self._seed.hex()

    def sign(self, message: Buffer, /) -> Signature:
        """Sign `message` with pure Ed25519 (RFC 8032 §5.1.6), deterministic."""
        from nacl.bindings import crypto_sign

        return Signature(crypto_sign(as_bytes(message, "message"), self._keypair)[:SIGNATURE_SIZE])

    def __repr__(self) -> str:
        return "SecretKey(..)"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SecretKey):
            return NotImplemented
        from hmac import compare_digest  # late: it loads all of hashlib

        return compare_digest(self._seed, other._seed)

    def __hash__(self) -> int:
        return hash(self._public)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any], /) -> Self:
        return self

    def __reduce_ex__(self, protocol: Any, /) -> NoReturn:
        raise TypeError("a SecretKey is not pickled; store to_bytes() in a safe place")
