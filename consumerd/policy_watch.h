#ifndef CONSUMERD_POLICY_WATCH_H
#define CONSUMERD_POLICY_WATCH_H

/*
 * Policies of the broker's that limit our queues: a message that waits too long, or comes back too
 * often, becomes a dead letter by them, and a dead letter is gone. AMQP does not show them, so a
 * thread asks the management API, at start and now and then, where RABBIT_MANAGEMENT_URI says it
 * is. What it finds is a warning in readiness and in the log; nothing is stopped for it.
 */

#include <stddef.h>

#include "consumerd/settings.h"

struct buf;

/* Pure. text: what the API says of the queue, JSON of n bytes. Appends a sentence about the limits
 * that policies set, nothing when there are none. delivery_limit: what is declared for the queue;
 * a policy's higher one is none. Returns -1 when text is not what the API says of a queue. */
int policy_put_warning(struct buf *out, const char *queue, int64_t delivery_limit, const char *text,
                       size_t n);

struct policy_watch;

/* NULL: no such setting, which is fine for the others. */
struct policy_watch *policy_watch_start(const struct settings *settings);
void policy_watch_begin_stop(struct policy_watch *w);
void policy_watch_stop(struct policy_watch *w); /* bounded: POLICY_WATCH_MS */

#define POLICY_WATCH_MS 3000

#endif
