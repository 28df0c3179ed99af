"""Bytes that somebody else owns, borrowed until the view is dropped."""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer


@cython.final
@cython.freelist(8)
@cython.no_gc  # lives for one call
cdef class View:
    def __dealloc__(self):
        PyBuffer_Release(&self.buffer)


cdef View view_of(object data):
    cdef View view = View.__new__(View)
    PyObject_GetBuffer(data, &view.buffer, PyBUF_SIMPLE)
    view.data = <const uint8_t*>view.buffer.buf
    view.size = view.buffer.len
    if view.data == NULL:
        view.data = <const uint8_t*>b""
    return view
