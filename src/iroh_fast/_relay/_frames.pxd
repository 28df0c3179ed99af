"""C interface of relay frames."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef enum:
    FT_CHALLENGE = 0
    FT_CLIENT_AUTH = 1
    FT_CONFIRMS = 2
    FT_DENIES = 3
    FT_C2S_DATAGRAM = 4
    FT_C2S_BATCH = 5
    FT_S2C_DATAGRAM = 6
    FT_S2C_BATCH = 7
    FT_GONE = 8
    FT_PING = 9
    FT_PONG = 10
    FT_HEALTH = 11
    FT_RESTARTING = 12
    FT_STATUS = 13

    MAX_AFTER_TYPE = 65536        # accepted after the frame type
    MAX_FRAME = 65536             # emitted, type included

    FROM_CLIENT = 0
    FROM_SERVER = 1

    # Negated results of parse_frame
    FE_UNEXPECTED_END = 1
    FE_UNKNOWN_TYPE = 2
    FE_INVALID_TYPE = 3
    FE_TOO_LARGE = 4
    FE_INVALID = 5
    FE_PUBLIC_KEY = 6
    FE_VERSION = 7
    FE_ENCODING = 8
    FE_EMPTY = 9


cdef struct RelayFrame:
    int type                      # a batch with segment size 0 is given as a single datagram
    int ecn
    uint32_t segment_size         # 0: single datagram
    const uint8_t* key            # of types 4 to 8, else NULL; borrows the input
    const uint8_t* body           # what follows key, ECN and segment size; borrows the input
    size_t body_len


# Recently seen 32-byte strings known to be points: four-way sets, oldest of a set replaced.
cdef struct KeyCache:
    uint8_t* keys                 # 32 bytes each
    uint8_t* next                 # per set: which way is replaced next
    size_t sets                   # a power of two, or 0: no cache
    uint64_t seed[2]


cdef object frame_error(int code)
cdef int parse_frame(const uint8_t* p, size_t n, int sender, int version, RelayFrame* f) noexcept nogil
cdef bint key_is_point(KeyCache* cache, const uint8_t* key) noexcept nogil
cdef int key_cache_init(KeyCache* cache, size_t capacity, const uint8_t* seed) noexcept nogil
cdef void key_cache_free(KeyCache* cache) noexcept nogil
