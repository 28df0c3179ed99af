"""Memory of an endpoint for windows that grow: one sum that all its connections take from."""

from libc.stdint cimport uint64_t


cdef enum:
    LEAST_GRANT = 65536           # less than that is not worth a larger window


# Shared by an endpoint and its connections, which may outlive it.
cdef struct Budget:
    size_t users
    uint64_t limit, used
    uint64_t refused              # times a window got less than it asked for


cdef Budget* budget_new(uint64_t limit) except NULL
cdef inline Budget* budget_share(Budget* budget) noexcept:
    budget.users += 1
    return budget
# The last user frees it; NULL is let through.
cdef void budget_release(Budget* budget) noexcept nogil
# What a connection that has `held` may take.
cdef inline uint64_t budget_room(const Budget* budget, uint64_t held) noexcept nogil:
    cdef uint64_t left = budget.limit - budget.used if budget.limit > budget.used else 0
    cdef uint64_t most = (left - held) // 2 if left > held else 0
    return most if most >= LEAST_GRANT else 0

cdef inline void budget_take(Budget* budget, uint64_t n) noexcept nogil:
    """At most what there is room for."""
    budget.used += n

cdef inline void budget_refuse(Budget* budget) noexcept nogil:
    budget.refused += 1

cdef inline void budget_give(Budget* budget, uint64_t n) noexcept nogil:
    budget.used -= n

cdef inline void budget_limit(Budget* budget, uint64_t limit) noexcept nogil:
    """What is taken beyond a smaller limit comes back as its windows end."""
    budget.limit = limit
