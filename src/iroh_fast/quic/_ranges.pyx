"""Sets of half-open ranges, sorted, disjoint, grown on demand.

Adding at the end and deleting at the front, which is what acknowledgements and losses mostly do, take constant time.
An empty set owns no memory.
"""

from cpython.mem cimport PyMem_RawFree, PyMem_RawRealloc
from libc.stdint cimport UINT64_MAX, uint64_t
from libc.string cimport memmove

cdef enum:
    RANGES_MAX = 1 << 26


cdef void ranges_init(RangeSet* r) noexcept nogil:
    r.v = NULL
    r.n = r.cap = r.skipped = 0


cdef inline uint64_t* ranges_memory(const RangeSet* r) noexcept nogil:
    return r.v - 2 * r.skipped if r.v != NULL else NULL


cdef void ranges_free(RangeSet* r) noexcept nogil:
    PyMem_RawFree(ranges_memory(r))
    ranges_init(r)


cdef int ranges_grow(RangeSet* r) noexcept nogil:
    """Make room for one more range."""
    cdef uint64_t* v
    cdef int cap
    if r.skipped + r.n < r.cap:
        return 0
    if r.skipped > 0:
        v = ranges_memory(r)
        memmove(v, r.v, <size_t>r.n * 2 * sizeof(uint64_t))
        r.v = v
        r.skipped = 0
        if r.n <= r.cap // 2:
            return 0                  # moved at most once per so many deletions
    if r.n < r.cap and r.cap >= RANGES_MAX:
        return 0
    if r.cap >= RANGES_MAX:
        return -1
    cap = <int>(r.cap * 2 if r.cap else 4)
    v = <uint64_t*>PyMem_RawRealloc(r.v, <size_t>cap * 2 * sizeof(uint64_t))
    if v == NULL:
        return -1
    r.v = v
    r.cap = cap
    return 0


cdef int ranges_at(const RangeSet* r, uint64_t x) noexcept nogil:
    """Index of the first range that ends at or above `x`; ``r.n`` if there is none."""
    cdef int lo = 0, hi = r.n, mid
    while lo < hi:
        mid = (lo + hi) >> 1
        if r.v[2 * mid + 1] < x:
            lo = mid + 1
        else:
            hi = mid
    return lo


cdef void ranges_delete(RangeSet* r, int i, int j) noexcept nogil:
    """Delete the ranges with index `i` up to, not including, `j`."""
    if j > i and i == 0:
        r.n -= j
        r.skipped += j
        r.v += 2 * j
        if r.n == 0:
            r.v = ranges_memory(r)
            r.skipped = 0
    elif j > i:
        memmove(r.v + 2 * i, r.v + 2 * j, <size_t>(r.n - j) * 2 * sizeof(uint64_t))
        r.n -= j - i


cdef int ranges_add(RangeSet* r, uint64_t start, uint64_t end) noexcept nogil:
    """Add [start, end), joining what it touches. 0, or -1 out of memory, then unchanged."""
    cdef uint64_t* last
    cdef int i, j
    if start >= end:
        return 0
    i = r.n
    if i > 0:
        last = r.v + 2 * (i - 1)
        if start < last[0]:
            i = ranges_at(r, start)
        elif start <= last[1]:               # the common case: extend the newest range
            if end > last[1]:
                last[1] = end
            return 0
    j = i
    while j < r.n and r.v[2 * j] <= end:
        j += 1
    if i == j:
        if ranges_grow(r) < 0:
            return -1
        memmove(r.v + 2 * i + 2, r.v + 2 * i, <size_t>(r.n - i) * 2 * sizeof(uint64_t))
        r.v[2 * i] = start
        r.v[2 * i + 1] = end
        r.n += 1
        return 0
    if start < r.v[2 * i]:
        r.v[2 * i] = start
    if end < r.v[2 * j - 1]:
        end = r.v[2 * j - 1]
    r.v[2 * i + 1] = end
    ranges_delete(r, i + 1, j)
    return 0


cdef int ranges_remove(RangeSet* r, uint64_t start, uint64_t end) noexcept nogil:
    """Take [start, end) out. 0, or -1 if a split ran out of memory, then unchanged."""
    cdef int i, j
    if start >= end or r.n == 0:
        return 0
    i = ranges_at(r, start + 1)
    if i == r.n or r.v[2 * i] >= end:
        return 0
    if r.v[2 * i] < start:
        if r.v[2 * i + 1] > end:
            if ranges_grow(r) < 0:
                return -1
            memmove(r.v + 2 * i + 2, r.v + 2 * i, <size_t>(r.n - i) * 2 * sizeof(uint64_t))
            r.v[2 * i + 1] = start
            r.v[2 * i + 2] = end
            r.n += 1
            return 0
        r.v[2 * i + 1] = start
        i += 1
    j = i
    while j < r.n and r.v[2 * j + 1] <= end:
        j += 1
    if j < r.n and r.v[2 * j] < end:
        r.v[2 * j] = end
    ranges_delete(r, i, j)
    return 0


cdef bint ranges_contains(const RangeSet* r, uint64_t x) noexcept nogil:
    cdef int i
    if x == UINT64_MAX:
        return False
    i = ranges_at(r, x + 1)
    return i < r.n and r.v[2 * i] <= x
