"""Sets of half-open ranges, sorted, disjoint, grown on demand."""

from libc.stdint cimport uint64_t


cdef struct RangeSet:
    uint64_t* v                   # pairs start, end
    int n, cap
    int skipped                   # ranges deleted from the front; the memory begins so far before `v`

cdef void ranges_init(RangeSet* r) noexcept nogil
cdef void ranges_free(RangeSet* r) noexcept nogil
cdef int ranges_add(RangeSet* r, uint64_t start, uint64_t end) noexcept nogil       # 0, -1 out of memory
cdef int ranges_remove(RangeSet* r, uint64_t start, uint64_t end) noexcept nogil
cdef bint ranges_contains(const RangeSet* r, uint64_t x) noexcept nogil
cdef int ranges_at(const RangeSet* r, uint64_t x) noexcept nogil       # index of the first that ends at or above x
cdef void ranges_delete(RangeSet* r, int i, int j) noexcept nogil     # those from index i up to j
