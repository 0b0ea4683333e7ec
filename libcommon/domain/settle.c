#include "libcommon/domain/settle.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/daemon/failpoint.h"

#define CHUNK 500 /* below the 1,000 values at which an IN list may flip to a scan */
#define REASON_MAX 255

static struct db_label balances_label = {.query = "refund_lock_balances"};
static struct db_label refund_label = {.query = "refund"};

void settle_register(void)
{
    db_label_register(&balances_label);
    db_label_register(&refund_label);
}

static int by_user(const void *a, const void *b)
{
    int64_t x = ((const struct settle_failure *)a)->user_id;
    int64_t y = ((const struct settle_failure *)b)->user_id;

    return x < y ? -1 : x > y;
}

/* rows are sorted by user_id here and below: one entry a customer. */
static size_t same_user(const struct settle_failure *rows, size_t i, size_t n, int64_t *total)
{
    size_t k = i;

    *total = 0;
    for (; k < n && rows[k].user_id == rows[i].user_id; k++)
        *total += rows[k].price;
    return k;
}

static int lock_balances(struct db *db, const struct settle_failure *rows, size_t n,
                         struct err *err)
{
    struct buf sql = {0};
    struct db_results results;
    size_t users = 0;
    int64_t total;
    int rc;

    buf_puts(&sql, "SELECT user_id FROM user_balances FORCE INDEX(user_id) WHERE user_id IN (");
    for (size_t i = 0; i < n; i = same_user(rows, i, n, &total)) {
        if (users++)
            buf_putc(&sql, ',');
        buf_put_int(&sql, rows[i].user_id);
    }
    buf_puts(&sql, ") ORDER BY user_id FOR UPDATE");
    rc = db_run_buf(db, &balances_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    if (results.set[0].affected != users)
        rc = err_set(err, ERR_BUG, 0, "refund: a charged customer has no balance row");
    db_results_free(&results);
    return rc;
}

/* Joined to the ids in their order: a long IN list may be planned as a walk of the table. */
static void put_states(struct db *db, struct buf *sql, const struct settle_failure *rows, size_t n)
{
    struct buf json = {0};

    for (size_t i = 0; i < n; i++) {
        buf_puts(&json, i ? ",[" : "[[");
        buf_put_uint(&json, rows[i].status_id);
        buf_putc(&json, ',');
        buf_put_json(&json, rows[i].reason, strnlen(rows[i].reason, REASON_MAX));
        buf_putc(&json, ',');
        if (rows[i].unknown)
            buf_put_json(&json, rows[i].unknown, strlen(rows[i].unknown));
        else
            buf_puts(&json, "null");
        buf_putc(&json, ']');
    }
    buf_putc(&json, ']');
    buf_puts(sql, "UPDATE JSON_TABLE(");
    if (json.failed)
        sql->failed = true;
    else
        db_put_quoted(db, sql, json.data, json.len);
    buf_puts(sql, ",'$[*]' COLUMNS(id BIGINT PATH '$[0]',reason VARCHAR(255) PATH '$[1]',"
                  "may_have VARCHAR(255) PATH '$[2]')) j "
                  "STRAIGHT_JOIN message_status s FORCE INDEX(PRIMARY) ON s.id=j.id "
                  "SET s.status='failed',s.owner=0,s.last_error=j.reason,"
                  "s.unknown_operators=COALESCE(j.may_have,s.unknown_operators) "
                  "WHERE s.status IN ('pending','sending');");
    buf_free(&json);
}

static void put_ledger(struct buf *sql, const struct settle_failure *rows, size_t n)
{
    buf_puts(
        sql,
        "INSERT INTO user_transactions(user_id,amount,transaction_type,description,transaction_id) "
        "VALUES ");
    for (size_t i = 0; i < n; i++)
        buf_printf(sql, "%s(%lld,%lld,'refund','Refund of an undelivered message','r-%s-%u')",
                   i ? "," : "", (long long)rows[i].user_id, (long long)rows[i].price,
                   rows[i].message_id, rows[i].position);
    buf_putc(sql, ';');
}

static void put_credits(struct buf *sql, const struct settle_failure *rows, size_t n)
{
    int64_t total;
    size_t next;

    for (size_t i = 0; i < n; i = next) {
        next = same_user(rows, i, n, &total);
        buf_printf(sql, "%s[%lld,%lld]", i ? "," : "UPDATE JSON_TABLE('[",
                   (long long)rows[i].user_id, (long long)total);
    }
    buf_puts(sql, "]','$[*]' COLUMNS(id BIGINT PATH '$[0]',d BIGINT PATH '$[1]')) j "
                  "STRAIGHT_JOIN user_balances u FORCE INDEX(user_id) ON u.user_id=j.id "
                  "SET u.balance=u.balance+j.d");
}

static int fail_chunk(struct db *db, const struct settle_failure *rows, size_t n, struct err *err)
{
    struct buf sql = {0};
    struct db_results results;
    int rc;

    if (failpoint(FAILPOINT_REFUND_BEFORE))
        return err_set(err, ERR_RETRY, 0, "failpoint");
    put_states(db, &sql, rows, n);
    put_ledger(&sql, rows, n);
    put_credits(&sql, rows, n);
    rc = db_run_buf(db, &refund_label, &sql, &results, err);
    buf_free(&sql);
    if (rc) {
        if (db_is_duplicate(err))
            err->kind = ERR_BUG;
        return -1;
    }
    /* The rows are locked and were seen unfinished: anything else is a broken promise of the
     * caller. */
    if (results.n != 3 || results.set[0].affected != n)
        rc = err_set(err, ERR_BUG, 0, "refund: a recipient was final already");
    db_results_free(&results);
    if (!rc && failpoint(FAILPOINT_REFUND_AFTER))
        rc = err_set(err, ERR_RETRY, 0, "failpoint");
    return rc;
}

int settle_fail(struct db *db, const struct settle_failure *rows, size_t n, struct err *err)
{
    struct settle_failure *sorted;
    int rc = 0;

    if (!n)
        return 0;
    sorted = malloc(n * sizeof(*sorted));
    if (!sorted)
        return err_set(err, ERR_RETRY, 0, "out of memory");
    memcpy(sorted, rows, n * sizeof(*sorted));
    qsort(sorted, n, sizeof(*sorted), by_user);
    for (size_t i = 0; i < n && !rc; i += CHUNK)
        rc = lock_balances(db, sorted + i, n - i < CHUNK ? n - i : CHUNK, err);
    for (size_t i = 0; i < n && !rc; i += CHUNK)
        rc = fail_chunk(db, sorted + i, n - i < CHUNK ? n - i : CHUNK, err);
    free(sorted);
    return rc;
}
