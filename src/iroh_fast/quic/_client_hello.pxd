"""What the first datagrams of a client say, before there is a connection."""

from libc.stdint cimport uint8_t


cdef bint opens_as_initial(const uint8_t* data, size_t n)
