#ifndef LIBCOMMON_DOMAIN_OUTBOX_H
#define LIBCOMMON_DOMAIN_OUTBOX_H

/*
 * Rows for outbox_events, appended to SQL that the caller runs inside its own transaction: the
 * message and the wish to publish it stand or fall together. Each enqueue of a message has an
 * event_type of its own (message.send, then message.retry.<n>); a collision is an error, never
 * ignored.
 */

#include "libcommon/db/db.h"
#include "libcommon/domain/message.h"

#define OUTBOX_INSERT           \
    "INSERT INTO outbox_events" \
    "(aggregate_type,aggregate_id,event_type,payload,priority,next_run_at) VALUES "

/* Appends "(...)": one row of OUTBOX_INSERT. n 0: message.send, else message.retry.<n>. delay_ms 0:
 * now (next_run_at NULL), else that far ahead on the database's clock. payload is JSON text. */
void outbox_put_row(struct db *db, struct buf *sql, const char *message_id, unsigned n,
                    enum message_type type, const struct buf *payload, int64_t delay_ms);

#endif
