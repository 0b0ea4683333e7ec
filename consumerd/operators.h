#ifndef CONSUMERD_OPERATORS_H
#define CONSUMERD_OPERATORS_H

/*
 * What this process knows of each operator: its breaker, whether it rests after a 429, and its
 * slots: how many calls it takes at a time, express beside normal, lookups beside both. Never
 * blocks; all of it belongs to the dispatch thread.
 */

#include "consumerd/hand.h"
#include "consumerd/send.h"
#include "consumerd/settings.h"

/* A number of calls at a time, and the jobs that wait for one of them to end. */
struct slots {
    unsigned used, limit;
    unsigned op;
    bool lookups;
    struct job_list waiting;
};

struct operator_state {
    const struct operator_address *address;
    struct breaker breaker;
    enum breaker_state shown; /* in metrics and log */
    int64_t rest_until_ms;
    struct slots posts[MESSAGE_LANES];
    struct slots lookups[MESSAGE_LANES];
    int64_t in_flight;
};

struct operators {
    struct breaker_config breaker_config;
    int64_t rest_max_ms;
    struct operator_state all[OPERATORS_MAX];
    size_t n;
};

void operators_init(struct operators *o, const struct consumer_settings *settings,
                    const struct operator_address *addresses, size_t n);

/* The slots that a call to op for the job takes one of. */
struct slots *operators_slots(struct operators *o, const struct job *job, unsigned op, bool lookup);
/* No slot is free, and the operator may be used: waiting makes sense. */
bool operators_must_wait(const struct operators *o, const struct slots *s);

void operators_take_slot(struct operators *o, struct slots *s, struct job *job);
struct slots *operators_give_slot(struct operators *o, struct job *job); /* which one it was */
void operators_wait(struct slots *s, struct job *job);
void operators_wait_end(struct job *job);

/* Whether the job may be POSTed to op now; then its result is owed, by one of the next two. */
bool operators_may_post(struct operators *o, struct job *job, unsigned op);
void operators_record_post(struct operators *o, const struct job *job,
                           const struct send_result *result);
void operators_drop_post(struct operators *o, const struct job *job); /* we gave it up ourselves */
void operators_record_lookup(const struct job *job, const struct send_result *result);

#endif
