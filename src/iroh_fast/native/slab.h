/* Large buffers that come and go with an endpoint: straight from the system where that is possible, so that they
 * leave no holes in the heap, and pages that were never touched cost nothing. */
#ifndef IROH_FAST_SLAB_H
#define IROH_FAST_SLAB_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#ifdef _WIN32
static inline uint8_t *slab_new(size_t n) { return (uint8_t *)malloc(n); }
static inline void slab_free(uint8_t *p, size_t n) { (void)n; free(p); }
#else
#include <sys/mman.h>
#if !defined(MAP_ANONYMOUS) && defined(MAP_ANON)
#define MAP_ANONYMOUS MAP_ANON
#endif
/* NULL without memory. */
static inline uint8_t *slab_new(size_t n)
{
    void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? NULL : (uint8_t *)p;
}
static inline void slab_free(uint8_t *p, size_t n)
{
    if (p != NULL)
        munmap(p, n);
}
#endif

#endif /* IROH_FAST_SLAB_H */
