#include <inttypes.h>
#include <stdlib.h>

#include "api/audit_internal.h"
#include "libcommon/base/must.h"
#include "libcommon/domain/ledger.h"

/*
 * Entries of one customer are written under the lock of its balance row, with rising ids, and never
 * change. So the balance and the id of the last entry, read in one statement, belong together for
 * ever: the sum of the entries up to that id is that balance, whenever and in whatever pieces it is
 * added up.
 */

struct account {
    int64_t user_id, balance;
    int64_t mark; /* the last entry that the balance holds */
    audit_sum sum;
};

struct audit_balances {
    struct account accounts[AUDIT_RANGE];
    size_t n;
    int64_t after_user; /* accounts up to this customer are read */
    /* Where the entries have been read to. */
    size_t at;
    int64_t after_entry; /* of accounts[at]; 0: nothing of it */
};

struct audit_balances *audit_balances_new(void)
{
    struct audit_balances *a = must_alloc(1, sizeof(*a));

    audit_balances_rewind(a);
    return a;
}

void audit_balances_free(struct audit_balances *a)
{
    free(a);
}

void audit_balances_rewind(struct audit_balances *a)
{
    a->n = a->at = 0;
    a->after_user = INT64_MIN + 1;
    a->after_entry = 0;
}

static int run(struct db *db, const struct buf *sql, struct db_results *results, struct err *err)
{
    return db_run_buf(db, &audit_label, sql, results, err);
}

static int read_accounts(struct audit_balances *a, struct db *db, int64_t limit, struct err *err)
{
    struct db_results results;
    struct buf sql = {0};
    char **row;
    int rc;

    buf_printf(&sql,
               "SELECT b.user_id,b.balance,COALESCE((SELECT t.id FROM user_transactions t "
               "FORCE INDEX(idx_user_transactions_user) WHERE t.user_id=b.user_id "
               "ORDER BY t.id DESC LIMIT 1),0) FROM user_balances b FORCE INDEX(user_id) "
               "WHERE b.user_id>%" PRId64 " ORDER BY b.user_id LIMIT %" PRId64,
               a->after_user, limit);
    rc = run(db, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    a->n = a->at = 0;
    a->after_entry = 0;
    while ((row = db_next(db_only(&results))))
        a->accounts[a->n++] = (struct account){.user_id = strtoll(row[0], NULL, 10),
                                               .balance = strtoll(row[1], NULL, 10),
                                               .mark = strtoll(row[2], NULL, 10)};
    if (a->n)
        a->after_user = a->accounts[a->n - 1].user_id;
    db_results_free(&results);
    return 0;
}

/* Customers whose balance row came later are in between: they belong to nobody here. */
static struct account *find(struct audit_balances *a, int64_t user_id)
{
    while (a->at < a->n && a->accounts[a->at].user_id < user_id) {
        a->at++;
        a->after_entry = 0;
    }
    return a->at < a->n && a->accounts[a->at].user_id == user_id ? &a->accounts[a->at] : NULL;
}

static void put_entries(const struct audit_balances *a, struct buf *sql, int64_t limit)
{
    const struct account *account = &a->accounts[a->at];

    buf_puts(sql, "SELECT user_id,id,amount FROM user_transactions "
                  "FORCE INDEX(idx_user_transactions_user) WHERE ");
    if (a->after_entry)
        buf_printf(sql, "user_id=%" PRId64 " AND id>%" PRId64 " AND id<=%" PRId64 " ORDER BY id",
                   account->user_id, a->after_entry, account->mark);
    else
        buf_printf(sql, "user_id BETWEEN %" PRId64 " AND %" PRId64 " ORDER BY user_id,id",
                   account->user_id, a->accounts[a->n - 1].user_id);
    buf_printf(sql, " LIMIT %" PRId64, limit);
}

/* Either the next entries of an account that was begun, or those of all that follow, up to limit.
 */
static int read_entries(struct audit_balances *a, struct db *db, int64_t limit, struct err *err)
{
    bool begun = a->after_entry != 0;
    struct db_results results;
    struct buf sql = {0};
    bool full;
    char **row;
    int rc;

    put_entries(a, &sql, limit);
    rc = run(db, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    full = db_only(&results)->affected >= (uint64_t)limit;
    while ((row = db_next(db_only(&results)))) {
        struct account *account = find(a, strtoll(row[0], NULL, 10));
        int64_t id = strtoll(row[1], NULL, 10);

        if (account && id <= account->mark)
            account->sum += strtoll(row[2], NULL, 10);
        if (account)
            a->after_entry = id;
    }
    db_results_free(&results);
    if (full)
        return 0;
    a->after_entry = 0;
    a->at = begun ? a->at + 1 : a->n;
    return 0;
}

static void judge(const struct audit_balances *a, struct audit_report *report,
                  struct audit_check *check)
{
    for (size_t i = 0; i < a->n; i++) {
        const struct account *account = &a->accounts[i];
        char where[64];
        char what[128];
        char sum[AUDIT_SUM_SIZE];
        bool fits = account->balance <= LEDGER_BALANCE_MAX;

        if (account->sum == account->balance && account->balance >= 0 && fits)
            continue;
        snprintf(where, sizeof(where), "customer %" PRId64, account->user_id);
        snprintf(what, sizeof(what), "balance %" PRId64 ", ledger %s%s", account->balance,
                 audit_write_sum(account->sum, sum), fits ? "" : "; more than a balance may be");
        audit_violate(report, check, where, what);
    }
    check->checked += a->n;
}

int audit_balances_step(struct audit_balances *a, struct db *db, int64_t limit,
                        struct audit_report *report, struct audit_check *check, bool *end,
                        struct err *err)
{
    MUST(limit <= AUDIT_RANGE);
    *end = false;
    if (a->at < a->n) {
        if (read_entries(a, db, limit, err))
            return -1;
        if (a->at == a->n)
            judge(a, report, check);
        return 0;
    }
    if (read_accounts(a, db, limit, err))
        return -1;
    *end = a->n == 0;
    return 0;
}
