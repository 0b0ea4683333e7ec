#ifndef API_RECEIPT_EARLY_H
#define API_RECEIPT_EARLY_H

/*
 * Receipts that came before what they are about: for an identifier that no submission has brought
 * yet, or a recipient that is being sent. They lie in a table of their own, which this module alone
 * writes, and are looked at again, after twice as long each time, until they match or nobody waits
 * for them any more. Blocks.
 */

#include <stdint.h>

#include "libcommon/domain/recipient_receipt.h"

void receipt_early_register(void); /* the statements' labels; at start */

/* Stores those of n that are RECEIPT_EARLY, in the caller's transaction. */
int receipt_early_put(struct db *db, const struct recipient_receipt *receipts, size_t n,
                      struct err *err);

/* How many there are, counted up to most. */
int receipt_early_count(struct db *db, int64_t most, int64_t *count, struct err *err);

/* A number of them, to be looked at. */
struct receipt_early {
    uint64_t ids[RECEIPT_BATCH_MAX];
    bool expired[RECEIPT_BATCH_MAX]; /* it has waited for wait_hours */
    struct recipient_receipt receipts[RECEIPT_BATCH_MAX];
    size_t n;
};

/* Those whose time has come, in its order. */
int receipt_early_take(struct db *db, int64_t wait_hours, struct receipt_early *out,
                       struct err *err);
/* In the caller's transaction, by the results of its receipts: what has matched or has expired
 * goes, the rest is put back. *dropped: that expired. */
int receipt_early_done(struct db *db, const struct receipt_early *early, uint64_t *dropped,
                       struct err *err);

#endif
