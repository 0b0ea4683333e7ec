#include <check.h>
#include <string.h>

#include "api/audit_internal.h"
#include "test/unit/fake_db.h"
#include "test/unit/suite.h"

#define LIMIT 3

static struct db *db;
static struct audit_balances *balances;
static struct audit_report report;
static struct audit_check *check;

static void setup(void)
{
    fake_db_begin();
    db_label_register(&audit_label);
    db = fake_db_new();
    balances = audit_balances_new();
    report = (struct audit_report){0};
    check = audit_add_check(&report, AUDIT_BALANCES);
}

static void teardown(void)
{
    audit_balances_free(balances);
    audit_report_free(&report);
    db_free(db);
    fake_db_end();
}

/* NOLINTBEGIN(bugprone-macro-parentheses): texts are pasted as they are */
#define ACCOUNTS(has_, rows_) EXPECT("audit", .has = {"user_balances", has_}, .rows = rows_)
#define ENTRIES(has_, rows_)                                            \
    EXPECT("audit", .has = {"FROM user_transactions", has_, "LIMIT 3"}, \
           .lacks = {"user_balances"}, .rows = rows_)
/* NOLINTEND(bugprone-macro-parentheses) */

static void walk_to_the_end(void)
{
    bool end = false;
    struct err err;

    ACCOUNTS("LIMIT 3", "");
    while (!end)
        ck_assert_int_eq(audit_balances_step(balances, db, LIMIT, &report, check, &end, &err), 0);
}

START_TEST(many_entries_are_added_up_in_pieces)
{
    ACCOUNTS("LIMIT 3", "7|100|16\n8|5|20");
    ENTRIES("user_id BETWEEN 7 AND 8 ", "7|10|50\n7|11|30\n7|12|15");
    ENTRIES("user_id=7 AND id>12 AND id<=16 ", "7|13|2\n7|14|1\n7|16|2");
    ENTRIES("user_id=7 AND id>16 AND id<=16 ", "");
    ENTRIES("user_id BETWEEN 8 AND 8 ", "8|20|5");
    walk_to_the_end();
    ck_assert_uint_eq(report.violations, 0);
    ck_assert_uint_eq(check->checked, 2);
}
END_TEST

START_TEST(entries_after_the_balance_was_read_do_not_count)
{
    ACCOUNTS("LIMIT 3", "7|10|10\n9|0|0");
    ENTRIES("user_id BETWEEN 7 AND 9 ", "7|10|10\n7|11|-4\n9|12|5");
    ENTRIES("user_id=9 AND id>12 AND id<=0 ", "");
    walk_to_the_end();
    ck_assert_uint_eq(report.violations, 0);
}
END_TEST

START_TEST(entries_of_nobody_here_are_passed_over)
{
    ACCOUNTS("LIMIT 3", "7|10|10\n9|4|40");
    ENTRIES("user_id BETWEEN 7 AND 9 ", "7|10|10\n8|20|1\n8|21|1");
    ENTRIES("user_id BETWEEN 9 AND 9 ", "9|40|4");
    walk_to_the_end();
    ck_assert_uint_eq(report.violations, 0);
}
END_TEST

START_TEST(what_differs_is_named_also_when_the_sum_fits_no_number)
{
    ACCOUNTS("LIMIT 3", "7|10|10\n8|-2|11\n9|2|13");
    ENTRIES("user_id BETWEEN 7 AND 9 ", "7|10|9\n8|11|-2\n9|12|9223372036854775807");
    ENTRIES("user_id=9 AND id>12 AND id<=13 ", "9|13|9223372036854775807");
    walk_to_the_end();
    ck_assert_uint_eq(report.violations, 3);
    ck_assert_str_eq(check->examples[0], "customer 7: balance 10, ledger 9");
    ck_assert_str_eq(check->examples[1], "customer 8: balance -2, ledger -2");
    ck_assert_str_eq(check->examples[2], "customer 9: balance 2, ledger 18446744073709551614");
}
END_TEST

START_TEST(what_is_more_than_a_balance_may_be_is_named)
{
    ACCOUNTS("LIMIT 3", "7|9007199254740991|10\n8|9007199254740992|11");
    ENTRIES("user_id BETWEEN 7 AND 8 ", "7|10|9007199254740991\n8|11|9007199254740992");
    walk_to_the_end();
    ck_assert_uint_eq(report.violations, 1);
    ck_assert_str_eq(check->examples[0],
                     "customer 8: balance 9007199254740992, ledger 9007199254740992; "
                     "more than a balance may be");
}
END_TEST

START_TEST(a_statement_that_fails_is_taken_up_again)
{
    bool end;
    struct err err;

    ACCOUNTS("LIMIT 3", "7|10|11");
    ENTRIES("user_id BETWEEN 7 AND 7 ", "7|9|3\n7|10|4\n7|11|3");
    ck_assert_int_eq(audit_balances_step(balances, db, LIMIT, &report, check, &end, &err), 0);
    ck_assert_int_eq(audit_balances_step(balances, db, LIMIT, &report, check, &end, &err), 0);
    EXPECT("audit", .error = FAKE_DEADLOCK);
    ck_assert_int_eq(audit_balances_step(balances, db, 1, &report, check, &end, &err), -1);
    ENTRIES("user_id=7 AND id>11 ", "");
    walk_to_the_end();
    ck_assert_uint_eq(report.violations, 0);
    ck_assert_uint_eq(check->checked, 1);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("audit_balances");
    TCase *t = tcase_create("audit_balances");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, many_entries_are_added_up_in_pieces);
    tcase_add_test(t, entries_after_the_balance_was_read_do_not_count);
    tcase_add_test(t, entries_of_nobody_here_are_passed_over);
    tcase_add_test(t, what_differs_is_named_also_when_the_sum_fits_no_number);
    tcase_add_test(t, what_is_more_than_a_balance_may_be_is_named);
    tcase_add_test(t, a_statement_that_fails_is_taken_up_again);
    suite_add_tcase(s, t);
    return suite_run(s);
}
