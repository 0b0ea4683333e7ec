#ifndef LIBCOMMON_BASE_CLOCK_H
#define LIBCOMMON_BASE_CLOCK_H

/*
 * Durations are monotonic; the wall clock is for logs and identifiers and decides nothing. Leases
 * and schedules that processes share use the database's clock, not these.
 */

#include <stdbool.h>
#include <stdint.h>

struct buf;

int64_t clock_mono_us(void);
int64_t clock_mono_ms(void);
int64_t clock_wall_us(void); /* since 1970-01-01T00:00:00Z */

/* Appends 2026-01-02T03:04:05.678901Z (RFC 3339). */
void clock_put_rfc3339(struct buf *b, int64_t wall_us);
/* A time of 1970 to 9999 with Z or an offset; what is beyond microseconds is cut. False: it is
 * something else. */
bool clock_read_rfc3339(const char *s, int64_t *wall_us);

#endif
