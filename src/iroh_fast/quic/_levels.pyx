"""The Initial and Handshake levels of a connection: packet number space and CRYPTO streams."""

from libc.stdlib cimport calloc, free

from iroh_fast.quic._buffers cimport recvbuf_free, recvbuf_init, sendbuf_free, sendbuf_init
from iroh_fast.quic._connection cimport QuicConnection
from iroh_fast.quic._keys cimport LEVEL_INITIAL, keys_drop
from iroh_fast.quic._recovery cimport space_free, space_init

# What a connection without such a level points to: not live, never written.
cdef Level NO_LEVEL


cdef Level* no_level() noexcept nogil:
    return &NO_LEVEL


cdef int make_level(QuicConnection conn, Level** l) noexcept nogil:
    """Start a handshake level. 0, or -1 out of memory."""
    cdef Level* fresh = <Level*>calloc(1, sizeof(Level))
    if fresh == NULL:
        return -1
    fresh.live = True
    space_init(&fresh.sp, conn.host.random.word())
    sendbuf_init(&fresh.tx)
    recvbuf_init(&fresh.rx)
    l[0] = fresh
    return 0


cdef void drop_level(QuicConnection conn, int level) noexcept nogil:
    """End Initial or Handshake. Keys, packets and buffers of the handshake are a third of an idle connection."""
    cdef Level** place = &conn.initial if level == LEVEL_INITIAL else &conn.handshake
    cdef Level* old = place[0]
    if not old.live:
        return
    place[0] = &NO_LEVEL
    keys_drop(&conn.keys, level)
    space_free(&old.sp)
    sendbuf_free(&old.tx)
    recvbuf_free(&old.rx)
    free(old)
