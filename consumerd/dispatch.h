#ifndef CONSUMERD_DISPATCH_H
#define CONSUMERD_DISPATCH_H

/*
 * Drives deliveries (delivery.h) on one thread with an event loop: starts calls (transport.h),
 * keeps the operators' breakers, rests and slots, waits for backoffs. Thousands of recipients at a
 * time.
 *
 * Lanes submit jobs and get each of them back, exactly once, through their job queue. What is in
 * here is bounded by what the lanes may have in hand. Slots: each operator takes a number of calls
 * at a time for each lane, express beside normal, and a number of lookups; what does not fit waits
 * its turn, and goes to the next operator as soon as the breaker opens.
 */

#include "consumerd/inflight.h"
#include "consumerd/job_queue.h"
#include "consumerd/settings.h"
#include "consumerd/worker.h"

struct dispatch;

/* queues: one for each lane; they outlive the dispatch, as worker, settings and operators (their
 * names, as many as the set has) do. */
struct dispatch *dispatch_start(const struct settings *settings,
                                const struct operator_address *operators, struct operator_set *set,
                                struct worker *worker, struct job_queue *const *queues);
/* Ends the thread; whatever it still has comes back through the queues as JOB_ABANDONED. What is
 * submitted afterwards stays with its message. */
void dispatch_stop(struct dispatch *d);
void dispatch_free(struct dispatch *d); /* when nobody submits any more; NULL is fine */

/* What is known of the operators is this from now on: a set that is alike. Any thread. */
void dispatch_reload(struct dispatch *d, struct operator_set *set);

/* Takes all jobs of the list, which is empty afterwards. era: the incarnation that claimed them; if
 * it is over they come back as JOB_ABANDONED. Any thread. */
void dispatch_submit(struct dispatch *d, struct job_list *jobs, uint64_t era);

/* From now on no new try is made: jobs come back as JOB_LATER once their present call has ended. */
void dispatch_drain(struct dispatch *d);
/* Draining has no more time: calls under way are given up, their outcome is unknown. */
void dispatch_hurry(struct dispatch *d);

#endif
