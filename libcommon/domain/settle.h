#ifndef LIBCOMMON_DOMAIN_SETTLE_H
#define LIBCOMMON_DOMAIN_SETTLE_H

/*
 * The one place where a recipient becomes FAILED: its state, its refund row and the credit change
 * in the caller's transaction, together or not at all. Blocks. Lock order: message_status (the
 * caller has its rows locked FOR UPDATE), then balances in order of user_id, then the ledger.
 */

#include "libcommon/db/db.h"

struct settle_failure {
    uint64_t status_id; /* message_status.id */
    int64_t user_id;
    int64_t price; /* what this recipient cost */
    const char *message_id;
    unsigned position;
    const char *reason;  /* into last_error; at most 255 bytes are kept */
    const char *unknown; /* operators that may have it all the same, comma-separated; NULL: as the
                            row says */
};

void settle_register(void); /* the statements' labels; at start */

/* Fails and refunds n recipients that the caller has locked and found not final. A duplicate refund
 * is ERR_BUG: the unique key has just prevented one. The caller commits or rolls back. */
int settle_fail(struct db *db, const struct settle_failure *rows, size_t n, struct err *err);

#endif
