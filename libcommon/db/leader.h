#ifndef LIBCOMMON_DB_LEADER_H
#define LIBCOMMON_DB_LEADER_H

/*
 * Of many replicas, one does a thing: whoever has the named lock of this database. Blocks.
 *
 * The lock belongs to the session: take it after db_acquire, do the work on the same connection,
 * resign, and only then release the connection. No db_acquire in between: it may open a new
 * session, which leads nothing. The lock ends with its session, so that nobody has to clean up
 * after a process that died. But the server ends a session when it notices that the connection is
 * gone, not when we do: after a loss in the middle nobody leads for a while, or, when the server is
 * the first to notice, somebody else leads while we still finish a step. So the lock spares double
 * work and nothing more: what must not happen twice needs row locks or conditions of its own.
 */

#include "libcommon/db/db.h"

/* *leads: whether it has the lock now, after waiting for it for at most wait_sec (0: not at all;
 * keep it below the statement's timeout). name is unique in the database, and plain text. */
int leader_try(struct db *db, const char *name, int wait_sec, bool *leads, struct err *err);
/* Gives it up. When the database does not answer, the session ends, and the lock with it. */
void leader_resign(struct db *db, const char *name);

#endif
