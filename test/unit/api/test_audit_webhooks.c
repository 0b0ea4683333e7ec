#include <check.h>
#include <string.h>

#include "api/audit_internal.h"
#include "test/unit/fake_db.h"
#include "test/unit/suite.h"

#define LIMIT 2

static struct db *db;
static struct audit_events at;
static struct audit_report report;
static struct audit_check *check;
static struct err err;

static void setup(void)
{
    fake_db_begin();
    db_label_register(&audit_label);
    db = fake_db_new();
    at = (struct audit_events){0};
    report = (struct audit_report){0};
    check = audit_add_check(&report, AUDIT_EVENTS);
}

static void teardown(void)
{
    audit_report_free(&report);
    db_free(db);
    fake_db_end();
}

/* After that many rows the walk is, or is not, at its end. */
static void step(bool ends)
{
    bool end;

    ck_assert_int_eq(audit_events_step(&at, db, LIMIT, &report, check, &end, &err), 0);
    ck_assert_int_eq(end, ends);
}

START_TEST(a_walk_goes_on_behind_the_last_event)
{
    EXPECT("audit", .has = {"webhook_id>0 OR", "subject>''", "LIMIT 2"},
           .rows = "3|it's-0|0|\\N\n3|it's-1|2|\\N");
    step(false);
    EXPECT("audit",
           .has = {"webhook_id>3 OR (webhook_id=3 AND (subject>'it\\'s-1' OR "
                   "(subject='it\\'s-1' AND kind>2)))"},
           .rows = "4|u|5|\\N");
    step(true);
    ck_assert_uint_eq(check->checked, 3);
    ck_assert_uint_eq(report.violations, 0);
}
END_TEST

START_TEST(what_is_wrong_is_named_by_its_id)
{
    EXPECT("audit", .rows = "3|m-0|0|gone\n4|m-1|77|gone");
    step(false);
    ck_assert_uint_eq(report.violations, 2);
    ck_assert_str_eq(check->examples[0], "m-0-done for endpoint 3: gone");
    ck_assert_str_eq(check->examples[1], "m-1-77 for endpoint 4: gone");
}
END_TEST

START_TEST(a_statement_that_fails_is_taken_up_again)
{
    bool end;

    EXPECT("audit", .rows = "3|m-0|0|\\N\n3|m-1|0|\\N");
    step(false);
    EXPECT("audit", .error = FAKE_DEADLOCK);
    ck_assert_int_eq(audit_events_step(&at, db, LIMIT, &report, check, &end, &err), -1);
    EXPECT("audit", .has = {"subject='m-1'"}, .rows = "");
    step(true);
    ck_assert_uint_eq(check->checked, 2);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("audit_webhooks");
    TCase *t = tcase_create("audit_webhooks");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, a_walk_goes_on_behind_the_last_event);
    tcase_add_test(t, what_is_wrong_is_named_by_its_id);
    tcase_add_test(t, a_statement_that_fails_is_taken_up_again);
    suite_add_tcase(s, t);
    return suite_run(s);
}
