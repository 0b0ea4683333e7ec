#ifndef API_MOVE_COPY_H
#define API_MOVE_COPY_H

/*
 * Makes the rows of a customer in another cell's database what they are here, table by table
 * (move_table.h). Both sides say, in one statement each, how many rows they have in each span of
 * time and what these come to: a count, a checksum over every column, a sum of amounts. Where that
 * differs the rows are read here and written there, over what is there; where it does not, nothing
 * is read. So a copy that was cut off goes on where it was by doing it again, what has changed
 * meanwhile is copied when it is done again, and a pass that finds no difference is the proof that
 * nothing is missing, of count, content and amount.
 *
 * INVARIANT: what is written there is nobody's work until the move ends: recipients that are open
 * are moved (recipient.h), endpoints are disabled, the balance is closed. Nobody else writes these
 * rows there, and so they are written here without their owners, but for the ledger, whose owner
 * keeps balance and entries together.
 *
 * Blocks. Both connections are acquired; no transaction is open, and none is left.
 */

#include <stdint.h>

#include "api/move_table.h"

struct move_copy {
    struct db *db[MOVE_SIDES];
    int64_t customer_id;
    bool dry_run; /* compares, and writes nothing */
    bool lives; /* the customer lives here: a row whose other half came in the meantime is left for
                 * the next pass, with those beside it */
};

/* What a table came to when it was compared. */
struct move_figures {
    uint64_t rows[MOVE_SIDES];
    int64_t sum[MOVE_SIDES];
    uint64_t spans, different; /* of time; those that differed */
};

void move_copy_register(void);

/* One pass over that table; what differed has been copied. */
int move_copy_table(const struct move_copy *copy, const struct move_table *table,
                    struct move_figures *figures, struct err *err);

/* For tests: which spans differ, of lists in order. */
struct move_span {
    int64_t at;
    uint64_t rows;
    char check[32], sum[32]; /* numbers as the server writes them */
    char first[40], last[40];
};
bool move_span_same(const struct move_span *a, const struct move_span *b); /* NULL: no rows */

#endif
