#include <check.h>
#include <pthread.h>
#include <stdatomic.h>

#include "libcommon/base/clock.h"
#include "libcommon/base/pause.h"
#include "test/unit/suite.h"

#define SHORT_MS 60
#define LONG_MS 30000 /* no test waits so long: a wait that should end early does not */

struct waiter {
    struct pause pause;
    pthread_t thread;
    int64_t ms;
    _Atomic bool enough;
    _Atomic bool told;
    int64_t took_ms;
};

static bool enough(void *arg)
{
    struct waiter *w = arg;

    return atomic_load(&w->enough);
}

static void *wait_main(void *arg)
{
    struct waiter *w = arg;
    int64_t start_ms = clock_mono_ms();

    atomic_store(&w->told, pause_for_or(&w->pause, w->ms, enough, w));
    w->took_ms = clock_mono_ms() - start_ms;
    pause_leave(&w->pause);
    return NULL;
}

static void start(struct waiter *w, int64_t ms)
{
    pause_init(&w->pause);
    w->ms = ms;
    atomic_init(&w->enough, false);
    atomic_init(&w->told, false);
    pause_enter(&w->pause);
    ck_assert_int_eq(pthread_create(&w->thread, NULL, wait_main, w), 0);
}

static void end(struct waiter *w)
{
    ck_assert(pause_ended(&w->pause, LONG_MS));
    pthread_join(w->thread, NULL);
    pause_destroy(&w->pause);
}

START_TEST(ends_in_time)
{
    struct pause p;
    int64_t start_us = clock_mono_us();

    pause_init(&p);
    ck_assert(!pause_for(&p, SHORT_MS));
    ck_assert_int_ge(clock_mono_us() - start_us, SHORT_MS * 1000);
    start_us = clock_mono_us();
    ck_assert(!pause_for_us(&p, 1500));
    ck_assert_int_ge(clock_mono_us() - start_us, 1500);
    ck_assert_int_lt(clock_mono_us() - start_us, LONG_MS * 1000);
    pause_destroy(&p);
}
END_TEST

START_TEST(nothing_and_less_end_at_once)
{
    struct pause p;

    pause_init(&p);
    ck_assert(!pause_for(&p, 0));
    ck_assert(!pause_for(&p, -2500));
    ck_assert(!pause_for_us(&p, -1));
    pause_destroy(&p);
}
END_TEST

START_TEST(a_stop_ends_it_early)
{
    struct waiter w;

    start(&w, LONG_MS);
    pause_sleep(SHORT_MS);
    pause_stop(&w.pause);
    end(&w);
    ck_assert(atomic_load(&w.told));
    ck_assert_int_lt(w.took_ms, LONG_MS);
}
END_TEST

START_TEST(a_stop_before_the_wait_is_not_lost)
{
    struct pause p;
    int64_t start_ms = clock_mono_ms();

    pause_init(&p);
    ck_assert(!pause_stopping(&p));
    pause_stop(&p);
    ck_assert(pause_stopping(&p));
    ck_assert(pause_for(&p, LONG_MS));
    ck_assert(pause_for(&p, LONG_MS)); /* nor used up */
    ck_assert_int_lt(clock_mono_ms() - start_ms, LONG_MS);
    pause_destroy(&p);
}
END_TEST

START_TEST(wakes_for_nothing_do_not_shorten_it)
{
    struct waiter w;
    int64_t until_ms = clock_mono_ms() + SHORT_MS;

    start(&w, SHORT_MS * 2);
    while (clock_mono_ms() < until_ms)
        pause_poke(&w.pause);
    end(&w);
    ck_assert(!atomic_load(&w.told));
    ck_assert_int_ge(w.took_ms, SHORT_MS * 2);
}
END_TEST

START_TEST(enough_ends_it_without_a_stop)
{
    struct waiter w;

    start(&w, LONG_MS);
    pause_sleep(SHORT_MS);
    atomic_store(&w.enough, true);
    pause_poke(&w.pause);
    end(&w);
    ck_assert(!atomic_load(&w.told));
    ck_assert_int_lt(w.took_ms, LONG_MS);
}
END_TEST

START_TEST(enough_beforehand_is_no_wait)
{
    struct waiter w = {.ms = LONG_MS};

    pause_init(&w.pause);
    atomic_init(&w.enough, true);
    ck_assert(!pause_for_or(&w.pause, LONG_MS, enough, &w));
    pause_destroy(&w.pause);
}
END_TEST

START_TEST(the_wait_for_the_end_is_bounded)
{
    struct waiter w;
    int64_t start_ms;

    start(&w, LONG_MS);
    start_ms = clock_mono_ms();
    ck_assert(!pause_ended(&w.pause, SHORT_MS));
    ck_assert_int_ge(clock_mono_ms() - start_ms, SHORT_MS);
    ck_assert(!pause_ended(&w.pause, -1));
    pause_stop(&w.pause);
    end(&w);
}
END_TEST

START_TEST(a_condition_of_ones_own_has_a_deadline)
{
    pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t cond;
    int64_t start_ms = clock_mono_ms();
    struct timespec until = pause_until(SHORT_MS);

    pause_cond_init(&cond);
    pthread_mutex_lock(&lock);
    while (pause_cond_wait(&cond, &lock, &until))
        ;
    pthread_mutex_unlock(&lock);
    ck_assert_int_ge(clock_mono_ms() - start_ms, SHORT_MS);
    pthread_cond_destroy(&cond);
}
END_TEST

/* A wait for ever lies far ahead, on both sides of what fits microseconds. */
START_TEST(for_ever_is_far_ahead)
{
    struct timespec now = pause_until(0);

    ck_assert_int_gt(pause_until(INT64_MAX).tv_sec, now.tv_sec + 86400);
    ck_assert_int_gt(pause_until(INT64_MAX - clock_mono_ms()).tv_sec, now.tv_sec + 86400);
    ck_assert_int_gt(pause_until(INT64_MAX / 1000).tv_sec, now.tv_sec + 86400);
    ck_assert_int_le(pause_until(INT64_MIN).tv_sec, now.tv_sec + 1);
}
END_TEST

START_TEST(a_sleep_is_not_cut_short)
{
    int64_t start_ms = clock_mono_ms();

    pause_sleep(SHORT_MS);
    ck_assert_int_ge(clock_mono_ms() - start_ms, SHORT_MS);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("pause");
    TCase *t = tcase_create("pause");

    tcase_add_test(t, ends_in_time);
    tcase_add_test(t, nothing_and_less_end_at_once);
    tcase_add_test(t, a_stop_ends_it_early);
    tcase_add_test(t, a_stop_before_the_wait_is_not_lost);
    tcase_add_test(t, wakes_for_nothing_do_not_shorten_it);
    tcase_add_test(t, enough_ends_it_without_a_stop);
    tcase_add_test(t, enough_beforehand_is_no_wait);
    tcase_add_test(t, the_wait_for_the_end_is_bounded);
    tcase_add_test(t, a_condition_of_ones_own_has_a_deadline);
    tcase_add_test(t, for_ever_is_far_ahead);
    tcase_add_test(t, a_sleep_is_not_cut_short);
    suite_add_tcase(s, t);
    return suite_run(s);
}
