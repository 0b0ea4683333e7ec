#include "test/loadtest/histogram.h"

#include <math.h>

#define LINEAR (1u << HISTOGRAM_BITS)

static size_t bucket_of(uint64_t v)
{
    int shift;

    if (v < LINEAR)
        return (size_t)v;
    shift = 63 - __builtin_clzll(v) - HISTOGRAM_BITS;
    return ((size_t)shift << HISTOGRAM_BITS) + (size_t)(v >> shift);
}

static int64_t upper_end(size_t bucket)
{
    size_t shift;

    if (bucket < LINEAR)
        return (int64_t)bucket;
    shift = (bucket >> HISTOGRAM_BITS) - 1;
    return (int64_t)(((bucket - (shift << HISTOGRAM_BITS) + 1) << shift) - 1);
}

void histogram_add(struct histogram *h, int64_t value)
{
    if (value < 0)
        value = 0;
    h->buckets[bucket_of((uint64_t)value)]++;
    h->count++;
    if (value > h->max)
        h->max = value;
}

int64_t histogram_at(const struct histogram *h, double q)
{
    uint64_t rank = (uint64_t)ceil(q * (double)h->count - 1e-6); /* q is not exact */
    uint64_t seen = 0;

    if (rank < 1)
        rank = 1;
    for (size_t i = 0; i < HISTOGRAM_SIZE; i++) {
        seen += h->buckets[i];
        if (seen >= rank)
            return upper_end(i) < h->max ? upper_end(i) : h->max;
    }
    return h->max;
}
