#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/domain/ledger.h"
#include "libcommon/domain/ledger_internal.h"

static struct db_label fence_label = {.query = "ledger_fence"};
static struct db_label book_label = {.query = "ledger_book"};
static struct db_label take_label = {.query = "ledger_take_in"};

void ledger_move_register(void)
{
    db_label_register(&fence_label);
    db_label_register(&book_label);
    db_label_register(&take_label);
}

int ledger_set_fence(struct db *db, int64_t user_id, enum ledger_fence fence, struct err *err)
{
    struct db_results results;
    struct buf sql = {0};
    int rc;

    buf_printf(&sql,
               "UPDATE user_balances FORCE INDEX(user_id) SET fence=%d,last_updated=last_updated "
               "WHERE user_id=%lld",
               (int)fence, (long long)user_id);
    rc = db_run_buf(db, &fence_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    if (db_only(&results)->affected != 1)
        rc = err_set(err, ERR_BUG, 0, "ledger: a customer without a balance row");
    db_results_free(&results);
    return rc;
}

/* One statement: balance and entries belong together. */
int ledger_read_book(struct db *db, int64_t user_id, struct ledger_book *book, struct err *err)
{
    static const char form[] =
        "SELECT b.balance,b.fence,(SELECT COUNT(*) FROM user_transactions t "
        "FORCE INDEX(idx_user_transactions_user) WHERE t.user_id=b.user_id),"
        "(SELECT COALESCE(SUM(t.amount),0) FROM user_transactions t "
        "FORCE INDEX(idx_user_transactions_user) WHERE t.user_id=b.user_id),"
        "COALESCE((SELECT t.transaction_id FROM user_transactions t "
        "FORCE INDEX(idx_user_transactions_user) WHERE t.user_id=b.user_id ORDER BY t.id DESC "
        "LIMIT 1),'') FROM user_balances b FORCE INDEX(user_id) WHERE b.user_id=%lld";
    struct db_results results;
    struct buf sql = {0};
    char **row;
    int rc;

    *book = (struct ledger_book){0};
    buf_printf(&sql, form, (long long)user_id);
    rc = db_run_buf(db, &book_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    row = db_next(db_only(&results));
    if (row) {
        book->balance = strtoll(row[0], NULL, 10);
        book->fence = (enum ledger_fence)strtol(row[1], NULL, 10);
        book->entries = strtoull(row[2], NULL, 10);
        book->sum = strtoll(row[3], NULL, 10);
        snprintf(book->last, sizeof(book->last), "%s", row[4]);
    }
    db_results_free(&results);
    return 0;
}

/* Locks the balance, and reads which entry is the last. */
static int lock_last(struct db *db, int64_t user_id, const char *after, struct err *err)
{
    struct ledger_account account = {.user_id = user_id};
    struct db_packet packet = {0};
    struct db_results results;
    struct db_set *last;
    char **row;
    int rc;

    ledger_put_lock(db_statement(&packet, "balance"), &account, 1, false);
    buf_printf(
        db_statement(&packet, "last"),
        "SELECT transaction_id FROM user_transactions FORCE INDEX(idx_user_transactions_user) "
        "WHERE user_id=%lld ORDER BY id DESC LIMIT 1",
        (long long)user_id);
    rc = db_run_packet(db, &take_label, &packet, &results, err);
    db_packet_free(&packet);
    if (rc)
        return -1;
    ledger_read_lock(db_result(&results, "balance"), &account, 1);
    last = db_result(&results, "last");
    row = db_next(last);
    if (!account.locked || account.fence != LEDGER_CLOSED)
        rc = err_set(err, ERR_BUG, 0,
                     "ledger: the balance that is to take entries in is not closed");
    else if (strcmp(row ? row[0] : "", after) != 0)
        rc = err_set(err, ERR_RETRY, 0, "ledger: the entries have changed");
    db_results_free(&results);
    return rc;
}

static void put_quoted(struct db *db, struct buf *sql, const char *before, const char *text)
{
    buf_puts(sql, before);
    if (text)
        db_put_quoted(db, sql, text, strlen(text));
    else
        buf_puts(sql, "NULL");
}

static void put_entry(struct db *db, struct buf *sql, int64_t user_id, const struct ledger_entry *e)
{
    buf_printf(sql, "(%lld,%lld", (long long)user_id, (long long)e->amount);
    put_quoted(db, sql, ",", e->type);
    put_quoted(db, sql, ",", e->description);
    put_quoted(db, sql, ",", e->id);
    put_quoted(db, sql, ",", e->created_at);
    buf_putc(sql, ')');
}

int ledger_take_in(struct db *db, int64_t user_id, const char *after,
                   const struct ledger_entry *entries, size_t n, struct err *err)
{
    struct db_packet packet = {0};
    struct buf *sql;
    int64_t sum = 0;
    int rc;

    if (lock_last(db, user_id, after, err))
        return -1;
    sql = db_statement(&packet, NULL);
    buf_puts(sql, "INSERT INTO user_transactions(user_id,amount,transaction_type,description,"
                  "transaction_id,created_at) VALUES ");
    for (size_t i = 0; i < n; i++) {
        if (i)
            buf_putc(sql, ',');
        put_entry(db, sql, user_id, &entries[i]);
        sum += entries[i].amount;
    }
    buf_printf(db_statement(&packet, NULL),
               "UPDATE user_balances FORCE INDEX(user_id) SET balance=balance+(%lld) WHERE "
               "user_id=%lld",
               (long long)sum, (long long)user_id);
    rc = db_run_packet(db, &take_label, &packet, NULL, err);
    db_packet_free(&packet);
    return rc;
}
