#include <check.h>
#include <poll.h>
#include <stdlib.h>

#include "consumerd/job_queue.h"
#include "test/unit/suite.h"

static struct job *jobs; /* 8 of them */
static struct job_queue *queue;

static void setup(void)
{
    jobs = calloc(8, sizeof(*jobs));
    ck_assert_ptr_nonnull(jobs);
    queue = job_queue_new();
}

static void teardown(void)
{
    job_queue_free(queue);
    free(jobs);
}

static bool readable(void)
{
    struct pollfd p = {.fd = job_queue_fd(queue), .events = POLLIN};

    return poll(&p, 1, 0) == 1;
}

static void put(int first, int n)
{
    for (int i = first; i < first + n; i++)
        job_queue_put(queue, &jobs[i]);
}

static size_t take(void)
{
    struct job_list list = TAILQ_HEAD_INITIALIZER(list);
    struct job *job;
    size_t n = 0;

    job_queue_take(queue, &list);
    for (job = TAILQ_FIRST(&list); job; job = TAILQ_NEXT(job, link))
        n++;
    return n;
}

START_TEST(one_job_wakes)
{
    ck_assert(!readable());
    put(0, 1);
    ck_assert(readable());
    put(1, 2);
    ck_assert_uint_eq(take(), 3);
    ck_assert(!readable());
}
END_TEST

START_TEST(so_many_jobs_wake)
{
    struct job_list list = TAILQ_HEAD_INITIALIZER(list);

    job_queue_wake_at(queue, 3);
    put(0, 2);
    ck_assert(!readable());
    TAILQ_INSERT_TAIL(&list, &jobs[2], link);
    TAILQ_INSERT_TAIL(&list, &jobs[3], link);
    job_queue_put_all(queue, &list, 2);
    ck_assert(readable());
    ck_assert_uint_eq(take(), 4);
    put(0, 2); /* counted from the last take on */
    ck_assert(!readable());
    ck_assert_uint_eq(take(), 2);
}
END_TEST

START_TEST(who_wakes_earlier_sees_what_is_there)
{
    job_queue_wake_at(queue, 3);
    put(0, 2);
    ck_assert(!readable());
    job_queue_wake_at(queue, 1);
    ck_assert(readable());
    ck_assert_uint_eq(take(), 2);
    job_queue_wake_at(queue, 1);
    ck_assert(!readable());
}
END_TEST

START_TEST(a_poke_wakes_whatever_is_there)
{
    job_queue_wake_at(queue, 3);
    job_queue_poke(queue);
    ck_assert(readable());
    ck_assert_uint_eq(take(), 0);
    ck_assert(!readable());
}
END_TEST

int main(void)
{
    Suite *s = suite_create("job_queue");
    TCase *t = tcase_create("waking");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, one_job_wakes);
    tcase_add_test(t, so_many_jobs_wake);
    tcase_add_test(t, who_wakes_earlier_sees_what_is_there);
    tcase_add_test(t, a_poke_wakes_whatever_is_there);
    suite_add_tcase(s, t);
    return suite_run(s);
}
