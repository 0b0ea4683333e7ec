#ifndef API_IDEMPOTENCY_H
#define API_IDEMPOTENCY_H

/*
 * Idempotency-Key: the first answer to a key is stored by the transaction that charges, unique on
 * (customer, route, key) as bytes. Keys are read after the customer's balance row is locked:
 * whoever uses the same key at another replica waits there, and then sees ours.
 */

#include "api/operation.h"
#include "libcommon/db/db.h"

/* Links those that have a key in common, in order of arrival (op->earlier, op->later). Returns -1
 * when memory is out. */
int idempotency_link_twins(struct operation **ops, size_t n);

/* Adds the statement "keys", which finds the keys of ops; false (nothing added) when none has one.
 */
bool idempotency_put_lookup(struct db_packet *packet, struct operation **ops, size_t n);
/* Decides the operations whose key was found, each by its own body: OUTCOME_REPLAYED with response,
 * or OUTCOME_KEY_REUSED. */
void idempotency_apply(struct db_set *found, struct operation **ops, size_t n);
/* Decides op, whose key an earlier one of its batch has just got the answer of. */
void idempotency_share(struct operation *op, const struct operation *done);
/* Adds the INSERT that stores the answers of the operations that are done, if there are any. */
void idempotency_put_store(struct db *db, struct db_packet *packet, struct operation **ops,
                           size_t n);

#endif
