#include <check.h>
#include <string.h>

#include "consumerd/published.h"
#include "libcommon/telemetry/metrics.h"
#include "test/unit/fake_db.h"
#include "test/unit/suite.h"

static struct db *db;

static void setup(void)
{
    fake_db_begin();
    db = fake_db_new();
    published_register();
}

static void teardown(void)
{
    db_free(db);
    fake_db_end();
}

static int64_t shown(const char *lane)
{
    return (int64_t)metrics_value(metrics_gauge("msg_published_open", "", lane));
}

static void read_rows(const char *rows)
{
    EXPECT("published_read", .has = {"FROM published_open", "BETWEEN counted_at AND valid_until"},
           .rows = rows);
    published_read(db);
}

START_TEST(nothing_is_shown_before_something_was_read)
{
    ck_assert_int_eq(shown("lane=\"normal\""), METRICS_ABSENT);
    ck_assert_int_eq(shown("lane=\"express\""), METRICS_ABSENT);
}
END_TEST

START_TEST(what_is_read_is_shown)
{
    read_rows("0|12\n1|0");
    ck_assert_int_eq(shown("lane=\"normal\""), 12);
    ck_assert_int_eq(shown("lane=\"express\""), 0);
}
END_TEST

/* Nor is a lane that a later version may have. */
START_TEST(what_is_old_is_not_shown)
{
    read_rows("0|12\n1|3");
    read_rows("1|4\n7|9");
    ck_assert_int_eq(shown("lane=\"normal\""), METRICS_ABSENT);
    ck_assert_int_eq(shown("lane=\"express\""), 4);
}
END_TEST

START_TEST(without_an_answer_nothing_is_shown)
{
    read_rows("0|12\n1|3");
    if (_i) {
        EXPECT("published_read", .error = FAKE_LOST);
        published_read(db);
    } else {
        published_forget();
    }
    ck_assert_int_eq(shown("lane=\"normal\""), METRICS_ABSENT);
    ck_assert_int_eq(shown("lane=\"express\""), METRICS_ABSENT);
}
END_TEST

START_TEST(both_lanes_are_stored_by_one_statement)
{
    const int64_t messages[MESSAGE_LANES] = {[MESSAGE_NORMAL] = 7, [MESSAGE_EXPRESS] = 2};
    struct err err;

    EXPECT("published_store",
           .has = {"(0,7,NOW(6),NOW(6)+INTERVAL 1500000 MICROSECOND)", "(1,2,NOW(6),",
                   "ON DUPLICATE KEY UPDATE messages=VALUES(messages)"});
    ck_assert_int_eq(published_store(db, messages, 1500, &err), 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("published");
    TCase *t = tcase_create("count");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, nothing_is_shown_before_something_was_read);
    tcase_add_test(t, what_is_read_is_shown);
    tcase_add_test(t, what_is_old_is_not_shown);
    tcase_add_loop_test(t, without_an_answer_nothing_is_shown, 0, 2);
    tcase_add_test(t, both_lanes_are_stored_by_one_statement);
    suite_add_tcase(s, t);
    return suite_run(s);
}
