#include "api/reads.h"

#include <check.h>
#include <semaphore.h>
#include <stdio.h>
#include <string.h>

#include "api/settings.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/pause.h"
#include "test/unit/fake_db.h"
#include "test/unit/suite.h"

static char no_copy[] = "";
static struct reads *reads;
static sem_t answered;
static enum read_outcome outcome;
static char body[256];
static int64_t deadline_ms;

static void answer(const struct read_job *job, enum read_outcome what, const struct buf *text)
{
    (void)job;
    snprintf(body, sizeof(body), "%.*s", (int)text->len, text->len ? text->data : "");
    outcome = what;
    sem_post(&answered);
}

static bool begin(const struct read_job *job)
{
    (void)job;
    return true;
}

static void setup(void)
{
    fake_db_begin();
    sem_init(&answered, 0, 0);
    api_settings.read_host = no_copy;
    api_settings.readers = 1;
    api_settings.read_queue_max = 10;
    api_settings.read_queue_user_max = 10;
    api_settings.read_scan_rows = 100;
    reads = reads_start(answer, begin);
}

static void teardown(void)
{
    reads_stop(reads);
    sem_destroy(&answered);
    fake_db_end();
}

static void search(int64_t left_ms)
{
    struct read_job job = {.kind = READ_HISTORY,
                           .user_id = 1,
                           .limit = 10,
                           .before = INT64_MAX,
                           .by_state = true,
                           .state = RECIPIENT_DONE};

    job.deadline_ms = deadline_ms = clock_mono_ms() + left_ms;
    ck_assert(reads_submit(reads, &job));
    sem_wait(&answered);
}

static void wait_for_deadline(void)
{
    while (clock_mono_ms() < deadline_ms)
        pause_sleep(1);
}

START_TEST(a_search_ends_with_its_deadline)
{
    EXPECT("history_bottom", .rows = "7", .meanwhile = wait_for_deadline);
    search(1000);
    ck_assert_int_eq(outcome, READ_UNAVAILABLE);
}
END_TEST

START_TEST(a_search_looks_at_so_many_rows)
{
    EXPECT("history_bottom", .has = {"LIMIT 1 OFFSET 99"}, .rows = "7");
    EXPECT("history", .has = {" AND id>=7 AND status='done' ", "LIMIT 11"}, .rows = "");
    search(1000);
    ck_assert_int_eq(outcome, READ_OK);
    ck_assert_str_eq(body, "{\"history\":[],\"next_cursor\":\"7\"}");
}
END_TEST

START_TEST(a_search_to_the_end_has_no_cursor)
{
    EXPECT("history_bottom", .rows = "");
    EXPECT("history", .lacks = {"id>="}, .rows = "");
    search(1000);
    ck_assert_str_eq(body, "{\"history\":[],\"next_cursor\":null}");
}
END_TEST

START_TEST(a_statements_own_error_is_not_tried_again)
{
    EXPECT("history_bottom", .rows = "");
    EXPECT("history", .error = FAKE_NO_COMPARISON);
    search(1000);
    ck_assert_int_eq(outcome, READ_INTERNAL);
}
END_TEST

START_TEST(a_read_that_comes_too_late_asks_nothing)
{
    search(0);
    ck_assert_int_eq(outcome, READ_TOO_LATE);
}
END_TEST

static enum read_outcome look_for(const char *id, bool for_itself, int64_t before)
{
    struct read_job job = {.kind = READ_HISTORY,
                           .user_id = 1,
                           .for_itself = for_itself,
                           .limit = 10,
                           .before = before,
                           .by_state = true,
                           .state = RECIPIENT_DONE,
                           .deadline_ms = clock_mono_ms() + 1000};

    snprintf(job.message_id, sizeof(job.message_id), "%s", id);
    ck_assert(reads_submit(reads, &job));
    sem_wait(&answered);
    return outcome;
}

/* ... for who asks for itself: another's message and none are the same. */
START_TEST(a_message_without_rows_is_absent)
{
    EXPECT("history", .has = {"status='done'"}, .rows = "");
    EXPECT("history", .has = {"LIMIT 1"}, .lacks = {"status=", "id<7"}, .rows = "");
    ck_assert_int_eq(look_for("m", true, 7), READ_ABSENT);
    EXPECT("history", .rows = "");
    EXPECT("history", .rows = "1");
    ck_assert_int_eq(look_for("m", true, INT64_MAX), READ_OK); /* none of it is done */
    ck_assert_str_eq(body, "{\"history\":[],\"next_cursor\":null}");
    EXPECT("history", .rows = "");
    ck_assert_int_eq(look_for("m", false, INT64_MAX), READ_OK);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("reads");
    TCase *t = tcase_create("reads");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, a_search_ends_with_its_deadline);
    tcase_add_test(t, a_search_looks_at_so_many_rows);
    tcase_add_test(t, a_search_to_the_end_has_no_cursor);
    tcase_add_test(t, a_statements_own_error_is_not_tried_again);
    tcase_add_test(t, a_read_that_comes_too_late_asks_nothing);
    tcase_add_test(t, a_message_without_rows_is_absent);
    suite_add_tcase(s, t);
    return suite_run(s);
}
