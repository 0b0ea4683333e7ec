#ifndef CONSUMERD_STATS_H
#define CONSUMERD_STATS_H

/*
 * The metrics of msg-consumerd beside those of libcommon. Registered once, at start, with every
 * label set, so that all of them exist at 0. Any thread may add to them.
 */

#include "consumerd/breaker.h"
#include "consumerd/delivery.h"
#include "consumerd/settings.h"
#include "libcommon/domain/message.h"
#include "libcommon/domain/verdict.h"
#include "libcommon/telemetry/metrics.h"

/* What became of one message from the broker, which may have come in a bundle. */
enum stats_event {
    STATS_SUCCESS,   /* all its recipients are done */
    STATS_FAILED,    /* at least one has failed, the others are final too */
    STATS_RETRY,     /* at least one went back into the outbox */
    STATS_DUPLICATE, /* nothing was left to do, or it is in hand already */
    STATS_PUT_OFF,   /* another consumer is at it */
    STATS_LOST,      /* another consumer has taken it over */
    STATS_DEAD,      /* dead-lettered */
    STATS_EVENTS,
};

enum stats_dead {
    STATS_DEAD_BODY,       /* not a message of ours */
    STATS_DEAD_QUEUE,      /* a message of the other lane */
    STATS_DEAD_NO_ROWS,    /* the database does not know it */
    STATS_DEAD_TAKEOVERS,  /* it killed too many consumers */
    STATS_DEAD_UNSETTLED,  /* its rows cannot be written */
    STATS_DEAD_UNREADABLE, /* nobody can take in its headers */
    STATS_DEADS,
};

struct stats {
    struct {
        struct metric *events[STATS_EVENTS], *event_seconds, *delivery_seconds;
        struct metric *redelivered, *in_hand;
    } lane[MESSAGE_LANES];
    struct {
        struct metric *calls[VERDICTS], *seconds, *lookups[LOOKUP_ANSWERS];
        struct metric *breaker[BREAKER_STATES], *transitions[BREAKER_STATES], *refused;
        struct metric *unfit[UNFIT_REASONS];
        struct metric *done, *unknown, *in_flight;
        struct metric *parts, *cost_millionths, *remaining, *remaining_low;
    } op[OPERATORS_MAX];
    struct metric *failed, *refunds[DELIVERY_FAILURES], *dead[STATS_DEADS];
    struct metric *retries, *holds, *takeovers, *claim_batch, *settle_batch;
};

extern struct stats stats;

void stats_register(const struct settings *settings, const struct operator_address *operators,
                    size_t n);
void stats_breaker(unsigned op, enum breaker_state state); /* a change */
void stats_unfit(unsigned op, enum unfit reason);          /* UNFIT_REASONS: it is not */
const char *stats_dead_name(enum stats_dead reason);

#endif
