/* Batched UDP for one socket: options, receive into a slab, send with ancillary data.
 *
 * Linux uses UDP_SEGMENT (GSO), UDP_GRO and recvmmsg; other POSIX systems use plain
 * recvmsg/sendmsg with whatever options they have; Windows uses recvfrom/sendto.
 * Define UB_PORTABLE to build the plain POSIX branch on Linux.
 *
 * Nothing here touches Python. Functions return 0 or a positive count on success and a
 * negative errno on failure; no function blocks except ub_wait. */
#ifndef IROH_FAST_UDP_BATCH_H
#define IROH_FAST_UDP_BATCH_H

#if defined(__APPLE__) && !defined(__APPLE_USE_RFC_3542)
#define __APPLE_USE_RFC_3542 1 /* IPV6_RECVPKTINFO and friends */
#endif
#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE 1 /* recvmmsg, struct in6_pktinfo */
#endif

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "slab.h"

#ifdef _WIN32
#include <winsock2.h>
#include <ws2tcpip.h>
#include <windows.h>
#ifdef _MSC_VER
#pragma comment(lib, "ws2_32.lib")
#endif
#ifndef SIO_UDP_CONNRESET
#define SIO_UDP_CONNRESET _WSAIOW(IOC_VENDOR, 12)
#endif
#ifndef SIO_UDP_NETRESET
#define SIO_UDP_NETRESET _WSAIOW(IOC_VENDOR, 15)
#endif
#else
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
#endif

#if defined(__linux__) && !defined(UB_PORTABLE)
#define UB_LINUX 1
#include <netinet/udp.h>
#ifndef SOL_UDP
#define SOL_UDP 17
#endif
#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103 /* linux/udp.h, since 4.18 */
#endif
#ifndef UDP_GRO
#define UDP_GRO 104 /* linux/udp.h, since 5.0 */
#endif
#endif

/* How each system spells the IPv4 TOS control message. OpenBSD and NetBSD have none for sending. */
#if defined(_WIN32) || defined(__OpenBSD__) || defined(__NetBSD__)
#define UB_TOS_BYTES 0
#elif defined(__FreeBSD__) || defined(__DragonFly__)
#define UB_TOS_BYTES 1
#else
#define UB_TOS_BYTES 4
#endif

enum {
    UB_SLOTS = 16,
    UB_SLOT_BYTES = 65536,  /* a GRO aggregate never exceeds 65535 bytes */
    UB_CTL_BYTES = 192,     /* pktinfo 40 + TOS 24 + TCLASS 24 + GRO 24, with head room */
    UB_MAX_SEGMENTS = 64,   /* UDP_MAX_SEGMENTS of the first kernels with GSO */
    UB_MAX_BATCH = 65487,   /* largest UDP payload valid for both families */
    UB_MANY = 32,           /* messages per sendmmsg */
    UB_RETRIES = 16         /* bound for transient errors in one call */
};

/* One received message; pointers borrow the slab. */
typedef struct {
    uint8_t *data;
    uint32_t len;
    uint32_t stride;
    uint32_t src_scope;
    uint32_t dst_scope;
    uint16_t src_port;
    uint8_t ecn;
    uint8_t src[16];
    uint8_t dst[16]; /* all zero when unknown */
} ub_msg;

/* Outcome of one ub_send. */
typedef struct {
    uint64_t bytes;      /* payload accepted by the kernel */
    uint32_t calls;      /* system calls made */
    uint32_t datagrams;  /* datagrams accepted by the kernel */
    uint32_t segments;   /* of them, sent as part of a GSO batch */
    uint32_t too_big;    /* calls refused with EMSGSIZE */
    uint32_t errors;     /* calls refused with another error, swallowed */
    uint32_t dropped;    /* datagrams given up because the queue filled in mid-batch */
    int last_errno;      /* errno of the last swallowed error, 0 if none */
    int blocked;         /* EAGAIN or ENOBUFS when the caller must retry */
} ub_tx;

typedef struct {
    uint8_t *slab;
#ifdef UB_LINUX
    struct mmsghdr hdr[UB_SLOTS];
    struct iovec iov[UB_SLOTS];
    int used; /* headers the last call may have modified */
#endif
    struct sockaddr_in6 name[UB_SLOTS]; /* holds sockaddr_in too */
#ifndef _WIN32
    union {
        struct cmsghdr align;
        uint8_t bytes[UB_CTL_BYTES];
    } ctl[UB_SLOTS];
#endif
    ub_msg msg[UB_SLOTS];
} ub_rx;

typedef struct {
    int fd;
    int v6;            /* family is AF_INET6 */
    int gso, gro, tos; /* features still in use */
    int may_fragment;  /* the don't-fragment option is missing */
    int max_segments;
    uint32_t truncated; /* received messages dropped because a buffer was short */
    ub_rx *rx;
} ub_socket;

static const uint8_t ub_v4_prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

static inline int ub_is_v4(const uint8_t *ip) { return memcmp(ip, ub_v4_prefix, 12) == 0; }

/* No address at all, or the wildcard of either family: nothing to pin. */
static inline int ub_is_unspecified(const uint8_t *ip)
{
    static const uint8_t zero[16];
    return memcmp(ip, zero, 16) == 0 || (ub_is_v4(ip) && memcmp(ip + 12, zero, 4) == 0);
}

static inline void ub_put_v4(uint8_t *out, const void *four)
{
    memcpy(out, ub_v4_prefix, 12);
    memcpy(out + 12, four, 4);
}

/* ------------------------------------------------------------------ system specifics */

#ifdef _WIN32
static int ub_errno(void)
{
    int e = WSAGetLastError();
    switch (e) {
    case WSAEWOULDBLOCK: return EAGAIN;
    case WSAEINTR: return EINTR;
    case WSAEMSGSIZE: return EMSGSIZE;
    case WSAENOBUFS: return ENOBUFS;
    case WSAECONNRESET: case WSAENETRESET: return ECONNRESET;
    case WSAECONNREFUSED: return ECONNREFUSED;
    case WSAEINVAL: return EINVAL;
    case WSAENOTSOCK: case WSAEBADF: return EBADF;
    case WSAEACCES: return EACCES;
    case WSAENETUNREACH: return ENETUNREACH;
    case WSAEHOSTUNREACH: return EHOSTUNREACH;
    case WSAEADDRNOTAVAIL: return EADDRNOTAVAIL;
    case WSAEAFNOSUPPORT: return EAFNOSUPPORT;
    default: return EIO;
    }
}

static double ub_now(void)
{
    LARGE_INTEGER f, c;
    QueryPerformanceFrequency(&f);
    QueryPerformanceCounter(&c);
    return (double)c.QuadPart / (double)f.QuadPart;
}

static int ub_wait(int fd, int writable, int ms)
{
    fd_set set;
    struct timeval tv;
    tv.tv_sec = ms / 1000;
    tv.tv_usec = (ms % 1000) * 1000;
    FD_ZERO(&set);
    FD_SET((SOCKET)fd, &set);
    return select(0, writable ? NULL : &set, writable ? &set : NULL, NULL, &tv) > 0;
}

static int ub_option(int fd, int level, int name, int value)
{
    return setsockopt((SOCKET)fd, level, name, (const char *)&value, (int)sizeof value) == 0;
}
#else
static double ub_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* 1 when ready, 0 on timeout or signal. */
static int ub_wait(int fd, int writable, int ms)
{
    struct pollfd p;
    p.fd = fd;
    p.events = writable ? POLLOUT : POLLIN;
    p.revents = 0;
    return poll(&p, 1, ms) > 0;
}

static int ub_option(int fd, int level, int name, int value)
{
    return setsockopt(fd, level, name, &value, (socklen_t)sizeof value) == 0;
}
#endif

/* ------------------------------------------------------------------ life cycle */

/* Probe and set the options of an unbound socket; what is missing is only noted. NULL without memory. */
static ub_socket *ub_open(int fd, int v6, int v6only)
{
    int df = 0;
    ub_socket *u = (ub_socket *)calloc(1, sizeof *u);
    if (u == NULL)
        return NULL;
    u->fd = fd;
    u->v6 = v6;
    u->tos = 1;
    u->max_segments = 1;

    if (!v6 || !v6only) { /* failures on a dual-stack socket leave only the v4 half without it */
#ifdef IP_RECVTOS
        (void)ub_option(fd, IPPROTO_IP, IP_RECVTOS, 1);
#endif
#if defined(IP_MTU_DISCOVER) && defined(IP_PMTUDISC_PROBE)
        df = ub_option(fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE);
#elif defined(_WIN32) && defined(IP_DONTFRAGMENT)
        df = ub_option(fd, IPPROTO_IP, IP_DONTFRAGMENT, 1);
#elif defined(IP_DONTFRAG)
        df = ub_option(fd, IPPROTO_IP, IP_DONTFRAG, 1);
#endif
    }
    if (!v6) {
#ifdef _WIN32
        /* recvfrom carries no control messages: asking for packet info would be pointless */
#elif defined(__linux__)
        (void)ub_option(fd, IPPROTO_IP, IP_PKTINFO, 1);
#elif defined(IP_RECVPKTINFO)
        (void)ub_option(fd, IPPROTO_IP, IP_RECVPKTINFO, 1);
#elif defined(IP_RECVDSTADDR)
        (void)ub_option(fd, IPPROTO_IP, IP_RECVDSTADDR, 1);
#endif
    } else {
        int df6 = 0;
#if defined(IPV6_MTU_DISCOVER) && defined(IPV6_PMTUDISC_PROBE)
        df6 = ub_option(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_PROBE);
#endif
#ifdef IPV6_DONTFRAG
        df6 |= ub_option(fd, IPPROTO_IPV6, IPV6_DONTFRAG, 1);
#endif
        df = v6only ? df6 : (df && df6);
#ifndef _WIN32
#ifdef IPV6_RECVPKTINFO
        (void)ub_option(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1);
#endif
#ifdef IPV6_RECVTCLASS
        (void)ub_option(fd, IPPROTO_IPV6, IPV6_RECVTCLASS, 1);
#endif
#endif
    }
    u->may_fragment = !df;
#ifdef UB_LINUX
    u->gro = ub_option(fd, SOL_UDP, UDP_GRO, 1);
    /* Probe only: the segment size is chosen per message. */
    u->gso = ub_option(fd, SOL_UDP, UDP_SEGMENT, 1500) && ub_option(fd, SOL_UDP, UDP_SEGMENT, 0);
    if (u->gso)
        u->max_segments = UB_MAX_SEGMENTS;
#endif
#ifdef _WIN32
    {   /* An ICMP error for one peer must not fail receives for all others. */
        BOOL off = FALSE;
        DWORD done = 0;
        (void)WSAIoctl((SOCKET)fd, SIO_UDP_CONNRESET, &off, sizeof off, NULL, 0, &done, NULL, NULL);
        (void)WSAIoctl((SOCKET)fd, SIO_UDP_NETRESET, &off, sizeof off, NULL, 0, &done, NULL, NULL);
    }
#endif
    return u;
}

static void ub_free(ub_socket *u)
{
    if (u == NULL)
        return;
    if (u->rx != NULL) {
        slab_free(u->rx->slab, (size_t)UB_SLOTS * UB_SLOT_BYTES);
        free(u->rx);
    }
    free(u);
}

/* The slab is made on first use and kept: untouched slots never become resident. */
static int ub_rx_ready(ub_socket *u)
{
    ub_rx *rx;
    int i;
    if (u->rx != NULL)
        return 0;
    rx = (ub_rx *)calloc(1, sizeof *rx);
    if (rx == NULL)
        return -ENOMEM;
    rx->slab = slab_new((size_t)UB_SLOTS * UB_SLOT_BYTES);
    if (rx->slab == NULL) {
        free(rx);
        return -ENOMEM;
    }
    for (i = 0; i < UB_SLOTS; i++) {
        rx->msg[i].data = rx->slab + (size_t)i * UB_SLOT_BYTES;
#ifdef UB_LINUX
        rx->iov[i].iov_base = rx->msg[i].data;
        rx->iov[i].iov_len = UB_SLOT_BYTES;
        rx->hdr[i].msg_hdr.msg_iov = &rx->iov[i];
        rx->hdr[i].msg_hdr.msg_iovlen = 1;
        rx->hdr[i].msg_hdr.msg_name = &rx->name[i];
        rx->hdr[i].msg_hdr.msg_control = rx->ctl[i].bytes;
#endif
    }
#ifdef UB_LINUX
    rx->used = UB_SLOTS;
#endif
    u->rx = rx;
    return 0;
}

/* ------------------------------------------------------------------ receive */

/* Fill the source of a message from its socket address; 0 when the address is unusable. */
static int ub_source(ub_msg *m, const struct sockaddr_in6 *name, size_t len)
{
    if (len >= sizeof(struct sockaddr_in) && name->sin6_family == AF_INET) {
        struct sockaddr_in a;
        memcpy(&a, name, sizeof a);
        ub_put_v4(m->src, &a.sin_addr);
        m->src_port = ntohs(a.sin_port);
        m->src_scope = 0;
        return 1;
    }
    if (len >= sizeof(struct sockaddr_in6) && name->sin6_family == AF_INET6) {
        memcpy(m->src, &name->sin6_addr, 16);
        m->src_port = ntohs(name->sin6_port);
        m->src_scope = name->sin6_scope_id;
        return 1;
    }
    return 0;
}

#ifndef _WIN32
/* The small unsigned value of a control message of any of the usual widths. */
static uint32_t ub_cmsg_value(struct cmsghdr *c)
{
    size_t n = (size_t)c->cmsg_len - (size_t)CMSG_LEN(0);
    if (n >= 4) {
        uint32_t v;
        memcpy(&v, CMSG_DATA(c), 4);
        return v;
    }
    if (n >= 2) {
        uint16_t v;
        memcpy(&v, CMSG_DATA(c), 2);
        return v;
    }
    return n == 1 ? *(const uint8_t *)CMSG_DATA(c) : 0;
}

/* Turn one filled header into a message; 0 to drop it. */
static int ub_parse(ub_socket *u, ub_msg *m, struct msghdr *h, size_t len)
{
    struct cmsghdr *c;
    m->len = (uint32_t)len;
    m->stride = (uint32_t)len;
    m->ecn = 0;
    m->dst_scope = 0;
    memset(m->dst, 0, 16);
    /* With control data cut off, an aggregate could pass for one datagram. */
    if (h->msg_flags & (MSG_TRUNC | MSG_CTRUNC)) {
        u->truncated++;
        return 0;
    }
    if (!ub_source(m, (const struct sockaddr_in6 *)h->msg_name, (size_t)h->msg_namelen))
        return 0;
    for (c = CMSG_FIRSTHDR(h); c != NULL; c = CMSG_NXTHDR(h, c)) {
        if (c->cmsg_len < CMSG_LEN(0))
            break;
        if (c->cmsg_level == IPPROTO_IP) {
            if (c->cmsg_type == IP_TOS
#ifdef IP_RECVTOS
                || c->cmsg_type == IP_RECVTOS
#endif
            ) {
                m->ecn = (uint8_t)(ub_cmsg_value(c) & 3);
            }
#ifdef IP_PKTINFO
            else if (c->cmsg_type == IP_PKTINFO && c->cmsg_len >= CMSG_LEN(sizeof(struct in_pktinfo))) {
                struct in_pktinfo p;
                memcpy(&p, CMSG_DATA(c), sizeof p);
                ub_put_v4(m->dst, &p.ipi_addr);
            }
#endif
#ifdef IP_RECVDSTADDR
            else if (c->cmsg_type == IP_RECVDSTADDR && c->cmsg_len >= CMSG_LEN(sizeof(struct in_addr))) {
                ub_put_v4(m->dst, CMSG_DATA(c));
            }
#endif
        } else if (c->cmsg_level == IPPROTO_IPV6) {
#ifdef IPV6_TCLASS
            if (c->cmsg_type == IPV6_TCLASS)
                m->ecn = (uint8_t)(ub_cmsg_value(c) & 3);
#endif
#ifdef IPV6_PKTINFO
            if (c->cmsg_type == IPV6_PKTINFO && c->cmsg_len >= CMSG_LEN(sizeof(struct in6_pktinfo))) {
                struct in6_pktinfo p;
                memcpy(&p, CMSG_DATA(c), sizeof p);
                memcpy(m->dst, &p.ipi6_addr, 16);
                /* the interface is part of the identity of link-local addresses only */
                if (m->dst[0] == 0xfe && (m->dst[1] & 0xc0) == 0x80)
                    m->dst_scope = (uint32_t)p.ipi6_ifindex;
            }
#endif
        }
#ifdef UB_LINUX
        else if (c->cmsg_level == SOL_UDP && c->cmsg_type == UDP_GRO) {
            uint32_t gro = ub_cmsg_value(c);
            if (gro > 0 && gro < m->len)
                m->stride = gro;
        }
#endif
    }
    return 1;
}
#endif /* !_WIN32 */

static inline int ub_rx_transient(int e)
{
    return e == EINTR || e == ECONNRESET || e == ECONNREFUSED;
}

/* Receive up to max messages. Kept ones are listed in slots[]; returns their number, 0 when the
 * queue is empty, or -errno. *raw is the number of messages the kernel handed over. */
static int ub_recv(ub_socket *u, int max, ub_msg **slots, int *raw, uint32_t *calls)
{
    int kept = 0, tries = 0, rc;
    ub_rx *rx;
    *raw = 0;
    if (max > UB_SLOTS)
        max = UB_SLOTS;
    if (max <= 0)
        return 0;
    rc = ub_rx_ready(u);
    if (rc < 0)
        return rc;
    rx = u->rx;
#ifdef UB_LINUX
    {
        int i, n;
        for (i = 0; i < rx->used; i++) {
            rx->hdr[i].msg_hdr.msg_namelen = sizeof rx->name[i];
            rx->hdr[i].msg_hdr.msg_controllen = UB_CTL_BYTES;
            rx->hdr[i].msg_hdr.msg_flags = 0;
        }
        rx->used = 1; /* even a failed receive may have written to the header it tried */
        for (;;) {
            ++*calls;
            n = recvmmsg(u->fd, rx->hdr, (unsigned)max, MSG_DONTWAIT, NULL);
            if (n >= 0)
                break;
            rc = errno;
            if (rc == EAGAIN || rc == EWOULDBLOCK)
                return 0;
            if (!ub_rx_transient(rc))
                return -rc;
            if (++tries >= UB_RETRIES)
                return 0; /* level-triggered readiness brings the caller back */
        }
        rx->used = n < max ? n + 1 : n;
        *raw = n;
        for (i = 0; i < n; i++)
            if (ub_parse(u, &rx->msg[i], &rx->hdr[i].msg_hdr, rx->hdr[i].msg_len))
                slots[kept++] = &rx->msg[i];
    }
#else
    while (*raw < max) {
        int i = *raw;
        ub_msg *m = &rx->msg[i];
        ++*calls;
#ifdef _WIN32
        {
            int namelen = (int)sizeof rx->name[i];
            int n = recvfrom((SOCKET)u->fd, (char *)m->data, UB_SLOT_BYTES, 0,
                             (struct sockaddr *)&rx->name[i], &namelen);
            rc = n < 0 ? ub_errno() : 0;
            if (rc == EMSGSIZE) { /* longer than any UDP datagram: cannot be ours */
                u->truncated++;
                ++*raw;
                continue;
            }
            if (rc == 0) {
                m->len = m->stride = (uint32_t)n;
                m->ecn = 0;
                m->dst_scope = 0;
                memset(m->dst, 0, 16);
                ++*raw;
                if (ub_source(m, &rx->name[i], (size_t)namelen))
                    slots[kept++] = m;
                continue;
            }
        }
#else
        {
            struct iovec iov;
            struct msghdr h;
            ssize_t n;
            memset(&h, 0, sizeof h);
            iov.iov_base = m->data;
            iov.iov_len = UB_SLOT_BYTES;
            h.msg_iov = &iov;
            h.msg_iovlen = 1;
            h.msg_name = &rx->name[i];
            h.msg_namelen = sizeof rx->name[i];
            h.msg_control = rx->ctl[i].bytes;
            h.msg_controllen = UB_CTL_BYTES;
            n = recvmsg(u->fd, &h, MSG_DONTWAIT);
            rc = n < 0 ? errno : 0;
            if (rc == 0) {
                ++*raw;
                if (ub_parse(u, m, &h, (size_t)n))
                    slots[kept++] = m;
                continue;
            }
        }
#endif
        if (rc == EAGAIN || rc == EWOULDBLOCK)
            break;
        if (ub_rx_transient(rc)) {
            if (++tries >= UB_RETRIES)
                break;
            continue;
        }
        return kept > 0 ? kept : -rc; /* a lasting failure shows again on the next call */
    }
#endif
    return kept;
}

/* ------------------------------------------------------------------ send */

#ifndef _WIN32
static void ub_put_cmsg(uint8_t *ctl, size_t *used, int level, int type, const void *data, size_t n)
{
    struct cmsghdr *c = (struct cmsghdr *)(ctl + *used);
    memset(c, 0, CMSG_SPACE(n));
    c->cmsg_len = CMSG_LEN(n);
    c->cmsg_level = level;
    c->cmsg_type = type;
    memcpy(CMSG_DATA(c), data, n);
    *used += CMSG_SPACE(n);
}
#endif

typedef struct {
    struct sockaddr_in6 name; /* holds sockaddr_in too */
    size_t name_len;
    int v4;             /* destination is IPv4, mapped or not */
    const uint8_t *src; /* 16 bytes or NULL */
    uint32_t scope;
    int ecn;
} ub_dest;

/* One datagram or batch of a call that sends many. */
typedef struct {
    const uint8_t *dst; /* 16 bytes */
    const uint8_t *src; /* 16 bytes or NULL */
    const uint8_t *buf;
    size_t n;
    size_t segment; /* 0: one datagram */
    uint32_t scope;
    uint16_t port;
    uint8_t ecn;
    int error; /* out: errno of a swallowed error, 0 when sent */
} ub_item;

/* Fill the destination; 0, or the errno of one that this socket can not reach. */
static inline int ub_set_dest(ub_socket *u, ub_dest *d, const uint8_t *dst, uint16_t port, uint32_t scope,
                       const uint8_t *src, int ecn)
{
    memset(d, 0, sizeof *d);
    d->v4 = ub_is_v4(dst);
    d->ecn = ecn & 3;
    d->scope = scope;
    d->src = src != NULL && !ub_is_unspecified(src) ? src : NULL;
    if (u->fd < 0)
        return EBADF;
    if (port == 0)
        return EINVAL;
    if ((d->v4 && d->src != NULL && !ub_is_v4(d->src)) ||
        (!d->v4 && (!u->v6 || (d->src != NULL && ub_is_v4(d->src)))))
        return EAFNOSUPPORT;
    if (!u->v6) {
        struct sockaddr_in a;
        memset(&a, 0, sizeof a);
        a.sin_family = AF_INET;
        a.sin_port = htons(port);
        memcpy(&a.sin_addr, dst + 12, 4);
#if defined(__APPLE__) || defined(__FreeBSD__) || defined(__OpenBSD__) || defined(__NetBSD__)
        a.sin_len = sizeof a;
#endif
        memcpy(&d->name, &a, sizeof a);
        d->name_len = sizeof a;
    } else {
        d->name.sin6_family = AF_INET6;
        d->name.sin6_port = htons(port);
        d->name.sin6_scope_id = scope;
        memcpy(&d->name.sin6_addr, dst, 16);
#if defined(__APPLE__) || defined(__FreeBSD__) || defined(__OpenBSD__) || defined(__NetBSD__)
        d->name.sin6_len = sizeof d->name;
#endif
        d->name_len = sizeof d->name;
    }
    return 0;
}

#ifndef _WIN32
/* A message as the system takes it; it points into itself and into what it was made of. */
typedef struct {
    struct iovec iov;
    union {
        struct cmsghdr align;
        uint8_t bytes[UB_CTL_BYTES];
    } ctl;
} ub_message;

static inline void ub_fill(struct msghdr *h, ub_message *m, const ub_dest *d, const uint8_t *buf, size_t n, size_t segment,
                    int tos)
{
    size_t used = 0;
    memset(h, 0, sizeof *h);
    m->iov.iov_base = (void *)(uintptr_t)buf;
    m->iov.iov_len = n;
    h->msg_iov = &m->iov;
    h->msg_iovlen = 1;
    h->msg_name = (void *)(uintptr_t)&d->name;
    h->msg_namelen = (socklen_t)d->name_len;
    if (tos && d->ecn) {
        if (d->v4) {
#if UB_TOS_BYTES == 4
            int v = d->ecn;
            ub_put_cmsg(m->ctl.bytes, &used, IPPROTO_IP, IP_TOS, &v, sizeof v);
#elif UB_TOS_BYTES == 1
            uint8_t v = (uint8_t)d->ecn;
            ub_put_cmsg(m->ctl.bytes, &used, IPPROTO_IP, IP_TOS, &v, sizeof v);
#endif
        } else {
#ifdef IPV6_TCLASS
            int v = d->ecn;
            ub_put_cmsg(m->ctl.bytes, &used, IPPROTO_IPV6, IPV6_TCLASS, &v, sizeof v);
#endif
        }
    }
#ifdef UB_LINUX
    if (segment) {
        uint16_t v = (uint16_t)segment;
        ub_put_cmsg(m->ctl.bytes, &used, SOL_UDP, UDP_SEGMENT, &v, sizeof v);
    }
#else
    (void)segment;
#endif
    if (d->src != NULL) {
        if (d->v4) {
#if defined(IP_PKTINFO)
            struct in_pktinfo p;
            memset(&p, 0, sizeof p);
            memcpy(&p.ipi_spec_dst, d->src + 12, 4);
            ub_put_cmsg(m->ctl.bytes, &used, IPPROTO_IP, IP_PKTINFO, &p, sizeof p);
#elif defined(IP_SENDSRCADDR)
            ub_put_cmsg(m->ctl.bytes, &used, IPPROTO_IP, IP_SENDSRCADDR, d->src + 12, 4);
#endif
        } else {
#ifdef IPV6_PKTINFO
            struct in6_pktinfo p;
            memset(&p, 0, sizeof p);
            memcpy(&p.ipi6_addr, d->src, 16);
            if (d->src[0] == 0xfe && (d->src[1] & 0xc0) == 0x80)
                p.ipi6_ifindex = d->scope;
            ub_put_cmsg(m->ctl.bytes, &used, IPPROTO_IPV6, IPV6_PKTINFO, &p, sizeof p);
#endif
        }
    }
    if (used) {
        h->msg_control = m->ctl.bytes;
        h->msg_controllen = used;
    }
}
#endif

/* One system call (repeated on EINTR): 0 or a positive errno. */
static int ub_sendmsg(ub_socket *u, ub_tx *r, const ub_dest *d, const uint8_t *buf, size_t n,
                      size_t segment, int tos)
{
    int tries = 0, e;
#ifdef _WIN32
    (void)segment;
    (void)tos;
    do {
        r->calls++;
        if (sendto((SOCKET)u->fd, (const char *)buf, (int)n, 0, (const struct sockaddr *)&d->name,
                   (int)d->name_len) >= 0)
            return 0;
        e = ub_errno();
    } while (e == EINTR && ++tries < UB_RETRIES);
#else
    ub_message m;
    struct msghdr h;
    ub_fill(&h, &m, d, buf, n, segment, tos);
    do {
        r->calls++;
        if (sendmsg(u->fd, &h, MSG_DONTWAIT) >= 0)
            return 0;
        e = errno;
    } while (e == EINTR && ++tries < UB_RETRIES);
#endif
    return e == EWOULDBLOCK ? EAGAIN : e;
}

/* What systems say to a control message that they or the device do not take. Each can also have other reasons. */
static inline int ub_may_be_unsupported(int e)
{
    return e == EINVAL || e == EIO || e == EOPNOTSUPP
#if defined(ENOTSUP) && ENOTSUP != EOPNOTSUPP
           || e == ENOTSUP
#endif
#ifdef ENOPROTOOPT
           || e == ENOPROTOOPT
#endif
#ifdef ENOSYS
           || e == ENOSYS
#endif
        ;
}

static inline void ub_count(ub_tx *r, size_t n, size_t segment)
{
    r->bytes += n;
    if (segment) {
        uint32_t count = (uint32_t)((n + segment - 1) / segment);
        r->datagrams += count;
        r->segments += count;
    } else {
        r->datagrams++;
    }
}

/* As ub_sendmsg, but an error that goes away without the ECN mark turns marking off for good.
 * A bad destination also gives EINVAL (for one: a pinned IPv6 source that has left the host), so
 * the feature is blamed only when the call without it succeeds. */
static inline int ub_tx_one(ub_socket *u, ub_tx *r, const ub_dest *d, const uint8_t *buf, size_t n, size_t segment)
{
    int e = ub_sendmsg(u, r, d, buf, n, segment, u->tos);
    if (ub_may_be_unsupported(e) && u->tos && d->ecn) {
        e = ub_sendmsg(u, r, d, buf, n, segment, 0);
        if (e == 0)
            u->tos = 0;
    }
    if (e == 0)
        ub_count(r, n, segment);
    return e;
}

/* Send one datagram, or n bytes cut into segments. 0, or -EAGAIN when nothing was accepted because
 * the queue is full; any other failure is counted in *r and swallowed: loss recovery handles it. */
static int ub_send(ub_socket *u, ub_tx *r, const uint8_t *dst, uint16_t port, uint32_t scope,
                   const uint8_t *src, int ecn, const uint8_t *buf, size_t n, size_t segment)
{
    ub_dest d;
    size_t off = 0;
    int e;

    memset(r, 0, sizeof *r);
    e = ub_set_dest(u, &d, dst, port, scope, src, ecn);
    if (e) {
        r->errors = 1;
        r->last_errno = e;
        return 0;
    }
    if (segment >= n)
        segment = 0;

    do {
        size_t chunk = n - off, part = 0;
        if (segment) {
            if (u->gso && segment <= UB_MAX_BATCH / 2) {
                size_t most = (UB_MAX_BATCH / segment) * segment;
                size_t limit = (size_t)u->max_segments * segment;
                if (limit < most)
                    most = limit;
                if (chunk > most)
                    chunk = most;
            } else if (chunk > segment) {
                chunk = segment;
            }
            part = chunk > segment ? segment : 0;
        }
        e = ub_tx_one(u, r, &d, buf + off, chunk, part);
        if (part && ub_may_be_unsupported(e)) {
            /* Segmentation (EIO: the device cannot checksum segments) or the destination? One plain datagram tells. */
            e = ub_tx_one(u, r, &d, buf + off, part, 0);
            if (e == 0) {
                u->gso = 0;
                u->max_segments = 1;
                chunk = part;
            }
        }
        if (e == EAGAIN || e == ENOBUFS) {
            if (r->datagrams == 0) {
                r->blocked = e;
                return -EAGAIN;
            }
            /* Some of the batch is out: asking for a retry of all of it could repeat forever. */
            r->dropped += (uint32_t)((n - off + segment - 1) / segment);
            return 0;
        }
        if (e == EMSGSIZE) {
            r->too_big++;
        } else if (e != 0) {
            r->errors++;
            r->last_errno = e;
        }
        off += chunk;
    } while (off < n);
    return 0;
}

/* ------------------------------------------------------------------ sizes */

/* What IP and UDP put before the payload, taken from an interface's MTU; no more than their lengths can say. */
static int ub_payload_of(long mtu, int v4)
{
    long most = v4 ? 65535 - 28 : 65535 - 8, payload = mtu - (v4 ? 28 : 48);
    return payload < 1 ? 0 : (int)(payload < most ? payload : most);
}

#if !defined(_WIN32) && !defined(UB_LINUX) && defined(SIOCGIFMTU)
/* The MTU of the interface that has the address of a connected socket; 0: unknown. */
static long ub_interface_mtu(int fd)
{
    struct sockaddr_storage own;
    socklen_t size = sizeof own;
    struct ifaddrs *all, *at;
    long mtu = 0;
    if (getsockname(fd, (struct sockaddr *)&own, &size) != 0 || getifaddrs(&all) != 0)
        return 0;
    for (at = all; at != NULL && mtu == 0; at = at->ifa_next) {
        struct ifreq request;
        if (at->ifa_addr == NULL || at->ifa_addr->sa_family != own.ss_family)
            continue;
        if (own.ss_family == AF_INET
                ? memcmp(&((struct sockaddr_in *)at->ifa_addr)->sin_addr, &((struct sockaddr_in *)&own)->sin_addr, 4)
                : memcmp(&((struct sockaddr_in6 *)at->ifa_addr)->sin6_addr, &((struct sockaddr_in6 *)&own)->sin6_addr, 16))
            continue;
        memset(&request, 0, sizeof request);
        strncpy(request.ifr_name, at->ifa_name, sizeof request.ifr_name - 1);
        if (ioctl(fd, SIOCGIFMTU, &request) == 0)
            mtu = request.ifr_mtu;
    }
    freeifaddrs(all);
    return mtu;
}
#endif

/* Bytes of the largest datagram that the interface on the way to an address takes, or a router further on as far as the
 * system has heard of it; 0: unknown. A connected socket of its own is asked, no packet leaves. */
static int ub_largest(ub_socket *u, const uint8_t *dst, uint16_t port, uint32_t scope, const uint8_t *src)
{
    ub_dest d;
    long mtu = 0;
    if (ub_set_dest(u, &d, dst, port, scope, src, 0) != 0)
        return 0;
#ifdef _WIN32
    {
        SOCKET probe = socket(u->v6 ? AF_INET6 : AF_INET, SOCK_DGRAM, IPPROTO_UDP);
        DWORD value = 0;
        int size = sizeof value;
        if (probe == INVALID_SOCKET)
            return 0;
        if (connect(probe, (const struct sockaddr *)&d.name, (int)d.name_len) == 0 &&
            getsockopt(probe, u->v6 ? IPPROTO_IPV6 : IPPROTO_IP, u->v6 ? IPV6_MTU : IP_MTU, (char *)&value, &size) == 0)
            mtu = (long)value;
        closesocket(probe);
    }
#else
    {
        int probe = socket(u->v6 ? AF_INET6 : AF_INET, SOCK_DGRAM, IPPROTO_UDP);
        if (probe < 0)
            return 0;
#ifdef UB_LINUX
        {
            struct sockaddr_in6 own; /* holds sockaddr_in too */
            int value = 0;
            socklen_t size = sizeof value;
            memset(&own, 0, sizeof own);
            own.sin6_family = (sa_family_t)(u->v6 ? AF_INET6 : AF_INET);
            if (d.src != NULL && u->v6) {
                memcpy(&own.sin6_addr, d.src, 16);
                own.sin6_scope_id = scope;
            } else if (d.src != NULL) {
                memcpy(&((struct sockaddr_in *)&own)->sin_addr, d.src + 12, 4);
            }
            if ((d.src == NULL || bind(probe, (const struct sockaddr *)&own,
                                       u->v6 ? sizeof own : sizeof(struct sockaddr_in)) == 0) &&
                connect(probe, (const struct sockaddr *)&d.name, (socklen_t)d.name_len) == 0 &&
                getsockopt(probe, u->v6 ? IPPROTO_IPV6 : IPPROTO_IP, u->v6 ? IPV6_MTU : IP_MTU, &value, &size) == 0)
                mtu = value;
        }
#elif defined(SIOCGIFMTU)
        if (connect(probe, (const struct sockaddr *)&d.name, (socklen_t)d.name_len) == 0)
            mtu = ub_interface_mtu(probe);
#endif
        close(probe);
    }
#endif
    return mtu > 0 ? ub_payload_of(mtu, d.v4) : 0;
}

#ifdef UB_LINUX
/* Whether an item leaves with one message. */
static int ub_fits(const ub_socket *u, const ub_item *item)
{
    if (item->segment == 0 || item->segment >= item->n)
        return 1;
    return u->gso && item->n <= UB_MAX_BATCH && item->n <= (size_t)u->max_segments * item->segment;
}

/* Send as many of the items as the system takes in one call; 0 when the first needs a closer look. */
static int ub_send_some(ub_socket *u, ub_tx *r, ub_item *items, int count)
{
    struct mmsghdr headers[UB_MANY];
    ub_message messages[UB_MANY];
    ub_dest dests[UB_MANY];
    int i, n;
    if (count < 2)
        return 0;
    for (n = 0; n < count && n < UB_MANY; n++) {
        ub_item *item = &items[n];
        if (!ub_fits(u, item) ||
            ub_set_dest(u, &dests[n], item->dst, item->port, item->scope, item->src, item->ecn) != 0)
            break;
        ub_fill(&headers[n].msg_hdr, &messages[n], &dests[n], item->buf, item->n,
                item->segment < item->n ? item->segment : 0, u->tos);
        headers[n].msg_len = 0;
    }
    if (n < 2)
        return 0;
    r->calls++;
    n = sendmmsg(u->fd, headers, (unsigned)n, MSG_DONTWAIT);
    for (i = 0; i < n; i++) {
        items[i].error = 0;
        ub_count(r, items[i].n, items[i].segment < items[i].n ? items[i].segment : 0);
    }
    return n > 0 ? n : 0;
}
#endif

/* Send items in order, with few system calls. Number of those that are done with; fewer than `count` when the
 * queue is full (r->blocked says how). Errors are swallowed and noted in the items. */
static int ub_send_many(ub_socket *u, ub_tx *r, ub_item *items, int count)
{
    ub_tx one;
    int i = 0, n;
    memset(r, 0, sizeof *r);
    while (i < count) {
        ub_item *item = &items[i];
#ifdef UB_LINUX
        n = ub_send_some(u, r, item, count - i);
        if (n > 0) {
            i += n;
            continue;
        }
#endif
        n = ub_send(u, &one, item->dst, item->port, item->scope, item->src, item->ecn, item->buf, item->n,
                    item->segment);
        r->bytes += one.bytes;
        r->calls += one.calls;
        r->datagrams += one.datagrams;
        r->segments += one.segments;
        r->too_big += one.too_big;
        r->errors += one.errors;
        r->dropped += one.dropped;
        if (n != 0) {
            r->blocked = one.blocked;
            return i;
        }
        if (one.errors)
            r->last_errno = one.last_errno;
        item->error = one.errors ? one.last_errno : one.too_big ? EMSGSIZE : 0;
        i++;
    }
    return i;
}

#endif /* IROH_FAST_UDP_BATCH_H */
