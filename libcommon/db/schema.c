#include "libcommon/db/schema.h"

#include <stdlib.h>

static struct db_label version_label = {.query = "schema_version"};

/* *version: the highest migration that has finished, 0 for an empty database. */
static int read_version(struct db *db, int *version, struct err *err)
{
    static const char sql[] =
        "SELECT COALESCE(MAX(version),0) FROM schema_migrations WHERE finished_at IS NOT NULL";
    struct db_results results;
    char **row;

    db_label_register(&version_label);
    if (db_run(db, &version_label, sql, sizeof(sql) - 1, &results, err)) {
        if (err->code != 1146) /* no such table: nothing has been migrated yet */
            return -1;
        *version = 0;
        return 0;
    }
    row = db_next(db_only(&results));
    *version = row && row[0] ? atoi(row[0]) : 0;
    db_results_free(&results);
    return 0;
}

enum schema schema_look(struct db *db, bool *seen, struct err *err)
{
    int version;

    if (*seen)
        return SCHEMA_READY;
    if (read_version(db, &version, err))
        return SCHEMA_UNKNOWN;
    *seen = version >= SCHEMA_VERSION;
    if (*seen)
        return SCHEMA_READY;
    err_set(err, ERR_RETRY, 0, "schema: version %d, needed is %d", version, SCHEMA_VERSION);
    return SCHEMA_NOT_YET;
}

int schema_need(struct db *db, struct err *err)
{
    bool seen = false;

    switch (schema_look(db, &seen, err)) {
    case SCHEMA_READY:
        return 0;
    case SCHEMA_NOT_YET:
        return err_set(err, ERR_PERMANENT, 0, "the schema is older: msg-api migrate comes first");
    case SCHEMA_UNKNOWN:
        break;
    }
    return -1;
}
