#ifndef LIBCOMMON_DAEMON_FAILPOINT_H
#define LIBCOMMON_DAEMON_FAILPOINT_H

/*
 * Places in the shipped programs where a crash could part two stores. MSG_FAILPOINT names one and
 * what happens there: name:kill, name:error or name:delay=<ms>, each with an optional :every=<n>
 * (each n-th pass; default 1). Off, a place costs one comparison that is always false. Set once at
 * start.
 */

#include <stdbool.h>
#include <stddef.h>

#include "libcommon/base/err.h"

enum failpoint {
    FAILPOINT_NONE,
    FAILPOINT_API_BEFORE_BEGIN,   /* a batch is taken, nothing is sent to the database */
    FAILPOINT_API_BEFORE_COMMIT,  /* balances are locked, nothing is written */
    FAILPOINT_API_AFTER_COMMIT,   /* committed, not answered */
    FAILPOINT_API_AFTER_REPLY,    /* answered */
    FAILPOINT_OUTBOX_AFTER_CLAIM, /* rows are locked, nothing is published */
    FAILPOINT_OUTBOX_AFTER_PUBLISH,
    FAILPOINT_OUTBOX_AFTER_CONFIRM, /* confirmed, not deleted */
    FAILPOINT_OUTBOX_AFTER_DELETE,  /* deleted and committed */
    FAILPOINT_CONSUMER_ON_DELIVERY,
    FAILPOINT_CONSUMER_AFTER_CLAIM,    /* the recipients are sending, nothing is sent */
    FAILPOINT_CONSUMER_AFTER_DISPATCH, /* being sent; what the same commit settled is not acked */
    FAILPOINT_CONSUMER_AFTER_ACCEPTED, /* the operator said 2xx, nothing is settled */
    FAILPOINT_CONSUMER_AFTER_SETTLE,   /* committed, not acknowledged */
    FAILPOINT_CONSUMER_AFTER_ACK,      /* the turn's acks are with the broker */
    FAILPOINT_CONSUMER_AFTER_LETTER, /* a member's dead letter is confirmed, its bundle not acked */
    FAILPOINT_REFUND_BEFORE,         /* balances are locked for a refund */
    FAILPOINT_REFUND_AFTER,          /* refund written, not committed */
    FAILPOINT_RECEIPTS_BEFORE_COMMIT, /* all is written */
    FAILPOINT_RECEIPTS_AFTER_COMMIT,  /* committed, not answered */
    FAILPOINT_WEBHOOKS_BEFORE_SETTLE, /* endpoints have answered, nothing is written down */
    FAILPOINT_WEBHOOKS_AFTER_SETTLE,
    FAILPOINT_MOVE_ARRIVING, /* the other cell waits for a customer, nothing is copied */
    FAILPOINT_MOVE_COPIED,   /* the history is there, the customer lives here */
    FAILPOINT_MOVE_LEAVING,  /* sends are refused */
    FAILPOINT_MOVE_HANDED,   /* nothing is open here */
    FAILPOINT_MOVE_FROZEN,   /* nothing changes here, and it is not all there */
    FAILPOINT_MOVE_PROVED,   /* both sides are the same */
    FAILPOINT_MOVE_SWITCHED, /* the customer lives there, and this cell does not know */
    FAILPOINT_MOVE_MOVED,    /* it knows, and what is open there sleeps */
    FAILPOINT_MOVE_TAKEN_IN, /* some of it is awake */
    FAILPOINT_COUNT,
};

extern enum failpoint failpoint_armed;

/* The check of the setting MSG_FAILPOINT: false with the reason when spec is not of the form above.
 */
bool failpoint_check(const char *spec, char *why, size_t size);
void failpoint_arm(const char *spec); /* a spec that failpoint_check accepts, or "" */

/* Kills or delays as armed; true when the caller must act as if this step had failed. */
bool failpoint_fire(void);

static inline bool failpoint(enum failpoint here)
{
    return __builtin_expect(failpoint_armed == here, 0) && failpoint_fire();
}

/* The same as a step: 0, or -1 with ERR_RETRY. */
static inline int failpoint_err(enum failpoint here, struct err *err)
{
    return failpoint(here) ? err_set(err, ERR_RETRY, 0, "failpoint") : 0;
}

#endif
