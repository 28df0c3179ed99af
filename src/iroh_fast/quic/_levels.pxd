"""The Initial and Handshake levels of a connection: packet number space and CRYPTO streams."""

from iroh_fast.quic._buffers cimport RecvBuf, SendBuf
from iroh_fast.quic._connection cimport QuicConnection
from iroh_fast.quic._recovery cimport PnSpace


cdef struct Level:                # Initial or Handshake, until its keys are discarded
    bint live
    PnSpace sp
    SendBuf tx
    RecvBuf rx


# The level of a connection that has none: not live, never written.
cdef Level* no_level() noexcept nogil
cdef int make_level(QuicConnection conn, Level** l) noexcept nogil
cdef void drop_level(QuicConnection conn, int level) noexcept nogil
