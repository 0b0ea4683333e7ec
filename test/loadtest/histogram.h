#ifndef LOADTEST_HISTOGRAM_H
#define LOADTEST_HISTOGRAM_H

/*
 * Counts of latencies with a bounded relative error, whatever their spread: below 128 exact, above
 * that 128 buckets for each doubling, so that a percentile is at most 1/128 (0.8 %) too high and
 * never too low. Minimum, maximum and sum are exact. Pure; one thread.
 */

#include <stddef.h>
#include <stdint.h>

#define HISTOGRAM_BITS 7
#define HISTOGRAM_SIZE ((64 - HISTOGRAM_BITS + 1) << HISTOGRAM_BITS)

struct histogram {
    uint64_t count;
    int64_t max;
    uint64_t buckets[HISTOGRAM_SIZE];
};

void histogram_add(struct histogram *h, int64_t value); /* negative counts as 0 */
/* The value that the share q (0 to 1) of all values does not exceed; 0 when there is none. */
int64_t histogram_at(const struct histogram *h, double q);

#endif
