"""Packet numbers sent and received as Python objects, so that tests drive the very code that runs per packet.

Built as ``iroh_fast.quic._models`` in development builds alone. They do no locking of their own.
"""

import random

cimport cython
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

from iroh_fast.quic._random cimport RandomSource
from iroh_fast.quic._received cimport received_forget, received_from
from iroh_fast.quic._space cimport (
    PnSpace, space_ack_due, space_ack_sent, space_free, space_init, space_is_duplicate, space_mark_received,
    space_on_processed, space_skipped, space_take_pn, space_trim)
from iroh_fast.quic._sent cimport (
    LostTable, REC_ACKED, REC_ELICITING, REC_USED, SentRec, SentTable, lost_add, lost_arrived, lost_event, lost_free,
    sent_at, sent_free, sent_from, sent_insert, sent_onward, sent_remove)


@cython.final
cdef class ReceivedNumbers:
    """Received packet numbers of one space: duplicates and ACK ranges."""

    cdef PnSpace space

    def __cinit__(self):
        space_init(&self.space, 0)

    def __dealloc__(self):
        space_free(&self.space)

    def receive(self, uint64_t pn, bint eliciting=True, int64_t now=1, int64_t max_ack_delay=25, uint64_t threshold=1,
                uint64_t reorder=1):
        """Process one packet number; False when it is a duplicate, or came too late to tell."""
        cdef int64_t before = self.space.received.largest
        if space_is_duplicate(&self.space, pn):
            return False
        space_mark_received(&self.space, pn, now)
        space_on_processed(&self.space, pn, eliciting, False, now, max_ack_delay, threshold, reorder, before)
        return True

    def ack_due(self, int64_t now):
        return bool(space_ack_due(&self.space, now))

    def ack_sent(self):
        space_ack_sent(&self.space)

    def forget(self, uint64_t upto):
        received_forget(&self.space.received, upto)

    def trim(self):
        space_trim(&self.space)

    @property
    def ranges(self):
        """Half-open ranges, ascending."""
        return [(self.space.received.starts[i], self.space.received.ends[i]) for i in range(self.space.received.n_ranges)]

    @property
    def first(self):
        """Index of the first range that an acknowledgement names."""
        return received_from(&self.space.received)

    @property
    def memory(self):
        """Bytes held apart from the structure itself."""
        cdef size_t n = 0
        if self.space.received.words != self.space.received.few:
            n += 8 * self.space.received.n_words
        if self.space.received.starts != self.space.received.few_starts:
            n += 16 * <size_t>self.space.received.room
        return n


@cython.final
cdef class SentNumbers:
    """Packet numbers as they are given out, and those that are left out."""

    cdef PnSpace space
    cdef RandomSource random

    def __cinit__(self, seed):
        self.random = RandomSource(random.Random(seed).randbytes)
        space_init(&self.space, self.random.word())

    def __dealloc__(self):
        space_free(&self.space)

    def take(self):
        return space_take_pn(&self.space, self.random)

    def was_skipped(self, uint64_t lo, uint64_t hi):
        return bool(space_skipped(&self.space, lo, hi))


@cython.final
cdef class SentPackets:
    """Packets of one space in flight, and those that were declared lost."""

    cdef SentTable sent
    cdef LostTable lost

    def __dealloc__(self):
        sent_free(&self.sent)
        lost_free(&self.lost)

    def send(self, uint64_t pn, int64_t now):
        cdef SentRec record
        memset(&record, 0, sizeof(SentRec))
        record.pn = pn
        record.sent_at = now
        if sent_insert(&self.sent, &record, 0, REC_ELICITING) < 0:
            raise MemoryError

    def acknowledge(self, uint64_t lo, uint64_t hi):
        """Take lo..hi out of flight; what of it was."""
        cdef uint64_t position = sent_from(&self.sent, lo)
        cdef list taken = []
        while position < self.sent.tail and sent_at(&self.sent, position).pn <= hi:
            if sent_at(&self.sent, position).flags & REC_USED:
                taken.append(sent_at(&self.sent, position).pn)
                sent_remove(&self.sent, position, REC_ACKED)
            position = sent_onward(&self.sent, position)
        return taken

    def leaps(self, uint64_t pn):
        """Over how many records a look behind a packet, which is not in flight, comes to the next that is."""
        cdef uint64_t position = sent_from(&self.sent, pn)
        cdef int count = 0
        while position < self.sent.tail and not sent_at(&self.sent, position).flags & REC_USED:
            position = sent_at(&self.sent, position).acked_upto
            count += 1
        return count

    def lose(self, uint64_t below, int64_t keep_from=0, begins=None):
        """Declare everything below a number lost; what was. `begins`: a congestion event begins, or goes on."""
        cdef uint64_t position = self.sent.head
        cdef list taken = []
        while position < self.sent.tail and sent_at(&self.sent, position).pn < below:
            if sent_at(&self.sent, position).flags & REC_USED:
                taken.append(sent_at(&self.sent, position).pn)
                lost_add(&self.lost, sent_at(&self.sent, position).pn, sent_at(&self.sent, position).sent_at, keep_from)
                sent_remove(&self.sent, position, 0)
            position += 1
        if taken and begins is not None:
            lost_event(&self.lost, begins, taken[0], <uint32_t>len(taken), 1)
        return taken

    def arrived(self, uint64_t lo, uint64_t hi):
        """How many lost packets lo..hi are, and whether with them the last event turned out to be none."""
        cdef uint64_t newest = 0
        cdef bint undone = False
        cdef uint32_t count = lost_arrived(&self.lost, lo, hi, &newest, &undone)
        return count, bool(undone)

    @property
    def outstanding(self):
        return self.sent.outstanding

    @property
    def room(self):
        """Packets that the table holds without growing."""
        return self.sent.mask + 1 if self.sent.ring != NULL else 0

    @property
    def remembered(self):
        """Lost packets that may still arrive."""
        return self.lost.live
