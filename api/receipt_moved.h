#ifndef API_RECEIPT_MOVED_H
#define API_RECEIPT_MOVED_H

/*
 * Receipts about messages of customers who have left this cell (RECEIPT_MOVED): the table
 * receipts_moved, and the only module that writes it. They are stored in the transaction that reads
 * them, and handed on by receipt_forward.h. Blocks.
 */

#include "api/receipt_early.h"
#include "libcommon/domain/customer_move.h"

void receipt_moved_register(void); /* the statements' labels; at start */

/* Those of n that are RECEIPT_MOVED. */
int receipt_moved_put(struct db *db, const struct recipient_receipt *receipts, size_t n,
                      struct err *err);
/* Counts up to most. */
int receipt_moved_count(struct db *db, int64_t most, int64_t *count, struct err *err);

/* Cells that something waits for, at most limit; "" is this one: the customer stays, or is back. */
int receipt_moved_cells(struct db *db, char cells[][CELL_NAME_MAX + 1], size_t limit, size_t *n,
                        struct err *err);
/* At most RECEIPT_BATCH_MAX of what waits for that cell, the oldest first; each is RECEIPT_EARLY,
 * as who takes them stores them. */
int receipt_moved_take(struct db *db, const char *cell, struct receipt_early *out, struct err *err);
int receipt_moved_done(struct db *db, const struct receipt_early *out, struct err *err);

#endif
