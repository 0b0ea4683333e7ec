#ifndef LIBCOMMON_DOMAIN_RECIPIENT_MOVE_H
#define LIBCOMMON_DOMAIN_RECIPIENT_MOVE_H

/*
 * Recipients of a customer who moves to another cell (customer_move.h), of the same owner as
 * recipient.h: what is open is handed over where the customer leaves, and taken in where they are
 * from then on. Blocks.
 *
 * INVARIANT: what is handed over is in nobody's hands: it is pending, or its owner is dead, and
 * then whoever gets it next asks all operators first. Whatever lies about of it here, in the
 * outbox, in the broker, among dead letters, ends like a redelivery of what is done.
 */

#include "libcommon/domain/recipient.h"

struct recipient_leaving {
    int64_t user_id;
    int64_t dead_sec; /* an owner that was not heard of for so long is dead */
    uint64_t from;    /* nothing open has a smaller id; 0 at first, kept here */
    uint64_t handed;  /* result, adds up */
    uint64_t in_hand; /* result: how many are left, in the hands of living owners */
};
/* Once over all that is open. Transactions of its own; may be repeated after any failure. */
int recipient_hand_over(struct db *db, struct recipient_leaving *leaving, struct err *err);

/* Of locked rows (recipient_lock): those that are moved become pending, in the caller's
 * transaction, and are for the caller to enqueue. *n: how many. */
int recipient_take_in(struct db *db, const struct recipient_rows *rows, uint64_t *n,
                      struct err *err);
/* [id, message] of a customer's recipients that are moved, from that id on, at most limit, in the
 * order of their making. */
int recipient_find_moved(struct db *db, int64_t user_id, uint64_t from, size_t limit,
                         struct db_results *results, struct err *err);
/* How many are open, or moved. */
int recipient_count_left(struct db *db, int64_t user_id, enum recipient_set set, uint64_t *count,
                         struct err *err);

#endif
