#ifndef LIBCOMMON_DOMAIN_RECIPIENT_RECEIPT_H
#define LIBCOMMON_DOMAIN_RECIPIENT_RECEIPT_H

/*
 * What operators tell of recipients they were given: the second half of a recipient's life, beside
 * recipient.h and of the same owner. Two tables: message_status.delivery is what became of the
 * recipient, deliveries has a row for each operator that may have it and tells.
 *
 *   - A receipt counts for the operator it comes from, and is kept in that operator's row.
 *   - Any operator's `delivered` makes the recipient delivered.
 *   - `undelivered` is the recipient's when each operator that may have it (its provider, and those
 *     with an unknown outcome) has said so. Then its price goes back, where that is set.
 *   - Delivered and undelivered absorb: what comes later, or again, changes nothing. What turns out
 *     to be delivered after its price has gone back is kept in the operator's row, and said
 *     (RECEIPT_AFTER_REFUND); neither the status nor money moves.
 *   - A receipt for what is pending, put off with an unknown outcome, proves who has it: done.
 *   - What is being sent just now is its owner's: the receipt has to wait (RECEIPT_EARLY), as one
 *     does for which there is nobody yet.
 *   - Of a customer who has left this cell (customer_move.h), nothing is written down: it is for
 * the cell they are in now (RECEIPT_MOVED). Of one who is coming, it has to wait.
 *   - When nobody has told anything in time, the recipient is unreported, until somebody does.
 *   - Of a message in parts, delivered takes what the operator's rule says; one part that is
 *     undelivered is enough for the rest.
 *
 * Lock order: as in recipient.h, a recipient's rows of deliveries behind the recipient; the counter
 * of moves before all. Blocks.
 */

#include "libcommon/domain/recipient.h"

#define RECEIPT_CODE_MAX 32
#define RECEIPT_WORDS_MAX 160
#define RECEIPT_REASON_MAX 20
#define RECEIPT_MATCH_MAX 128
#define RECEIPT_OPERATOR_MAX 30
#define RECEIPT_BATCH_MAX 500 /* receipts at a time */

/* Of several receipts, for the parts of one message. */
enum receipt_parts {
    RECEIPT_PARTS_ALL,   /* each has to be delivered */
    RECEIPT_PARTS_FIRST, /* the first part's decides */
    RECEIPT_PARTS_LAST,  /* the last part's decides */
};

enum receipt_result {
    RECEIPT_EARLY,        /* nobody is known by it yet, or it is being sent; nothing is kept */
    RECEIPT_CHANGED,      /* the recipient has become what it says */
    RECEIPT_NOTED,        /* for its operator; the recipient is as it was */
    RECEIPT_REPEATED,     /* known, or too late to matter */
    RECEIPT_AFTER_REFUND, /* delivered, and its price has gone back; noted */
    RECEIPT_MOVED, /* its customer has moved to another cell, which has to hear of it: nothing
                    * is kept, and it has a reference now */
    RECEIPT_RESULTS,
};
const char *receipt_result_name(enum receipt_result result);

/* All text is UTF-8 without a NUL. */
struct recipient_receipt {
    char operator_name[RECEIPT_OPERATOR_MAX + 1];
    char message_id[MESSAGE_ID_MAX + 1];  /* by its reference; "": it has none */
    char match_id[RECEIPT_MATCH_MAX + 1]; /* else by this; "": it has none */
    char part[RECEIPT_MATCH_MAX + 1]; /* its number, or what tells it from the others; "": nothing
                                       */
    char code[RECEIPT_CODE_MAX + 1], words[RECEIPT_WORDS_MAX + 1], reason[RECEIPT_REASON_MAX + 1];
    bool delivered;    /* or undelivered */
    unsigned position; /* of the reference */
    enum receipt_parts rule;

    enum receipt_result result;
    int64_t waited_ms; /* since the recipient was done; -1: not known */
    int64_t user_id;   /* but RECEIPT_EARLY: whose it is ... */
    uint64_t status_id;
};

struct recipient_hearing {
    bool refund_undelivered;
    int64_t wait_hours; /* until what nobody has told of is unreported */
};

/* Takes at most RECEIPT_BATCH_MAX receipts, in their order, in the caller's transaction, and sets
 * each one's result. After a failure roll back; the same may be tried again, a lost commit
 * included. */
int recipient_hear(struct db *db, const struct recipient_hearing *how,
                   struct recipient_receipt *receipts, size_t n, struct err *err);

/* Of rows that have waited long enough, at most limit: what is still waiting is unreported; what
 * was told, or has been unreported for keep_days, is deleted. *looked: how many rows, *unreported:
 * recipients. A transaction of its own. */
int recipient_look_back(struct db *db, int64_t keep_days, size_t limit, uint64_t *looked,
                        uint64_t *unreported, struct err *err);

#endif
