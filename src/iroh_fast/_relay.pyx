"""Relay frames and their WebSocket framing, for both ends of a relay connection.

`encode_frame` and `decode_frame` translate single frames and are meant for tests, tools and rare
frames. `WsReader` and `ClientReader` take a byte stream apart, `ClientWriter` puts one together:
these are what a relay client runs per datagram. The server forwards in ``relay/_forward``.

Wire: sub-protocols ``iroh-relay-v1`` and ``iroh-relay-v2`` of iroh; RFC 6455.
"""

import os

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memmove, memset

from .errors import RelayFrameError, WsProtocolError


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

cdef enum:
    READ_BYTES = 65536            # room offered for one read
    SMALLEST = 4096
    MASK_POOL = 4096


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

_WS_ERRORS = {
    1: "reserved bits are set",
    2: "unknown opcode",
    3: "control frame that is fragmented or longer than 125 bytes",
    4: "length is not encoded in the shortest form",
    5: "frame is masked by the wrong side",
    WS_E_SEQUENCE: "fragments out of order",
    WS_E_CLOSE: "malformed close frame",
    WS_E_TOO_BIG: "message is too big",
}


cdef object frame_error(int code):
    kind, message = _FRAME_ERRORS[code]
    return RelayFrameError(message, kind=kind)


cdef object ws_error(int code):
    return WsProtocolError(f"WebSocket: {_WS_ERRORS[code]}", code=1009 if code == WS_E_TOO_BIG else 1002)


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
    cdef const uint8_t[::1] view = key
    return view.shape[0] == 32 and relay_is_point(&view[0]) == 1


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
    cdef const uint8_t[::1] view = data
    cdef RelayFrame f
    cdef uint8_t none = 0
    cdef int side
    if sender == "client":
        side = FROM_CLIENT
    elif sender == "server":
        side = FROM_SERVER
    else:
        raise ValueError(f"sender is 'client' or 'server', not {sender!r}")
    cdef int code = parse_frame(&view[0] if view.shape[0] else &none, view.shape[0], side, version, &f)
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


# --- reading ------------------------------------------------------------------------------


cdef class _Memory:
    """Bytes that live as long as somebody looks at them."""

    def __cinit__(self, size_t size):
        self.data = <uint8_t*>malloc(size)
        if self.data == NULL:
            raise MemoryError
        self.size = size

    def __dealloc__(self):
        free(self.data)

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.data, self.size, 0, flags)

    def __releasebuffer__(self, Py_buffer* buffer):
        pass


cdef bint close_payload_ok(const uint8_t* p, size_t n) noexcept nogil:
    """Is this the payload of a close frame (RFC 6455 §5.5.1, §7.4)?"""
    cdef int code
    if n == 0:
        return True
    if n == 1:
        return False
    code = p[0] << 8 | p[1]
    return (1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999)


cdef class WsReader:
    """Incremental WebSocket parser over a buffer of its own.

    Bytes come in by `feed`, or by `get_buffer` and `buffer_updated` as
    `asyncio.BufferedProtocol` wants them; messages go out by `next_message`.

    Parameters
    ----------
    role : str
        The side that reads: a ``"server"`` insists on masked frames, a ``"client"`` on unmasked.
    max_payload : int
        Limit in bytes of a frame and of a reassembled message.

    Notes
    -----
    Memory is bounded by one incomplete frame, the message under assembly and one read, as long
    as messages are taken out after every read.
    """

    def __cinit__(self, *_, **__):
        self.max_payload = MAX_MESSAGE
        self.memory = _Memory(SMALLEST)

    def __init__(self, role, max_payload=MAX_MESSAGE):
        if role not in ("client", "server"):
            raise ValueError(f"role is 'client' or 'server', not {role!r}")
        if not 0 < max_payload <= 1 << 30:
            raise ValueError(f"max_payload is from 1 to 2**30, not {max_payload!r}")
        self.want_mask = role == "server"
        self.max_payload = max_payload

    def __dealloc__(self):
        free(self.pending)

    @property
    def buffered(self):
        """Bytes received and not yet taken out."""
        return self.end - self.start

    cdef int reserve(self, size_t room) except -1:
        """Make `room` bytes free behind the received ones."""
        cdef size_t held = self.end - self.start
        cdef size_t size
        cdef _Memory memory
        if held == 0:
            self.start = self.end = 0
        if self.memory.size - self.end >= room:
            return 0
        if held + room <= self.memory.size:
            memmove(self.memory.data, self.memory.data + self.start, held)
        else:
            if held > self.max_payload + 14 + 4 * READ_BYTES and held > 16 * READ_BYTES:
                raise BufferError("messages are not taken out of the WebSocket reader")
            size = self.memory.size
            while size < held + room:
                size *= 2
            # A view handed out before keeps the old memory alive.
            memory = _Memory(size)
            memcpy(memory.data, self.memory.data + self.start, held)
            self.memory = memory
        self.start = 0
        self.end = held
        return 0

    def get_buffer(self, Py_ssize_t sizehint=-1):
        """Give memory to read into; valid until the next call of this object."""
        self.reserve(READ_BYTES if sizehint < READ_BYTES else min(sizehint, 4 * READ_BYTES))
        return memoryview(self.memory)[self.end :]

    def buffer_updated(self, size_t nbytes):
        """Count `nbytes` bytes that were written to the start of what `get_buffer` gave."""
        if nbytes > self.memory.size - self.end:
            raise ValueError("more bytes than get_buffer gave room for")
        self.end += nbytes

    def feed(self, data):
        """Append a copy of `data`."""
        cdef const uint8_t[::1] view = data
        cdef size_t n = view.shape[0]
        if n:
            self.reserve(n)
            memcpy(self.memory.data + self.end, &view[0], n)
            self.end += n

    def take_rest(self):
        """Take out all bytes that are not yet part of a message; the reader is done then."""
        data = PyBytes_FromStringAndSize(<const char*>self.memory.data + self.start, self.end - self.start)
        self.start = self.end
        return data

    cdef int c_next(self, int* opcode, const uint8_t** data, size_t* size) except? -100:
        cdef ws_head head
        cdef uint8_t* p
        cdef uint8_t* bigger
        cdef size_t cap
        cdef int got
        while self.failed == 0:
            got = ws_parse(self.memory.data + self.start, self.end - self.start, self.want_mask, &head)
            if got < 0:
                self.failed = -got
                break
            if got == 0:
                return 0
            if head.len > self.max_payload:
                self.failed = WS_E_TOO_BIG
                break
            if head.opcode < WS_CLOSE:
                if (head.opcode == WS_CONTINUATION) != (self.message_opcode != 0):
                    self.failed = WS_E_SEQUENCE
                    break
                if head.len > self.max_payload - self.pending_len:
                    self.failed = WS_E_TOO_BIG
                    break
            if self.end - self.start - <size_t>got < head.len:
                if self.memory.size - self.start < <size_t>got + head.len:
                    self.reserve(<size_t>got + head.len - (self.end - self.start))
                return 0
            p = self.memory.data + self.start + got
            self.start += <size_t>got + head.len
            if self.want_mask:
                ws_xor(p, p, head.len, head.mask)
            if head.opcode >= WS_CLOSE or (head.fin and head.opcode != WS_CONTINUATION):
                if head.opcode == WS_CLOSE and not close_payload_ok(p, head.len):
                    self.failed = WS_E_CLOSE
                    break
                opcode[0] = head.opcode
                data[0] = p
                size[0] = head.len
                return 1
            if self.pending_cap - self.pending_len < head.len:
                cap = self.pending_cap or SMALLEST
                while cap - self.pending_len < head.len:
                    cap *= 2
                bigger = <uint8_t*>realloc(self.pending, cap)
                if bigger == NULL:
                    raise MemoryError
                self.pending = bigger
                self.pending_cap = cap
            if head.len:
                memcpy(self.pending + self.pending_len, p, head.len)
            self.pending_len += head.len
            if head.opcode != WS_CONTINUATION:
                self.message_opcode = head.opcode
            if head.fin:
                opcode[0] = self.message_opcode
                data[0] = self.pending
                size[0] = self.pending_len
                self.message_opcode = 0
                self.pending_len = 0
                return 1
        return -self.failed

    def next_message(self):
        """Take out the next message.

        Returns
        -------
        tuple of (int, bytes) or None
            Opcode (1 text, 2 binary, 8 close, 9 ping, 10 pong) and a copy of the payload,
            fragments put together; None when more bytes are needed.

        Raises
        ------
        WsProtocolError
            The peer broke RFC 6455 or the size limit; also at every later call.
        """
        cdef int opcode = 0
        cdef const uint8_t* data = NULL
        cdef size_t size = 0
        cdef int got = self.c_next(&opcode, &data, &size)
        if got < 0:
            raise ws_error(-got)
        if got == 0:
            return None
        return opcode, PyBytes_FromStringAndSize(<const char*>data, size)


cdef class ClientReader(WsReader):
    """Reader of a relay client: gives relay frames without a dict each.

    Use `next_message` during the handshake and `next` or `drain` after it.

    Parameters
    ----------
    version : int
        Protocol version, 1 or 2. May be set later with `set_version`, before the first frame.
    """

    def __cinit__(self, *_, **__):
        cdef bytes seed = os.urandom(16)
        self.version = 2
        if key_cache_init(&self.cache, 128, <const uint8_t*>PyBytes_AS_STRING(seed)) < 0:
            raise MemoryError

    def __init__(self, version=2, *, max_payload=MAX_MESSAGE):
        WsReader.__init__(self, "client", max_payload)
        self.set_version(version)

    def __dealloc__(self):
        key_cache_free(&self.cache)

    def set_version(self, version):
        """Set the protocol version that was negotiated: 1 or 2."""
        if version not in (1, 2):
            raise ValueError(f"the relay protocol has versions 1 and 2, not {version!r}")
        self.version = version

    cdef object _next_frame(self):
        cdef int opcode = 0
        cdef const uint8_t* data = NULL
        cdef size_t size = 0
        cdef RelayFrame f
        cdef int got = self.c_next(&opcode, &data, &size)
        if got == 0:
            return None
        if got < 0:
            raise ws_error(-got)
        if opcode != WS_BINARY:
            return 0x100 | opcode, b"", 0, 0, PyBytes_FromStringAndSize(<const char*>data, size)
        got = parse_frame(data, size, FROM_SERVER, self.version, &f)
        if got < 0:
            raise frame_error(-got)
        key = b""
        if f.key != NULL:
            if self.key_object is None or memcmp(f.key, self.good_key, 32) != 0:
                if not key_is_point(&self.cache, f.key):
                    raise frame_error(FE_PUBLIC_KEY)
                memcpy(self.good_key, f.key, 32)
                self.key_object = PyBytes_FromStringAndSize(<const char*>f.key, 32)
            key = self.key_object
        body = PyBytes_FromStringAndSize(<const char*>f.body, 0 if f.type == FT_GONE else f.body_len)
        return f.type, key, f.ecn, f.segment_size, body

    def next(self):
        """Take out the next relay frame.

        Returns
        -------
        tuple of (int, bytes, int, int, bytes) or None
            Kind, key, ECN mark, segment size (0: single datagram) and contents. Kinds are the
            frame types, of which `DATAGRAM`, `DATAGRAM_BATCH` and `ENDPOINT_GONE` have a key, and
            `TEXT`, `WS_CLOSED`, `WS_PINGED`, `WS_PONGED` for other WebSocket messages. None when
            more bytes are needed.

        Raises
        ------
        RelayFrameError, WsProtocolError
            Drop the connection.

        Notes
        -----
        Cost: a tuple and one copy of the contents; consecutive frames share the key object. Text
        of a `HEALTH` frame is not checked to be UTF-8.
        """
        return self._next_frame()

    def drain(self, size_t limit=1024):
        """Take out up to `limit` frames, as a list of what `next` gives."""
        cdef list found = []
        cdef size_t i
        for i in range(limit):
            item = self._next_frame()
            if item is None:
                break
            found.append(item)
        return found


# --- writing ------------------------------------------------------------------------------


cdef class ClientWriter:
    """Builds the masked messages of a relay client, many of them in one buffer.

    ``add_...`` methods append, `take` hands over everything so far. Mask keys come from the
    random source of the operating system (RFC 6455 §5.3), fetched for 1024 frames at a time.
    """

    def __cinit__(self):
        self.masks = <uint8_t*>malloc(MASK_POOL)
        if self.masks == NULL:
            raise MemoryError
        self.masks_used = MASK_POOL

    def __dealloc__(self):
        free(self.out)
        free(self.masks)

    def __len__(self):
        return self.out_len

    cdef uint32_t next_mask(self) except? 0:
        cdef bytes fresh
        cdef uint32_t mask
        if self.masks_used == MASK_POOL:
            fresh = os.urandom(MASK_POOL)
            memcpy(self.masks, <const uint8_t*>PyBytes_AS_STRING(fresh), MASK_POOL)
            self.masks_used = 0
        memcpy(&mask, self.masks + self.masks_used, 4)
        self.masks_used += 4
        return mask

    cdef uint8_t* room(self, size_t n) except NULL:
        cdef size_t cap = self.out_cap or SMALLEST
        cdef uint8_t* bigger
        if self.out_cap - self.out_len < n:
            while cap - self.out_len < n:
                cap *= 2
            bigger = <uint8_t*>realloc(self.out, cap)
            if bigger == NULL:
                raise MemoryError
            self.out = bigger
            self.out_cap = cap
        return self.out + self.out_len

    cdef int add(self, int opcode, const uint8_t* head, size_t head_len,
                 const uint8_t* body, size_t body_len) except -1:
        """Append one message whose payload is `head` and then `body`."""
        cdef uint32_t mask = self.next_mask()
        cdef size_t payload = head_len + body_len
        cdef uint8_t* p = self.room(payload + 14)
        cdef size_t n = ws_put_head(p, opcode, payload, 1)
        memcpy(p + n, &mask, 4)
        n += 4
        ws_xor(p + n, head, head_len, mask)
        ws_xor(p + n + head_len, body, body_len, ws_mask_at(mask, head_len))
        self.out_len += n + payload
        return 0

    def add_datagram(self, key, int ecn, size_t segment_size, data):
        """Append a datagram, or a batch of datagrams.

        Parameters
        ----------
        key : Buffer
            Destination, 32 bytes.
        ecn : int
            ECN mark, 0 to 3.
        segment_size : int
            0 for a single datagram, else the size of each in `data` but the last, which may be
            shorter; at most 65535.
        data : Buffer
            1 to 65502 bytes, or 65500 of a batch. Copied.

        Raises
        ------
        RelayFrameError
            No data (``EmptyPacket``) or too much (``FrameTooLarge``); nothing was appended.
        """
        cdef const uint8_t[::1] dst = key
        cdef const uint8_t[::1] view = data
        cdef uint8_t head[36]
        cdef size_t n = view.shape[0]
        cdef size_t size = 36 if segment_size else 34
        if dst.shape[0] != 32 or segment_size > 65535 or not 0 <= ecn <= 3:
            raise ValueError("key, ECN mark or segment size out of range")
        if n == 0:
            raise frame_error(FE_EMPTY)
        if size + n > MAX_FRAME:
            raise frame_error(FE_TOO_LARGE)
        head[0] = FT_C2S_BATCH if segment_size else FT_C2S_DATAGRAM
        memcpy(head + 1, &dst[0], 32)
        head[33] = <uint8_t>ecn
        head[34] = <uint8_t>(segment_size >> 8)
        head[35] = <uint8_t>segment_size
        self.add(WS_BINARY, head, size, &view[0], n)

    def add_frame(self, int type, body=b""):
        """Append a relay or handshake frame given by type (0 to 13) and body."""
        cdef const uint8_t[::1] view = body
        cdef uint8_t head = <uint8_t>type
        cdef size_t n = view.shape[0]
        if not 0 <= type <= FT_STATUS:
            raise ValueError(f"{type} is not the type of a relay frame")
        if n >= MAX_FRAME:
            raise frame_error(FE_TOO_LARGE)
        self.add(WS_BINARY, &head, 1, &view[0] if n else &head, n)

    def add_message(self, int opcode, payload=b""):
        """Append any WebSocket message as one frame, such as a pong or a close."""
        cdef const uint8_t[::1] view = payload
        cdef uint8_t none = 0
        cdef size_t n = view.shape[0]
        if not (opcode == WS_TEXT or opcode == WS_BINARY or WS_CLOSE <= opcode <= WS_PONG):
            raise ValueError(f"{opcode} is not an opcode of a message")
        if n > MAX_MESSAGE or (opcode >= WS_CLOSE and n > 125):
            raise ws_error(WS_E_TOO_BIG)
        self.add(opcode, &none, 0, &view[0] if n else &none, n)

    def take(self):
        """Hand over what was appended since the last call, as `bytes`."""
        data = PyBytes_FromStringAndSize(<const char*>self.out if self.out_len else NULL, self.out_len)
        self.out_len = 0
        if self.out_cap > 4 * READ_BYTES:
            free(self.out)
            self.out = NULL
            self.out_cap = 0
        return data


def build_message(int opcode, payload=b"", mask=None):
    """Build one WebSocket message as a single frame.

    Parameters
    ----------
    opcode : int
        1 text, 2 binary, 8 close, 9 ping, 10 pong.
    payload : Buffer
        At most 1 MiB, 125 bytes for the last three.
    mask : Buffer, optional
        Four bytes; with it the frame is one of a client, without it one of a server.
    """
    cdef const uint8_t[::1] view = payload
    cdef const uint8_t[::1] key
    cdef size_t n = view.shape[0]
    cdef uint8_t head[14]
    cdef uint32_t word = 0
    cdef bytes out
    cdef uint8_t* p
    cdef int size
    if not (opcode == WS_TEXT or opcode == WS_BINARY or WS_CLOSE <= opcode <= WS_PONG):
        raise ValueError(f"{opcode} is not an opcode of a message")
    if n > MAX_MESSAGE or (opcode >= WS_CLOSE and n > 125):
        raise ws_error(WS_E_TOO_BIG)
    size = ws_put_head(head, opcode, n, mask is not None)
    if mask is not None:
        key = mask
        if key.shape[0] != 4:
            raise ValueError("a mask is 4 bytes")
        memcpy(&word, &key[0], 4)
        memcpy(head + size, &word, 4)
        size += 4
    out = PyBytes_FromStringAndSize(NULL, size + n)
    p = <uint8_t*>PyBytes_AS_STRING(out)
    memcpy(p, head, size)
    if n:
        ws_xor(p + size, &view[0], n, word)
    return out


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
