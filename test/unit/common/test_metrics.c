#include <check.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "libcommon/base/buf.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/pause.h"
#include "libcommon/telemetry/metrics.h"
#include "libcommon/telemetry/tracer.h"
#include "test/unit/suite.h"

#define THREADS 8
#define PASSES 20000

static char *rendered_as(enum metrics_format format)
{
    struct buf b = {0};

    metrics_render(&b, format);
    return buf_take(&b, NULL);
}

static char *rendered(void)
{
    return rendered_as(METRICS_PLAIN);
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

START_TEST(a_name_cannot_leave_its_label)
{
    const char *name = "q\"} 1\nmsg_evil 2\\";
    char escaped[METRICS_ESCAPED(20)];
    char labels[80];
    char *text;

    snprintf(labels, sizeof(labels), "queue=\"%s\"",
             metrics_escape(escaped, sizeof(escaped), name));
    metrics_set(metrics_gauge("t_escaped", "Help.", labels), 1);
    text = rendered();
    assert_line(text, "t_escaped{queue=\"q\\\"} 1\\nmsg_evil 2\\\\\"} 1");
    ck_assert_ptr_null(strstr(text, "\nmsg_evil"));
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

START_TEST(a_gauge_without_a_value_has_no_sample)
{
    struct metric *gauge = metrics_gauge("t_absent", "Help.", "x=\"1\"");
    char *text;

    metrics_set(metrics_gauge("t_absent", "Help.", "x=\"2\""), 5);
    metrics_set(gauge, METRICS_ABSENT);
    text = rendered();
    ck_assert_ptr_nonnull(strstr(text, "# TYPE t_absent gauge\nt_absent{x=\"2\"} 5\n"));
    free(text);
    metrics_set(gauge, 0);
    text = rendered();
    assert_line(text, "t_absent{x=\"1\"} 0");
    free(text);
}
END_TEST

START_TEST(openmetrics_differs_where_it_must)
{
    struct metric *counter = metrics_counter("t_open_total", "Says \"when\".", "x=\"1\"");
    struct metric *h = metrics_latency("t_open_seconds", "Help.", "");
    struct metric *sizes = metrics_sizes("t_open_sizes", "Help.", "");
    char *text;

    metrics_add(counter, 3);
    metrics_observe(h, 4000000);
    metrics_observe(sizes, 1);
    text = rendered_as(METRICS_OPENMETRICS);
    assert_line(text, "# HELP t_open Says \\\"when\\\".");
    assert_line(text, "# TYPE t_open counter");
    assert_line(text, "t_open_total{x=\"1\"} 3");
    assert_line(text, "t_open_seconds_bucket{le=\"0.00025\"} 0");
    assert_line(text, "t_open_seconds_bucket{le=\"5.0\"} 1");
    assert_line(text, "t_open_seconds_bucket{le=\"+Inf\"} 1");
    assert_line(text, "t_open_sizes_bucket{le=\"1.0\"} 1");
    assert_line(text, "# TYPE process_cpu_seconds counter");
    assert_line(text, "# TYPE msg_log_dropped counter");
    ck_assert_str_eq(text + strlen(text) - 7, "\n# EOF\n");
    free(text);
    text = rendered();
    assert_line(text, "# HELP t_open_total Says \"when\".");
    assert_line(text, "# TYPE t_open_total counter");
    assert_line(text, "t_open_seconds_bucket{le=\"5\"} 1");
    ck_assert_ptr_null(strstr(text, "# EOF"));
    free(text);
}
END_TEST

static const struct trace_context traced = {
    .trace_id = {0x4b, 0xf9, 0x2f, 0x35, 0x77, 0xb3, 0x4d, 0xa6, 0xa3, 0xce, 0x92, 0x9d, 0x0e, 0x0e,
                 0x47, 0x36},
    .span_id = {0x00, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7},
    .flags = TRACE_SAMPLED};

#define EXEMPLAR " # {trace_id=\"4bf92f3577b34da6a3ce929d0e0e4736\",span_id=\"00f067aa0ba902b7\"} "

/* The bucket's line has the trace, the value as it was seen, and a time of today. */
static void assert_exemplar(const char *text, const char *bucket, const char *value)
{
    char start[256];
    const char *line;
    double at;

    snprintf(start, sizeof(start), "\n%s" EXEMPLAR "%s ", bucket, value);
    line = strstr(text, start);
    ck_assert_msg(line != NULL, "%s is missing in:\n%s", start, text);
    at = strtod(line + strlen(start), NULL);
    ck_assert(at > 1.7e9 && at <= (double)clock_wall_us() / 1e6 + 1);
}

START_TEST(exemplars_are_of_traces_that_are_exported)
{
    struct metric *h = metrics_latency("t_traced_seconds", "Help.", "a=\"b\"");
    struct trace_context unsampled = traced;
    struct trace_context other = traced;
    char *text;

    unsampled.flags = 0;
    other.trace_id[0] = 0xff;
    metrics_observe_traced(h, 400, &traced); /* tracing is off */
    atomic_store(&tracer_running, true);
    metrics_observe_traced(h, 400, &unsampled);
    metrics_observe_traced(h, 400, NULL);
    text = rendered_as(METRICS_OPENMETRICS);
    assert_line(text, "t_traced_seconds_bucket{a=\"b\",le=\"0.0005\"} 3");
    ck_assert_ptr_null(strstr(text, "trace_id"));
    free(text);

    metrics_observe_traced(h, 450, &other);
    metrics_observe_traced(h, 400, &traced); /* the newest one stays */
    metrics_observe_traced(h, 31000001, &traced);
    text = rendered_as(METRICS_OPENMETRICS);
    assert_exemplar(text, "t_traced_seconds_bucket{a=\"b\",le=\"0.0005\"} 5", "0.000400");
    assert_exemplar(text, "t_traced_seconds_bucket{a=\"b\",le=\"+Inf\"} 6", "31.000001");
    assert_line(text, "t_traced_seconds_bucket{a=\"b\",le=\"30.0\"} 5");
    free(text);
    text = rendered();
    ck_assert_ptr_null(strstr(text, "trace_id"));
    free(text);
    atomic_store(&tracer_running, false);
}
END_TEST

struct writer {
    struct metric *metric;
    uint8_t fill;
};

static void *observe_traces(void *arg)
{
    const struct writer *w = arg;
    struct trace_context t = {.flags = TRACE_SAMPLED};

    memset(t.trace_id, w->fill, sizeof(t.trace_id));
    memset(t.span_id, w->fill, sizeof(t.span_id));
    for (int i = 0; i < PASSES; i++)
        metrics_observe_traced(w->metric, w->fill, &t);
    return NULL;
}

/* Whose value and ids are of one observation: all of them repeat one byte. */
START_TEST(exemplars_are_not_torn)
{
    struct metric *h = metrics_latency("t_torn_seconds", "Help.", "");
    struct writer writers[THREADS];
    pthread_t threads[THREADS];
    unsigned seen = 0;

    atomic_store(&tracer_running, true);
    for (int i = 0; i < THREADS; i++) {
        writers[i] = (struct writer){h, (uint8_t)(16 + i)};
        ck_assert_int_eq(pthread_create(&threads[i], NULL, observe_traces, &writers[i]), 0);
    }
    for (int i = 0; i < 200; i++) {
        char *text = rendered_as(METRICS_OPENMETRICS);
        const char *at = strstr(text, "t_torn_seconds_bucket{le=\"0.00025\"}");
        unsigned long long count;
        unsigned value;
        char trace[33];
        char span[17];
        char wanted[33];

        if (sscanf(at,
                   "t_torn_seconds_bucket{le=\"0.00025\"} %llu # "
                   "{trace_id=\"%32[0-9a-f]\",span_id=\"%16[0-9a-f]\"} 0.%u",
                   &count, trace, span, &value) == 4) {
            for (int k = 0; k < 16; k++)
                snprintf(wanted + 2 * k, 3, "%02x", value);
            ck_assert_str_eq(trace, wanted);
            ck_assert_mem_eq(span, wanted, 16);
            seen++;
        }
        free(text);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    ck_assert_uint_gt(seen, 0);
    ck_assert_uint_eq(metrics_value(h), (uint64_t)THREADS * PASSES);
    atomic_store(&tracer_running, false);
}
END_TEST

START_TEST(who_asks_for_openmetrics_gets_it)
{
    static const struct {
        const char *accept;
        bool open;
    } cases[] = {
        {NULL, false},
        {"", false},
        {"*/*", false},
        {"application/*", false},
        {"text/html, */*;q=0.8", false},
        {"text/plain;version=0.0.4", false},
        {"application/openmetrics-text", true},
        {"Application/OpenMetrics-Text ; Version=\"1.0.0\"", true},
        {"application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;"
         "q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
         true},
        {"application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
         "text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
         true},
        {"application/openmetrics-text;version=0.0.1", false},
        {"application/openmetrics-text;q=0", false},
        {"application/openmetrics-text;q=0.000", false},
        {"application/openmetrics-text;q=0.001", true},
        {"application/openmetrics-text;q=1.001", false},
        {"application/openmetrics-text;q=much", false},
        {"application/openmetrics-text;q=", false},
        {"text/plain, application/openmetrics-text", true},
        {"text/plain;q=0.9, application/openmetrics-text;q=0.8", false},
        {"*/*, application/openmetrics-text;q=0.8", false},
        {"*/*, text/plain;q=0.1, application/openmetrics-text;q=0.8", true},
        {"text/*;q=0.1, */*, application/openmetrics-text;q=0.8", true},
        {",, ;q=1, application/openmetrics-text ,", true},
        {"application/openmetrics-text;version=\"1.0.0", true},
        {"application/openmetrics-texts", false},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        ck_assert_msg((metrics_format_for(cases[i].accept) == METRICS_OPENMETRICS) == cases[i].open,
                      "%s", cases[i].accept ? cases[i].accept : "none");
}
END_TEST

static long open_fds(void)
{
    char *text = rendered();
    const char *at = strstr(text, "\nprocess_open_fds ");
    long n = at ? strtol(at + 18, NULL, 10) : -1;

    free(text);
    return n;
}

/* Each is a line of /proc: thousands of connections shall not make every scrape slow. */
START_TEST(descriptors_are_counted_once_a_second)
{
    int64_t began_ms = clock_mono_ms();
    bool kept = false;
    long before;
    int fd;

    /* Twice: a second may be over in between. */
    for (int i = 0; i < 2; i++) {
        before = open_fds();
        fd = open("/dev/null", O_RDONLY);
        kept = kept || open_fds() == before;
        close(fd);
    }
    ck_assert(kept);
    before = open_fds();
    fd = open("/dev/null", O_RDONLY);
    while (open_fds() == before) {
        ck_assert_int_lt(clock_mono_ms() - began_ms, 5000);
        pause_sleep(5);
    }
    close(fd);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("metrics");
    TCase *t = tcase_create("metrics");

    tcase_add_test(t, registering_again_gives_the_same);
    tcase_add_test(t, a_name_cannot_leave_its_label);
    tcase_add_test(t, histograms_are_cumulative_and_consistent);
    tcase_add_test(t, threads_lose_no_count);
    tcase_add_test(t, gauges_and_the_process);
    tcase_add_test(t, a_gauge_without_a_value_has_no_sample);
    tcase_add_test(t, openmetrics_differs_where_it_must);
    tcase_add_test(t, exemplars_are_of_traces_that_are_exported);
    tcase_add_test(t, exemplars_are_not_torn);
    tcase_add_test(t, who_asks_for_openmetrics_gets_it);
    tcase_add_test(t, descriptors_are_counted_once_a_second);
    suite_add_tcase(s, t);
    return suite_run(s);
}
