#ifndef LIBCOMMON_BASE_BACKOFF_H
#define LIBCOMMON_BASE_BACKOFF_H

/* Exponential backoff with jitter. Pure: the random number is the caller's. */

#include <stdint.h>

/* The wait before try number attempt (1 = the first repeat): base doubled each time up to max, of
 * which the upper half is random. base_ms and max_ms are positive. */
int64_t backoff_ms(unsigned attempt, int64_t base_ms, int64_t max_ms, uint64_t random);

#endif
