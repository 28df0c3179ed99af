"""Arguments of Python callers as numbers of the wire."""

from libc.stdint cimport uint64_t


# ValueError names `key` where it is not 0..maximum.
cdef uint64_t as_uint(object value, str key, uint64_t maximum) except? 0xffffffffffffffff
