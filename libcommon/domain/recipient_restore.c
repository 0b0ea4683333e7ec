#include "libcommon/db/restore_mode.h"
#include "libcommon/domain/recipient_internal.h"

static struct db_label mark_label = {.query = "restore_mark"};

void recipient_restore_register(void)
{
    db_label_register(&mark_label);
}

/* The window of retries begins anew with the next claim: it was over long ago. Names that are noted
 * stay, they may be of operators that are gone; the star stands for those that are there. */
int recipient_mark_restored(struct db *db, uint64_t first, uint64_t last, uint64_t *marked,
                            struct err *err)
{
    struct db_results results;
    struct buf sql = {0};
    int rc;

    buf_printf(&sql,
               "UPDATE message_status FORCE INDEX(PRIMARY) SET first_claimed_at=NULL,"
               "unknown_operators=" RECIPIENT_MARKED " "
               "WHERE id BETWEEN %llu AND %llu AND status IN (",
               (unsigned long long)first, (unsigned long long)last);
    recipient_put_states(&sql, RECIPIENT_OPEN);
    buf_puts(&sql, ") AND created_at<");
    restore_mode_put_since(&sql);
    rc = db_run_buf(db, &mark_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    *marked = db_only(&results)->affected;
    db_results_free(&results);
    return 0;
}
