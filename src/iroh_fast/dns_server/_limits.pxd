"""How often the addresses of one prefix are answered over UDP."""

from libc.stdint cimport int64_t, uint8_t, uint64_t


cdef enum Admitted:
    ADMITTED
    TRUNCATED                     # an answer that says nothing but: ask over TCP
    SILENT


cdef struct Quota:
    uint64_t prefix               # 0: free
    int64_t due_ns                # when its answers of before are paid for


cdef class PrefixLimiter:
    cdef Quota* quotas
    cdef uint64_t[2] secret
    cdef int64_t period_ns        # of one answer; 0: no limit
    cdef int64_t burst_ns
    cdef uint64_t limited

    # `ip` has 16 bytes, IPv4 as ::ffff:a.b.c.d; an `Admitted`.
    cdef int admit(self, const uint8_t* ip, int64_t now_ns) noexcept nogil
    cdef Quota* _quota(self, uint64_t prefix) noexcept nogil
