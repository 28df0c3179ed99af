"""The unpredictable values of an endpoint and its connections.

What an attacker must not foretell (PATH_CHALLENGE data, connection ids, skipped packet numbers) comes straight from the
system's generator, fetched in blocks so that drawing costs a copy. No generator of ours stands in between; after a fork the
child drops its block. The simulator gives another source, from a seed. Sources: RFC 9000 §5.1, §8.2.1, §21.4, RFC 4086.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_Check, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport abort
from libc.string cimport memcpy, memset

import logging
import os

logger = logging.getLogger("iroh_fast.quic")

cdef unsigned int forks = 0       # a copy of this process would draw what we draw from the same block


def forked():
    global forks
    forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forked)


@cython.final
cdef class RandomSource:
    """Random bytes in blocks from ``source(n) -> bytes``, which is the system's generator unless given.

    Raises
    ------
    ValueError
        The source gives something else than n bytes.
    """

    def __cinit__(self, source=os.urandom):
        self.source = source
        self.at = POOL
        block = source(POOL)
        if type(block) is not bytes or len(block) != POOL:
            raise ValueError("the random source gave too little")
        self.keep(block)

    def __dealloc__(self):
        memset(self.pool, 0, POOL)

    cdef void keep(self, bytes block) noexcept:
        memcpy(self.pool, PyBytes_AS_STRING(block), POOL)
        self.at = 0
        self.forks = forks

    def take(self, int n):
        """n random bytes."""
        cdef bytearray out = bytearray(n)
        self.fill(<uint8_t*><char*>out, <size_t>n)
        return bytes(out)

    cdef void refill(self) noexcept nogil:
        with gil:
            block = None
            try:
                block = self.source(POOL)
            except Exception:
                logger.exception("the random source failed")
            if not PyBytes_Check(block) or PyBytes_GET_SIZE(block) != POOL:
                try:
                    block = os.urandom(POOL)
                except OSError:
                    # Nothing may go on with values that somebody can foretell.
                    abort()
            self.keep(block)

    cdef void fill(self, uint8_t* out, size_t n) noexcept nogil:
        """Write n random bytes; what was handed out is not kept."""
        cdef size_t k
        while n:
            if self.at == POOL or self.forks != forks:
                self.refill()
            k = <size_t>(POOL - self.at)
            if n < k:
                k = n
            memcpy(out, self.pool + self.at, k)
            memset(self.pool + self.at, 0, k)
            self.at += <int>k
            out += k
            n -= k

    cdef uint64_t word(self) noexcept nogil:
        cdef uint64_t value
        self.fill(<uint8_t*>&value, 8)
        return value
