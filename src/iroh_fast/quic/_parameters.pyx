"""Codec of QUIC transport parameters (RFC 9000 §18), without Python objects."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcmp, memcpy, memset

from iroh_fast._packet._varint cimport get_varint, put_varint, varint_size

cdef enum:
    MAX_BYTES = 16384             # as much as one TLS message can carry
    MAX_CID = 20
    MAX_UNKNOWN = 64              # unknown ids that are checked for duplicates
    MAX_KNOWN = 24                # parameters that we send

cdef uint64_t MAX_STREAMS = <uint64_t>1 << 60      # RFC 9000 §4.6
cdef uint64_t MAX_PATH_ID = 0xffffffff
cdef uint64_t VARINT_MAX = (<uint64_t>1 << 62) - 1

# ids
cdef enum:
    ORIGINAL_DESTINATION_CONNECTION_ID = 0x00
    MAX_IDLE_TIMEOUT = 0x01
    STATELESS_RESET_TOKEN = 0x02
    MAX_UDP_PAYLOAD_SIZE = 0x03
    INITIAL_MAX_DATA = 0x04
    INITIAL_MAX_STREAM_DATA_BIDI_LOCAL = 0x05
    INITIAL_MAX_STREAM_DATA_BIDI_REMOTE = 0x06
    INITIAL_MAX_STREAM_DATA_UNI = 0x07
    INITIAL_MAX_STREAMS_BIDI = 0x08
    INITIAL_MAX_STREAMS_UNI = 0x09
    ACK_DELAY_EXPONENT = 0x0a
    MAX_ACK_DELAY = 0x0b
    DISABLE_ACTIVE_MIGRATION = 0x0c
    PREFERRED_ADDRESS = 0x0d
    ACTIVE_CONNECTION_ID_LIMIT = 0x0e
    INITIAL_SOURCE_CONNECTION_ID = 0x0f
    RETRY_SOURCE_CONNECTION_ID = 0x10
    MAX_DATAGRAM_FRAME_SIZE = 0x20
    INITIAL_MAX_PATH_ID = 0x3e
    GREASE_QUIC_BIT = 0x2ab2
cdef uint64_t MIN_ACK_DELAY = 0xff04de1b           # acknowledgement frequency draft
cdef uint64_t ADDRESS_DISCOVERY = 0x9f81a176       # address discovery draft
cdef uint64_t N0_NAT_TRAVERSAL = 0x3d7f91120401

cdef uint64_t DEFAULT_UDP_PAYLOAD = 65527
cdef uint64_t DEFAULT_ACK_EXPONENT = 3
cdef uint64_t DEFAULT_ACK_DELAY_MS = 25
cdef uint64_t DEFAULT_CID_LIMIT = 2


cdef void parameters_init(Parameters* p) noexcept nogil:
    memset(p, 0, sizeof(Parameters))
    p.max_udp_payload_size = DEFAULT_UDP_PAYLOAD
    p.ack_delay_exponent = DEFAULT_ACK_EXPONENT
    p.max_ack_delay_ms = DEFAULT_ACK_DELAY_MS
    p.active_connection_id_limit = DEFAULT_CID_LIMIT


cdef bint cid_equals(const ParameterCid* cid, const uint8_t* value, size_t size) noexcept nogil:
    return cid.size == size and memcmp(cid.value, value, size) == 0


cdef void cid_set(ParameterCid* cid, const uint8_t* value, size_t size) noexcept nogil:
    cid.size = <uint8_t>size
    memcpy(cid.value, value, size)


# ------------------------------------------------------------- integers by id
cdef uint64_t* integer(Parameters* p, uint64_t key, uint32_t* bit) noexcept nogil:
    """Where the integer `key` is kept, or NULL; `bit`: its flag in `present`, if it has one."""
    bit[0] = 0
    if key == MAX_IDLE_TIMEOUT:
        return &p.max_idle_timeout_ms
    if key == MAX_UDP_PAYLOAD_SIZE:
        return &p.max_udp_payload_size
    if key == INITIAL_MAX_DATA:
        return &p.initial_max_data
    if key == INITIAL_MAX_STREAM_DATA_BIDI_LOCAL:
        return &p.initial_max_stream_data_bidi_local
    if key == INITIAL_MAX_STREAM_DATA_BIDI_REMOTE:
        return &p.initial_max_stream_data_bidi_remote
    if key == INITIAL_MAX_STREAM_DATA_UNI:
        return &p.initial_max_stream_data_uni
    if key == INITIAL_MAX_STREAMS_BIDI:
        return &p.initial_max_streams_bidi
    if key == INITIAL_MAX_STREAMS_UNI:
        return &p.initial_max_streams_uni
    if key == ACK_DELAY_EXPONENT:
        return &p.ack_delay_exponent
    if key == MAX_ACK_DELAY:
        return &p.max_ack_delay_ms
    if key == ACTIVE_CONNECTION_ID_LIMIT:
        return &p.active_connection_id_limit
    if key == MAX_DATAGRAM_FRAME_SIZE:
        return &p.max_datagram_frame_size
    if key == INITIAL_MAX_PATH_ID:
        bit[0] = HAS_MAX_PATH_ID
        return &p.initial_max_path_id
    if key == MIN_ACK_DELAY:
        bit[0] = HAS_MIN_ACK_DELAY
        return &p.min_ack_delay_us
    if key == ADDRESS_DISCOVERY:
        bit[0] = HAS_ADDRESS_DISCOVERY
        return &p.address_discovery
    return NULL


# ------------------------------------------------------------- decoding
cdef int take_cid(const uint8_t* value, size_t n, ParameterCid* cid) noexcept nogil:
    if n > MAX_CID:
        return PARAMETERS_MALFORMED
    cid_set(cid, value, n)
    return PARAMETERS_OK


cdef int take_preferred(const uint8_t* value, size_t n, PreferredEndpoint* preferred) noexcept nogil:
    cdef size_t size
    if n < 25:
        return PARAMETERS_MALFORMED
    size = value[24]
    if n != 25 + size + 16 or take_cid(value + 25, size, &preferred.cid) < 0:
        return PARAMETERS_MALFORMED
    memcpy(preferred.address, value, 24)
    memcpy(preferred.token, value + 25 + size, 16)
    return PARAMETERS_OK


cdef int take(Parameters* p, uint64_t key, const uint8_t* value, size_t n) noexcept nogil:
    """Take over one parameter; unknown ones are ignored."""
    cdef uint32_t bit
    cdef uint64_t number = 0
    cdef uint64_t* where = integer(p, key, &bit)
    if where != NULL:
        # INTEROP: noq compares the length with the minimal one, so only that is legal.
        if n == 0 or get_varint(value, value + n, &number) != value + n or varint_size(number) != <int>n:
            return PARAMETERS_MALFORMED
        where[0] = number
        p.present |= bit
        return PARAMETERS_OK
    if key == ORIGINAL_DESTINATION_CONNECTION_ID:
        p.present |= HAS_ORIGINAL_DCID
        return take_cid(value, n, &p.original_dcid)
    if key == INITIAL_SOURCE_CONNECTION_ID:
        p.present |= HAS_INITIAL_SCID
        return take_cid(value, n, &p.initial_scid)
    if key == RETRY_SOURCE_CONNECTION_ID:
        p.present |= HAS_RETRY_SCID
        return take_cid(value, n, &p.retry_scid)
    if key == PREFERRED_ADDRESS:
        p.present |= HAS_PREFERRED_ADDRESS
        return take_preferred(value, n, &p.preferred)
    if key == STATELESS_RESET_TOKEN:
        if n != 16:
            return PARAMETERS_MALFORMED
        p.present |= HAS_RESET_TOKEN
        memcpy(p.reset_token, value, 16)
    elif key == DISABLE_ACTIVE_MIGRATION:
        p.disable_active_migration = True
        return PARAMETERS_OK if n == 0 else PARAMETERS_MALFORMED
    elif key == GREASE_QUIC_BIT:
        p.grease_quic_bit = True
        return PARAMETERS_OK if n == 0 else PARAMETERS_MALFORMED
    elif key == N0_NAT_TRAVERSAL:
        if n != 1:                # INTEROP: one raw byte, not a varint
            return PARAMETERS_MALFORMED
        p.present |= HAS_NAT_TRAVERSAL
        p.n0_nat_traversal = value[0]
    return PARAMETERS_OK


cdef int parameters_decode(const uint8_t* data, size_t n, bint from_server, Parameters* p) noexcept nogil:
    cdef const uint8_t* at = data
    cdef const uint8_t* end = data + n
    cdef uint64_t unknown[MAX_UNKNOWN]
    cdef uint64_t low = 0         # ids below 64 that were there
    cdef uint64_t key, size
    cdef int i, count = 0
    parameters_init(p)
    if n > MAX_BYTES:
        return PARAMETERS_MALFORMED
    while at < end:
        at = get_varint(at, end, &key)
        at = get_varint(at, end, &size)
        if at == NULL or size > <uint64_t>(end - at) or take(p, key, at, size) < 0:
            return PARAMETERS_MALFORMED
        at += size
        if key < 64:
            if low >> key & 1:
                return PARAMETERS_MALFORMED
            low |= <uint64_t>1 << key
            continue
        for i in range(count):
            if unknown[i] == key:
                return PARAMETERS_MALFORMED
        # A bound on the work: the id of the 65th large one is not remembered (RFC 9000 §7.4 has a SHOULD).
        if count < MAX_UNKNOWN:
            unknown[count] = key
            count += 1
    return PARAMETERS_OK if parameters_legal(p, from_server) else PARAMETERS_ILLEGAL


cdef bint has(Parameters* p, uint32_t bit) noexcept nogil:
    return p.present & bit != 0


cdef bint nowhere(PreferredEndpoint* preferred) noexcept nogil:
    cdef int i
    for i in range(24):
        if i not in (4, 5, 22, 23) and preferred.address[i]:
            return False
    return True


cdef bint parameters_legal(Parameters* p, bint from_server) noexcept nogil:
    if (p.max_udp_payload_size < 1200 or p.ack_delay_exponent > 20 or p.max_ack_delay_ms >= 16384
            or p.active_connection_id_limit < 2 or p.initial_max_streams_bidi > MAX_STREAMS
            or p.initial_max_streams_uni > MAX_STREAMS):
        return False
    if has(p, HAS_MAX_PATH_ID) and p.initial_max_path_id > MAX_PATH_ID:
        return False
    if has(p, HAS_MIN_ACK_DELAY) and p.min_ack_delay_us > p.max_ack_delay_ms * 1000:
        return False
    if has(p, HAS_ADDRESS_DISCOVERY) and p.address_discovery > 2:
        return False
    if has(p, HAS_NAT_TRAVERSAL) and p.n0_nat_traversal == 0:
        return False
    if has(p, HAS_PREFERRED_ADDRESS) and (p.preferred.cid.size == 0 or nowhere(&p.preferred)):
        return False
    if from_server:
        return True
    return p.present & (HAS_ORIGINAL_DCID | HAS_RETRY_SCID | HAS_RESET_TOKEN | HAS_PREFERRED_ADDRESS) == 0


# ------------------------------------------------------------- encoding
cdef struct Piece:
    uint16_t at
    uint16_t size


cdef struct Writer:
    uint8_t data[PARAMETERS_BYTES]
    size_t size
    Piece pieces[MAX_KNOWN + 1]
    int count


cdef void put(Writer* w, uint64_t key, const uint8_t* value, size_t n) noexcept nogil:
    cdef uint8_t* start = w.data + w.size
    cdef uint8_t* at = put_varint(put_varint(start, key), n)
    memcpy(at, value, n)
    w.pieces[w.count].at = <uint16_t>w.size
    w.pieces[w.count].size = <uint16_t>(at + n - start)
    w.size += w.pieces[w.count].size
    w.count += 1


cdef void put_integer(Writer* w, uint64_t key, uint64_t value, uint64_t absent) noexcept nogil:
    cdef uint8_t encoded[8]
    if value != absent:
        put(w, key, encoded, <size_t>(put_varint(encoded, value) - encoded))


cdef void put_preferred(Writer* w, PreferredEndpoint* preferred) noexcept nogil:
    cdef uint8_t body[24 + 1 + 20 + 16]
    memcpy(body, preferred.address, 24)
    body[24] = preferred.cid.size
    memcpy(body + 25, preferred.cid.value, preferred.cid.size)
    memcpy(body + 25 + preferred.cid.size, preferred.token, 16)
    put(w, PREFERRED_ADDRESS, body, 25 + preferred.cid.size + 16)


cdef void put_reserved(Writer* w, const uint8_t* noise) noexcept nogil:
    """A parameter to be ignored (RFC 9000 §18.1): id 31·N + 27, 0 to 15 bytes."""
    cdef uint64_t count, key
    memcpy(&count, noise, 8)
    key = 31 * (count % ((VARINT_MAX - 27) // 31 + 1)) + 27
    if key == GREASE_QUIC_BIT or key == MIN_ACK_DELAY or key == ADDRESS_DISCOVERY or key == N0_NAT_TRAVERSAL:
        key = 27                  # nobody assigned this one
    put(w, key, noise + 9, noise[8] & 15)


cdef void put_all(Writer* w, Parameters* p) noexcept nogil:
    if p.present & HAS_ORIGINAL_DCID:
        put(w, ORIGINAL_DESTINATION_CONNECTION_ID, p.original_dcid.value, p.original_dcid.size)
    put_integer(w, MAX_IDLE_TIMEOUT, p.max_idle_timeout_ms, 0)
    if p.present & HAS_RESET_TOKEN:
        put(w, STATELESS_RESET_TOKEN, p.reset_token, 16)
    put_integer(w, MAX_UDP_PAYLOAD_SIZE, p.max_udp_payload_size, DEFAULT_UDP_PAYLOAD)
    put_integer(w, INITIAL_MAX_DATA, p.initial_max_data, 0)
    put_integer(w, INITIAL_MAX_STREAM_DATA_BIDI_LOCAL, p.initial_max_stream_data_bidi_local, 0)
    put_integer(w, INITIAL_MAX_STREAM_DATA_BIDI_REMOTE, p.initial_max_stream_data_bidi_remote, 0)
    put_integer(w, INITIAL_MAX_STREAM_DATA_UNI, p.initial_max_stream_data_uni, 0)
    put_integer(w, INITIAL_MAX_STREAMS_BIDI, p.initial_max_streams_bidi, 0)
    put_integer(w, INITIAL_MAX_STREAMS_UNI, p.initial_max_streams_uni, 0)
    put_integer(w, ACK_DELAY_EXPONENT, p.ack_delay_exponent, DEFAULT_ACK_EXPONENT)
    put_integer(w, MAX_ACK_DELAY, p.max_ack_delay_ms, DEFAULT_ACK_DELAY_MS)
    if p.disable_active_migration:
        put(w, DISABLE_ACTIVE_MIGRATION, p.reset_token, 0)
    if p.present & HAS_PREFERRED_ADDRESS:
        put_preferred(w, &p.preferred)
    put_integer(w, ACTIVE_CONNECTION_ID_LIMIT, p.active_connection_id_limit, DEFAULT_CID_LIMIT)
    if p.present & HAS_INITIAL_SCID:
        put(w, INITIAL_SOURCE_CONNECTION_ID, p.initial_scid.value, p.initial_scid.size)
    if p.present & HAS_RETRY_SCID:
        put(w, RETRY_SOURCE_CONNECTION_ID, p.retry_scid.value, p.retry_scid.size)
    put_integer(w, MAX_DATAGRAM_FRAME_SIZE, p.max_datagram_frame_size, 0)
    # Absent differs from every value of these: VARINT_MAX + 1 is none.
    if p.present & HAS_MAX_PATH_ID:
        put_integer(w, INITIAL_MAX_PATH_ID, p.initial_max_path_id, VARINT_MAX + 1)
    if p.grease_quic_bit:
        put(w, GREASE_QUIC_BIT, p.reset_token, 0)
    if p.present & HAS_ADDRESS_DISCOVERY:
        put_integer(w, ADDRESS_DISCOVERY, p.address_discovery, VARINT_MAX + 1)
    if p.present & HAS_MIN_ACK_DELAY:
        put_integer(w, MIN_ACK_DELAY, p.min_ack_delay_us, VARINT_MAX + 1)
    if p.present & HAS_NAT_TRAVERSAL:
        put(w, N0_NAT_TRAVERSAL, &p.n0_nat_traversal, 1)


cdef size_t parameters_encode(Parameters* p, const uint8_t* noise, uint8_t* out) noexcept nogil:
    cdef Writer w
    cdef Piece piece
    cdef size_t size = 0
    cdef int i, j
    w.size = 0
    w.count = 0
    put_all(&w, p)
    if noise == NULL:
        memcpy(out, w.data, w.size)
        return w.size
    put_reserved(&w, noise)
    for i in range(w.count - 1, 0, -1):            # Fisher-Yates, one byte per step; its bias does not matter
        j = noise[24 + i] % (i + 1)
        piece = w.pieces[i]
        w.pieces[i] = w.pieces[j]
        w.pieces[j] = piece
    for i in range(w.count):
        memcpy(out + size, w.data + w.pieces[i].at, w.pieces[i].size)
        size += w.pieces[i].size
    return size


# ------------------------------------------------------------- 0-RTT
cdef void parameters_remember(Parameters* p) noexcept nogil:
    """Connection ids, reset token, preferred address and acknowledgement parameters belong to one
    connection (RFC 9000 §7.4.1); multipath is off as well, hence NAT traversal."""
    p.present &= ~<uint32_t>(HAS_ORIGINAL_DCID | HAS_RESET_TOKEN | HAS_PREFERRED_ADDRESS | HAS_INITIAL_SCID
                             | HAS_RETRY_SCID | HAS_MIN_ACK_DELAY | HAS_MAX_PATH_ID)
    p.ack_delay_exponent = DEFAULT_ACK_EXPONENT
    p.max_ack_delay_ms = DEFAULT_ACK_DELAY_MS


cdef bint parameters_honour(Parameters* now, Parameters* then) noexcept nogil:
    """No limit may have shrunk, and the extensions that are part of the agreement must be the same."""
    cdef uint32_t fixed = HAS_ADDRESS_DISCOVERY | HAS_NAT_TRAVERSAL
    return (now.initial_max_data >= then.initial_max_data
            and now.initial_max_stream_data_bidi_local >= then.initial_max_stream_data_bidi_local
            and now.initial_max_stream_data_bidi_remote >= then.initial_max_stream_data_bidi_remote
            and now.initial_max_stream_data_uni >= then.initial_max_stream_data_uni
            and now.initial_max_streams_bidi >= then.initial_max_streams_bidi
            and now.initial_max_streams_uni >= then.initial_max_streams_uni
            and now.active_connection_id_limit >= then.active_connection_id_limit
            and now.max_datagram_frame_size >= then.max_datagram_frame_size
            and (now.grease_quic_bit or not then.grease_quic_bit)
            # INTEROP: iroh refuses any change of these two, also a larger one.
            and now.present & fixed == then.present & fixed
            and (not has(now, HAS_ADDRESS_DISCOVERY) or now.address_discovery == then.address_discovery)
            and (not has(now, HAS_NAT_TRAVERSAL) or now.n0_nat_traversal == then.n0_nat_traversal))


# ------------------------------------------------------------- the Python form
cdef bytes cid_bytes(Parameters* p, uint32_t bit, ParameterCid* cid):
    return PyBytes_FromStringAndSize(<const char*>cid.value, cid.size) if p.present & bit else None


cdef object preferred_tuple(PreferredEndpoint* preferred):
    cdef const uint8_t* a = preferred.address
    return ((PyBytes_FromStringAndSize(<const char*>a, 4), a[4] << 8 | a[5]),
            (PyBytes_FromStringAndSize(<const char*>a + 6, 16), a[22] << 8 | a[23]),
            PyBytes_FromStringAndSize(<const char*>preferred.cid.value, preferred.cid.size),
            PyBytes_FromStringAndSize(<const char*>preferred.token, 16))


def decode(data, bint from_server, into):
    """Set the attributes of `into`, a `parameters.TransportParameters`; 0, -1 malformed or -2 illegal.

    A preferred address is set as a tuple of its fields.
    """
    cdef Parameters p
    cdef bytes copy = bytes(data)
    cdef int result = parameters_decode(<const uint8_t*>PyBytes_AS_STRING(copy), <size_t>PyBytes_GET_SIZE(copy),
                                        from_server, &p)
    if result < 0:
        return result
    into.original_destination_connection_id = cid_bytes(&p, HAS_ORIGINAL_DCID, &p.original_dcid)
    into.max_idle_timeout_ms = p.max_idle_timeout_ms
    into.stateless_reset_token = (
        PyBytes_FromStringAndSize(<char*>p.reset_token, 16) if p.present & HAS_RESET_TOKEN else None)
    into.max_udp_payload_size = p.max_udp_payload_size
    into.initial_max_data = p.initial_max_data
    into.initial_max_stream_data_bidi_local = p.initial_max_stream_data_bidi_local
    into.initial_max_stream_data_bidi_remote = p.initial_max_stream_data_bidi_remote
    into.initial_max_stream_data_uni = p.initial_max_stream_data_uni
    into.initial_max_streams_bidi = p.initial_max_streams_bidi
    into.initial_max_streams_uni = p.initial_max_streams_uni
    into.ack_delay_exponent = p.ack_delay_exponent
    into.max_ack_delay_ms = p.max_ack_delay_ms
    into.disable_active_migration = p.disable_active_migration
    into.preferred_address = preferred_tuple(&p.preferred) if p.present & HAS_PREFERRED_ADDRESS else None
    into.active_connection_id_limit = p.active_connection_id_limit
    into.initial_source_connection_id = cid_bytes(&p, HAS_INITIAL_SCID, &p.initial_scid)
    into.retry_source_connection_id = cid_bytes(&p, HAS_RETRY_SCID, &p.retry_scid)
    into.max_datagram_frame_size = p.max_datagram_frame_size
    into.grease_quic_bit = p.grease_quic_bit
    into.initial_max_path_id = p.initial_max_path_id if p.present & HAS_MAX_PATH_ID else None
    into.min_ack_delay_us = p.min_ack_delay_us if p.present & HAS_MIN_ACK_DELAY else None
    into.address_discovery = p.address_discovery if p.present & HAS_ADDRESS_DISCOVERY else None
    into.n0_nat_traversal = p.n0_nat_traversal if p.present & HAS_NAT_TRAVERSAL else None
    return 0


cdef void set_cid(Parameters* p, uint32_t bit, ParameterCid* cid, bytes value):
    if value is not None:
        p.present |= bit
        cid_set(cid, <const uint8_t*>PyBytes_AS_STRING(value), <size_t>PyBytes_GET_SIZE(value))


cdef int set_preferred(PreferredEndpoint* preferred, value) except -1:
    cdef bytes address = (value.ipv4[0] + (<object>value.ipv4[1]).to_bytes(2, "big")
                          + value.ipv6[0] + (<object>value.ipv6[1]).to_bytes(2, "big"))
    cdef bytes cid = value.connection_id
    cdef bytes token = value.stateless_reset_token
    memcpy(preferred.address, PyBytes_AS_STRING(address), 24)
    cid_set(&preferred.cid, <const uint8_t*>PyBytes_AS_STRING(cid), <size_t>PyBytes_GET_SIZE(cid))
    memcpy(preferred.token, PyBytes_AS_STRING(token), 16)
    return 0


cdef int load(value, Parameters* p) except -1:
    """The C form of parameters whose sizes and ranges are checked."""
    cdef bytes token = value.stateless_reset_token
    parameters_init(p)
    set_cid(p, HAS_ORIGINAL_DCID, &p.original_dcid, value.original_destination_connection_id)
    set_cid(p, HAS_INITIAL_SCID, &p.initial_scid, value.initial_source_connection_id)
    set_cid(p, HAS_RETRY_SCID, &p.retry_scid, value.retry_source_connection_id)
    p.max_idle_timeout_ms = value.max_idle_timeout_ms
    if token is not None:
        p.present |= HAS_RESET_TOKEN
        memcpy(p.reset_token, PyBytes_AS_STRING(token), 16)
    p.max_udp_payload_size = value.max_udp_payload_size
    p.initial_max_data = value.initial_max_data
    p.initial_max_stream_data_bidi_local = value.initial_max_stream_data_bidi_local
    p.initial_max_stream_data_bidi_remote = value.initial_max_stream_data_bidi_remote
    p.initial_max_stream_data_uni = value.initial_max_stream_data_uni
    p.initial_max_streams_bidi = value.initial_max_streams_bidi
    p.initial_max_streams_uni = value.initial_max_streams_uni
    p.ack_delay_exponent = value.ack_delay_exponent
    p.max_ack_delay_ms = value.max_ack_delay_ms
    p.disable_active_migration = value.disable_active_migration
    if value.preferred_address is not None:
        p.present |= HAS_PREFERRED_ADDRESS
        set_preferred(&p.preferred, value.preferred_address)
    p.active_connection_id_limit = value.active_connection_id_limit
    p.max_datagram_frame_size = value.max_datagram_frame_size
    p.grease_quic_bit = value.grease_quic_bit
    if value.initial_max_path_id is not None:
        p.present |= HAS_MAX_PATH_ID
        p.initial_max_path_id = value.initial_max_path_id
    if value.min_ack_delay_us is not None:
        p.present |= HAS_MIN_ACK_DELAY
        p.min_ack_delay_us = value.min_ack_delay_us
    if value.address_discovery is not None:
        p.present |= HAS_ADDRESS_DISCOVERY
        p.address_discovery = value.address_discovery
    if value.n0_nat_traversal is not None:
        p.present |= HAS_NAT_TRAVERSAL
        p.n0_nat_traversal = value.n0_nat_traversal
    return 0


def encode(value, bint is_server, random=None):
    """Encode a `parameters.TransportParameters` whose sizes are checked; None when it is not legal."""
    cdef Parameters p
    cdef uint8_t out[PARAMETERS_BYTES]
    cdef const uint8_t* at = NULL
    cdef bytes noise = None
    load(value, &p)
    if not parameters_legal(&p, is_server):
        return None
    if random is not None:
        noise = random(PARAMETERS_NOISE)
        if len(noise) != PARAMETERS_NOISE:
            raise ValueError("the random source gave too little")
        at = <const uint8_t*>PyBytes_AS_STRING(noise)
    return PyBytes_FromStringAndSize(<char*>out, <Py_ssize_t>parameters_encode(&p, at, out))


def honours(now, then):
    """Tell whether parameters `now` keep what `then` promised to 0-RTT."""
    cdef Parameters new, old
    load(now, &new)
    load(then, &old)
    return parameters_honour(&new, &old)


def same_promises(bytes then, bytes now):
    """`honours` of encoded parameters of a server; False when they do not parse."""
    cdef Parameters new, old
    return (parameters_decode(<const uint8_t*>PyBytes_AS_STRING(then), <size_t>len(then), True, &old) == 0
            and parameters_decode(<const uint8_t*>PyBytes_AS_STRING(now), <size_t>len(now), True, &new) == 0
            and parameters_honour(&new, &old))
