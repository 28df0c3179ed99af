"""Waiting for what the core reports."""

from iroh_fast.quic._connection cimport QuicConnection


# Hand what the core reported about a connection and its streams to those who wait for it.
cdef void deliver(QuicConnection conn)
