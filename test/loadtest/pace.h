#ifndef LOADTEST_PACE_H
#define LOADTEST_PACE_H

/*
 * The open loop's schedule: request n has a time when it is due, whatever became of those before
 * it. A latency counts from there, so that a stall of the server is seen by every request that it
 * held up, also by those that could not even be written yet. The rate is even, or follows a curve:
 * factors for equal parts of the duration, one after the other, whose mean is taken as 1. Pure.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PACE_PARTS_MAX 288

struct pace {
    double part_us;
    size_t parts;
    double rates[PACE_PARTS_MAX];      /* a second, by part */
    double before[PACE_PARTS_MAX + 1]; /* requests that are due before a part; last: all */
};

/* curve: "0.5,2,1"; "" is even. False: no curve. rate: the mean of all parts. */
bool pace_init(struct pace *p, double rate, int64_t duration_us, const char *curve);
/* Microseconds after the start at which request n (from 0) is due. */
int64_t pace_due_us(const struct pace *p, uint64_t n);
/* Requests that are due before the duration has passed. */
uint64_t pace_total(const struct pace *p);

#endif
