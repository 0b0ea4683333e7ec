#ifndef API_MOVES_H
#define API_MOVES_H

/*
 * Customers who are on the way to another cell, have moved there, or are on the way here
 * (customer_move.h), in memory, so that who asks for one is told where it is, or to wait. A thread
 * of its own, with a connection of its own, follows the counter of moves; what it knows is a second
 * old at most while the database answers. Nothing rests on that: no balance changes behind its
 * fence (ledger.h), whatever is known here.
 *
 *   421 customer_moved    the customer lives in the cell that the header X-Cell names
 *   503 customer_moving   for a moment: what changes anything, while the customer leaves or comes
 */

#include <stdbool.h>
#include <stdint.h>

#include "libcommon/domain/customer_move.h"

struct httpd_request;
struct moves;

/* settings outlive it. */
struct moves *moves_start(const struct db_settings *settings);
void moves_begin_stop(struct moves *m);
void moves_free(struct moves *m); /* NULL is fine */

/* Any thread; none of these waits for the database. NULL: nobody has moved. */

/* Whether a request about that customer is answered here, and then does it. writes: it may change
 * something. */
bool moves_refuse(struct moves *m, struct httpd_request *req, int64_t customer_id, bool writes);
/* Answers what met the fence of a balance. */
void moves_reply(struct moves *m, struct httpd_request *req, int64_t customer_id);

#endif
