#include "api/reads.h"

#include <check.h>
#include <semaphore.h>
#include <string.h>

#include "api/settings.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/pause.h"
#include "test/unit/fake_db.h"
#include "test/unit/suite.h"

#define PAGE 1000 /* rows that a search reads at a time */

static struct reads *reads;
static sem_t answered;
static enum read_outcome outcome;
static int64_t deadline_ms;
static struct buf rows;

static void answer(const struct read_job *job, enum read_outcome what, const struct buf *body)
{
    (void)job;
    (void)body;
    outcome = what;
    sem_post(&answered);
}

static void setup(void)
{
    fake_db_begin();
    sem_init(&answered, 0, 0);
    api_settings.readers = 1;
    api_settings.read_queue_max = 10;
    for (int i = PAGE; i; i--)
        buf_printf(&rows,
                   "%s%d|1|normal|pending|0912||m|2026-01-02 03:04:05.678901|"
                   "2026-01-02 03:04:05.678901|1|0||",
                   i < PAGE ? "\n" : "", i);
    buf_putc(&rows, '\0');
    reads = reads_start(answer);
}

static void teardown(void)
{
    reads_stop(reads);
    buf_free(&rows);
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
    EXPECT("history", .rows = rows.data, .meanwhile = wait_for_deadline);
    search(1000);
    ck_assert_int_eq(outcome, READ_UNAVAILABLE);
}
END_TEST

START_TEST(a_read_that_comes_too_late_asks_nothing)
{
    search(0);
    ck_assert_int_eq(outcome, READ_TOO_LATE);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("reads");
    TCase *t = tcase_create("deadlines");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, a_search_ends_with_its_deadline);
    tcase_add_test(t, a_read_that_comes_too_late_asks_nothing);
    suite_add_tcase(s, t);
    return suite_run(s);
}
