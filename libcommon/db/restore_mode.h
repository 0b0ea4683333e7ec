#ifndef LIBCOMMON_DB_RESTORE_MODE_H
#define LIBCOMMON_DB_RESTORE_MODE_H

/*
 * Restore mode: while it is on nothing is published, nothing is claimed and no endpoint is called,
 * what is in hand is finished, and sends are accepted and wait. A person switches it on after a
 * backup was loaded, before the daemons start, and says what becomes of what the backup has open
 * (api/restore.h).
 *
 * It is a row of platform_modes, so it lives with the data that it is about. msg-outboxd reads it
 * in the transaction that locks outbox rows, and holds it until that one ends: once a switch is
 * committed nobody publishes under the old mode. msg-consumerd reads it before its first claim and
 * with each heartbeat: once a worker's heartbeat is younger than the switch, it claims nothing new.
 * Events for customers' endpoints are read by statements that find none while it is on.
 */

#include "libcommon/db/db.h"

/* SELECT of whether it is on (db_number: 1 is on), and since when. */
void restore_mode_put(struct buf *sql);
/* The same; until the present transaction ends nobody switches it. */
void restore_mode_put_held(struct buf *sql);
/* A condition of a WHERE: it is off. */
void restore_mode_put_off(struct buf *sql);
/* "(SELECT since …)": the time of the last switch. */
void restore_mode_put_since(struct buf *sql);

/* A transaction of its own; waits for those who hold the mode, for as long as the session waits for
 * locks. Blocks. */
int restore_mode_switch(struct db *db, bool on, struct err *err);
/* since: as text, UTC. Blocks. */
int restore_mode_read(struct db *db, bool *on, char since[32], struct err *err);

/* For people: a look now and then sets what the process shows, in the gauge msg_restore_mode too.
 * The look blocks, and leaves it as it was when it fails; the rest is for any thread. */
void restore_mode_register(void);
void restore_mode_look(struct db *db);
bool restore_mode_shown(void);

#endif
