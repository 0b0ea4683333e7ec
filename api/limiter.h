#ifndef API_LIMITER_H
#define API_LIMITER_H

/*
 * Token buckets, kept as the generic cell rate algorithm: one number a bucket, the time at which it
 * would be full again. Any thread; the clock is passed in. Memory is fixed: customers share a table
 * in which the entry that is nearest to full gives way, so that the worst an unlucky pair of
 * customers can see is a fuller bucket.
 */

#include <stdbool.h>
#include <stdint.h>

/* What whoever has to wait is told, with status 429 and the code. */
#define LIMITER_CODE "rate_limit_exceeded"
#define LIMITER_MESSAGE "Too many requests. Please retry later."

struct limiter;

/* rate: tokens a second, 0 allows everything; burst: size of the bucket, at least 1. */
struct limiter *limiter_new(int64_t rate, int64_t burst);
void limiter_free(struct limiter *l); /* NULL is fine */

/* Takes a token of this key's bucket. Returns 0, or the seconds (at least 1) until there is one. */
int64_t limiter_take(struct limiter *l, int64_t key, int64_t now_us);

#endif
