"""The buffers of streams under one name; the rooms are `_send_buffer`, `_receive_buffer` and `_ranges`."""

from iroh_fast.quic._receive_buffer cimport (
    RecvBuf, recvbuf_discard, recvbuf_free, recvbuf_init, recvbuf_insert, recvbuf_read_into, recvbuf_readable,
    recvbuf_take)
from iroh_fast.quic._send_buffer cimport (
    SendBuf, sendbuf_ack, sendbuf_copy, sendbuf_free, sendbuf_has_pending, sendbuf_init, sendbuf_lost, sendbuf_poll,
    sendbuf_rewind, sendbuf_unacked, sendbuf_write_copy, sendbuf_write_ref)
