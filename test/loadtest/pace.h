#ifndef LOADTEST_PACE_H
#define LOADTEST_PACE_H

/*
 * The open loop's schedule: request n is due at n / rate, whatever became of those before it. A
 * latency counts from there, so that a stall of the server is seen by every request that it held
 * up, also by those that could not even be written yet. Pure.
 */

#include <stdint.h>

/* Microseconds after the start at which request n (from 0) is due. */
int64_t pace_due_us(double rate, uint64_t n);
/* Requests that are due before duration_us has passed. */
uint64_t pace_total(double rate, int64_t duration_us);

#endif
