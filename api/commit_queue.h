#ifndef API_COMMIT_QUEUE_H
#define API_COMMIT_QUEUE_H

/*
 * What waits for the committers, in order of arrival, and when the next batch may be taken from it.
 * Pure: no threads, no clock; the caller locks. Holds operations, does not own them.
 *
 * One batch at a time takes everything; another may be taken beside it when so much waits that a
 * transaction of its own is worth it. While a batch is in hand its customers' other requests stay:
 * batches in hand share no customer, so none waits for another's row locks, and a customer's
 * requests are decided in order. (Correctness rests on the locks in the database, not on this.)
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api/batch.h"

struct commit_queue;

struct commit_limits {
    size_t max;         /* requests that may wait */
    size_t max_bytes;   /* ... and their weight; a single one always may */
    size_t batch_rows;  /* recipients in one batch */
    size_t batch_bytes; /* ... and its weight; a single one always fits */
    size_t beside_rows; /* recipients that are ready before a batch is taken beside another */
};

/* A batch in hand. */
struct commit_hand {
    struct operation *ops[BATCH_CUSTOMERS_MAX];
    size_t n;
    uint16_t slots[BATCH_CUSTOMERS_MAX]; /* of its customers */
    size_t slot_count;
};

struct commit_queue *commit_queue_new(const struct commit_limits *limits); /* never NULL */
void commit_queue_free(struct commit_queue *q);                            /* must be empty */

/* False when it is full: op stays the caller's. */
bool commit_queue_put(struct commit_queue *q, struct operation *op);

bool commit_queue_empty(const struct commit_queue *q); /* nothing set aside either */
bool commit_queue_may_take(const struct commit_queue *q);

/* Takes what fits one batch; at least one, for commit_queue_may_take said so. */
void commit_queue_take(struct commit_queue *q, struct commit_hand *hand);

/* The batch is decided; its operations may be gone. */
void commit_queue_done(struct commit_queue *q, struct commit_hand *hand);

/* How long a batch that took so long, and began so long after the one before, stays in hand once it
 * is decided: while small ones follow closely, what comes meanwhile shares the next transaction,
 * which costs little more with a few sends than with one. Nothing after a quiet time. */
int64_t commit_queue_gather_us(int64_t after_us, int64_t took_us, size_t n);

/* One of a batch in hand that has to be tried again, after a pause: it waits, beyond all limits but
 * its deadline, until commit_queue_return puts all of them in front. */
void commit_queue_set_aside(struct commit_queue *q, struct operation *op);
bool commit_queue_has_aside(const struct commit_queue *q);
void commit_queue_return(struct commit_queue *q);

#endif
