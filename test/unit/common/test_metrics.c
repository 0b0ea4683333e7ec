#include <check.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/buf.h"
#include "libcommon/metrics.h"

#define THREADS 8
#define PASSES 20000

static char *rendered(void)
{
    struct buf b = {0};

    metrics_render(&b);
    return buf_take(&b, NULL);
}

static void assert_line(const char *text, const char *line)
{
    char whole[256];

    snprintf(whole, sizeof(whole), "\n%s\n", line);
    ck_assert_msg(strstr(text, whole) != NULL, "%s is missing in:\n%s", line, text);
}

START_TEST(registering_again_gives_the_same)
{
    struct metric *a = metrics_counter("t_again_total", "Help.", "x=\"1\"");
    char *text;

    ck_assert_ptr_eq(a, metrics_counter("t_again_total", "Help.", "x=\"1\""));
    ck_assert_ptr_ne(a, metrics_counter("t_again_total", "Help.", "x=\"2\""));
    text = rendered();
    assert_line(text, "t_again_total{x=\"1\"} 0");
    assert_line(text, "t_again_total{x=\"2\"} 0");
    ck_assert_ptr_null(strstr(strstr(text, "# TYPE t_again_total") + 1, "# TYPE t_again_total"));
    free(text);
}
END_TEST

START_TEST(histograms_are_cumulative_and_consistent)
{
    struct metric *h = metrics_latency("t_seconds", "Help.", "a=\"b\"");
    struct metric *sizes = metrics_sizes("t_sizes", "Help.", "");
    char *text;

    metrics_observe(h, 250); /* on a bound: counts into its bucket */
    metrics_observe(h, 251);
    metrics_observe(h, 31000000);
    metrics_observe(h, -5);
    metrics_observe(sizes, 10001);
    text = rendered();
    assert_line(text, "t_seconds_bucket{a=\"b\",le=\"0.00025\"} 2");
    assert_line(text, "t_seconds_bucket{a=\"b\",le=\"0.0005\"} 3");
    assert_line(text, "t_seconds_bucket{a=\"b\",le=\"30\"} 3");
    assert_line(text, "t_seconds_bucket{a=\"b\",le=\"+Inf\"} 4");
    assert_line(text, "t_seconds_count{a=\"b\"} 4");
    assert_line(text, "t_seconds_sum{a=\"b\"} 31.000501");
    assert_line(text, "t_sizes_bucket{le=\"10000\"} 0");
    assert_line(text, "t_sizes_bucket{le=\"+Inf\"} 1");
    assert_line(text, "t_sizes_sum 10001");
    ck_assert_int_eq(text[strlen(text) - 1], '\n');
    free(text);
}
END_TEST

static void *count(void *counter)
{
    for (int i = 0; i < PASSES; i++)
        metrics_add(counter, 1);
    return NULL;
}

/* Twice, so that the second round's threads go on with what the first left. */
START_TEST(threads_lose_no_count)
{
    struct metric *counter = metrics_counter("t_threads_total", "Help.", "");
    pthread_t threads[THREADS];

    for (int round = 1; round <= 2; round++) {
        for (int i = 0; i < THREADS; i++)
            ck_assert_int_eq(pthread_create(&threads[i], NULL, count, counter), 0);
        for (int i = 0; i < THREADS; i++)
            pthread_join(threads[i], NULL);
        ck_assert_uint_eq(metrics_value(counter), (uint64_t)round * THREADS * PASSES);
    }
}
END_TEST

START_TEST(gauges_and_the_process)
{
    struct metric *gauge = metrics_gauge("t_gauge", "Help.", "");
    char *text;

    metrics_set(gauge, -7);
    text = rendered();
    assert_line(text, "t_gauge -7");
    ck_assert_ptr_nonnull(strstr(text, "\nprocess_resident_memory_bytes "));
    ck_assert_ptr_null(strstr(text, "\nprocess_start_time_seconds 0.00"));
    free(text);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("metrics");
    TCase *t = tcase_create("metrics");
    SRunner *r = srunner_create(s);
    int failed;

    tcase_add_test(t, registering_again_gives_the_same);
    tcase_add_test(t, histograms_are_cumulative_and_consistent);
    tcase_add_test(t, threads_lose_no_count);
    tcase_add_test(t, gauges_and_the_process);
    suite_add_tcase(s, t);
    srunner_run_all(r, CK_NORMAL);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
