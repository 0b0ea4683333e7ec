#include "api/restore.h"

#include <check.h>
#include <stdio.h>
#include <string.h>

#include "test/unit/fake_db.h"
#include "test/unit/suite.h"

#define SINCE "2026-01-02 03:04:05.000006"

static struct db *db;
static struct err err;

static void setup(void)
{
    fake_db_begin();
    restore_register();
    db = fake_db_new();
}

static void teardown(void)
{
    db_free(db);
    fake_db_end();
}

static const struct {
    const char *text;
    int64_t sec; /* -1: none */
} ages[] = {
    {"0", 0},        {"90", 90},     {"90s", 90},          {"15m", 900},
    {"36h", 129600}, {"7d", 604800}, {"3650d", 315360000}, {"3651d", -1},
    {"", -1},        {"m", -1},      {"5w", -1},           {"5 m", -1},
    {"-5", -1},      {"5mm", -1},    {"1.5h", -1},         {"9999999999", -1},
};

START_TEST(an_age)
{
    int64_t sec = -1;
    bool ok = restore_parse_age(ages[_i].text, &sec);

    ck_assert_msg(ok == (ages[_i].sec >= 0), "%s", ages[_i].text);
    ck_assert(!ok || sec == ages[_i].sec);
}
END_TEST

static void expect_mode(const char *on)
{
    static char row[64];

    EXPECT("schema_version", .rows = "1000");
    snprintf(row, sizeof(row), "%s|" SINCE, on);
    EXPECT("restore_mode", .rows = row);
}

START_TEST(on_waits_for_batches_and_for_heartbeats)
{
    EXPECT("schema_version", .rows = "1000");
    EXPECT("restore_mode_switch", .has = {"('restore',1,NOW(6))"}, .error = FAKE_LOCK_WAIT);
    EXPECT("restore_mode_switch", .has = {"('restore',1,NOW(6))"}, .affected = 1);
    EXPECT("restore", .has = {"SET @restore_mark=NOW(6)"}); /* after the switch */
    EXPECT("restore", .has = {"heartbeat_at<=@restore_mark"}, .rows = "5|host:1|1");
    EXPECT("restore", .has = {"heartbeat_at<=@restore_mark"}, .rows = "");
    ck_assert_int_eq(restore_on(db, &err), 0);
}
END_TEST

START_TEST(without_the_schema_nothing_is_switched)
{
    EXPECT("schema_version", .rows = "10");
    ck_assert_int_eq(restore_on(db, &err), -1);
    ck_assert_int_eq(err.kind, ERR_PERMANENT);
    ck_assert_ptr_nonnull(strstr(err.msg, "migrate"));
}
END_TEST

START_TEST(resume_marks_everything_before_it_lets_go)
{
    expect_mode("1");
    EXPECT("restore", .has = {"MIN(id)"}, .rows = "7|10100");
    EXPECT("restore_mark", .has = {"BETWEEN 7 AND 5006"}, .affected = 2);
    EXPECT("restore_mark", .has = {"BETWEEN 5007 AND 10006"}, .error = FAKE_DEADLOCK);
    EXPECT("restore_mark", .has = {"BETWEEN 5007 AND 10006"}, .affected = 1);
    EXPECT("restore_mark", .has = {"BETWEEN 10007 AND 15006"}, .affected = 0);
    EXPECT("restore_mode_switch", .has = {"('restore',0,NOW(6))"}, .affected = 2);
    ck_assert_int_eq(restore_resume(db, &err), 0);
}
END_TEST

START_TEST(what_cannot_be_marked_keeps_the_mode_on)
{
    expect_mode("1");
    EXPECT("restore", .has = {"MIN(id)"}, .rows = "7|10100");
    EXPECT("restore_mark", .error = FAKE_LOST);
    ck_assert_int_eq(restore_resume(db, &err), -1);
}
END_TEST

START_TEST(without_the_mode_nothing_is_resumed_or_failed)
{
    expect_mode("0");
    ck_assert_int_eq(restore_resume(db, &err), -1);
    ck_assert_int_eq(err.kind, ERR_PERMANENT);
    expect_mode("0");
    ck_assert_int_eq(restore_fail(db, 60, false, &err), -1);
}
END_TEST

/* One is pending, one was with a consumer that has died, one is with a living one, one is done. */
static void expect_failing(void)
{
    expect_mode("1");
    EXPECT("restore", .has = {"NOW(6)-INTERVAL 60 SECOND"}, .rows = SINCE);
    EXPECT("restore", .has = {"MIN(id)"}, .rows = "1|4");
    EXPECT("restore", .has = {"m.accepted_at<'" SINCE "'"}, .rows = "m-1|3");
    EXPECT("recipient_lock", .rows = "1|m-1|0911|0|pending|0|0|0|7|10||\\N|0\n"
                                     "2|m-1|0912|1|sending|1|0|8|7|10||500|500\n"
                                     "3|m-1|0913|2|sending|1|0|9|7|10||500|500\n"
                                     "4|m-1|0914|3|done|1|0|9|7|10||500|500");
    EXPECT("restore", .has = {"FROM workers"}, .rows = "9");
    EXPECT("settle_failed",
           .has = {"[1,0,\"given up after a restore\",null,1]",
                   "[2,1,\"given up after a restore\",null,1]"},
           .lacks = {"[3,", "[4,"}, .affected = 2);
    EXPECT("refund_lock_balances", .rows = "7|80|0");
    EXPECT("refund", .affected = 2);
    EXPECT("refund", .affected = 1);
}

START_TEST(fail_leaves_what_a_living_consumer_has)
{
    expect_failing();
    EXPECT("commit");
    ck_assert_int_eq(restore_fail(db, 60, false, &err), 1);
}
END_TEST

START_TEST(a_dry_run_does_it_and_rolls_back)
{
    expect_failing();
    ck_assert_int_eq(restore_fail(db, 60, true, &err), 1);
    ck_assert_ptr_nonnull(strstr(fake_db_ran(), "refund rollback"));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("restore");
    TCase *t = tcase_create("restore");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_loop_test(t, an_age, 0, (int)(sizeof(ages) / sizeof(ages[0])));
    tcase_add_test(t, on_waits_for_batches_and_for_heartbeats);
    tcase_add_test(t, without_the_schema_nothing_is_switched);
    tcase_add_test(t, resume_marks_everything_before_it_lets_go);
    tcase_add_test(t, what_cannot_be_marked_keeps_the_mode_on);
    tcase_add_test(t, without_the_mode_nothing_is_resumed_or_failed);
    tcase_add_test(t, fail_leaves_what_a_living_consumer_has);
    tcase_add_test(t, a_dry_run_does_it_and_rolls_back);
    suite_add_tcase(s, t);
    return suite_run(s);
}
