#include <check.h>
#include <stdio.h>
#include <string.h>

#include "libcommon/domain/ledger.h"
#include "test/unit/fake_db.h"
#include "test/unit/suite.h"

static struct db *db;

static void setup(void)
{
    fake_db_begin();
    ledger_register();
    db = fake_db_new();
}

static void teardown(void)
{
    db_free(db);
    fake_db_end();
}

START_TEST(accounts_are_sorted_and_their_changes_added_up)
{
    struct ledger_account a[] = {
        {.user_id = 9, .change = 1}, {.user_id = 2, .change = 5}, {.user_id = 9, .change = 3}};

    ck_assert_uint_eq(ledger_sort(a, 3), 2);
    ck_assert_int_eq(a[0].user_id, 2);
    ck_assert_int_eq(a[1].change, 4);
    ck_assert_ptr_eq(ledger_find(a, 2, 9), &a[1]);
    ck_assert_ptr_null(ledger_find(a, 2, 3));
}
END_TEST

START_TEST(refunds_of_several_customers_lock_their_balances_in_order)
{
    const struct ledger_refund refunds[] = {
        {.user_id = 30, .amount = 1, .message_id = "m-3", .position = 0},
        {.user_id = 10, .amount = 2, .message_id = "m-1", .position = 0},
        {.user_id = 30, .amount = 4, .message_id = "m-3", .position = 1},
        {.user_id = 20, .amount = 0, .message_id = "m-2", .position = 0},
    };
    struct err err;

    EXPECT("refund_lock_balances", .has = {"IN (10,20,30) ORDER BY user_id FOR UPDATE"},
           .lacks = {"SKIP LOCKED"}, .rows = "10|0|0\n20|0|0\n30|0|0");
    EXPECT("refund", .has = {"(30,1,'refund'", "'r-m-3-0'", "'r-m-3-1'", "(20,0,'refund'"});
    EXPECT("refund", .has = {"WHEN user_id IN (10) THEN 2 WHEN user_id IN (20) THEN 0 ELSE 5 END) "
                             "WHERE user_id IN (10,30)"});
    db_begin(db);
    ck_assert_int_eq(ledger_refund(db, refunds, 4, &err), 0);
    ck_assert_str_eq(fake_db_ran(), "begin refund_lock_balances refund refund");
}
END_TEST

START_TEST(amounts_that_nobody_was_charged_are_no_refunds)
{
    static const int64_t wrong[][2] = {
        {-1, 5}, {LEDGER_BALANCE_MAX, 1}, {INT64_MAX, 1}, {INT64_MAX, INT64_MAX}};
    struct ledger_refund refunds[] = {{.user_id = 1, .message_id = "m-1"},
                                      {.user_id = 1, .message_id = "m-2"}};
    struct err err;

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        refunds[0].amount = wrong[i][0];
        refunds[1].amount = wrong[i][1];
        ck_assert_int_eq(ledger_refund(db, refunds, 2, &err), -1);
        ck_assert_int_eq(err.kind, ERR_BUG);
    }
    ck_assert_str_eq(fake_db_ran(), "");
}
END_TEST

/* What is settled while the customer leaves is refunded; nothing is once they have left. */
START_TEST(a_closed_balance_takes_no_refund)
{
    const struct ledger_refund refund = {.user_id = 1, .amount = 5, .message_id = "m"};
    struct err err;

    EXPECT("refund_lock_balances", .rows = "1|0|1");
    EXPECT("refund", .has = {"'r-m-0'"});
    EXPECT("refund", .has = {"balance+(5)"});
    ck_assert_int_eq(ledger_refund(db, &refund, 1, &err), 0);
    EXPECT("refund_lock_balances", .rows = "1|0|2");
    ck_assert_int_eq(ledger_refund(db, &refund, 1, &err), -1);
    ck_assert_int_eq(err.kind, ERR_BUG);
}
END_TEST

START_TEST(entries_come_with_what_they_change)
{
    const struct ledger_entry entries[] = {
        {.amount = 100, .type = "deposit", .description = "it's", .id = "d-1", .created_at = "t1"},
        {.amount = -30, .type = "withdrawal", .id = "c-1", .created_at = "t2"},
    };
    struct err err;

    EXPECT("ledger_take_in", .has = {"FOR UPDATE", "ORDER BY id DESC LIMIT 1"},
           .answers = {{"balance", .rows = "1|7|2"}, {"last", .rows = "d-0"}});
    EXPECT("ledger_take_in",
           .has = {"(1,100,'deposit','it\\'s','d-1','t1'),(1,-30,'withdrawal',NULL,'c-1','t2')",
                   "balance=balance+(70)"});
    ck_assert_int_eq(ledger_take_in(db, 1, "d-0", entries, 2, &err), 0);
    /* Somebody else has taken them in meanwhile. */
    EXPECT("ledger_take_in", .answers = {{"balance", .rows = "1|77|2"}, {"last", .rows = "c-1"}});
    ck_assert_int_eq(ledger_take_in(db, 1, "d-0", entries, 2, &err), -1);
    ck_assert_int_eq(err.kind, ERR_RETRY);
    /* The customer is served there: nothing may come. */
    EXPECT("ledger_take_in", .answers = {{"balance", .rows = "1|7|0"}, {"last", .rows = "d-0"}});
    ck_assert_int_eq(ledger_take_in(db, 1, "d-0", entries, 2, &err), -1);
    ck_assert_int_eq(err.kind, ERR_BUG);
}
END_TEST

START_TEST(many_refunds_go_in_chunks_and_all_locks_come_first)
{
    enum { N = 501 };
    static struct ledger_refund refunds[N];
    static char first[N * 10], last[16];
    struct err err;

    for (int i = 0; i < N; i++) {
        refunds[i] = (struct ledger_refund){.user_id = N - i, .amount = 1, .message_id = "m"};
        snprintf(first + strlen(first), 10, i ? "\n%d|0|0" : "%d|0|0", i + 1);
    }
    *strrchr(first, '\n') = '\0';
    snprintf(last, sizeof(last), "%d|0|0", N);
    EXPECT("refund_lock_balances", .has = {"IN (1,2,"}, .lacks = {",501)"}, .rows = first);
    EXPECT("refund_lock_balances", .has = {"IN (501)"}, .rows = last);
    EXPECT("refund", .has = {"(501,1,"}, .lacks = {"(1,1,"});
    EXPECT("refund", .has = {"(1,1,"});
    EXPECT("refund", .has = {"[[1,1],[2,1]"}, .lacks = {"[501,1]"});
    EXPECT("refund", .has = {"balance+(1) WHERE user_id IN (501)"});
    db_begin(db);
    ck_assert_int_eq(ledger_refund(db, refunds, N, &err), 0);
}
END_TEST

static const char *sql_of(void (*put)(struct buf *, const struct ledger_account *, size_t),
                          const struct ledger_account *accounts, size_t n)
{
    static struct buf sql;

    buf_reset(&sql);
    put(&sql, accounts, n);
    buf_putc(&sql, '\0');
    return sql.data;
}

/* Who has no change may be held by somebody: his row is not touched. */
START_TEST(few_changes_touch_only_whom_they_are_for)
{
    const struct ledger_account accounts[] = {{.user_id = 1, .change = -20},
                                              {.user_id = 2, .elsewhere = true},
                                              {.user_id = 3, .change = 5}};

    ck_assert_str_eq(sql_of(ledger_put_changes, accounts, 3),
                     "UPDATE user_balances FORCE INDEX(user_id) SET balance=balance+(CASE WHEN "
                     "user_id IN (1) THEN -20 WHEN user_id IN (2) THEN 0 ELSE 5 END) WHERE user_id "
                     "IN (1,3)");
}
END_TEST

START_TEST(charges_ask_for_enough_even_of_whom_nothing_is_charged)
{
    const struct ledger_account accounts[] = {
        {.user_id = 1, .change = -20}, {.user_id = 2}, {.user_id = 3, .change = -20}};

    ck_assert_str_eq(sql_of(ledger_put_charges, accounts, 1),
                     "UPDATE user_balances FORCE INDEX(user_id) SET balance=balance-20 WHERE "
                     "user_id IN (1) AND fence=0 AND balance>=20 ORDER BY user_id");
    ck_assert_str_eq(
        sql_of(ledger_put_charges, accounts, 3),
        "UPDATE user_balances FORCE INDEX(user_id) SET balance=balance-CASE WHEN "
        "user_id IN (2) THEN 0 ELSE 20 END WHERE user_id IN (1,2,3) AND "
        "fence=0 AND balance>=CASE WHEN user_id IN (2) THEN 0 ELSE 20 END ORDER BY user_id");
}
END_TEST

/* However many: a row walks amounts, not customers. */
START_TEST(who_is_charged_alike_shares_a_list)
{
    const struct ledger_account accounts[] = {
        {.user_id = 1, .change = -3}, {.user_id = 2, .change = -1}, {.user_id = 3, .change = -1},
        {.user_id = 4, .change = -3}, {.user_id = 5, .change = -1}, {.user_id = 6, .change = -1},
        {.user_id = 7, .change = -9}, {.user_id = 8, .change = -1}, {.user_id = 9, .change = -1}};

    ck_assert_ptr_nonnull(strstr(sql_of(ledger_put_charges, accounts, 9),
                                 "balance-CASE WHEN user_id IN (1,4) THEN 3 WHEN user_id IN (7) "
                                 "THEN 9 ELSE 1 END WHERE"));
}
END_TEST

static const struct ledger_refund one = {.user_id = 1, .amount = 1, .message_id = "m"};

START_TEST(a_refund_that_exists_is_a_bug)
{
    struct err err;

    EXPECT("refund_lock_balances", .rows = "1|0|0");
    EXPECT("refund", .error = FAKE_DUPLICATE);
    db_begin(db);
    ck_assert_int_eq(ledger_refund(db, &one, 1, &err), -1);
    ck_assert_int_eq(err.kind, ERR_BUG);
}
END_TEST

START_TEST(a_customer_without_a_balance_is_a_bug)
{
    struct err err;

    EXPECT("refund_lock_balances", .rows = "");
    db_begin(db);
    ck_assert_int_eq(ledger_refund(db, &one, 1, &err), -1);
    ck_assert_int_eq(err.kind, ERR_BUG);
}
END_TEST

START_TEST(a_deadlock_is_tried_again_by_the_caller)
{
    struct err err;

    EXPECT("refund_lock_balances", .error = FAKE_DEADLOCK);
    db_begin(db);
    ck_assert_int_eq(ledger_refund(db, &one, 1, &err), -1);
    ck_assert_int_eq(err.kind, ERR_RETRY);
    ck_assert(db_is_conflict(&err));
}
END_TEST

START_TEST(what_skip_locked_passed_over_is_elsewhere_or_unknown)
{
    struct ledger_account a[] = {{.user_id = 1}, {.user_id = 2}, {.user_id = 3}};
    struct db_results results;
    struct buf sql = {0};
    struct err err;

    EXPECT("ledger_look", .has = {"IN (1,2,3)", "FOR UPDATE SKIP LOCKED"}, .rows = "2|50|0");
    ledger_put_lock(&sql, a, 3, true);
    {
        static struct db_label label = {.query = "ledger_look"};

        db_label_register(&label);
        ck_assert_int_eq(db_run_buf(db, &label, &sql, &results, &err), 0);
    }
    ledger_read_lock(db_only(&results), a, 3);
    db_results_free(&results);
    EXPECT("ledger_find_elsewhere", .has = {"IN (1,3)"}, .lacks = {"FOR UPDATE"}, .rows = "3");
    ck_assert_int_eq(ledger_find_elsewhere(db, a, 3, &err), 0);
    ck_assert(!a[0].locked && !a[0].elsewhere);
    ck_assert(a[1].locked && a[1].balance == 50);
    ck_assert(!a[2].locked && a[2].elsewhere);
    buf_free(&sql);
}
END_TEST

START_TEST(a_look_waits_for_the_balance_and_then_reads_the_entry)
{
    struct err err;
    bool there;

    EXPECT("ledger_look",
           .has = {"IN (5) ORDER BY user_id FOR UPDATE;SELECT 1", "transaction_id='c-x'"},
           .lacks = {"SKIP LOCKED"}, .answers = {{.name = "entry", .rows = "1"}});
    EXPECT("ledger_look", .answers = {{.name = "entry", .rows = ""}});
    ck_assert_int_eq(ledger_look(db, 5, "c-x", &there, &err), 0);
    ck_assert(there);
    ck_assert_int_eq(ledger_look(db, 5, "c-x", &there, &err), 0);
    ck_assert(!there);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("ledger");
    TCase *t = tcase_create("money");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, accounts_are_sorted_and_their_changes_added_up);
    tcase_add_test(t, refunds_of_several_customers_lock_their_balances_in_order);
    tcase_add_test(t, amounts_that_nobody_was_charged_are_no_refunds);
    tcase_add_test(t, a_closed_balance_takes_no_refund);
    tcase_add_test(t, entries_come_with_what_they_change);
    tcase_add_test(t, many_refunds_go_in_chunks_and_all_locks_come_first);
    tcase_add_test(t, few_changes_touch_only_whom_they_are_for);
    tcase_add_test(t, charges_ask_for_enough_even_of_whom_nothing_is_charged);
    tcase_add_test(t, who_is_charged_alike_shares_a_list);
    tcase_add_test(t, a_refund_that_exists_is_a_bug);
    tcase_add_test(t, a_customer_without_a_balance_is_a_bug);
    tcase_add_test(t, a_deadlock_is_tried_again_by_the_caller);
    tcase_add_test(t, what_skip_locked_passed_over_is_elsewhere_or_unknown);
    tcase_add_test(t, a_look_waits_for_the_balance_and_then_reads_the_entry);
    suite_add_tcase(s, t);
    return suite_run(s);
}
