"""What a relay client runs per datagram: frames taken out of a byte stream, and put into one."""

import os

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memcpy

from iroh_fast._relay._frames cimport (
    FE_EMPTY, FE_PUBLIC_KEY, FE_TOO_LARGE, FROM_SERVER, FT_C2S_BATCH, FT_C2S_DATAGRAM, FT_GONE, FT_STATUS, MAX_FRAME,
    RelayFrame, frame_error, key_cache_free, key_cache_init, key_is_point, parse_frame)
from iroh_fast._relay._websocket cimport (
    MAX_MESSAGE, READ_BYTES, SMALLEST, WS_BINARY, WS_CLOSE, WS_E_TOO_BIG, WS_PONG, WS_TEXT, WsReader, ws_error,
    ws_mask_at, ws_put_head, ws_xor)
from iroh_fast._view cimport View, view_of

cdef enum:
    MASK_POOL = 4096


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
        cdef View dst = view_of(key)
        cdef View view = view_of(data)
        cdef uint8_t head[36]
        cdef size_t n = view.size
        cdef size_t size = 36 if segment_size else 34
        if dst.size != 32 or segment_size > 65535 or not 0 <= ecn <= 3:
            raise ValueError("key, ECN mark or segment size out of range")
        if n == 0:
            raise frame_error(FE_EMPTY)
        if size + n > MAX_FRAME:
            raise frame_error(FE_TOO_LARGE)
        head[0] = FT_C2S_BATCH if segment_size else FT_C2S_DATAGRAM
        memcpy(head + 1, dst.data, 32)
        head[33] = <uint8_t>ecn
        head[34] = <uint8_t>(segment_size >> 8)
        head[35] = <uint8_t>segment_size
        self.add(WS_BINARY, head, size, view.data, n)

    def add_frame(self, int type, body=b""):
        """Append a relay or handshake frame given by type (0 to 13) and body."""
        cdef View view = view_of(body)
        cdef uint8_t head = <uint8_t>type
        if not 0 <= type <= FT_STATUS:
            raise ValueError(f"{type} is not the type of a relay frame")
        if view.size >= MAX_FRAME:
            raise frame_error(FE_TOO_LARGE)
        self.add(WS_BINARY, &head, 1, view.data, view.size)

    def add_message(self, int opcode, payload=b""):
        """Append any WebSocket message as one frame, such as a pong or a close."""
        cdef View view = view_of(payload)
        cdef uint8_t none = 0
        if not (opcode == WS_TEXT or opcode == WS_BINARY or WS_CLOSE <= opcode <= WS_PONG):
            raise ValueError(f"{opcode} is not an opcode of a message")
        if view.size > MAX_MESSAGE or (opcode >= WS_CLOSE and view.size > 125):
            raise ws_error(WS_E_TOO_BIG)
        self.add(opcode, &none, 0, view.data, view.size)

    def take(self):
        """Hand over what was appended since the last call, as `bytes`."""
        data = PyBytes_FromStringAndSize(<const char*>self.out if self.out_len else NULL, self.out_len)
        self.out_len = 0
        if self.out_cap > 4 * READ_BYTES:
            free(self.out)
            self.out = NULL
            self.out_cap = 0
        return data
