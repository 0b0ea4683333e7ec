#include "libcommon/db/leader.h"

static struct db_label lock_label = {.query = "leader"};

int leader_try(struct db *db, const char *name, int wait_sec, bool *leads, struct err *err)
{
    struct db_results results;
    struct buf sql = {0};
    int rc;

    db_label_register(&lock_label);
    buf_printf(&sql, "SELECT GET_LOCK(CONCAT(DATABASE(),'.%s'),%d)", name, wait_sec);
    rc = db_run_buf(db, &lock_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    *leads = db_number(db_only(&results)) == 1;
    db_results_free(&results);
    return 0;
}

void leader_resign(struct db *db, const char *name)
{
    struct buf sql = {0};
    struct err ignored;

    buf_printf(&sql, "SELECT RELEASE_LOCK(CONCAT(DATABASE(),'.%s'))", name);
    if (db_run_buf(db, &lock_label, &sql, NULL, &ignored))
        db_drop(db);
    buf_free(&sql);
}
