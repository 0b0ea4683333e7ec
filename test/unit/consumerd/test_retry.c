#include "consumerd/retry.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "test/unit/consumerd/make.h"
#include "test/unit/fake_db.h"
#include "test/unit/suite.h"

static struct settings settings;
static struct db *db;
static struct inflight *one, *two;
static const char *numbers[] = {"0912", "0913"};

static void setup(void)
{
    fake_db_begin();
    retry_register();
    make_settings(&settings);
    db = fake_db_new();
    one = make_message("m-1", 1);
    two = make_message("m-2", 2);
}

static void teardown(void)
{
    inflight_free(one);
    inflight_free(two);
    db_free(db);
    fake_db_end();
}

static struct retry retry_of(const struct inflight *m, int64_t delay_ms, int64_t window_left_ms)
{
    return (struct retry){.message = m,
                          .kind = OUTBOX_DELIVER,
                          .recipients = numbers,
                          .count = 2,
                          .delay_ms = delay_ms,
                          .window_left_ms = window_left_ms};
}

static void expect_count(const char *rows)
{
    EXPECT("retry_lock_messages", .has = {"FOR UPDATE"}, .rows = rows);
    EXPECT("retry_count", .has = {"enqueues=enqueues+1"});
}

/* The delay of the row that was written last, which was the n-th enqueue of its message. */
static int64_t wait_ms(int64_t delay_ms, int64_t window_left_ms, const char *row)
{
    struct retry r = retry_of(one, delay_ms, window_left_ms);
    const char *at;
    struct err err;

    expect_count(row);
    EXPECT("retry_insert_outbox");
    db_begin(db);
    ck_assert_int_eq(retry_write(db, &settings, &r, 1, &err), 0);
    at = strstr(fake_db_sql("retry_insert_outbox"), "INTERVAL ");
    return at ? strtoll(at + strlen("INTERVAL "), NULL, 10) / 1000 : 0;
}

START_TEST(a_row_a_message_in_the_order_of_messages)
{
    struct retry retries[] = {retry_of(two, 0, INT64_MIN), retry_of(one, 500, INT64_MIN)};
    struct err err;

    EXPECT("retry_lock_messages",
           .has = {"IN ('m-1','m-2') ORDER BY message_identifier FOR UPDATE"},
           .rows = "m-1|0\nm-2|4");
    EXPECT("retry_count", .has = {"IN ('m-1','m-2')"});
    EXPECT("retry_insert_outbox",
           .has = {"'m-1','message.retry.1',", "'m-2','message.retry.5',",
                   "\"recipients\":[\"0912\",\"0913\"]", "INTERVAL 500000 MICROSECOND),("});
    db_begin(db);
    ck_assert_int_eq(retry_write(db, &settings, retries, 2, &err), 0);
    ck_assert_ptr_eq(retries[0].message, one);
}
END_TEST

START_TEST(a_message_that_is_gone_is_told_and_not_written)
{
    struct retry retries[] = {retry_of(one, 0, INT64_MIN), retry_of(two, 0, INT64_MIN)};
    struct err err;

    EXPECT("retry_lock_messages", .rows = "m-2|0");
    EXPECT("retry_count", .has = {"'m-2'"}, .lacks = {"'m-1'"});
    EXPECT("retry_insert_outbox", .has = {"'m-2'"}, .lacks = {"'m-1'"});
    db_begin(db);
    ck_assert_int_eq(retry_write(db, &settings, retries, 2, &err), 0);
    ck_assert(retries[0].missing && !retries[1].missing);
}
END_TEST

START_TEST(when_all_are_gone_nothing_is_written)
{
    struct retry r = retry_of(one, 0, INT64_MIN);
    struct err err;

    EXPECT("retry_lock_messages", .rows = "");
    db_begin(db);
    ck_assert_int_eq(retry_write(db, &settings, &r, 1, &err), 0);
    ck_assert(r.missing);
}
END_TEST

START_TEST(a_backoff_grows_and_ends_with_the_window)
{
    int64_t first = wait_ms(RETRY_BACKOFF, 3600000, "m-1|0");
    int64_t fourth = wait_ms(RETRY_BACKOFF, 3600000, "m-1|3");

    ck_assert_int_ge(first, 500);
    ck_assert_int_le(first, 1000);
    ck_assert_int_ge(fourth, 4000);
    ck_assert_int_le(fourth, 8000);
    ck_assert_int_eq(wait_ms(RETRY_BACKOFF, 300, "m-1|3"), 300);
    ck_assert_int_eq(wait_ms(RETRY_BACKOFF, -300, "m-1|3"), 1); /* over: asked a last time */
}
END_TEST

/* A question waits longer and longer, the window has ended. */
START_TEST(a_question_is_a_row_of_its_own_kind)
{
    struct retry r = retry_of(one, RETRY_BACKOFF, -300);
    struct err err;

    r.kind = OUTBOX_ASK;
    settings.consumer.held_ask_max_sec = 100;
    expect_count("m-1|30");
    EXPECT("retry_insert_outbox", .has = {"VALUES (2,'message','m-1','message.retry.31',"});
    db_begin(db);
    ck_assert_int_eq(retry_write(db, &settings, &r, 1, &err), 0);
    ck_assert_int_ge(
        strtoll(strstr(fake_db_sql("retry_insert_outbox"), "INTERVAL ") + strlen("INTERVAL "), NULL,
                10),
        50 * 1000 * 1000);
}
END_TEST

START_TEST(what_is_no_retry_of_a_delivery_knows_no_window)
{
    ck_assert_int_ge(wait_ms(RETRY_BACKOFF, INT64_MIN, "m-1|3"), 4000);
    ck_assert_int_eq(wait_ms(0, INT64_MIN, "m-1|3"), 0);
}
END_TEST

/* The event is unique: whoever wrote it before us has counted, and we have not seen it. */
START_TEST(an_event_that_exists_is_an_error)
{
    struct retry r = retry_of(one, 0, INT64_MIN);
    struct err err;

    expect_count("m-1|0");
    EXPECT("retry_insert_outbox", .error = FAKE_DUPLICATE);
    db_begin(db);
    ck_assert_int_eq(retry_write(db, &settings, &r, 1, &err), -1);
    ck_assert_int_eq(err.kind, ERR_PERMANENT);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("retry");
    TCase *t = tcase_create("outbox");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, a_row_a_message_in_the_order_of_messages);
    tcase_add_test(t, a_message_that_is_gone_is_told_and_not_written);
    tcase_add_test(t, when_all_are_gone_nothing_is_written);
    tcase_add_test(t, a_backoff_grows_and_ends_with_the_window);
    tcase_add_test(t, a_question_is_a_row_of_its_own_kind);
    tcase_add_test(t, what_is_no_retry_of_a_delivery_knows_no_window);
    tcase_add_test(t, an_event_that_exists_is_an_error);
    suite_add_tcase(s, t);
    return suite_run(s);
}
