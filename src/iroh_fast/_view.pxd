"""Bytes that somebody else owns, borrowed: leaner than a typed memoryview, whose machinery every module carries anew."""

from libc.stdint cimport uint8_t


cdef class View:
    cdef Py_buffer buffer
    cdef const uint8_t* data      # of an empty one, too, it is never NULL
    cdef size_t size


# BufferError or TypeError where `data` is not C-contiguous bytes.
cdef View view_of(object data)
