#ifndef CONSUMERD_PUBLISHED_H
#define CONSUMERD_PUBLISHED_H

/*
 * How many messages are published and not final, which the broker's queues, of bundles, do not
 * tell. The process that leads the repair counts them from the database and stores the numbers
 * there; every msg-consumerd reads them after its heartbeat and shows them, so that all answer
 * the same. A number is good for a few walks of the repair: past that, or while the database does
 * not answer, the gauge is absent. An old number would keep a scaler from doing what it does
 * without any.
 */

#include <stdint.h>

#include "libcommon/db/db.h"
#include "libcommon/domain/message.h"

/* Before the rest; the gauges are absent. */
void published_register(void);
/* Blocks; db is acquired and in no transaction. valid_ms: how long the numbers are good for. */
int published_store(struct db *db, const int64_t messages[MESSAGE_LANES], int64_t valid_ms,
                    struct err *err);
/* Blocks. Shows the numbers that are still good; a fault is none of the caller's: they are absent
 * then. db is acquired, and connected afterwards or not. */
void published_read(struct db *db);
/* Nobody answers: they are absent. */
void published_forget(void);

#endif
