"""Calls that wait, and the queues they wait in."""


cdef class Home:
    """What all waiters of one event loop share. The loop refers to it, so that whoever waits is reachable."""
    cdef object loop, call_soon, create_future
    cdef Waiter newest            # of all that wait, a list by `older` and `newer`


cdef class Waiter:
    """One waiting call."""
    cdef WaitQueue queue
    cdef Waiter before, after     # in its queue
    cdef Waiter older, newer      # at home
    cdef object pending           # the future; None: nothing to wait for
    cdef object subject           # what the call brought along
    cdef object value             # what it was woken with
    cdef object error             # what it raises instead
    cdef bint queued, woken, started
    cdef bint leaves              # what it was woken with is left for take(), which follows
    cdef void abandon(self)


cdef class WaitQueue:
    """Calls that wait for the same thing, first come, first served."""
    cdef Waiter first, last
    cdef Home home
    cdef WaitQueue other          # for the owner: a list of queues, and what each is for
    cdef int kind
    cdef object __weakref__
    cdef Waiter join(self, object subject)
    cdef void unlink(self, Waiter waiter)
    cdef Waiter head(self)
    cdef bint hand(self, object value)
    cdef bint resolve(self, Waiter waiter)
    cdef void gave_up(self, Waiter waiter)
    cdef void returned(self, Waiter waiter)


cdef class Turn(WaitQueue):
    cdef readonly bint taken


cdef class Handoff(WaitQueue):
    cdef object spare
    cdef void keep_first(self, object thing)


cdef Home running_home()
# A wait for what has happened already.
cdef Waiter over()
