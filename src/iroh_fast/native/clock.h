/* Monotonic clock and timer descriptor of the platform. */
#ifndef IROH_FAST_CLOCK_H
#define IROH_FAST_CLOCK_H

#include <stdint.h>

#ifdef _WIN32
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
static inline int64_t clock_now_ns(void) {
    static LARGE_INTEGER freq;
    LARGE_INTEGER t;
    if (freq.QuadPart == 0) QueryPerformanceFrequency(&freq);
    QueryPerformanceCounter(&t);
    return (int64_t)((double)t.QuadPart * 1e9 / (double)freq.QuadPart);
}
#else
#include <time.h>
static inline int64_t clock_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}
#endif

#ifdef __linux__
#include <sys/timerfd.h>
#include <unistd.h>
/* libuv timers tick in milliseconds; pacing needs microseconds. */
static inline int timer_open(void) { return timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC); }
static inline int timer_arm(int fd, int64_t at_ns) {
    struct itimerspec s = {{0, 0}, {at_ns / 1000000000, at_ns % 1000000000}};
    return timerfd_settime(fd, TFD_TIMER_ABSTIME, &s, 0);
}
static inline void timer_drain(int fd) {
    uint64_t n;
    if (read(fd, &n, sizeof n) < 0) { /* fired and re-armed meanwhile */ }
}
static inline void timer_close(int fd) { close(fd); }
#else
static inline int timer_open(void) { return -1; }
static inline int timer_arm(int fd, int64_t at_ns) { (void)fd; (void)at_ns; return -1; }
static inline void timer_drain(int fd) { (void)fd; }
static inline void timer_close(int fd) { (void)fd; }
#endif

#endif
