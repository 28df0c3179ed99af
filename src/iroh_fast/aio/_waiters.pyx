"""Waiting: the only place that makes futures.

The core reports what happened as event bits and knows no event loop; the driver takes the events after each turn
(`deliver`) and wakes whoever waits for them here. A waiting call is

* its own: one future per call, so that cancelling one task never touches another;
* strong: reachable from its event loop as long as it waits, so that a task that nobody else refers to is not taken
  by the garbage collector in mid-wait;
* cancel-safe: what was handed to a call whose task was cancelled meanwhile goes to the next one;
* in order: first come, first served within each queue.

For one's own objects
---------------------
``WaitQueue``
    ``await queue.wait()``; ``queue.wake(n)`` wakes the n oldest, ``queue.wake_all()`` everybody. Look again at
    what you waited for afterwards: it may have gone to somebody else. A wake-up by ``wake`` that meets a
    cancelled task goes to the next one.
``Handoff``
    Things that go to one task each: ``put(thing)``; ``take()`` gives the oldest or None, ``await wait()`` the next
    one, or None after ``wake_all()``.
``Turn``
    A lock: ``if not turn.take(): await turn.wait()``, later ``turn.release()``.

Of connections and streams
--------------------------
``wait(conn, WAIT_...)``
    The next event of that kind. It is over at once when the connection has ended.
``take(conn, kind)`` and ``wait(conn, kind, subject)``
    For WAIT_ACCEPT_*, WAIT_OPEN_*, WAIT_DATAGRAM and WAIT_DATAGRAM_SPACE (`subject` is the datagram): `take` gives
    what is there unless others wait for it, None otherwise; after `wait` it is there, or the connection ended::

        while (stream := take(conn, WAIT_ACCEPT_BI)) is None:
            await wait(conn, WAIT_ACCEPT_BI)
``wait_read``, ``wait_write``, ``wait_stopped``, ``wait_reset``
    The next event of a stream, or the end of its connection.
``on_paths(conn, call)``
    Calls ``call(conn)`` on the loop soon after the paths of a connection changed, and at its end.

All of them must be called on the thread of the event loop. `Waiter.future` is for those who need a callback.
"""

cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport uint32_t

from iroh_fast.quic._connection cimport QuicConnection
from iroh_fast.quic._codes cimport (
    N_WAITS, ST_DRAINED, W_ACCEPT_BI, W_ACCEPT_UNI, W_DATAGRAM, W_DATAGRAM_SPACE, W_DRAINED, W_OPEN_BI, W_OPEN_UNI,
    W_PATHS)
from iroh_fast.quic._stream cimport EV_READ, EV_RESET, EV_STOP, EV_WRITE
from iroh_fast.quic._streams cimport QuicStream

import logging
from asyncio import CancelledError, InvalidStateError, get_running_loop
from collections import deque

from iroh_fast.errors import WrongThread

logger = logging.getLogger("iroh_fast.aio")

cdef str HOME = "_iroh_fast_waiters"

cdef uint32_t TAKEN = (1 << W_ACCEPT_BI | 1 << W_ACCEPT_UNI | 1 << W_OPEN_BI | 1 << W_OPEN_UNI | 1 << W_DATAGRAM
                       | 1 << W_DATAGRAM_SPACE)


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
cdef class RoomQueue(WaitQueue):
    """Writers of a stream: room that one was given and does not use goes to the next stream."""

    cdef void gave_up(self, Waiter waiter):
        (<QuicStream>waiter.subject).give_up_writing()

    cdef void returned(self, Waiter waiter):
        (<QuicStream>waiter.subject).give_up_writing()


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


# ---------------------------------------------------------------- connections
@cython.final
cdef class ConnectionWaiters:
    """In the slot of a connection: who waits for its events."""
    cdef WaitQueue queues         # of the kinds that somebody waited for
    cdef Home home
    cdef object path_listener

    def __cinit__(self):
        self.home = running_home()

    cdef PyObject* find(self, int kind) noexcept:  # hot
        """The queue of a kind, NULL when there is none; without counting references on the way."""
        cdef PyObject* at = <PyObject*>self.queues
        while at != <PyObject*>None and (<WaitQueue>at).kind < kind:
            at = <PyObject*>(<WaitQueue>at).other
        return at if at != <PyObject*>None and (<WaitQueue>at).kind == kind else NULL

    cdef WaitQueue queue(self, int kind):
        cdef PyObject* known = self.find(kind)
        cdef WaitQueue queue, before = None
        if known != NULL:
            return <WaitQueue>known
        queue = Handoff.__new__(Handoff) if TAKEN >> kind & 1 else WaitQueue.__new__(WaitQueue)
        queue.home = self.home
        queue.kind = kind
        queue.other = self.queues
        while queue.other is not None and queue.other.kind < kind:
            before = queue.other
            queue.other = before.other
        if before is None:
            self.queues = queue
        else:
            before.other = queue
        return queue

    cdef void drop(self, WaitQueue queue):
        """Nobody waits in it any more: most connections never need it again."""
        cdef WaitQueue before = self.queues
        if before is queue:
            self.queues = queue.other
            return
        while before.other is not queue:
            before = before.other
        before.other = queue.other

    cdef void tell(self, QuicConnection conn, uint32_t events):
        cdef WaitQueue queue = self.queues, following
        while queue is not None:
            following = queue.other
            if events >> queue.kind & 1 and queue.first is not None:
                if TAKEN >> queue.kind & 1:
                    serve(conn, queue.kind, queue)
                else:
                    queue.wake_all()
                    self.drop(queue)
            queue = following
        if events >> W_PATHS & 1 and self.path_listener is not None:
            try:
                self.home.call_soon(self.path_listener, conn)
            except RuntimeError:      # the loop is closed
                pass
            if conn.close_reason is not None:
                self.path_listener = None


cdef ConnectionWaiters waiters_of(QuicConnection conn):
    if conn.waiters is None:
        conn.waiters = ConnectionWaiters()
    return <ConnectionWaiters>conn.waiters


cdef object attempt(QuicConnection conn, int kind, object subject):
    if kind == W_ACCEPT_BI or kind == W_ACCEPT_UNI:
        return conn.accept_stream(kind == W_ACCEPT_BI)
    if kind == W_OPEN_BI or kind == W_OPEN_UNI:
        return conn.open_stream(kind == W_OPEN_BI)
    if kind == W_DATAGRAM:
        return conn.read_datagram()
    return True if conn.queue_buffer(subject, False) else None


cdef void serve(QuicConnection conn, int kind, WaitQueue queue):
    """Hand out what there is, to the oldest calls."""
    cdef Waiter waiter
    while (waiter := queue.head()) is not None:
        try:
            value = attempt(conn, kind, waiter.subject)
        except Exception as error:
            if conn.close_reason is None:
                waiter.error = error
                queue.hand(None)
                continue
            break
        if value is None:
            break
        queue.hand(value)
    if conn.close_reason is not None:
        queue.wake_all()


def take(QuicConnection conn, int kind, subject=None):  # hot
    """What a WAIT_* kind is about, without waiting; None: wait for it."""
    cdef PyObject* known
    cdef Handoff queue
    if not 0 <= kind < N_WAITS or not TAKEN >> kind & 1:
        raise ValueError("nothing to take")
    if conn.waiters is not None:
        known = (<ConnectionWaiters>conn.waiters).find(kind)
        if known != NULL and ((<Handoff>known).spare is not None or (<Handoff>known).first is not None):
            queue = <Handoff>known
            if queue.spare:
                return queue.spare.popleft()
            if queue.head() is not None and conn.close_reason is None:
                return None           # others came first
    return attempt(conn, kind, subject)


def wait(QuicConnection conn, int kind, subject=None):
    """The next event of a WAIT_* kind, see the module; at once when the connection is over."""
    if not 0 <= kind < N_WAITS:
        raise ValueError("nothing to wait for")
    if conn.close_reason is not None if kind != W_DRAINED else conn.state == ST_DRAINED:
        return over()
    cdef Waiter waiter = waiters_of(conn).queue(kind).join(subject)
    waiter.leaves = True
    return waiter


def on_paths(QuicConnection conn, call):
    """Have ``call(conn)`` called soon after each change of the paths, and at the end; None: no more."""
    if call is not None or conn.waiters is not None:
        waiters_of(conn).path_listener = call


# ---------------------------------------------------------------- streams
@cython.final
cdef class StreamWaiters(WaitQueue):
    """In the slot of a stream: who waits for its events. It is itself the queue of its readers."""
    cdef WaitQueue write

    cdef WaitQueue rare(self, int event):
        """The queue of an event for which few wait; made when one does, in the list of `other`."""
        cdef WaitQueue queue = self.other
        while queue is not None and queue.kind != event:
            queue = queue.other
        if queue is None:
            queue = WaitQueue.__new__(WaitQueue)
            queue.home = self.home
            queue.kind = event
            queue.other = self.other
            self.other = queue
        return queue

    cdef void tell(self, uint32_t events):
        cdef WaitQueue queue
        if events & EV_READ and self.first is not None:
            self.wake_all()
        if events & EV_WRITE and self.write is not None:
            while self.write.hand(None):
                pass
        if events & (EV_STOP | EV_RESET):
            queue = self.other
            while queue is not None:
                if events & <uint32_t>queue.kind:
                    queue.wake_all()
                queue = queue.other


cdef inline StreamWaiters stream_waiters(QuicStream stream):
    cdef StreamWaiters waiters
    if stream.waiters is None:
        waiters = StreamWaiters.__new__(StreamWaiters)
        waiters.home = home_of(stream)
        stream.waiters = waiters
    return <StreamWaiters>stream.waiters


cdef Home home_of(QuicStream stream):
    cdef QuicConnection conn = <QuicConnection>stream.connection
    return running_home() if conn.waiters is None else (<ConnectionWaiters>conn.waiters).home


def wait_read(QuicStream stream):  # hot
    """Data, end or reset arrived, or the connection ended."""
    if stream.over():
        return over()
    return stream_waiters(stream).join(None)


def wait_write(QuicStream stream):
    """Room to write again, stopped, or the connection ended."""
    cdef StreamWaiters waiters
    if stream.over():
        return over()
    waiters = stream_waiters(stream)
    if waiters.write is None:
        waiters.write = RoomQueue.__new__(RoomQueue)
        waiters.write.home = home_of(stream)
    return waiters.write.join(stream)


def wait_stopped(QuicStream stream):
    """Stopped by the peer, everything acknowledged, or the connection ended."""
    return over() if stream.over() else stream_waiters(stream).rare(EV_STOP).join(None)


def wait_reset(QuicStream stream):
    """FIN or RESET_STREAM arrived, or the connection ended."""
    return over() if stream.over() else stream_waiters(stream).rare(EV_RESET).join(None)


# ---------------------------------------------------------------- the driver's side
cdef void deliver(QuicConnection conn):  # hot
    cdef uint32_t events = 0
    cdef QuicStream stream
    if conn.streams.table.reported.head != NULL:
        while (stream := conn.streams.next_event(&events)) is not None:
            if stream.waiters is not None:
                (<StreamWaiters>stream.waiters).tell(events)
    events = conn.take_events()
    if events and conn.waiters is not None:
        (<ConnectionWaiters>conn.waiters).tell(conn, events)
