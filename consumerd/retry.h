#ifndef CONSUMERD_RETRY_H
#define CONSUMERD_RETRY_H

/*
 * Puts messages back into the outbox with a time to run, inside the caller's transaction: how a
 * retry leaves this process's memory. Blocks. The caller holds the message_status rows it acts for
 * and sees to it that they are `pending`, or somebody else's.
 */

#include "consumerd/inflight.h"
#include "consumerd/settings.h"
#include "libcommon/db/db.h"
#include "libcommon/domain/outbox.h"

#define RETRY_BACKOFF (-1) /* delay_ms: grows with the message's number of enqueues */

struct retry {
    const struct inflight *message;
    enum outbox_kind kind;
    const char **recipients; /* those that are left */
    size_t count;
    int64_t delay_ms; /* 0: at once; RETRY_BACKOFF */
    int64_t least_ms; /* not before that, whatever the delay */
    /* Until the end of the retry window: the backoff of a delivery does not reach beyond it.
     * INT64_MIN: this is no retry of a delivery. */
    int64_t window_left_ms;
    bool missing; /* result: `messages` has no such row, nothing was written for it */
};

void retry_register(void); /* the statements' labels; at start */

/* n retries of different messages; sorts them. */
int retry_write(struct db *db, const struct settings *settings, struct retry *retries, size_t n,
                struct err *err);

#endif
