"""When connections want to be looked at: a heap in which each of them has one place.

A place is moved when its connection's deadline does, so there are as many as connections, none of them is stale, and ten
thousand quiet connections cost no Python object.
"""

cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t
from libc.stdlib cimport free, realloc

from iroh_fast.quic._connection cimport QuicConnection


@cython.final
cdef class Deadlines:
    def __dealloc__(self):
        free(self.entries)

    def __len__(self):
        return self.n

    cdef void place(self, uint32_t at, const Deadline* entry) noexcept:
        self.entries[at] = entry[0]
        (<QuicConnection>entry.conn).timer_place = at + 1

    cdef void rise(self, uint32_t at) noexcept:
        """Move an entry up to where none above it is later."""
        cdef Deadline entry = self.entries[at]
        cdef uint32_t parent
        while at:
            parent = (at - 1) >> 2
            if self.entries[parent].at <= entry.at:
                break
            self.place(at, &self.entries[parent])
            at = parent
        self.place(at, &entry)

    cdef void sink(self, uint32_t at) noexcept:
        """Move an entry down to where none below it is earlier."""
        cdef Deadline entry = self.entries[at]
        cdef uint32_t child, least, end
        while True:
            child = 4 * at + 1
            if child >= self.n:
                break
            least = child
            end = child + 4 if child + 4 < self.n else self.n
            for child in range(child + 1, end):
                if self.entries[child].at < self.entries[least].at:
                    least = child
            if self.entries[least].at >= entry.at:
                break
            self.place(at, &self.entries[least])
            at = least
        self.place(at, &entry)

    cpdef int put(self, QuicConnection conn, int64_t at) except -1:  # hot
        cdef uint32_t place = conn.timer_place, capacity
        cdef Deadline* entries
        cdef int64_t before
        if place:
            before = self.entries[place - 1].at
            self.entries[place - 1].at = at
            if at < before:
                self.rise(place - 1)
            elif at > before:
                self.sink(place - 1)
            return 0
        if self.n == self.capacity:
            capacity = 2 * self.capacity if self.capacity else 8
            entries = <Deadline*>realloc(self.entries, capacity * sizeof(Deadline))
            if entries == NULL:
                raise MemoryError
            self.entries = entries
            self.capacity = capacity
        self.entries[self.n].at = at
        self.entries[self.n].conn = <PyObject*>conn
        self.n += 1
        self.rise(self.n - 1)
        return 0

    cpdef void remove(self, QuicConnection conn) noexcept:
        cdef uint32_t at = conn.timer_place
        cdef int64_t gone
        if at == 0:
            return
        at -= 1
        gone = self.entries[at].at
        conn.timer_place = 0
        self.n -= 1
        if at == self.n:
            return
        self.place(at, &self.entries[self.n])
        if self.entries[at].at < gone:
            self.rise(at)
        else:
            self.sink(at)

    cpdef QuicConnection take_due(self, int64_t now):
        cdef QuicConnection conn
        if self.n == 0 or self.entries[0].at > now:
            return None
        conn = <QuicConnection>self.entries[0].conn
        self.remove(conn)
        return conn

    cpdef void clear(self) noexcept:
        cdef uint32_t i
        for i in range(self.n):
            (<QuicConnection>self.entries[i].conn).timer_place = 0
        self.n = 0
