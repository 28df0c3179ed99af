/* Direct non-blocking send on the socket of a stream transport. */
#ifndef IROH_FAST_RELAY_SEND_H
#define IROH_FAST_RELAY_SEND_H

#include <stddef.h>

#ifdef _WIN32
/* Overlapped sockets belong to their loop: everything goes through the transport there. */
static inline long relay_send(int fd, const void *data, size_t n) {
    (void)fd; (void)data; (void)n;
    return 0;
}
#else
#include <errno.h>
#include <sys/socket.h>
#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif
/* Bytes taken, 0 when the socket is full, -1 when it is broken. */
static inline long relay_send(int fd, const void *data, size_t n) {
    ssize_t sent;
    do sent = send(fd, data, n, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    if (sent >= 0) return (long)sent;
    return errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS ? 0 : -1;
}
#endif
#endif
