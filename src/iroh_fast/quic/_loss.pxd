"""Which packets are lost, and what that says of the path."""

from libc.stdint cimport uint64_t

from iroh_fast._packet._frames cimport Frame
from iroh_fast.quic._core cimport Connection
from iroh_fast.quic._paths cimport Path
from iroh_fast.quic._space cimport PnSpace


cdef void declare_lost(Connection conn, Path* path, PnSpace* space, uint64_t position, int level) noexcept nogil
# `frame`: the acknowledgement that leads here, NULL: time does.
cdef void detect_losses(Connection conn, Path* path, PnSpace* space, int level, const Frame* frame) noexcept nogil
# Datagrams that no path takes any more.
cdef void drop_oversized(Connection conn) noexcept nogil
# What was sent counts as never sent.
cdef void forget_sent(Path* path, PnSpace* space) noexcept nogil
# Keys of a handshake space are discarded.
cdef void drop_space(Connection conn, Path* path, PnSpace* space) noexcept nogil
