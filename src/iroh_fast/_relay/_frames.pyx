"""Relay frames: what of them is read and written, and which keys in them are keys.

`encode_frame` and `decode_frame` translate single frames and are meant for tests, tools and rare frames.

Wire: sub-protocols ``iroh-relay-v1`` and ``iroh-relay-v2`` of iroh.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from iroh_fast._relay._websocket cimport WS_BINARY, WS_CLOSE, WS_PING, WS_PONG, WS_TEXT, relay_hash, relay_varint
from iroh_fast._view cimport View, view_of

from ..errors import RelayFrameError
from ._websocket import build_message

cdef extern from "native/relay_point.h" nogil:
    int relay_is_point(const uint8_t* key)


DATAGRAM = FT_S2C_DATAGRAM
DATAGRAM_BATCH = FT_S2C_BATCH
ENDPOINT_GONE = FT_GONE
PING = FT_PING
PONG = FT_PONG
HEALTH = FT_HEALTH
RESTARTING = FT_RESTARTING
STATUS = FT_STATUS
# Kinds that ClientReader gives to WebSocket messages that hold no relay frame.
TEXT = 0x100 | WS_TEXT
WS_CLOSED = 0x100 | WS_CLOSE
WS_PINGED = 0x100 | WS_PING
WS_PONGED = 0x100 | WS_PONG

MAX_DATAGRAM_CONTENTS = MAX_FRAME - 34
MAX_BATCH_CONTENTS = MAX_FRAME - 36


_FRAME_ERRORS = {
    FE_UNEXPECTED_END: ("UnexpectedEnd", "the relay frame is cut short"),
    FE_UNKNOWN_TYPE: ("UnknownFrameType", "unknown relay frame type"),
    FE_INVALID_TYPE: ("InvalidFrameType", "relay frame of a type this side must not send"),
    FE_TOO_LARGE: ("FrameTooLarge", "relay frame of more than 65536 bytes"),
    FE_INVALID: ("InvalidFrame", "relay frame of a wrong length"),
    FE_PUBLIC_KEY: ("InvalidPublicKey", "relay frame with a key that is no point of the curve"),
    FE_VERSION: ("FrameNotAllowedInVersion", "relay frame that this protocol version does not have"),
    FE_ENCODING: ("InvalidProtocolMessageEncoding", "relay frame with text that is not UTF-8"),
    FE_EMPTY: ("EmptyPacket", "datagram without contents"),
}


cdef object frame_error(int code):
    kind, message = _FRAME_ERRORS[code]
    return RelayFrameError(message, kind=kind)


# --- keys ---------------------------------------------------------------------------------


cdef int key_cache_init(KeyCache* cache, size_t capacity, const uint8_t* seed) noexcept nogil:
    """Make room for `capacity` keys, rounded up; 0 or -1 without memory. Pages fill with use."""
    memset(cache, 0, sizeof(KeyCache))
    memcpy(cache.seed, seed, 16)
    if capacity == 0:
        return 0
    cdef size_t sets = 1
    while sets * 4 < capacity and sets < (<size_t>1 << 28):
        sets *= 2
    cache.keys = <uint8_t*>calloc(sets, 128)
    cache.next = <uint8_t*>calloc(sets, 1)
    if cache.keys == NULL or cache.next == NULL:
        key_cache_free(cache)
        return -1
    cache.sets = sets
    return 0


cdef void key_cache_free(KeyCache* cache) noexcept nogil:
    free(cache.keys)
    free(cache.next)
    cache.keys = cache.next = NULL
    cache.sets = 0


cdef bint key_is_point(KeyCache* cache, const uint8_t* key) noexcept nogil:
    """Is the key a point of the curve? An untouched slot is all zero, and y = 0 is a point."""
    cdef uint8_t* ways
    cdef size_t index, i
    if cache.sets == 0:
        return relay_is_point(key)
    index = relay_hash(cache.seed, key) & (cache.sets - 1)
    ways = cache.keys + index * 128
    for i in range(4):
        if memcmp(ways + 32 * i, key, 32) == 0:
            return True
    if not relay_is_point(key):
        return False
    memcpy(ways + 32 * cache.next[index], key, 32)
    cache.next[index] = (cache.next[index] + 1) & 3
    return True


def is_valid_key(key):
    """Tell whether 32 bytes decompress to a point, by the lenient rule of iroh.

    Parameters
    ----------
    key : Buffer
        The bytes; any other length gives False.

    Notes
    -----
    Cost: about 5 us. The same rule as `iroh_fast.PublicKey`.
    """
    cdef View view = view_of(key)
    return view.size == 32 and relay_is_point(view.data) == 1


# --- frames -------------------------------------------------------------------------------


cdef int parse_frame(const uint8_t* p, size_t n, int sender, int version, RelayFrame* f) noexcept nogil:
    """Take the payload of one binary message apart; 0 or a negated FE_ code. Keys are not checked."""
    cdef uint64_t kind
    cdef int size = relay_varint(p, n, &kind)
    if size == 0:
        return -FE_UNEXPECTED_END
    if kind > FT_STATUS:
        return -FE_UNKNOWN_TYPE
    if sender == FROM_CLIENT:
        if not (kind == FT_C2S_DATAGRAM or kind == FT_C2S_BATCH or kind == FT_PING or kind == FT_PONG):
            return -FE_INVALID_TYPE
    elif kind < FT_S2C_DATAGRAM:
        return -FE_INVALID_TYPE
    p += size
    n -= size
    if n > MAX_AFTER_TYPE:
        return -FE_TOO_LARGE
    f.type = <int>kind
    f.ecn = 0
    f.segment_size = 0
    f.key = NULL
    f.body = p
    f.body_len = n
    if kind == FT_C2S_DATAGRAM or kind == FT_S2C_DATAGRAM:
        if n < 33:
            return -FE_INVALID
        f.key = p
        f.ecn = p[32] & 3
        f.body = p + 33
        f.body_len = n - 33
    elif kind == FT_C2S_BATCH or kind == FT_S2C_BATCH:
        if n < 35:
            return -FE_INVALID
        f.key = p
        f.ecn = p[32] & 3
        f.segment_size = <uint32_t>p[33] << 8 | p[34]
        if f.segment_size == 0:
            f.type -= 1
        f.body = p + 35
        f.body_len = n - 35
    elif kind == FT_GONE:
        if n != 32:
            return -FE_INVALID
        f.key = p
    elif kind == FT_PING or kind == FT_PONG or kind == FT_RESTARTING:
        if n != 8:
            return -FE_INVALID
    elif kind == FT_HEALTH:
        if version != 1:
            return -FE_VERSION
    elif version == 1:
        return -FE_VERSION
    elif n == 0:
        return -FE_INVALID
    return 0


cdef inline uint32_t be32(const uint8_t* p) noexcept nogil:
    return <uint32_t>p[0] << 24 | <uint32_t>p[1] << 16 | <uint32_t>p[2] << 8 | p[3]


def decode_frame(data, *, sender, int version=2):
    """Decode one relay frame, the payload of one binary WebSocket message.

    Parameters
    ----------
    data : Buffer
        Frame type and body.
    sender : str
        Who sent it: ``"client"`` or ``"server"``.
    version : int
        Protocol version, 1 or 2.

    Returns
    -------
    dict
        ``type`` (int) and, by type: ``dst`` or ``src``, ``ecn``, ``segment_size`` (None: single
        datagram), ``contents``; ``endpoint``; ``data`` (ping, pong); ``text`` (health);
        ``reconnect_in_ms``, ``try_for_ms``; ``status``.

    Raises
    ------
    RelayFrameError
        Not a frame that `sender` may send; `kind` tells why.
    """
    cdef View view = view_of(data)
    cdef RelayFrame f
    cdef int side
    if sender == "client":
        side = FROM_CLIENT
    elif sender == "server":
        side = FROM_SERVER
    else:
        raise ValueError(f"sender is 'client' or 'server', not {sender!r}")
    cdef int code = parse_frame(view.data, view.size, side, version, &f)
    if code < 0:
        raise frame_error(-code)
    if f.key != NULL and not relay_is_point(f.key):
        raise frame_error(FE_PUBLIC_KEY)
    body = PyBytes_FromStringAndSize(<const char*>f.body, f.body_len)
    if f.type == FT_GONE:
        return {"type": f.type, "endpoint": body}
    if f.type == FT_PING or f.type == FT_PONG:
        return {"type": f.type, "data": body}
    if f.type == FT_HEALTH:
        try:
            return {"type": f.type, "text": body.decode()}
        except UnicodeDecodeError:
            raise frame_error(FE_ENCODING) from None
    if f.type == FT_RESTARTING:
        return {"type": f.type, "reconnect_in_ms": be32(f.body), "try_for_ms": be32(f.body + 4)}
    if f.type == FT_STATUS:
        return {"type": f.type, "status": f.body[0]}
    return {
        "type": f.type,
        "dst" if side == FROM_CLIENT else "src": PyBytes_FromStringAndSize(<const char*>f.key, 32),
        "ecn": f.ecn,
        "segment_size": f.segment_size or None,
        "contents": body,
    }


def encode_frame(frame):
    """Encode one relay frame; takes what `decode_frame` gives.

    Raises
    ------
    RelayFrameError
        A datagram without contents (``EmptyPacket``) or with too much (``FrameTooLarge``), which
        a receiver would refuse.
    ValueError, KeyError
        A field is out of range, of a wrong length, or missing.
    """
    kind = frame["type"]
    head = bytes((kind,))
    if FT_C2S_DATAGRAM <= kind <= FT_S2C_BATCH:
        key = frame["dst" if kind <= FT_C2S_BATCH else "src"]
        ecn = frame["ecn"]
        contents = bytes(frame["contents"])
        segment = frame["segment_size"] or 0
        if len(key) != 32 or not 0 <= ecn <= 3:
            raise ValueError("a datagram has a key of 32 bytes and an ECN mark from 0 to 3")
        if not contents:
            raise frame_error(FE_EMPTY)
        kind = kind & ~1 | (segment != 0)
        head = bytes((kind,)) + key + bytes((ecn,))
        if segment:
            head += segment.to_bytes(2, "big")
        if len(head) + len(contents) > MAX_FRAME:
            raise frame_error(FE_TOO_LARGE)
        return head + contents
    if kind == FT_GONE:
        body = frame["endpoint"]
        if len(body) != 32:
            raise ValueError("an endpoint id is 32 bytes")
    elif kind == FT_PING or kind == FT_PONG:
        body = frame["data"]
        if len(body) != 8:
            raise ValueError("pings and pongs carry 8 bytes")
    elif kind == FT_HEALTH:
        body = frame["text"].encode()
        if len(body) >= MAX_FRAME:
            raise frame_error(FE_TOO_LARGE)
    elif kind == FT_RESTARTING:
        body = frame["reconnect_in_ms"].to_bytes(4, "big") + frame["try_for_ms"].to_bytes(4, "big")
    elif kind == FT_STATUS:
        body = bytes((frame["status"],))
    else:
        raise ValueError(f"{kind} is not the type of a relay frame")
    return head + body


def build_frame(int type, body=b"", mask=None):
    """Build the WebSocket message of one relay or handshake frame; `mask` as for `build_message`."""
    if not 0 <= type <= FT_STATUS:
        raise ValueError(f"{type} is not the type of a relay frame")
    return build_message(WS_BINARY, bytes((type,)) + bytes(body), mask)


def build_datagram(key, ecn, segment_size, data, mask):
    """Build the masked WebSocket message of one datagram or batch (types 4 and 5).

    Parameters are those of `ClientWriter.add_datagram`, which is the faster way for many; `mask`
    is 4 random bytes.
    """
    frame = {"type": FT_C2S_DATAGRAM, "dst": bytes(key), "ecn": ecn, "segment_size": segment_size,
             "contents": data}
    return build_message(WS_BINARY, encode_frame(frame), mask)
