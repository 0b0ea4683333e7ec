#include "libcommon/db/schema.h"

#include <stdlib.h>

static struct db_label version_label = {.query = "schema_version"};

int schema_version(struct db *db, int *version, struct err *err)
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
