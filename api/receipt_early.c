#include "api/receipt_early.h"

#include <stdlib.h>

#include "api/receipt_row.h"

#define PAUSE_MIN_SEC 1
#define PAUSE_MAX_SEC 3600

static struct db_label put_label = {.query = "receipts_early_put"};
static struct db_label count_label = {.query = "receipts_early_count"};
static struct db_label take_label = {.query = "receipts_early_take"};
static struct db_label done_label = {.query = "receipts_early_done"};

void receipt_early_register(void)
{
    db_label_register(&put_label);
    db_label_register(&count_label);
    db_label_register(&take_label);
    db_label_register(&done_label);
}

static void put_row(struct db *db, struct buf *sql, const struct recipient_receipt *r)
{
    receipt_row_put(db, sql, r);
    buf_printf(sql, ",NOW(6)+INTERVAL %d SECOND)", PAUSE_MIN_SEC);
}

int receipt_early_put(struct db *db, const struct recipient_receipt *receipts, size_t n,
                      struct err *err)
{
    const char *before = "INSERT INTO receipts_early(" RECEIPT_ROW_COLUMNS ",look_at) VALUES (";
    struct buf sql = {0};
    size_t count = 0;
    int rc;

    for (size_t i = 0; i < n; i++) {
        if (receipts[i].result != RECEIPT_EARLY)
            continue;
        buf_puts(&sql, count++ ? ",(" : before);
        put_row(db, &sql, &receipts[i]);
    }
    rc = count ? db_run_buf(db, &put_label, &sql, NULL, err) : 0;
    buf_free(&sql);
    return rc;
}

int receipt_early_count(struct db *db, int64_t most, int64_t *count, struct err *err)
{
    struct db_results results;
    struct buf sql = {0};
    int rc;

    buf_printf(&sql,
               "SELECT COUNT(*) FROM (SELECT 1 FROM receipts_early "
               "FORCE INDEX(idx_receipts_early_look) LIMIT %lld) t",
               (long long)most);
    rc = db_run_buf(db, &count_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    *count = db_number(db_only(&results));
    db_results_free(&results);
    return 0;
}

/* ---- looking again ---- */

static void read_row(char **row, struct receipt_early *out)
{
    receipt_row_read(row + 2, &out->receipts[out->n]);
    out->ids[out->n] = strtoull(row[0], NULL, 10);
    out->expired[out->n++] = row[1][0] == '1';
}

int receipt_early_take(struct db *db, int64_t wait_hours, struct receipt_early *out,
                       struct err *err)
{
    struct db_results results;
    struct buf sql = {0};
    char **row;
    int rc;

    out->n = 0;
    buf_printf(&sql,
               "SELECT id,received_at<=NOW(6)-INTERVAL %lld HOUR," RECEIPT_ROW_COLUMNS " FROM "
               "receipts_early FORCE INDEX(idx_receipts_early_look) WHERE look_at<=NOW(6) "
               "ORDER BY look_at,id LIMIT %d",
               (long long)wait_hours, RECEIPT_BATCH_MAX);
    rc = db_run_buf(db, &take_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    while (out->n < RECEIPT_BATCH_MAX && (row = db_next(db_only(&results))))
        read_row(row, out);
    db_results_free(&results);
    return 0;
}

static bool is_gone(const struct receipt_early *early, size_t i)
{
    return early->receipts[i].result != RECEIPT_EARLY || early->expired[i];
}

/* The ids of those that go, or of those that stay; returns how many. */
static size_t put_ids(struct buf *sql, const struct receipt_early *early, bool gone)
{
    size_t count = 0;

    for (size_t i = 0; i < early->n; i++) {
        if (is_gone(early, i) != gone)
            continue;
        if (count++)
            buf_putc(sql, ',');
        buf_put_uint(sql, early->ids[i]);
    }
    buf_putc(sql, ')');
    return count;
}

int receipt_early_done(struct db *db, const struct receipt_early *early, uint64_t *dropped,
                       struct err *err)
{
    struct buf gone = {0};
    struct buf stays = {0};
    int rc = 0;

    *dropped = 0;
    for (size_t i = 0; i < early->n; i++)
        *dropped += early->receipts[i].result == RECEIPT_EARLY && early->expired[i];
    buf_puts(&gone, "DELETE e FROM receipts_early e FORCE INDEX(PRIMARY) WHERE e.id IN (");
    if (put_ids(&gone, early, true))
        rc = db_run_buf(db, &done_label, &gone, NULL, err);
    buf_printf(&stays,
               "UPDATE receipts_early FORCE INDEX(PRIMARY) SET look_at=NOW(6)+INTERVAL "
               "GREATEST(%d,LEAST(%d,"
               "TIMESTAMPDIFF(SECOND,received_at,NOW(6)))) SECOND WHERE id IN (",
               PAUSE_MIN_SEC, PAUSE_MAX_SEC);
    if (!rc && put_ids(&stays, early, false))
        rc = db_run_buf(db, &done_label, &stays, NULL, err);
    buf_free(&gone);
    buf_free(&stays);
    return rc;
}
