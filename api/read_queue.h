#ifndef API_READ_QUEUE_H
#define API_READ_QUEUE_H

/*
 * Reads that wait for a thread, fairly: customers take turns, however many reads each has waiting.
 * A customer has so many at work at a time that somebody else's finds a thread, and so many waiting
 * that there is room for somebody else's. Bounded. No call blocks; the owner's lock is held in
 * each.
 */

#include <stdbool.h>
#include <stdint.h>

struct read_job;
struct read_queue;

struct read_queue_limits {
    int64_t waiting;
    int64_t waiting_each; /* of one customer */
    int64_t at_work_each;
};

struct read_queue *read_queue_new(const struct read_queue_limits *limits);
void read_queue_free(struct read_queue *q); /* nothing waits, nothing is at work */

/* False: no room; the job stays the caller's. */
bool read_queue_put(struct read_queue *q, struct read_job *job);
/* The next one, which is at work from now on. NULL: none may begin now. */
struct read_job *read_queue_take(struct read_queue *q);
/* A job of that customer, taken before, is answered. */
void read_queue_done(struct read_queue *q, int64_t user_id);
bool read_queue_may_take(const struct read_queue *q);
bool read_queue_is_empty(const struct read_queue *q); /* nothing waits */

#endif
