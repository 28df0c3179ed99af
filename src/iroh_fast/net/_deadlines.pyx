"""When connections want to be looked at: a heap in which each of them has one place.

A place is moved when its connection's deadline does, so there are as many as connections and none of them is stale. Entries
name connections by id: nothing here keeps one alive or outlives it, and Python's collector does not follow them.
"""

cimport cython
from cpython.dict cimport PyDict_GetItem
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t

from iroh_fast.quic._connection cimport QuicConnection


cdef inline int64_t time_of(list entries, uint32_t at) noexcept:
    return (<tuple>entries[at])[0]


@cython.final
cdef class Deadlines:
    def __cinit__(self, list entries, dict connections):
        self.entries = entries
        self.connections = connections

    def __len__(self):
        return len(self.entries)

    cdef int64_t earliest(self) noexcept:
        return time_of(self.entries, 0) if self.entries else 0

    cdef void place(self, uint32_t at, tuple entry) noexcept:
        cdef PyObject* conn = PyDict_GetItem(self.connections, entry[1])
        self.entries[at] = entry
        if conn != NULL:
            (<QuicConnection>conn).timer_place = at + 1

    cdef void rise(self, uint32_t at) noexcept:
        """Move an entry up to where none above it is later."""
        cdef list entries = self.entries
        cdef tuple entry = entries[at]
        cdef int64_t time = time_of(entries, at)
        cdef uint32_t parent
        while at:
            parent = (at - 1) >> 2
            if time_of(entries, parent) <= time:
                break
            self.place(at, entries[parent])
            at = parent
        self.place(at, entry)

    cdef void sink(self, uint32_t at) noexcept:
        """Move an entry down to where none below it is earlier."""
        cdef list entries = self.entries
        cdef tuple entry = entries[at]
        cdef int64_t time = time_of(entries, at)
        cdef uint32_t child, least, end, n = <uint32_t>len(entries)
        while True:
            child = 4 * at + 1
            if child >= n:
                break
            least = child
            end = child + 4 if child + 4 < n else n
            for child in range(child + 1, end):
                if time_of(entries, child) < time_of(entries, least):
                    least = child
            if time_of(entries, least) >= time:
                break
            self.place(at, entries[least])
            at = least
        self.place(at, entry)

    cpdef int put(self, QuicConnection conn, int64_t at) except -1:  # hot
        cdef uint32_t place = conn.timer_place
        cdef int64_t before
        if place:
            before = time_of(self.entries, place - 1)
            if at != before:
                self.entries[place - 1] = (at, conn.stable_id)
                if at < before:
                    self.rise(place - 1)
                else:
                    self.sink(place - 1)
            return 0
        self.entries.append((at, conn.stable_id))
        self.rise(<uint32_t>len(self.entries) - 1)
        return 0

    cpdef void remove(self, QuicConnection conn) noexcept:
        cdef uint32_t at = conn.timer_place
        cdef int64_t gone
        cdef tuple last
        if at == 0:
            return
        at -= 1
        gone = time_of(self.entries, at)
        conn.timer_place = 0
        last = self.entries.pop()
        if at == <uint32_t>len(self.entries):
            return
        self.place(at, last)
        if time_of(self.entries, at) < gone:
            self.rise(at)
        else:
            self.sink(at)

    cpdef QuicConnection take_due(self, int64_t now):
        cdef QuicConnection conn
        if not self.entries or time_of(self.entries, 0) > now:
            return None
        conn = self.connections[self.entries[0][1]]
        self.remove(conn)
        return conn

    cpdef void clear(self) noexcept:
        cdef PyObject* conn
        for _, id in self.entries:
            conn = PyDict_GetItem(self.connections, id)
            if conn != NULL:
                (<QuicConnection>conn).timer_place = 0
        self.entries.clear()
