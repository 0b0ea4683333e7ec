#ifndef CONSUMERD_OPERATORS_H
#define CONSUMERD_OPERATORS_H

/*
 * What this process knows of each operator: what it is called through, its breaker, whether it is
 * unfit or rests after a throttling, its slots: how many calls it takes at a time, express beside
 * normal, lookups beside both, and its pace: how many submissions a second. Never blocks; all of it
 * belongs to the dispatch thread.
 */

#include "consumerd/run.h"
#include "consumerd/settings.h"

/* A number of calls at a time, and the runs that wait for one of them to end. */
struct slots {
    unsigned used, limit;
    unsigned op;
    bool lookups;
    struct run_list waiting;
};

struct operator_state {
    const struct operator_address *address;
    struct dispatch *dispatch; /* its owner's, who looks at it; not looked at here */
    struct breaker breaker;
    enum breaker_state shown; /* in metrics and log */
    enum unfit unfit;         /* why it was last found unfit; UNFIT_REASONS: it has served since */
    int64_t rest_until_ms;
    int64_t pace_us;     /* between two submissions; 0: as many as there are */
    int64_t next_due_us; /* of the next one, if they came evenly */
    int64_t remaining;   /* of our money there, as it last said; OPERATOR_NO_NUMBER: it has not */
    struct slots submits[MESSAGE_LANES];
    struct slots lookups[MESSAGE_LANES];
    int64_t in_flight;
};

struct operators {
    const struct consumer_settings *settings;
    struct operator_set *set; /* as their files describe them by now */
    struct breaker_config breaker_config;
    int64_t rest_max_ms;
    struct operator_state all[OPERATORS_MAX];
    struct transport_link *links[OPERATORS_MAX];
    size_t n;
};

/* How many calls there may be at a time, over all of a set. */
size_t operators_calls_max(const struct operator_set *set, const struct consumer_settings *s);

/* set: kept; transports: with the same operators; they are opened here. */
void operators_open(struct operators *o, const struct consumer_settings *settings,
                    struct operator_set *set, const struct transport_config *transports);
void operators_close(struct operators *o); /* no call may be under way */
/* Another set, which may follow the present one, takes its place; it is kept. What is under way
 * ends as it began. */
void operators_reload(struct operators *o, struct operator_set *set);

/* What a delivery is to know of them. */
void operators_policy(const struct operators *o, struct delivery_policy *policy);

/* The slots that a call to op for the run takes one of. */
struct slots *operators_slots(struct operators *o, const struct run *run, unsigned op, bool lookup);
/* No slot is free, and the operator may be used: waiting makes sense. */
bool operators_must_wait(const struct operators *o, const struct slots *s);
/* When the next submission to op may go out for its pace, from now; 0: at once. */
int64_t operators_pace_wait_us(const struct operators *o, unsigned op);
void operators_wait(struct slots *s, struct run *run);
void operators_wait_end(struct run *run);

/* Whether the run may be submitted to op now; then its result is owed: of the call, or, if that is
 * not made, operators_drop_submit. */
bool operators_may_submit(struct operators *o, struct run *run, unsigned op);
void operators_drop_submit(struct operators *o, const struct run *run);

/* Shows the breakers as they are by now, though nobody has asked to submit. */
void operators_look(struct operators *o);

/* Starts the call that the slots are for, in one of them. False: no memory, nothing was sent. */
bool operators_call(struct operators *o, struct slots *s, struct run *run);
/* The call has ended with this result; returns the slots that it was in. */
struct slots *operators_called(struct operators *o, struct run *run,
                               const struct transport_result *result);
/* Gives up the call under way, ourselves. */
void operators_abort(struct operators *o, struct run *run);

#endif
