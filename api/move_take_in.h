#ifndef API_MOVE_TAKE_IN_H
#define API_MOVE_TAKE_IN_H

/*
 * What was open when a customer left, and sleeps in the cell that they are in now, is pending again
 * and in that cell's outbox: recipient and outbox row in one transaction, some hundreds at a time,
 * so that it may be done again after any failure. Blocks; db is acquired, with no transaction open.
 */

#include "libcommon/db/db.h"
#include "libcommon/domain/topology.h"

void move_take_in_register(void);
/* *taken adds up: recipients. */
int move_take_in(struct db *db, const struct broker_settings *topology, int64_t customer_id,
                 uint64_t *taken, struct err *err);

#endif
