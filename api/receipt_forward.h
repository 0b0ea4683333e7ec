#ifndef API_RECEIPT_FORWARD_H
#define API_RECEIPT_FORWARD_H

/*
 * Hands receipts about messages of customers who have moved on to the cell they are in: a thread,
 * of one replica at a time, puts what waits (receipt_moved.h) among that cell's early receipts
 * (receipt_early.h), in its database, and then deletes it here. A receipt that is handed on twice
 * changes nothing the second time. A cell that cannot be reached keeps its own waiting, and no
 * other's; how many wait is bounded by RECEIPT_EARLY_MAX, beyond which such receipts are refused
 * with 503 and come again. Of a customer who stays after all, they are put among our own.
 */

#include <stdbool.h>

struct receipt_forward;

struct receipt_forward *receipt_forward_start(void);
/* Too many wait; as it was when they were last counted. Any thread. */
bool receipt_forward_is_full(const struct receipt_forward *f);
void receipt_forward_stop(struct receipt_forward *f); /* NULL is fine */

#endif
