"""WebSocket framing (RFC 6455), for both ends of a relay connection."""

from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memmove

from iroh_fast._view cimport View, view_of

from ..errors import WsProtocolError

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


cdef object ws_error(int code):
    return WsProtocolError(f"WebSocket: {_WS_ERRORS[code]}", code=1009 if code == WS_E_TOO_BIG else 1002)


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
        cdef View view = view_of(data)
        if view.size:
            self.reserve(view.size)
            memcpy(self.memory.data + self.end, view.data, view.size)
            self.end += view.size

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
    cdef View view = view_of(payload)
    cdef View key
    cdef size_t n = view.size
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
        key = view_of(mask)
        if key.size != 4:
            raise ValueError("a mask is 4 bytes")
        memcpy(&word, key.data, 4)
        memcpy(head + size, &word, 4)
        size += 4
    out = PyBytes_FromStringAndSize(NULL, size + n)
    p = <uint8_t*>PyBytes_AS_STRING(out)
    memcpy(p, head, size)
    if n:
        ws_xor(p + size, view.data, n, word)
    return out
