#ifndef CONSUMERD_RUN_H
#define CONSUMERD_RUN_H

/*
 * One job's run through the dispatch: what dispatch.c and operators.c know of it while they have
 * it. Nobody else includes this; all of it belongs to the dispatch thread. Runs that are over are
 * kept for the next ones: once as many exist as there are jobs at a time, none is allocated.
 */

#include <event2/event_struct.h>
#include <sys/queue.h>

#include "consumerd/delivery.h"
#include "consumerd/inflight.h"
#include "consumerd/transport.h"

struct dispatch;
struct slots;

struct run {
    TAILQ_ENTRY(run) link;    /* of all that are active, or of the idle ones */
    TAILQ_ENTRY(run) waiting; /* for a slot */
    struct dispatch *dispatch;
    struct job *job;
    struct delivery delivery;
    struct event backoff;
    struct transport_call call;
    struct slots *slots; /* whose slot it holds, or waits for */
    bool waits_for_slot;
    uint32_t permit; /* the breaker's, of the submission under way */
};

TAILQ_HEAD(run_list, run);

/* A run for the job: from the idle ones, or a new one. NULL: no memory. */
struct run *run_begin(struct run_list *idle, struct dispatch *dispatch, struct job *job);
/* It must not be in any other list, nor its timer or call be under way. */
void run_end(struct run_list *idle, struct run *run);
void run_free_idle(struct run_list *idle);

/* What the job's row and logs say: "operator: what". The last failed submission says it; what a
 * lookup says after it, or why none is made, does not take its place. */
void run_set_error(struct run *run, const char *operator, const char * what);
void run_set_minor_error(struct run *run, const char *operator, const char * what);

#endif
