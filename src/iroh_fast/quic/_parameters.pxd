"""Codec of QUIC transport parameters (RFC 9000 §18), without Python objects.

`quic.parameters` has their Python form and tells what each one means.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef enum:
    PARAMETERS_BYTES = 512        # room for `parameters_encode`
    PARAMETERS_NOISE = 64         # random bytes it takes

    # Results of parameters_decode
    PARAMETERS_OK = 0
    PARAMETERS_MALFORMED = -1
    PARAMETERS_ILLEGAL = -2

    # Bits of Parameters.present: what has no value that means "absent"
    HAS_ORIGINAL_DCID = 1
    HAS_RESET_TOKEN = 2
    HAS_PREFERRED_ADDRESS = 4
    HAS_INITIAL_SCID = 8
    HAS_RETRY_SCID = 16
    HAS_MAX_PATH_ID = 32
    HAS_MIN_ACK_DELAY = 64
    HAS_ADDRESS_DISCOVERY = 128
    HAS_NAT_TRAVERSAL = 256


cdef struct ParameterCid:
    uint8_t size
    uint8_t value[20]


cdef struct PreferredEndpoint:    # as on the wire: IPv4, port, IPv6, port
    uint8_t address[24]
    ParameterCid cid
    uint8_t token[16]


cdef struct Parameters:
    uint32_t present
    bint disable_active_migration
    bint grease_quic_bit
    uint8_t n0_nat_traversal
    uint64_t max_idle_timeout_ms
    uint64_t max_udp_payload_size
    uint64_t initial_max_data
    uint64_t initial_max_stream_data_bidi_local
    uint64_t initial_max_stream_data_bidi_remote
    uint64_t initial_max_stream_data_uni
    uint64_t initial_max_streams_bidi
    uint64_t initial_max_streams_uni
    uint64_t ack_delay_exponent
    uint64_t max_ack_delay_ms
    uint64_t active_connection_id_limit
    uint64_t max_datagram_frame_size
    uint64_t initial_max_path_id
    uint64_t min_ack_delay_us
    uint64_t address_discovery
    ParameterCid original_dcid
    ParameterCid initial_scid
    ParameterCid retry_scid
    uint8_t reset_token[16]
    PreferredEndpoint preferred


# All absent: the defaults of RFC 9000 §18.2.
cdef void parameters_init(Parameters* p) noexcept nogil
cdef int parameters_decode(const uint8_t* data, size_t n, bint from_server, Parameters* p) noexcept nogil
# Whether ranges and roles are right; the same rules for what is sent and what is received.
cdef bint parameters_legal(Parameters* p, bint from_server) noexcept nogil
# Writes legal parameters, at most PARAMETERS_BYTES, and returns their size. `noise`, PARAMETERS_NOISE random
# bytes, shuffles them and adds a reserved one; NULL: ascending order, nothing added.
cdef size_t parameters_encode(Parameters* p, const uint8_t* noise, uint8_t* out) noexcept nogil
# Leave only what a client may rely on in 0-RTT.
cdef void parameters_remember(Parameters* p) noexcept nogil
# Whether `now` honours `then`, under which 0-RTT was sent.
cdef bint parameters_honour(Parameters* now, Parameters* then) noexcept nogil
cdef bint cid_equals(const ParameterCid* cid, const uint8_t* value, size_t size) noexcept nogil
cdef void cid_set(ParameterCid* cid, const uint8_t* value, size_t size) noexcept nogil
