#ifndef API_COMMIT_H
#define API_COMMIT_H

/*
 * The committers: a few threads, each with a connection. One takes everything that waits
 * (commit_queue.h), commits it as one batch and answers. An idle system commits a single
 * send at once, a busy one hundreds together. Another committer joins in when so much waits that a
 * second transaction is worth its cost: it works while the first one's COMMIT goes to the disk.
 *
 * A batch that fails is retried or split, so that one bad request never takes its neighbours along;
 * a customer whose balance row stays locked is set aside until its deadline; a COMMIT whose answer
 * was lost is looked up before anything is answered. What has waited past its deadline is not
 * begun, and what did not take place is not begun again after it.
 */

#include <stdbool.h>
#include <stddef.h>

#include "api/operation.h"

struct commit;

/* Gives the answer to op, unless its deadline has been first, and frees it; called on a committer's
 * thread. */
typedef void commit_answer_fn(struct operation *op);

struct commit *commit_start(commit_answer_fn *answer,
                            operation_enter_fn *enter); /* settings: api_settings */

/* Hands op over; any thread, never blocks. False when the queue is full or closed: op stays the
 * caller's. */
bool commit_submit(struct commit *c, struct operation *op);

/* Finishes what is being tried, answers what waits as late, ends the threads: whoever calls this
 * has given requests their time to be decided. No submit afterwards. */
void commit_stop(struct commit *c);

#endif
