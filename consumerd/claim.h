#ifndef CONSUMERD_CLAIM_H
#define CONSUMERD_CLAIM_H

/*
 * Makes the recipients of delivered messages ours, many messages in one transaction. What is
 * claimed is `sending` with this worker as owner and one attempt more: nobody else may send it
 * until we settle it or are dead. The rows decide who is to be sent to, not the body's list.
 * Blocks.
 *
 * Nearly always all that is open is pending: one packet claims it, or fails without a change.
 * Otherwise the rows are locked, looked at, and judged one by one.
 *
 *   pending                         ours
 *   sending, dead owner             ours, taken over: its operators are asked first
 *   sending, ourselves, in hand     nothing (the message was delivered again)
 *   sending, ourselves, not in hand ours, as if taken over (a commit whose answer was lost)
 *   sending, living owner           put off through the outbox until the owner must be done or dead
 *   what would be ours, stale       put off through the outbox for a moment; set aside when we own
 *                                   some of it already: others would find a living owner
 *   done, failed                    nothing
 */

#include "consumerd/inflight.h"
#include "consumerd/settings.h"
#include "consumerd/stats.h"
#include "libcommon/db/db.h"
#include "libcommon/domain/recipient.h"

enum claim_row_fate {
    CLAIM_ROW_FINAL,
    CLAIM_ROW_FRESH,
    CLAIM_ROW_TAKEOVER,
    CLAIM_ROW_IN_HAND,
    CLAIM_ROW_FOREIGN, /* its owner's life decides: takeover or put off */
};

/* The table above. Pure. */
enum claim_row_fate claim_row_fate(enum recipient_state state, uint64_t owner, uint64_t me,
                                   bool in_hand);

enum claim_verdict {
    CLAIM_WORK,      /* message->jobs are to be sent */
    CLAIM_NOTHING,   /* acknowledge: nothing to do here (any more, or yet) */
    CLAIM_SET_ASIDE, /* it may have killed consumers: to be claimed alone */
    CLAIM_DEAD,      /* dead-letter, for reason */
};

struct claim_item {
    struct inflight *message;
    bool stale; /* it has waited too long: what is not ours yet comes again through the outbox */
    const struct inflight *in_hand; /* the same message, delivered earlier; or NULL */
    enum claim_verdict verdict;     /* results from here on */
    enum stats_dead reason;
    size_t taken_over, put_off; /* recipients */
};

struct claim {
    struct db *db;
    const struct settings *settings;
    const struct operator_address *operators;
    size_t operator_count;
};

void claim_register(void); /* the statements' labels; at start */

/* Whether nothing speaks against claim_plain: none is in hand, suspect, or delivered again. */
bool claim_is_plain(const struct claim_item *items, size_t n);

/* Claims n messages of different identifiers for p->owner, together with the changes of p; sorts
 * them. ERR_PERMANENT, and nothing is done at all, if a recipient is in anybody's
 * hands: claim_run looks closer. The caller frees p->rows. */
int claim_plain(const struct claim *c, struct recipient_packet *p, struct claim_item *items,
                size_t n, struct err *err);

/* Claims n messages of different identifiers for worker me; sorts them. suspects: whether what was
 * taken over several times is claimed as well, or set aside. On failure nothing is claimed, or,
 * after a lost commit, it will be found as ours by the next try. */
int claim_run(const struct claim *c, uint64_t me, bool suspects, struct claim_item *items, size_t n,
              struct err *err);

#endif
