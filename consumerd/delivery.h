#ifndef CONSUMERD_DELIVERY_H
#define CONSUMERD_DELIVERY_H

/*
 * One recipient's journey through the operators. Pure: no clock, no transport, no database; whoever
 * drives it (dispatch.h) carries out the action that each call returns and comes back with what
 * happened. It knows operators by two properties: whether they can be asked if they have a message,
 * and whether submitting a message to them again is safe; and it knows how long after a submission
 * an operator's "not found" means nothing yet.
 *
 * A round:
 *   1. Operators that may already have the message (an unknown outcome noted on the row; any of
 *      them, when a worker has died in the middle or the row is marked so) are asked. One that has
 *      it: done there.
 *   2. The operators in their order, the one that has just said "not found" first. At each: submit,
 *      repeated after a backoff while the failure is transient and tries are left. A final no, a
 *      throttling, an operator that cannot serve us now, a refusal by the breaker or spent tries:
 *      the next operator. A recipient that has opted out: failed, whatever others would say.
 *   3. A submission with an unknown outcome (timeout, connection lost) is asked after before
 *      anything else: found: done; not found: submitted to the same operator again; unreachable:
 *      the operator is remembered as unknown, then the policy fails over, or holds the recipient
 *      back.
 *   4. No operator took it: with a final no from all, and none unknown, it has failed. Otherwise
 *      the round is spent and the recipient comes back later, through the outbox; once the retry
 *      window is over, the unknown ones are asked a last time, then it has failed.
 *
 * Holding: while an operator may have the message, no other one gets it, and that one gets it again
 * only while it is the only one and the window lasts. A recipient fails only when each that may
 * have it has answered. Once the window is over, a round that begins with unknown operators asks
 * them and submits nothing: found: done; not found anywhere: failed; otherwise it is held, and
 * comes back to be asked about again.
 *
 * Operators that may have the message and are not configured any more ("gone") count as unknown
 * ones that can be neither asked nor used: failing over, they are passed by, and no final no is
 * complete without them; holding, they hold the recipient for a person.
 *
 * "Not found" before lookup_settles_ms have passed since the last submission that may have arrived
 * is "not yet": the same operator is asked again when they have, and nothing is submitted to any
 * operator before. A long wait is spent in the outbox: the round ends, the operators unknown.
 *
 * A worker that dies in the middle leaves the recipient "sending": whoever takes over begins with
 * step 1 for all operators, so that no second operator is used where the first one has the message.
 * The reference is the same on every try: an operator where repeats are safe delivers once.
 *
 * An operator that cannot be asked counts as unreachable wherever it would be asked. One where a
 * repeat is not safe is never submitted to again once an outcome at it was unknown, in this round
 * or a later one, "not found" or not: the first submission may still arrive. A takeover is such an
 * unknown outcome, and so is the mark.
 */

#include <stdbool.h>
#include <stdint.h>

#include "libcommon/domain/verdict.h"

/* Longer waits for a lookup to settle are spent in the outbox. */
#define DELIVERY_SETTLE_WAIT_MAX_MS 3000

#define DELIVERY_OPERATORS_MAX 32

/* Sets of operators have bit n for operator n. What it says may change while deliveries go on. */
struct delivery_policy {
    unsigned operators;      /* 1 to 32 */
    uint32_t can_lookup;     /* those that tell whether they have a message */
    uint32_t repeat_is_safe; /* those that know a message again and deliver it once */
    unsigned lookup_tries;
    /* Of each operator. */
    uint8_t tries[DELIVERY_OPERATORS_MAX];             /* submissions to it in one round */
    int64_t lookup_settles_ms[DELIVERY_OPERATORS_MAX]; /* after a submission; until then its "not
                                                          found" is "not yet" */
    bool hold_unknown; /* use no other operator while one may have the message */
};

/* What is known when a round begins. Times are on the driver's clock. */
struct delivery_row {
    uint32_t unknown;        /* operators noted on the row */
    bool gone;               /* others are noted, too, that are not configured any more */
    bool any;                /* any operator may have it: taken over, or the row is marked */
    int64_t give_up_at_ms;   /* end of the retry window */
    int64_t submitted_at_ms; /* no submission went out after this */
};

enum delivery_step {
    DELIVERY_SUBMIT, /* to op; or delivery_on_blocked when it may not be used now */
    DELIVERY_LOOKUP, /* at op, whatever its breaker says */
    DELIVERY_WAIT,   /* wait_ms, or backoff number attempt (1 = the first), then
                        delivery_on_timer */
    DELIVERY_DONE,   /* at op */
    DELIVERY_FAILED,
    DELIVERY_LATER, /* this round is spent */
    DELIVERY_HELD,  /* to be asked about again, and nothing else */
};

struct delivery_action {
    enum delivery_step step;
    unsigned op;
    unsigned attempt;
    int64_t wait_ms;
};

/* Why a recipient has failed. */
enum delivery_failure {
    DELIVERY_EXPIRED,   /* the retry window was over */
    DELIVERY_REJECTED,  /* a final no from every operator */
    DELIVERY_OPTED_OUT, /* it wants no messages */
    DELIVERY_FAILURES,
};

const char *delivery_failure_name(enum delivery_failure failure);

#define DELIVERY_ALL(operators) ((operators) >= 32 ? UINT32_MAX : (UINT32_C(1) << (operators)) - 1)

struct delivery {
    const struct delivery_policy *policy;
    int64_t give_up_at_ms;
    int64_t submitted_at_ms; /* the last submission that may have arrived, or may yet */
    uint32_t unknown;        /* operators that may have the message */
    uint32_t doubtful; /* those, and such as a submission without an answer may still reach, though
                          they say "not found" */
    uint32_t rejected; /* final noes of this round */
    uint32_t spent;    /* operators not to be used any more in this round */
    uint32_t to_ask;
    uint8_t phase;
    uint8_t op;
    uint8_t preferred;
    uint8_t tries;
    uint8_t lookups;
    bool any;
    bool gone;
    bool stopping;
    bool opted_out;
};

/* Begins a round. policy must outlive the delivery. */
struct delivery_action delivery_start(struct delivery *d, const struct delivery_policy *policy,
                                      const struct delivery_row *row, int64_t now_ms);

/* Each answers the action before it and returns the next; after DONE, FAILED, LATER or HELD none.
 */
struct delivery_action delivery_on_submit(struct delivery *d, enum verdict verdict, int64_t now_ms);
struct delivery_action delivery_on_lookup(struct delivery *d, enum lookup_answer answer,
                                          int64_t now_ms);
struct delivery_action delivery_on_blocked(struct delivery *d, int64_t now_ms);
struct delivery_action delivery_on_timer(struct delivery *d);

/* What belongs on the row when the round ends, beside those that are gone: operators that may have
 * accepted it besides. */
uint32_t delivery_noted(const struct delivery *d);
/* After FAILED. */
enum delivery_failure delivery_failure(const struct delivery *d);

/* The process is to end: from now on every next step is LATER unless the recipient is final. A
 * submission under way may still be answered, or given up. */
void delivery_stop(struct delivery *d);
/* The submission under way was given up before its answer came; no action follows. */
void delivery_give_up_submit(struct delivery *d);

#endif
