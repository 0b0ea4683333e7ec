#ifndef LIBCOMMON_DAEMON_JANITOR_H
#define LIBCOMMON_DAEMON_JANITOR_H

/*
 * Deletes what nobody needs any more: one thread and one connection a daemon, for a list of rows. A
 * row's turn comes every every_ms, and the first at start, as soon as the schema is there. Of all
 * replicas that have the row one cleans at a time (db/leader.h); the others pass their turn.
 *
 * A statement deletes at most limit rows, so that its locks are short. While it was full it is
 * repeated, JANITOR_REPEATS times in one turn at most and with pauses as long as it took: a backlog
 * goes quickly, and never takes more than half of one connection's time. What a turn could not do
 * is logged as janitor.failed, once until it works again, and tried in the next one.
 */

#include <stddef.h>
#include <stdint.h>

#include "libcommon/db/db.h"

#define JANITOR_REPEATS 50

struct janitor_row {
    const char *name; /* of the lock, in the log, in the label of msg_cleaned_rows_total and of the
                         statement's metrics */
    const char *sql;  /* DELETE ... ORDER BY ..., without its LIMIT */
    int64_t limit, every_ms;
};

struct janitor;

/* Settings and rows outlive it. */
struct janitor *janitor_start(const struct db_settings *settings, const struct janitor_row *rows,
                              size_t n);
void janitor_begin_stop(struct janitor *j); /* so that it ends while other parts drain */
void janitor_stop(struct janitor *j);       /* NULL is fine; bounded by the database's timeouts */

#endif
