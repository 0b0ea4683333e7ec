#ifndef LIBCOMMON_DB_SCHEMA_H
#define LIBCOMMON_DB_SCHEMA_H

/*
 * The schema version that this build needs. msg-api migrates (api/migrate.h); the others wait.
 * Blocks.
 */

#include "libcommon/db/db.h"

#define SCHEMA_VERSION 10

/* *version: the highest migration that has finished, 0 for an empty database. */
int schema_version(struct db *db, int *version, struct err *err);

#endif
