"""The unpredictable values of an endpoint and its connections."""

from libc.stdint cimport uint8_t, uint64_t


cdef enum:
    POOL = 512                    # bytes fetched at once


cdef class RandomSource:
    cdef object source            # callable(n) -> n bytes
    cdef uint8_t pool[512]
    cdef int at                   # used so far
    cdef unsigned int forks       # of the process, when the block was fetched
    cdef void fill(self, uint8_t* out, size_t n) noexcept nogil
    cdef uint64_t word(self) noexcept nogil
    cdef void refill(self) noexcept nogil
    cdef void keep(self, bytes block) noexcept
