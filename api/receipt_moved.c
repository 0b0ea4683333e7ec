#include "api/receipt_moved.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/receipt_row.h"

static struct db_label put_label = {.query = "receipts_moved_put"};
static struct db_label read_label = {.query = "receipts_moved_read"};
static struct db_label done_label = {.query = "receipts_moved_done"};

void receipt_moved_register(void)
{
    db_label_register(&put_label);
    db_label_register(&read_label);
    db_label_register(&done_label);
}

static void put_row(struct db *db, struct buf *sql, const struct recipient_receipt *r)
{
    buf_printf(sql, "%lld,", (long long)r->user_id);
    receipt_row_put(db, sql, r);
    buf_putc(sql, ')');
}

int receipt_moved_put(struct db *db, const struct recipient_receipt *receipts, size_t n,
                      struct err *err)
{
    const char *before = "INSERT INTO receipts_moved(customer_id," RECEIPT_ROW_COLUMNS ") VALUES (";
    struct buf sql = {0};
    size_t count = 0;
    int rc;

    for (size_t i = 0; i < n; i++) {
        if (receipts[i].result != RECEIPT_MOVED)
            continue;
        buf_puts(&sql, count++ ? ",(" : before);
        put_row(db, &sql, &receipts[i]);
    }
    rc = count ? db_run_buf(db, &put_label, &sql, NULL, err) : 0;
    buf_free(&sql);
    return rc;
}

int receipt_moved_count(struct db *db, int64_t most, int64_t *count, struct err *err)
{
    struct db_results results;
    struct buf sql = {0};
    int rc;

    buf_printf(&sql, "SELECT COUNT(*) FROM (SELECT 1 FROM receipts_moved LIMIT %lld) t",
               (long long)most);
    rc = db_run_buf(db, &read_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    *count = db_number(db_only(&results));
    db_results_free(&results);
    return 0;
}

/* "": of a customer who is not away. While a move stands between, they wait. */
#define CELL                                                                  \
    "CASE WHEN c.state=4 THEN c.cell WHEN COALESCE(c.state,0)<>3 THEN '' END" \
    " FROM receipts_moved r LEFT JOIN customer_moves c ON c.customer_id=r.customer_id"

int receipt_moved_cells(struct db *db, char cells[][CELL_NAME_MAX + 1], size_t limit, size_t *n,
                        struct err *err)
{
    static const char sql[] = "SELECT DISTINCT " CELL;
    struct db_results results;
    char **row;

    *n = 0;
    if (db_run(db, &read_label, sql, sizeof(sql) - 1, &results, err))
        return -1;
    while (*n < limit && (row = db_next(db_only(&results))))
        if (row[0])
            snprintf(cells[(*n)++], CELL_NAME_MAX + 1, "%s", row[0]);
    db_results_free(&results);
    return 0;
}

static void read_row(char **row, struct receipt_early *out)
{
    receipt_row_read(row + 1, &out->receipts[out->n]);
    out->receipts[out->n].result = RECEIPT_EARLY;
    out->ids[out->n++] = strtoull(row[0], NULL, 10);
}

int receipt_moved_take(struct db *db, const char *cell, struct receipt_early *out, struct err *err)
{
    struct db_results results;
    struct buf sql = {0};
    char **row;
    int rc;

    out->n = 0;
    buf_puts(&sql, "SELECT r.id," RECEIPT_ROW_COLUMNS " FROM receipts_moved r LEFT JOIN "
                   "customer_moves c ON c.customer_id=r.customer_id WHERE ");
    if (*cell) {
        buf_puts(&sql, "c.state=4 AND c.cell=");
        db_put_quoted(db, &sql, cell, strlen(cell));
    } else {
        buf_puts(&sql, "COALESCE(c.state,0) NOT IN (3,4)");
    }
    buf_printf(&sql, " ORDER BY r.id LIMIT %d", RECEIPT_BATCH_MAX);
    rc = db_run_buf(db, &read_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    while (out->n < RECEIPT_BATCH_MAX && (row = db_next(db_only(&results))))
        read_row(row, out);
    db_results_free(&results);
    return 0;
}

int receipt_moved_done(struct db *db, const struct receipt_early *out, struct err *err)
{
    struct buf sql = {0};
    int rc;

    buf_puts(&sql, "DELETE FROM receipts_moved WHERE id IN (");
    for (size_t i = 0; i < out->n; i++) {
        if (i)
            buf_putc(&sql, ',');
        buf_put_uint(&sql, out->ids[i]);
    }
    buf_putc(&sql, ')');
    rc = out->n ? db_run_buf(db, &done_label, &sql, NULL, err) : 0;
    buf_free(&sql);
    return rc;
}
