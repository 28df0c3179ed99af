"""Frames as dictionaries, for Python code: tests, fuzzing, qlog and tools. A connection never calls these."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport uint8_t, uint16_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from iroh_fast._packet._frames cimport (
    DEC_TRUNCATED, DEC_UNKNOWN, FT_ACK, FT_ACK_ECN, FT_ACK_FREQUENCY, FT_ADD_ADDRESS_V4, FT_ADD_ADDRESS_V6,
    FT_APPLICATION_CLOSE, FT_CONNECTION_CLOSE, FT_CRYPTO, FT_DATAGRAM, FT_DATA_BLOCKED, FT_HANDSHAKE_DONE,
    FT_IMMEDIATE_ACK, FT_MAX_DATA, FT_MAX_PATH_ID, FT_MAX_STREAMS_BIDI, FT_MAX_STREAMS_UNI, FT_MAX_STREAM_DATA,
    FT_NEW_CONNECTION_ID, FT_NEW_TOKEN, FT_OBSERVED_ADDR_V4, FT_OBSERVED_ADDR_V6, FT_PADDING, FT_PATHS_BLOCKED,
    FT_PATH_ABANDON, FT_PATH_ACK, FT_PATH_ACK_ECN, FT_PATH_CHALLENGE, FT_PATH_CIDS_BLOCKED, FT_PATH_NEW_CONNECTION_ID,
    FT_PATH_RESPONSE, FT_PATH_RETIRE_CONNECTION_ID, FT_PATH_STATUS_AVAILABLE, FT_PATH_STATUS_BACKUP, FT_PING,
    FT_REACH_OUT_V4, FT_REACH_OUT_V6, FT_REMOVE_ADDRESS, FT_RESET_STREAM, FT_RETIRE_CONNECTION_ID, FT_STOP_SENDING,
    FT_STREAM, FT_STREAMS_BLOCKED_BIDI, FT_STREAMS_BLOCKED_UNI, FT_STREAM_DATA_BLOCKED, Frame, decode_frame,
    next_ack_range)
from iroh_fast._packet._numbers cimport as_uint
from iroh_fast._packet._put cimport (
    MAX_CONTROL_FRAME, MAX_STREAM_HEADER, ack_size, close_size, put_ack, put_ack_frequency, put_address, put_close,
    put_crypto_header, put_datagram_header, put_new_cid, put_new_token, put_path_data, put_stream_header, put_v1,
    put_v2, put_v3)
from iroh_fast._packet._varint cimport (
    MAX_CID, PATH_ID_MAX, STREAMS_MAX, TOKEN_LEN, V4_MAPPED, VARINT_MAX, get_varint, put_varint, varint_size)

import socket

cdef enum:
    MAX_PADDING = 65527           # the largest UDP payload


class FrameDecodeError(ValueError):
    """Report a payload that is no sequence of frames.

    Parameters
    ----------
    frame_type : int
        Type of the offending frame; 0 when the type itself is cut off.
    offset : int
        Where that frame starts in the payload, bytes.
    kind : {"truncated", "unknown", "malformed"}
        All three are FRAME_ENCODING_ERROR on the wire (RFC 9000 §12.4, §20.1).
    """

    def __init__(self, frame_type, offset, kind):
        super().__init__(frame_type, offset, kind)
        self.frame_type = frame_type
        self.offset = offset
        self.kind = kind

    def __str__(self):
        return f"{self.kind} frame of type {self.frame_type:#x} at offset {self.offset}"


cdef object decode_error(const Frame* f, Py_ssize_t offset, int err):
    kind = "truncated" if err == DEC_TRUNCATED else "unknown" if err == DEC_UNKNOWN else "malformed"
    return FrameDecodeError(f.type, offset, kind)


cdef bytes frame_data(const Frame* f):
    return PyBytes_FromStringAndSize(<const char*>f.data, <Py_ssize_t>f.len)


cdef dict ack_dict(const Frame* f):
    cdef const uint8_t* p = f.ranges
    cdef uint64_t smallest = f.largest - f.first
    cdef uint64_t lo, hi, i
    cdef list ranges = [(smallest, f.largest)]
    for i in range(f.range_count):
        p = next_ack_range(p, &smallest, &lo, &hi)
        ranges.append((lo, hi))
    if p != f.ranges_end:
        raise SystemError("ACK range walkers disagree")
    d = {"largest": f.largest, "delay": f.delay, "ranges": ranges}
    if f.has_ecn:
        d["ecn"] = (f.ect0, f.ect1, f.ce)
    return d


cdef tuple frame_addr(const Frame* f):
    if memcmp(f.ip, V4_MAPPED, 12) == 0:
        return socket.inet_ntop(socket.AF_INET, PyBytes_FromStringAndSize(<const char*>f.ip + 12, 4)), f.port
    return socket.inet_ntop(socket.AF_INET6, PyBytes_FromStringAndSize(<const char*>f.ip, 16)), f.port


cdef dict frame_dict(const Frame* f, uint64_t wire_type):
    cdef uint64_t t = f.type
    cdef dict d = {"type": wire_type}
    if (FT_PATH_ABANDON <= t <= FT_PATH_RETIRE_CONNECTION_ID or t == FT_PATH_CIDS_BLOCKED
            or t == FT_PATH_ACK or t == FT_PATH_ACK_ECN):
        d["path_id"] = f.path
    if t == FT_PADDING:
        d["length"] = f.len
    elif t == FT_ACK or t == FT_ACK_ECN or t == FT_PATH_ACK or t == FT_PATH_ACK_ECN:
        d.update(ack_dict(f))
    elif t == FT_RESET_STREAM:
        d.update(id=f.id, error=f.value, final_size=f.offset)
    elif t == FT_STOP_SENDING:
        d.update(id=f.id, error=f.value)
    elif t == FT_CRYPTO:
        d.update(offset=f.offset, data=frame_data(f))
    elif t == FT_NEW_TOKEN:
        d["token"] = frame_data(f)
    elif t == FT_STREAM:
        d.update(id=f.id, offset=f.offset, fin=bool(f.fin), data=frame_data(f))
    elif t == FT_MAX_DATA:
        d["max"] = f.value
    elif t == FT_MAX_STREAM_DATA:
        d.update(id=f.id, max=f.value)
    elif t == FT_MAX_STREAMS_BIDI or t == FT_MAX_STREAMS_UNI:
        d["count"] = f.value
    elif t == FT_DATA_BLOCKED or t == FT_STREAMS_BLOCKED_BIDI or t == FT_STREAMS_BLOCKED_UNI:
        d["limit"] = f.value
    elif t == FT_STREAM_DATA_BLOCKED:
        d.update(id=f.id, limit=f.value)
    elif t == FT_NEW_CONNECTION_ID or t == FT_PATH_NEW_CONNECTION_ID:
        d.update(seq=f.id, retire_prior_to=f.offset, cid=frame_data(f),
                 token=PyBytes_FromStringAndSize(<const char*>f.token, TOKEN_LEN))
    elif t == FT_PATH_CHALLENGE or t == FT_PATH_RESPONSE or t == FT_DATAGRAM:
        d["data"] = frame_data(f)
    elif t == FT_CONNECTION_CLOSE:
        d.update(code=f.value, frame_type=f.offset, reason=frame_data(f))
    elif t == FT_APPLICATION_CLOSE:
        d.update(code=f.value, reason=frame_data(f))
    elif t == FT_ACK_FREQUENCY:
        d.update(seq=f.id, ack_eliciting_threshold=f.value, request_max_ack_delay_us=f.value2,
                 reordering_threshold=f.offset)
    elif t == FT_PATH_ABANDON:
        d["error"] = f.value
    elif (t == FT_RETIRE_CONNECTION_ID or t == FT_PATH_RETIRE_CONNECTION_ID or t == FT_PATH_STATUS_BACKUP
          or t == FT_PATH_STATUS_AVAILABLE or t == FT_REMOVE_ADDRESS):
        d["seq"] = f.id
    elif t == FT_MAX_PATH_ID or t == FT_PATHS_BLOCKED:
        d["max"] = f.id
    elif t == FT_PATH_CIDS_BLOCKED:
        d["next_seq"] = f.value
    elif t == FT_REACH_OUT_V4 or t == FT_REACH_OUT_V6:
        d.update(round=f.id, addr=frame_addr(f))
    elif (t == FT_OBSERVED_ADDR_V4 or t == FT_OBSERVED_ADDR_V6 or t == FT_ADD_ADDRESS_V4
          or t == FT_ADD_ADDRESS_V6):
        d.update(seq=f.id, addr=frame_addr(f))
    return d


def decode_frames(payload):
    """Decode every frame of a packet payload.

    Parameters
    ----------
    payload : bytes-like
        Decrypted payload; borrowed for the call.

    Returns
    -------
    list of dict
        One per frame, in order; a run of PADDING is one. ``type`` is the type on the
        wire (STREAM 0x08 to 0x0f, DATAGRAM 0x30 or 0x31); the other keys are those that
        `encode_frame` lists. Byte strings are new ``bytes``.

    Raises
    ------
    FrameDecodeError
        Truncated, unknown or malformed frame.
    """
    cdef Py_buffer view
    cdef const uint8_t* base
    cdef const uint8_t* p
    cdef const uint8_t* end
    cdef const uint8_t* start
    cdef Frame f
    cdef uint64_t wire_type = 0
    cdef int err = 0
    cdef list out = []
    memset(&f, 0, sizeof(Frame))
    PyObject_GetBuffer(payload, &view, PyBUF_SIMPLE)
    try:
        base = <const uint8_t*>view.buf
        p = base
        end = base + view.len
        while p < end:
            start = p
            p = decode_frame(p, end, &f, &err)
            if p == NULL:
                raise decode_error(&f, start - base, err)
            get_varint(start, end, &wire_type)
            out.append(frame_dict(&f, wire_type))
    finally:
        PyBuffer_Release(&view)
    return out


# ---- Python: dicts to frames -----------------------------------------------

cdef object field(dict frame, str key):
    try:
        return frame[key]
    except KeyError:
        raise ValueError(f"the frame needs the field {key!r}") from None


cdef uint64_t number(dict frame, str key, uint64_t maximum=VARINT_MAX) except? 0xffffffffffffffff:
    return as_uint(field(frame, key), key, maximum)


cdef bytes octets(dict frame, str key, Py_ssize_t least=0, Py_ssize_t most=1 << 29):
    value = field(frame, key)
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise TypeError(f"{key} must be bytes-like")
    cdef bytes raw = bytes(value)
    if not least <= len(raw) <= most:
        raise ValueError(f"{key} must have {least} to {most} bytes, not {len(raw)}")
    return raw


cdef int address(dict frame, uint8_t* ip16, uint16_t* port) except -1:
    addr = field(frame, "addr")
    if not isinstance(addr, tuple) or len(addr) != 2 or not isinstance(addr[0], str):
        raise TypeError("addr must be a tuple (ip string, port)")
    cdef bytes ip
    try:
        if ":" in addr[0]:
            ip = socket.inet_pton(socket.AF_INET6, addr[0])
        else:
            ip = PyBytes_FromStringAndSize(<const char*>V4_MAPPED, 12) + socket.inet_pton(socket.AF_INET, addr[0])
    except OSError as error:
        raise ValueError(f"{addr[0]!r} is not an IP address") from error
    memcpy(ip16, PyBytes_AS_STRING(ip), 16)
    port[0] = <uint16_t>as_uint(addr[1], "port", 0xffff)
    return 0


cdef struct AckArgs:
    uint64_t* starts
    uint64_t* ends                # same allocation as starts
    int n
    uint64_t path
    uint64_t delay
    uint64_t ect0, ect1, ce


cdef int ack_args(dict frame, bint multipath, bint ecn, AckArgs* a) except -1:
    # On success the caller frees a.starts.
    cdef uint64_t lo, hi, above = 0
    cdef int i
    a.starts = NULL
    a.path = number(frame, "path_id", PATH_ID_MAX) if multipath else 0
    a.delay = number(frame, "delay")
    a.ect0 = a.ect1 = a.ce = 0
    if ecn:
        counts = field(frame, "ecn")
        if len(counts) != 3:
            raise ValueError("ecn must be (ect0, ect1, ce)")
        a.ect0 = as_uint(counts[0], "ecn", VARINT_MAX)
        a.ect1 = as_uint(counts[1], "ecn", VARINT_MAX)
        a.ce = as_uint(counts[2], "ecn", VARINT_MAX)
    ranges = list(field(frame, "ranges"))
    if not 1 <= len(ranges) <= 1 << 20:
        raise ValueError("ranges must have 1 to 2**20 entries")
    if number(frame, "largest") != ranges[0][1]:
        raise ValueError("largest must be the end of the first range")
    a.n = <int>len(ranges)
    a.starts = <uint64_t*>PyMem_Malloc(2 * a.n * sizeof(uint64_t))
    if a.starts == NULL:
        raise MemoryError
    a.ends = a.starts + a.n
    try:
        for i, (low, high) in enumerate(ranges):
            lo = as_uint(low, "ranges", VARINT_MAX)
            hi = as_uint(high, "ranges", VARINT_MAX)
            if lo > hi or (i and hi + 2 > above):
                raise ValueError("ranges must be (low, high), descending, with gaps between them")
            above = lo
            a.starts[a.n - 1 - i] = lo
            a.ends[a.n - 1 - i] = hi + 1
    except:
        PyMem_Free(a.starts)
        a.starts = NULL
        raise
    return 0


cdef bytes encode_ack(dict frame, bint multipath, bint ecn):
    cdef AckArgs a
    cdef size_t size
    cdef bytes out
    cdef uint8_t* p
    ack_args(frame, multipath, ecn, &a)
    try:
        size = ack_size(multipath, a.path, a.starts, a.ends, a.n, a.delay, ecn, a.ect0, a.ect1, a.ce)
        out = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size)
        p = <uint8_t*>PyBytes_AS_STRING(out)
        if put_ack(p, multipath, a.path, a.starts, a.ends, a.n, a.delay, ecn, a.ect0, a.ect1, a.ce) != p + size:
            raise SystemError("ack_size and put_ack disagree")
    finally:
        PyMem_Free(a.starts)
    return out


def encode_frame(dict frame):
    """Encode one frame with minimal varints.

    Parameters
    ----------
    frame : dict
        ``type`` and the fields of that type, all required:

        * PADDING 0x00: length (1 to 65527)
        * ACK 0x02, 0x03: largest, delay (wire units), ranges (list of inclusive
          (low, high), newest first), and for 0x03 ecn (ect0, ect1, ce)
        * RESET_STREAM: id, error, final_size; STOP_SENDING: id, error
        * CRYPTO: offset, data; NEW_TOKEN: token
        * STREAM 0x08 to 0x0f: id, offset, fin, data; of the type only the length bit
          counts, the others follow from offset and fin
        * MAX_DATA: max; MAX_STREAM_DATA: id, max; MAX_STREAMS_*: count
        * DATA_BLOCKED, STREAMS_BLOCKED_*: limit; STREAM_DATA_BLOCKED: id, limit
        * NEW_CONNECTION_ID: seq, retire_prior_to, cid, token; RETIRE_CONNECTION_ID: seq
        * PATH_CHALLENGE, PATH_RESPONSE, DATAGRAM 0x30 and 0x31: data
        * CONNECTION_CLOSE: code, frame_type, reason; APPLICATION_CLOSE: code, reason
        * ACK_FREQUENCY: seq, ack_eliciting_threshold, request_max_ack_delay_us,
          reordering_threshold
        * PATH_ACK 0x3e, 0x3f, PATH_NEW_CONNECTION_ID, PATH_RETIRE_CONNECTION_ID: path_id and
          the fields of the frame they extend
        * PATH_ABANDON: path_id, error; PATH_STATUS_*: path_id, seq
        * MAX_PATH_ID, PATHS_BLOCKED: max; PATH_CIDS_BLOCKED: path_id, next_seq
        * OBSERVED_ADDR, ADD_ADDRESS: seq, addr (ip string, port); REACH_OUT: round, addr.
          Either type of a pair will do: the address decides which is written.
        * REMOVE_ADDRESS: seq

    Returns
    -------
    bytes
        The frame.

    Raises
    ------
    ValueError
        Unknown type, missing field, or a value that the wire or RFC 9000 §19 forbids.
    TypeError
        A field of the wrong type.
    """
    cdef uint64_t t = number(frame, "type")
    cdef uint8_t room[MAX_CONTROL_FRAME]
    cdef uint8_t ip[16]
    cdef uint16_t port = 0
    cdef uint8_t* p = room
    cdef uint64_t a, b
    cdef bytes data = b""         # what follows the bytes in `room`
    cdef bytes extra
    if t == FT_PADDING:
        a = number(frame, "length", MAX_PADDING)
        if a == 0:
            raise ValueError("length must be at least 1")
        return bytes(a)
    elif t == FT_PING or t == FT_HANDSHAKE_DONE or t == FT_IMMEDIATE_ACK:
        p = put_varint(p, t)
    elif t == FT_ACK or t == FT_ACK_ECN:
        return encode_ack(frame, False, t == FT_ACK_ECN)
    elif t == FT_PATH_ACK or t == FT_PATH_ACK_ECN:
        return encode_ack(frame, True, t == FT_PATH_ACK_ECN)
    elif t == FT_RESET_STREAM:
        p = put_v3(p, t, number(frame, "id"), number(frame, "error"), number(frame, "final_size"))
    elif t == FT_STOP_SENDING:
        p = put_v2(p, t, number(frame, "id"), number(frame, "error"))
    elif t == FT_CRYPTO:
        data = octets(frame, "data")
        p = put_crypto_header(p, number(frame, "offset", VARINT_MAX - <uint64_t>len(data)), len(data))
    elif t == FT_NEW_TOKEN:
        data = octets(frame, "token", 1)
        extra = PyBytes_FromStringAndSize(NULL, 1 + varint_size(len(data)) + len(data))
        put_new_token(<uint8_t*>PyBytes_AS_STRING(extra), <const uint8_t*>PyBytes_AS_STRING(data), len(data))
        return extra
    elif FT_STREAM <= t <= FT_STREAM + 7:
        data = octets(frame, "data")
        a = number(frame, "offset", VARINT_MAX - <uint64_t>len(data))
        p = put_stream_header(p, number(frame, "id"), a, len(data), t & 2 != 0, bool(field(frame, "fin")))
    elif t == FT_MAX_DATA:
        p = put_v1(p, t, number(frame, "max"))
    elif t == FT_MAX_STREAM_DATA:
        p = put_v2(p, t, number(frame, "id"), number(frame, "max"))
    elif t == FT_MAX_STREAMS_BIDI or t == FT_MAX_STREAMS_UNI:
        p = put_v1(p, t, number(frame, "count", STREAMS_MAX))
    elif t == FT_DATA_BLOCKED:
        p = put_v1(p, t, number(frame, "limit"))
    elif t == FT_STREAM_DATA_BLOCKED:
        p = put_v2(p, t, number(frame, "id"), number(frame, "limit"))
    elif t == FT_STREAMS_BLOCKED_BIDI or t == FT_STREAMS_BLOCKED_UNI:
        p = put_v1(p, t, number(frame, "limit", STREAMS_MAX))
    elif t == FT_NEW_CONNECTION_ID or t == FT_PATH_NEW_CONNECTION_ID:
        data = octets(frame, "cid", 1, MAX_CID)
        extra = octets(frame, "token", TOKEN_LEN, TOKEN_LEN)
        a = number(frame, "seq")
        b = number(frame, "retire_prior_to", a)
        p = put_new_cid(p, t == FT_PATH_NEW_CONNECTION_ID,
                        number(frame, "path_id", PATH_ID_MAX) if t == FT_PATH_NEW_CONNECTION_ID else 0, a, b,
                        <const uint8_t*>PyBytes_AS_STRING(data), <uint8_t>len(data),
                        <const uint8_t*>PyBytes_AS_STRING(extra))
        data = b""
    elif t == FT_RETIRE_CONNECTION_ID or t == FT_REMOVE_ADDRESS:
        p = put_v1(p, t, number(frame, "seq"))
    elif t == FT_PATH_CHALLENGE or t == FT_PATH_RESPONSE:
        extra = octets(frame, "data", 8, 8)
        p = put_path_data(p, t, <const uint8_t*>PyBytes_AS_STRING(extra))
    elif t == FT_CONNECTION_CLOSE or t == FT_APPLICATION_CLOSE:
        data = octets(frame, "reason")
        a = number(frame, "code")
        b = number(frame, "frame_type") if t == FT_CONNECTION_CLOSE else 0
        extra = PyBytes_FromStringAndSize(
            NULL, <Py_ssize_t>close_size(t == FT_APPLICATION_CLOSE, a, b, len(data)))
        p = <uint8_t*>PyBytes_AS_STRING(extra)
        if put_close(p, t == FT_APPLICATION_CLOSE, a, b, <const uint8_t*>PyBytes_AS_STRING(data),
                     len(data)) != p + len(extra):
            raise SystemError("close_size and put_close disagree")
        return extra
    elif t == FT_DATAGRAM:
        data = octets(frame, "data")
        p = put_varint(p, t)
    elif t == FT_DATAGRAM + 1:
        data = octets(frame, "data")
        p = put_datagram_header(p, len(data))
    elif t == FT_ACK_FREQUENCY:
        p = put_ack_frequency(p, number(frame, "seq"), number(frame, "ack_eliciting_threshold"),
                              number(frame, "request_max_ack_delay_us"), number(frame, "reordering_threshold"))
    elif t == FT_PATH_ABANDON:
        p = put_v2(p, t, number(frame, "path_id", PATH_ID_MAX), number(frame, "error"))
    elif t == FT_PATH_STATUS_BACKUP or t == FT_PATH_STATUS_AVAILABLE or t == FT_PATH_RETIRE_CONNECTION_ID:
        p = put_v2(p, t, number(frame, "path_id", PATH_ID_MAX), number(frame, "seq"))
    elif t == FT_MAX_PATH_ID or t == FT_PATHS_BLOCKED:
        p = put_v1(p, t, number(frame, "max", PATH_ID_MAX))
    elif t == FT_PATH_CIDS_BLOCKED:
        p = put_v2(p, t, number(frame, "path_id", PATH_ID_MAX), number(frame, "next_seq"))
    elif t == FT_OBSERVED_ADDR_V4 or t == FT_OBSERVED_ADDR_V6:
        address(frame, ip, &port)
        p = put_address(p, FT_OBSERVED_ADDR_V4, number(frame, "seq"), ip, port)
    elif t == FT_ADD_ADDRESS_V4 or t == FT_ADD_ADDRESS_V6:
        address(frame, ip, &port)
        p = put_address(p, FT_ADD_ADDRESS_V4, number(frame, "seq"), ip, port)
    elif t == FT_REACH_OUT_V4 or t == FT_REACH_OUT_V6:
        address(frame, ip, &port)
        p = put_address(p, FT_REACH_OUT_V4, number(frame, "round"), ip, port)
    else:
        raise ValueError(f"unknown frame type {t:#x}")
    return PyBytes_FromStringAndSize(<const char*>room, p - room) + data


# ---- Python: measuring -----------------------------------------------------
def bench_decode(payload, Py_ssize_t n, bint walk=False):
    """Decode all frames of `payload` `n` times without touching Python objects.

    Parameters
    ----------
    payload : bytes-like
        Valid frames; borrowed for the call. The GIL is released.
    n : int
        Repetitions.
    walk : bool
        Also visit the ranges of ACK frames, as a sender does.

    Returns
    -------
    int
        Frames decoded in total.

    Raises
    ------
    FrameDecodeError
        The payload is invalid.
    """
    cdef Py_buffer view
    cdef const uint8_t* base
    cdef const uint8_t* start
    cdef const uint8_t* p
    cdef const uint8_t* q
    cdef const uint8_t* end
    cdef Frame f
    cdef uint64_t total = 0, i, smallest, lo, hi, numbers = 0
    cdef int err = 0
    memset(&f, 0, sizeof(Frame))
    PyObject_GetBuffer(payload, &view, PyBUF_SIMPLE)
    try:
        base = <const uint8_t*>view.buf
        start = base
        p = base
        end = base + view.len
        with nogil:
            while n > 0 and p != NULL:
                n -= 1
                p = base
                while p < end:
                    start = p
                    p = decode_frame(p, end, &f, &err)
                    if p == NULL:
                        break
                    total += 1
                    if walk and (f.type & ~<uint64_t>1 == FT_ACK or f.type & ~<uint64_t>1 == FT_PATH_ACK):
                        q = f.ranges
                        smallest = f.largest - f.first
                        i = f.range_count
                        while i:
                            q = next_ack_range(q, &smallest, &lo, &hi)
                            numbers += hi - lo + 1
                            i -= 1
        if p == NULL:
            raise decode_error(&f, start - base, err)
        if walk and numbers > VARINT_MAX:
            # Uses the sum, so that the walk cannot be optimised away.
            raise ValueError("repetitions out of range")
        return total
    finally:
        PyBuffer_Release(&view)


def bench_put(dict frame, Py_ssize_t n):
    """Write a STREAM header or an ACK `n` times without touching Python objects.

    Parameters
    ----------
    frame : dict
        STREAM, ACK or PATH_ACK as for `encode_frame`. The offset or the delay
        varies from one repetition to the next.
    n : int
        Repetitions.

    Returns
    -------
    int
        Bytes written in total.

    Raises
    ------
    ValueError
        Another frame type, or one that `encode_frame` refuses.
    """
    cdef uint64_t t = number(frame, "type")
    cdef uint64_t total = 0, id, offset
    cdef uint8_t room[MAX_STREAM_HEADER]
    cdef uint8_t* p
    cdef size_t size
    cdef AckArgs a
    cdef bint multipath = t & ~<uint64_t>1 == FT_PATH_ACK
    cdef bint ecn = t & 1
    cdef bint with_len = t & 2 != 0
    cdef bint fin
    if FT_STREAM <= t <= FT_STREAM + 7:
        id = number(frame, "id")
        size = len(octets(frame, "data"))
        offset = number(frame, "offset", VARINT_MAX - <uint64_t>size - 63)
        fin = field(frame, "fin")
        with nogil:
            while n > 0:
                total += <uint64_t>(put_stream_header(room, id, offset + (n & 63), size, with_len, fin) - room)
                n -= 1
        return total
    if not multipath and t & ~<uint64_t>1 != FT_ACK:
        raise ValueError("STREAM, ACK and PATH_ACK only")
    ack_args(frame, multipath, ecn, &a)
    try:
        # Two bytes for the delay at most, whatever the frame says.
        size = ack_size(multipath, a.path, a.starts, a.ends, a.n, 16383, ecn, a.ect0, a.ect1, a.ce)
        p = <uint8_t*>PyMem_Malloc(size)
        if p == NULL:
            raise MemoryError
        with nogil:
            while n > 0:
                total += <uint64_t>(put_ack(p, multipath, a.path, a.starts, a.ends, a.n, n & 16383, ecn,
                                            a.ect0, a.ect1, a.ce) - p)
                n -= 1
        PyMem_Free(p)
    finally:
        PyMem_Free(a.starts)
    return total
