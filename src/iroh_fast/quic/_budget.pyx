"""Memory of an endpoint for windows that grow: one sum that all its connections take from.

The windows that streams and connections begin with are not counted: everybody has those. Beyond them a connection gets
what leaves at least as much free as it holds. So one connection alone has at most half of the sum, two have a third
each, and whoever comes late finds as much as the others have, without anything being taken from them. (Choudhury and
Hahne call that dynamic thresholds, in "Dynamic queue length thresholds for shared-memory packet switches", 1998.)
"""

from libc.stdlib cimport calloc, free


cdef Budget* budget_new(uint64_t limit) except NULL:
    cdef Budget* budget = <Budget*>calloc(1, sizeof(Budget))
    if budget == NULL:
        raise MemoryError
    budget.users = 1
    budget.limit = limit
    return budget


cdef void budget_release(Budget* budget) noexcept nogil:
    if budget != NULL:
        budget.users -= 1
        if budget.users == 0:
            free(budget)
