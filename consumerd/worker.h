#ifndef CONSUMERD_WORKER_H
#define CONSUMERD_WORKER_H

/*
 * This process's incarnation: a row in `workers` whose heartbeat (in database time) tells the
 * others that the recipients it owns are being worked on. A thread and a database connection of its
 * own.
 *
 * The process trusts itself for a shorter time than the others do: settings_stop_after_ms, measured
 * on its own clock from before the last successful write. Past it the incarnation is over for good,
 * whoever notices first: nobody sends or settles under it any more, and once the database answers,
 * the thread takes a new one. The row of the old one stays: its silence is what allows the others
 * to take over, and not before every call it may still have had under way is over.
 *
 * When the database's clock is set back, heartbeats written before it lie ahead: whoever beats next
 * sets them to the present.
 *
 * The janitor deletes rows of workers that have been dead for a day; a missing row means dead.
 */

#include <stdbool.h>
#include <stdint.h>

#include "consumerd/settings.h"

struct worker;

/* "EXISTS (…)": the worker whose id is in that column, or is that number, is not dead. */
void worker_put_lives(struct buf *sql, const struct consumer_settings *settings,
                      const char *column);

/* For those who are no worker themselves (verbs): the statement's label, and whether that one is
 * not dead; nobody (0) is. */
void worker_register(void);
int worker_lives(struct db *db, const struct consumer_settings *settings, uint64_t owner,
                 bool *lives, struct err *err);

struct worker_lease {
    uint64_t id; /* workers.id: message_status.owner */
    uint64_t era;
};

/* Starts the thread, which first waits for the database and for its schema. */
struct worker *worker_start(const struct settings *settings);
/* Removes the row (whoever holds recipients of ours need not wait), ends the thread. Bounded. */
void worker_stop(struct worker *w, bool remove_row);

/* The incarnation that may work now; false: none at present. Any thread, never blocks. */
bool worker_lease(struct worker *w, struct worker_lease *lease);
/* Whether that incarnation may still send and settle. Any thread; cheap enough for every call. */
bool worker_holds(struct worker *w, uint64_t era);
/* Whether a lane may claim: not in restore mode, as the last heartbeat found it. Any thread. */
bool worker_may_claim(const struct worker *w);
/* How many messages a lane holds that are delivered and not claimed; goes out with the heartbeats,
 * for the repair, which must not take them for lost. Any thread. */
void worker_waiting(struct worker *w, enum message_type type, size_t messages);
/* Its holder gives it up (something happened that it cannot go on from). */
void worker_renounce(struct worker *w, uint64_t era);

#endif
