#ifndef CONSUMERD_JOB_QUEUE_H
#define CONSUMERD_JOB_QUEUE_H

/*
 * Jobs on their way from one thread to another, with a descriptor to poll for. Never blocks, needs
 * no memory. Bounded by what the lanes may have in hand.
 */

#include "consumerd/inflight.h"

struct job_queue;
struct job_queue *job_queue_new(void);
void job_queue_free(struct job_queue *q); /* NULL is fine; does not own the jobs in it */

int job_queue_fd(
    const struct job_queue *q); /* readable: jobs enough to wake for, or it was poked */
/* From how many jobs on, at least 1, the descriptor is readable; 1 until set. One thread: the one
 * that takes. */
void job_queue_wake_at(struct job_queue *q, size_t jobs);
void job_queue_put(struct job_queue *q, struct job *job); /* any thread */
/* Any thread; empties the list of so many jobs. */
void job_queue_put_all(struct job_queue *q, struct job_list *jobs, size_t count);
void job_queue_poke(struct job_queue *q); /* any thread */
/* Appends all of them to the list; the descriptor is quiet again until the next. */
void job_queue_take(struct job_queue *q, struct job_list *into);

#endif
