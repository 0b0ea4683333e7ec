#ifndef LIBCOMMON_DOMAIN_WEBHOOK_WATCH_H
#define LIBCOMMON_DOMAIN_WEBHOOK_WATCH_H

/*
 * Keeps the process's set of customers with endpoints (webhook_set.h) up to date: a thread with a
 * connection of its own looks every second at the change counter that the endpoints' owner raises
 * (webhook_store.h), and reads the customers again when it has moved. So an endpoint hears of what
 * happens from a second after its making at the latest. What nobody has confirmed for
 * WEBHOOK_WATCH_BELIEVED_MS is known no more. One a process.
 */

#include "libcommon/db/db.h"

#define WEBHOOK_WATCH_BELIEVED_MS 10000

void webhook_watch_start(const struct db_settings *settings); /* which outlive it */
void webhook_watch_begin_stop(void); /* does not wait; fine without a start */
void webhook_watch_stop(void);       /* fine without a start; bounded by the database's timeouts */

#endif
