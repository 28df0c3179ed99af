"""Waiting: the only place that makes futures.

A waiting call is

* its own: one future per call, so that cancelling one task never touches another;
* strong: reachable from its event loop as long as it waits, so that a task that nobody else refers to is not taken
  by the garbage collector in mid-wait;
* cancel-safe: what was handed to a call whose task was cancelled meanwhile goes to the next one;
* in order: first come, first served within each queue.

``WaitQueue``
    ``await queue.wait()``; ``queue.wake(n)`` wakes the n oldest, ``queue.wake_all()`` everybody. Look again at
    what you waited for afterwards: it may have gone to somebody else. A wake-up by ``wake`` that meets a
    cancelled task goes to the next one.
``Handoff``
    Things that go to one task each: ``put(thing)``; ``take()`` gives the oldest or None, ``await wait()`` the next
    one, or None after ``wake_all()``.
``Turn``
    A lock: ``if not turn.take(): await turn.wait()``, later ``turn.release()``.

All of them must be called on the thread of the event loop. `Waiter.future` is for those who need a callback. What is
waited for of connections and streams is in `_core_events`.
"""

cimport cython

import logging
from asyncio import CancelledError, InvalidStateError, get_running_loop
from collections import deque

from iroh_fast.errors import WrongThread

logger = logging.getLogger("iroh_fast.aio")

cdef str HOME = "_iroh_fast_waiters"


@cython.final
cdef class Home:
    def __cinit__(self, loop):
        self.loop = loop
        self.call_soon = loop.call_soon
        self.create_future = loop.create_future


cdef Home running_home():
    cdef object loop = get_running_loop()
    cdef object home = getattr(loop, HOME, None)
    if home is None:
        home = Home(loop)
        setattr(loop, HOME, home)
    return <Home>home


@cython.final
@cython.freelist(64)
cdef class Waiter:
    """One waiting call: await it once."""

    def __class_getitem__(cls, item):
        return cls

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):  # hot
        if self.started or self.pending is None or self.pending.done():
            value = self.value
            if value is not None and self.leaves:
                (<Handoff>self.queue).keep_first(value)      # an exception that carries it costs more
                value = None
            self.queue = None         # delivered: nothing can be given back any more
            self.subject = self.value = None
            if self.error is not None:
                raise self.error
            if value is None:
                raise StopIteration
            raise StopIteration(value)
        self.started = True
        # What a future's own iterator does: a task then waits for the future it is given.
        self.pending._asyncio_future_blocking = True
        return self.pending

    def send(self, value):
        return self.__next__()

    def throw(self, kind, value=None, trace=None):
        cdef WaitQueue queue = self.queue
        self.abandon()
        # A task refuses to wait for a future of another loop; asking for the running loop at each call would cost more
        # than the rest of it.
        if queue is not None and kind is not CancelledError and get_running_loop() is not queue.home.loop:
            raise WrongThread("this object belongs to another event loop")
        if value is None:
            value = kind if isinstance(kind, BaseException) else kind()
        if trace is not None:
            value = value.with_traceback(trace)
        raise value

    def close(self):
        self.abandon()

    cdef void abandon(self):
        """The task does not wait any longer: leave the queue, or let the next one have what this one was given."""
        cdef WaitQueue queue = self.queue
        if queue is None:
            return
        self.queue = None
        if self.queued:
            queue.unlink(self)
            queue.gave_up(self)
        elif self.woken:
            queue.returned(self)
        else:                         # passed over: its future was cancelled before it was its turn
            queue.gave_up(self)
        self.subject = self.value = None

    @property
    def future(self):
        """The future behind it, for callbacks; it resolves with None."""
        if self.pending is None:
            self.pending = running_home().create_future()
            self.pending.set_result(None)
        return self.pending

    def __repr__(self):
        return f"<Waiter {'waiting' if self.queued else 'done'}>"


cdef Waiter over():
    """A wait for what has happened already."""
    return Waiter.__new__(Waiter)


@cython.freelist(64)
cdef class WaitQueue:
    """Tasks that wait for one thing, first come, first served."""

    @property
    def waiting(self):
        """Whether a task waits."""
        return self.head() is not None

    def wait(self):
        """Join the queue; await what this gives."""
        return self.join(None)

    def wake(self, Py_ssize_t n=1):
        """Wake up to `n` tasks, the oldest first; how many there were."""
        cdef Py_ssize_t woken = 0
        while woken < n and self.hand(None):
            woken += 1
        return woken

    def wake_all(self):
        """Wake every task that waits now."""
        cdef Waiter waiter
        while (waiter := self.first) is not None:
            if self.resolve(waiter):
                waiter.queue = None   # need not be passed on

    cdef Waiter join(self, object subject):  # hot
        cdef Waiter waiter = Waiter.__new__(Waiter)
        if self.home is None:
            self.home = running_home()
        waiter.pending = self.home.create_future()
        waiter.queue = self
        waiter.subject = subject
        waiter.queued = True
        waiter.before = self.last
        if self.last is None:
            self.first = waiter
        else:
            self.last.after = waiter
        self.last = waiter
        waiter.older = self.home.newest
        if waiter.older is not None:
            waiter.older.newer = waiter
        self.home.newest = waiter
        return waiter

    cdef void unlink(self, Waiter waiter):
        if waiter.before is None:
            self.first = waiter.after
        else:
            waiter.before.after = waiter.after
        if waiter.after is None:
            self.last = waiter.before
        else:
            waiter.after.before = waiter.before
        if waiter.newer is None:
            self.home.newest = waiter.older
        else:
            waiter.newer.older = waiter.older
        if waiter.older is not None:
            waiter.older.newer = waiter.newer
        waiter.before = waiter.after = waiter.older = waiter.newer = None
        waiter.queued = False

    cdef Waiter head(self):
        """The first that still waits: a cancelled future is done although its task did not hear of it yet."""
        cdef Waiter waiter = self.first
        while waiter is not None and waiter.pending.done():
            self.unlink(waiter)
            waiter = self.first
        return waiter

    cdef bint hand(self, object value):
        """Wake the first with `value`; False when nobody waits."""
        cdef Waiter waiter
        while (waiter := self.first) is not None:
            if self.resolve(waiter):
                waiter.woken = True
                waiter.value = value
                return True
        return False

    cdef bint resolve(self, Waiter waiter):
        """Take it out of the queue and wake it; False when its future was cancelled meanwhile."""
        self.unlink(waiter)
        try:
            waiter.pending.set_result(None)
        except InvalidStateError:
            return False
        except RuntimeError:          # the loop is closed
            logger.debug("nobody can be woken any more", exc_info=True)
        return True

    cdef void gave_up(self, Waiter waiter):
        """It left before it was its turn."""

    cdef void returned(self, Waiter waiter):
        """It left with what it was given."""
        self.hand(None)


@cython.final
cdef class Turn(WaitQueue):
    """A lock: who holds it is alone, the others follow in order."""

    def take(self):
        """Take it if it is free; otherwise wait()."""
        if self.taken:
            return False
        self.taken = True
        return True

    def release(self):
        """Hand it to the next one; False when nobody waits, then it is free."""
        if not self.hand(None):
            self.taken = False
        return self.taken

    cdef void returned(self, Waiter waiter):
        if not self.hand(None):
            self.taken = False


@cython.final
cdef class Handoff(WaitQueue):
    """Things that go to one task each."""

    def put(self, thing):
        """Hand over to the first that waits, or keep."""
        if not self.hand(thing):
            if self.spare is None:
                self.spare = deque()
            self.spare.append(thing)

    def take(self):
        """The oldest thing that nobody took, or None."""
        return self.spare.popleft() if self.spare else None

    def __len__(self):
        return len(self.spare) if self.spare else 0

    cdef void returned(self, Waiter waiter):
        if waiter.value is None:
            self.hand(None)
        elif waiter.subject is not None:
            pass                      # what it brought along is gone already: nothing that another one could use
        elif not self.hand(waiter.value):
            self.keep_first(waiter.value)

    cdef void keep_first(self, object thing):
        if self.spare is None:
            self.spare = deque()
        self.spare.appendleft(thing)
