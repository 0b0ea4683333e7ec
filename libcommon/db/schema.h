#ifndef LIBCOMMON_DB_SCHEMA_H
#define LIBCOMMON_DB_SCHEMA_H

/*
 * The schema version that this build needs. msg-api migrates (api/migrate.h); the others wait.
 * Blocks.
 */

#include "libcommon/db/db.h"

#define SCHEMA_VERSION 18

enum schema { SCHEMA_READY, SCHEMA_NOT_YET, SCHEMA_UNKNOWN };

/* Whether the schema is there; db is acquired. *seen is the caller's memory, false at first: a
 * schema does not go away again, so once it is true nothing is asked. Both other answers fill err:
 * not yet with ERR_RETRY and the two versions, unknown with what the database said. */
enum schema schema_look(struct db *db, bool *seen, struct err *err);

/* For verbs: ERR_PERMANENT, with what a person does about it, where it is not there yet. */
int schema_need(struct db *db, struct err *err);

#endif
