#include "libcommon/domain/ledger.h"

#include <stdlib.h>
#include <string.h>

#include "libcommon/base/must.h"
#include "libcommon/daemon/failpoint.h"
#include "libcommon/domain/ledger_internal.h"

#define CHUNK 500       /* customers, or refunds, of one packet */
#define FEW_ACCOUNTS 32 /* the most that are cheaper without a list to join to */

static struct db_label open_label = {.query = "ledger_open"};
static struct db_label elsewhere_label = {.query = "ledger_find_elsewhere"};
static struct db_label look_label = {.query = "ledger_look"};
static struct db_label lock_label = {.query = "refund_lock_balances"};
static struct db_label refund_label = {.query = "refund"};

void ledger_register(void)
{
    db_label_register(&open_label);
    db_label_register(&elsewhere_label);
    db_label_register(&look_label);
    db_label_register(&lock_label);
    db_label_register(&refund_label);
    ledger_move_register();
}

/* ---- accounts ---- */

static int by_user(const void *a, const void *b)
{
    int64_t x = ((const struct ledger_account *)a)->user_id;
    int64_t y = ((const struct ledger_account *)b)->user_id;

    return x < y ? -1 : x > y;
}

size_t ledger_sort(struct ledger_account *accounts, size_t n)
{
    size_t kept = 0;

    qsort(accounts, n, sizeof(*accounts), by_user);
    for (size_t i = 0; i < n; i++) {
        if (kept && accounts[kept - 1].user_id == accounts[i].user_id)
            accounts[kept - 1].change += accounts[i].change;
        else
            accounts[kept++] = accounts[i];
    }
    return kept;
}

struct ledger_account *ledger_find(struct ledger_account *accounts, size_t n, int64_t user_id)
{
    struct ledger_account key = {.user_id = user_id};

    return bsearch(&key, accounts, n, sizeof(key), by_user);
}

typedef bool wanted_fn(const struct ledger_account *a);

static bool is_any(const struct ledger_account *a)
{
    (void)a;
    return true;
}

static bool is_not_locked(const struct ledger_account *a)
{
    return !a->locked;
}

static bool is_changed(const struct ledger_account *a)
{
    return a->change;
}

static void put_user_ids(struct buf *sql, const struct ledger_account *accounts, size_t n,
                         wanted_fn *is_wanted)
{
    bool first = true;

    for (size_t i = 0; i < n; i++) {
        if (!is_wanted(&accounts[i]))
            continue;
        if (!first)
            buf_putc(sql, ',');
        buf_put_int(sql, accounts[i].user_id);
        first = false;
    }
}

void ledger_put_lock(struct buf *sql, const struct ledger_account *accounts, size_t n,
                     bool skip_locked)
{
    MUST(n <= LEDGER_ACCOUNTS_MAX);
    buf_puts(sql, "SELECT user_id,balance,fence FROM user_balances FORCE INDEX(user_id) "
                  "WHERE user_id IN (");
    put_user_ids(sql, accounts, n, is_any);
    buf_puts(sql, ") ORDER BY user_id FOR UPDATE");
    if (skip_locked)
        buf_puts(sql, " SKIP LOCKED");
}

void ledger_read_lock(struct db_set *found, struct ledger_account *accounts, size_t n)
{
    char **row;

    while ((row = db_next(found))) {
        struct ledger_account *a = ledger_find(accounts, n, strtoll(row[0], NULL, 10));

        MUST(a != NULL);
        a->balance = strtoll(row[1], NULL, 10);
        a->fence = (enum ledger_fence)strtol(row[2], NULL, 10);
        a->locked = true;
    }
}

int ledger_find_elsewhere(struct db *db, struct ledger_account *accounts, size_t n, struct err *err)
{
    struct db_results results;
    struct buf sql = {0};
    size_t missing = 0;
    char **row;
    int rc;

    for (size_t i = 0; i < n; i++)
        missing += !accounts[i].locked;
    if (!missing)
        return 0;
    buf_puts(&sql, "SELECT user_id FROM user_balances FORCE INDEX(user_id) WHERE user_id IN (");
    put_user_ids(&sql, accounts, n, is_not_locked);
    buf_putc(&sql, ')');
    rc = db_run_buf(db, &elsewhere_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    while ((row = db_next(db_only(&results)))) {
        struct ledger_account *a = ledger_find(accounts, n, strtoll(row[0], NULL, 10));

        MUST(a != NULL);
        a->elsewhere = true;
    }
    db_results_free(&results);
    return 0;
}

/* INSERT IGNORE alone would wait on rows that others hold. */
int ledger_open(struct db *db, const int64_t *user_ids, size_t n, struct err *err)
{
    struct buf sql = {0};
    int rc;

    buf_puts(&sql, "INSERT IGNORE INTO user_balances(user_id) SELECT j.id FROM JSON_TABLE('[");
    for (size_t i = 0; i < n; i++) {
        if (i)
            buf_putc(&sql, ',');
        buf_put_int(&sql, user_ids[i]);
    }
    buf_puts(&sql, "]','$[*]' COLUMNS(id BIGINT PATH '$')) j LEFT JOIN user_balances u "
                   "ON u.user_id=j.id WHERE u.user_id IS NULL ORDER BY j.id");
    rc = db_run_buf(db, &open_label, &sql, NULL, err);
    buf_free(&sql);
    return rc;
}

bool ledger_changes(const struct ledger_account *accounts, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (accounts[i].change)
            return true;
    return false;
}

/* That of the most, if they are more than half. */
static int64_t usual_change(const struct ledger_account *accounts, size_t n)
{
    int64_t usual = accounts[0].change;
    size_t lead = 0;

    for (size_t i = 0; i < n; i++) {
        if (!lead)
            usual = accounts[i].change;
        if (accounts[i].change == usual)
            lead++;
        else
            lead--;
    }
    return usual;
}

static bool is_first_of_its_change(const struct ledger_account *accounts, size_t at)
{
    for (size_t i = 0; i < at; i++)
        if (accounts[i].change == accounts[at].change)
            return false;
    return true;
}

static void put_users_of_change(struct buf *sql, const struct ledger_account *accounts, size_t n,
                                int64_t change)
{
    const char *before = " WHEN user_id IN (";

    for (size_t i = 0; i < n; i++) {
        if (accounts[i].change != change)
            continue;
        buf_puts(sql, before);
        buf_put_int(sql, accounts[i].user_id);
        before = ",";
    }
}

/* What a row's balance is to be changed by, factor times: nearly all by the same, and a list that
 * is searched for each other amount. */
static void put_change(struct buf *sql, const struct ledger_account *accounts, size_t n,
                       int64_t factor)
{
    int64_t usual = usual_change(accounts, n);
    bool others = false;

    for (size_t i = 0; i < n; i++) {
        if (accounts[i].change == usual || !is_first_of_its_change(accounts, i))
            continue;
        if (!others)
            buf_puts(sql, "CASE");
        others = true;
        put_users_of_change(sql, accounts, n, accounts[i].change);
        buf_puts(sql, ") THEN ");
        buf_put_int(sql, accounts[i].change * factor);
    }
    if (others)
        buf_puts(sql, " ELSE ");
    buf_put_int(sql, usual * factor);
    if (others)
        buf_puts(sql, " END");
}

/* In the order of user_id, which the rows are locked in. */
void ledger_put_charges(struct buf *sql, const struct ledger_account *accounts, size_t n)
{
    buf_puts(sql, "UPDATE user_balances FORCE INDEX(user_id) SET balance=balance-");
    put_change(sql, accounts, n, -1);
    buf_puts(sql, " WHERE user_id IN (");
    put_user_ids(sql, accounts, n, is_any);
    buf_puts(sql, ") AND fence=0 AND balance>=");
    put_change(sql, accounts, n, -1);
    buf_puts(sql, " ORDER BY user_id");
}

static void put_few_changes(struct buf *sql, const struct ledger_account *accounts, size_t n)
{
    buf_puts(sql, "UPDATE user_balances FORCE INDEX(user_id) SET balance=balance+(");
    put_change(sql, accounts, n, 1);
    buf_puts(sql, ") WHERE user_id IN (");
    put_user_ids(sql, accounts, n, is_changed);
    buf_putc(sql, ')');
}

/* Amounts may be as many as customers, and a CASE is walked for each row; joined to a list, which
 * costs a temporary table, each row finds its own. */
static void put_many_changes(struct buf *sql, const struct ledger_account *accounts, size_t n)
{
    const char *before = "UPDATE JSON_TABLE('[";

    for (size_t i = 0; i < n; i++) {
        if (!accounts[i].change)
            continue;
        buf_puts(sql, before);
        buf_putc(sql, '[');
        buf_put_int(sql, accounts[i].user_id);
        buf_putc(sql, ',');
        buf_put_int(sql, accounts[i].change);
        buf_putc(sql, ']');
        before = ",";
    }
    buf_puts(sql, "]','$[*]' COLUMNS(id BIGINT PATH '$[0]',d BIGINT PATH '$[1]')) j "
                  "STRAIGHT_JOIN user_balances u FORCE INDEX(user_id) ON u.user_id=j.id "
                  "SET u.balance=u.balance+j.d");
}

/* The rows are locked: no guard can fail. */
void ledger_put_changes(struct buf *sql, const struct ledger_account *accounts, size_t n)
{
    if (n <= FEW_ACCOUNTS)
        put_few_changes(sql, accounts, n);
    else
        put_many_changes(sql, accounts, n);
}

/* ---- entries ---- */

void ledger_put_charge(struct buf *sql, int64_t user_id, int64_t amount, const char *id)
{
    buf_putc(sql, '(');
    buf_put_int(sql, user_id);
    buf_putc(sql, ',');
    buf_put_int(sql, -amount);
    buf_puts(sql, ",'withdrawal','Message charge','");
    buf_puts(sql, id);
    buf_puts(sql, "')");
}

void ledger_put_deposit(struct db *db, struct buf *sql, int64_t user_id, int64_t amount,
                        const char *description, size_t description_len, const char *id)
{
    buf_putc(sql, '(');
    buf_put_int(sql, user_id);
    buf_putc(sql, ',');
    buf_put_int(sql, amount);
    buf_puts(sql, ",'deposit',");
    db_put_quoted(db, sql, description, description_len);
    buf_puts(sql, ",'");
    buf_puts(sql, id);
    buf_puts(sql, "')");
}

int ledger_look(struct db *db, int64_t user_id, const char *id, bool *there, struct err *err)
{
    struct ledger_account account = {.user_id = user_id};
    struct db_packet packet = {0};
    struct db_results results;
    int rc;

    ledger_put_lock(db_statement(&packet, NULL), &account, 1, false);
    buf_printf(db_statement(&packet, "entry"),
               "SELECT 1 FROM user_transactions WHERE transaction_id='%s'", id);
    rc = db_run_packet(db, &look_label, &packet, &results, err);
    db_packet_free(&packet);
    if (rc)
        return -1;
    *there = db_result(&results, "entry")->affected == 1;
    db_results_free(&results);
    return 0;
}

/* ---- refunds ---- */

static void put_refund(struct buf *sql, const struct ledger_refund *r)
{
    buf_printf(sql, "(%lld,%lld,'refund','Refund of an undelivered message','r-%s-%u')",
               (long long)r->user_id, (long long)r->amount, r->message_id, r->position);
}

static int lock_accounts(struct db *db, struct ledger_account *accounts, size_t n, struct err *err)
{
    struct db_results results;
    struct buf sql = {0};
    int rc;

    ledger_put_lock(&sql, accounts, n, false);
    rc = db_run_buf(db, &lock_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    if (db_only(&results)->affected != n)
        rc = err_set(err, ERR_BUG, 0, "refund: a charged customer has no balance row");
    else
        ledger_read_lock(db_only(&results), accounts, n);
    for (size_t i = 0; i < n && !rc; i++)
        if (accounts[i].fence == LEDGER_CLOSED)
            rc = err_set(err, ERR_BUG, 0, "refund: the customer has moved to another cell");
    db_results_free(&results);
    return rc;
}

static int put_entries(struct db *db, const struct ledger_refund *refunds, size_t n,
                       struct err *err)
{
    struct buf sql = {0};
    int rc;

    for (size_t i = 0; i < n; i++) {
        buf_puts(&sql, i ? "," : LEDGER_INSERT);
        put_refund(&sql, &refunds[i]);
    }
    rc = db_run_buf(db, &refund_label, &sql, NULL, err);
    buf_free(&sql);
    if (rc && db_is_duplicate(err))
        err->kind = ERR_BUG;
    return rc;
}

static int credit(struct db *db, const struct ledger_account *accounts, size_t n, struct err *err)
{
    struct buf sql = {0};
    int rc;

    if (!ledger_changes(accounts, n))
        return 0;
    ledger_put_changes(&sql, accounts, n);
    rc = db_run_buf(db, &refund_label, &sql, NULL, err);
    buf_free(&sql);
    return rc;
}

/* The rows may be damaged: no sum of them may overflow. */
static bool is_plausible(const struct ledger_refund *refunds, size_t n)
{
    int64_t sum = 0;

    for (size_t i = 0; i < n; i++)
        if (refunds[i].amount < 0 || __builtin_add_overflow(sum, refunds[i].amount, &sum) ||
            sum > LEDGER_BALANCE_MAX)
            return false;
    return true;
}

int ledger_refund(struct db *db, const struct ledger_refund *refunds, size_t n, struct err *err)
{
    struct ledger_account *accounts;
    size_t count;
    int rc = 0;

    if (!n)
        return 0;
    if (!is_plausible(refunds, n))
        return err_set(err, ERR_BUG, 0, "refund: more than anybody was charged");
    accounts = calloc(n, sizeof(*accounts));
    if (!accounts)
        return err_set(err, ERR_RETRY, 0, "out of memory");
    for (size_t i = 0; i < n; i++)
        accounts[i] =
            (struct ledger_account){.user_id = refunds[i].user_id, .change = refunds[i].amount};
    count = ledger_sort(accounts, n);
    for (size_t i = 0; i < count && !rc; i += CHUNK)
        rc = lock_accounts(db, accounts + i, count - i < CHUNK ? count - i : CHUNK, err);
    if (!rc)
        rc = failpoint_err(FAILPOINT_REFUND_BEFORE, err);
    for (size_t i = 0; i < n && !rc; i += CHUNK)
        rc = put_entries(db, refunds + i, n - i < CHUNK ? n - i : CHUNK, err);
    for (size_t i = 0; i < count && !rc; i += CHUNK)
        rc = credit(db, accounts + i, count - i < CHUNK ? count - i : CHUNK, err);
    if (!rc)
        rc = failpoint_err(FAILPOINT_REFUND_AFTER, err);
    free(accounts);
    return rc;
}
