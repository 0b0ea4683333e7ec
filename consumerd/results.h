#ifndef CONSUMERD_RESULTS_H
#define CONSUMERD_RESULTS_H

/*
 * Writes down what became of claimed recipients, many in one transaction. Nothing is written to a
 * row that is not `sending` with our owner and attempt any more: somebody has taken it over.
 * Blocks.
 *
 * Both calls may be repeated with the same jobs after any failure, a lost commit among them: what
 * was written stays, and is recognised as ours. job->ours tells, on success, whether the row was.
 */

#include "consumerd/claim.h"
#include "consumerd/inflight.h"
#include "consumerd/settings.h"
#include "libcommon/db/db.h"

struct results {
    struct db *db;
    const struct settings *settings;
    const struct operator_address *operators;
};

void results_register(void); /* the statements' labels; at start */

/* Claims that share the transaction (claim_plain). */
struct results_claim {
    const struct claim *claim;
    struct claim_item *items;
    size_t n;
};

/* JOB_DONE of worker me. along: NULL, or what is claimed in the same transaction; it fails or
 * succeeds as a whole. Sorts jobs. */
int results_done(const struct results *r, uint64_t me, struct job **jobs, size_t n,
                 const struct results_claim *along, struct err *err);

/* JOB_FAILED (with the refund), and JOB_LATER and JOB_HELD (back to `pending`, and through the
 * outbox: a message of which all are held comes back to be asked about). Of a message with one of
 * those all that are left must be among them. at_once: what is JOB_LATER is to run again without a
 * wait, because this process ends. A message whose row in `messages` is gone cannot
 * be put off and is marked unwritable. Sorts jobs. */
int results_not_done(const struct results *r, uint64_t me, struct job **jobs, size_t n,
                     bool at_once, struct err *err);

#endif
