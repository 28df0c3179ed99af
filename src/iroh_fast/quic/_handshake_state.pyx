"""The state of a handshake: its levels, the ids its packets carry, the addresses that are dialed."""

from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy

from iroh_fast.quic._keys cimport KeyRing, LEVEL_HANDSHAKE, LEVEL_INITIAL, keys_drop
from iroh_fast.quic._receive_buffer cimport recvbuf_free, recvbuf_init
from iroh_fast.quic._send_buffer cimport sendbuf_free, sendbuf_init
from iroh_fast.quic._space cimport space_free, space_init

# What a connection without such a level points to: not live, never written.
cdef Stage NO_LEVEL


cdef void handshake_init(Handshake* handshake) noexcept nogil:
    handshake.initial = handshake.handshake = &NO_LEVEL
    sendbuf_init(&handshake.crypto_tx)
    recvbuf_init(&handshake.crypto_rx)


cdef void handshake_release(Handshake* handshake, KeyRing* keys) noexcept nogil:
    level_end(handshake, keys, LEVEL_INITIAL)
    level_end(handshake, keys, LEVEL_HANDSHAKE)
    free(handshake.remembered)
    handshake.remembered = NULL
    free(handshake.peer_parameters)
    handshake.peer_parameters = NULL
    free(handshake.dial)
    handshake.dial = NULL
    handshake.dial_errors = NULL
    handshake.n_dial = 0


cdef void handshake_free(Handshake* handshake, KeyRing* keys) noexcept nogil:
    handshake_release(handshake, keys)
    sendbuf_free(&handshake.crypto_tx)
    recvbuf_free(&handshake.crypto_rx)


cdef int level_begin(Handshake* handshake, int level, uint64_t random) noexcept nogil:
    cdef Stage* fresh = <Stage*>calloc(1, sizeof(Stage))
    if fresh == NULL:
        return -1
    fresh.live = True
    space_init(&fresh.space, random)
    sendbuf_init(&fresh.tx)
    recvbuf_init(&fresh.rx)
    level_place(handshake, level)[0] = fresh
    return 0


cdef void level_end(Handshake* handshake, KeyRing* keys, int level) noexcept nogil:
    cdef Stage** place = level_place(handshake, level)
    cdef Stage* old = place[0]
    if not old.live:
        return
    place[0] = &NO_LEVEL
    keys_drop(keys, level)
    space_free(&old.space)
    sendbuf_free(&old.tx)
    recvbuf_free(&old.rx)
    free(old)


cdef void id_set(HandshakeId* id, const uint8_t* bytes, size_t n) noexcept nogil:
    """At most 20 bytes: whoever reads them has checked."""
    memcpy(id.bytes, bytes, n)
    id.len = <uint8_t>n


cdef bint id_equals(const HandshakeId* id, const uint8_t* bytes, size_t n) noexcept nogil:
    return id.len == n and memcmp(id.bytes, bytes, n) == 0
