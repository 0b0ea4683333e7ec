#ifndef API_MOVE_H
#define API_MOVE_H

/*
 * A customer moves from this cell to another one, whose database is reached too (cell_peer.h):
 *
 *   1. there: the customer is arriving; nothing but the move changes them
 *   2. the history is copied while the customer lives here, pass by pass (move_copy.h)
 *   3. here: leaving. No send and no top-up is taken any more (503), and the time that the customer
 *      is away begins. What is pending is handed over, what consumers have in hand they settle
 *   4. here: frozen, in one transaction: balance, endpoints, keys, receipts. Nothing changes any
 * more
 *   5. what has changed since 2 is copied, until a pass over everything finds no difference
 *   6. there: arrived, in one transaction: the balance is open, endpoints are called. That commit
 *      is the move. Here: moved, and the time that the customer is away ends
 *   7. there: what was handed over goes into the outbox
 *
 * Each step may be done again, and what was done is seen: after a failure, or the death of the
 * process, anywhere, the same again ends the move. Until 6 it can be taken back (move_abort).
 *
 * What this prints is for people, on stdout. Blocks; return 0 or -1.
 */

#include <stdbool.h>
#include <stdint.h>

#include "libcommon/base/err.h"

struct move_order {
    int64_t customer_id;
    const char *cell;  /* to where */
    bool dry_run;      /* says what would be moved, and writes nothing */
    int64_t drain_sec; /* how long what is in hand may take to be settled; then -1, still leaving */
};

void move_register(void);

int move_run(const struct move_order *order, struct err *err);
/* The customer stays: nothing of the move has happened, but that it was tried. */
int move_abort(int64_t customer_id, struct err *err);
/* What moves there are; customer_id 0: all. */
int move_status(int64_t customer_id, struct err *err);
/* Lines for a proxy's map: of customers who have moved away, "<SHA-256 of a key> <cell>" for each
 * key, or "<customer> <cell>". */
int move_map(bool keys, struct err *err);

#endif
