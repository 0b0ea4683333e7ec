#include <arpa/inet.h>
#include <check.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "libcommon/base/buf.h"
#include "libcommon/base/clock.h"
#include "libcommon/net/otlp.h"
#include "libcommon/otlp.pb-c.h"
#include "libcommon/telemetry/metrics.h"
#include "libcommon/telemetry/tracer.h"
#include "test/unit/suite.h"

#define WAIT_MS 10000

/* ---- a collector that gives the answers it is told, in order, the last for ever ---- */

#define ANSWER(status, more, body) "HTTP/1.1 " status "\r\n" more "\r\n" body
#define EMPTY "Content-Length: 0\r\n"
#define OK ANSWER("200 OK", EMPTY, "")
#define SILENCE "" /* nothing is ever said */

static struct {
    int listen_fd;
    uint16_t port;
    pthread_t thread;
    _Atomic bool stop;
    const char *const *answers; /* NULL ends */
    _Atomic size_t requests, spans;
    _Atomic int64_t at_ms[64]; /* when each request was there */
} c;

static size_t count_spans(const char *body, size_t n)
{
    Otlp__ExportTraceServiceRequest *r =
        otlp__export_trace_service_request__unpack(NULL, n, (const uint8_t *)body);
    size_t spans;

    ck_assert_ptr_nonnull(r);
    spans = r->resource_spans[0]->scope_spans[0]->n_spans;
    otlp__export_trace_service_request__free_unpacked(r, NULL);
    return spans;
}

/* False: the connection, or the test, ends. */
static bool read_some(int fd, struct buf *in)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    char bytes[65536];
    ssize_t n;

    while (poll(&p, 1, 20) == 0)
        if (atomic_load(&c.stop))
            return false;
    n = recv(fd, bytes, sizeof(bytes), 0);
    if (n <= 0)
        return false;
    buf_put(in, bytes, (size_t)n);
    return true;
}

static bool read_request(int fd, size_t *spans)
{
    struct buf in = {0};
    const char *head;
    bool ok = false;

    while (read_some(fd, &in)) {
        const char *length = strstr(in.data, "Content-Length: ");
        size_t n;

        head = strstr(in.data, "\r\n\r\n");
        if (!head || !length)
            continue;
        n = strtoul(length + 16, NULL, 10);
        if (in.len < (size_t)(head + 4 - in.data) + n)
            continue;
        *spans = count_spans(head + 4, n);
        ok = true;
        break;
    }
    buf_free(&in);
    return ok;
}

static void serve(int fd)
{
    size_t spans;

    while (read_request(fd, &spans)) {
        size_t i = atomic_load(&c.requests);
        const char *answer = c.answers[0];

        for (size_t k = 0; k < i && c.answers[k + 1]; k++)
            answer = c.answers[k + 1];
        atomic_store(&c.at_ms[i % 64], clock_mono_ms());
        if (!strncmp(answer, "HTTP/1.1 200", 12))
            atomic_fetch_add(&c.spans, spans);
        atomic_fetch_add(&c.requests, 1);
        if (send(fd, answer, strlen(answer), MSG_NOSIGNAL) < 0)
            return;
        if (*answer && strncmp(answer, "HTTP/", 5) != 0)
            return; /* garbage ends the connection */
    }
}

static void *collect(void *arg)
{
    (void)arg;
    while (!atomic_load(&c.stop)) {
        struct pollfd p = {.fd = c.listen_fd, .events = POLLIN};
        int fd = poll(&p, 1, 20) == 1 ? accept4(c.listen_fd, NULL, NULL, SOCK_CLOEXEC) : -1;

        if (fd < 0)
            continue;
        serve(fd);
        close(fd);
    }
    return NULL;
}

static void listen_on_any_port(void)
{
    struct sockaddr_in sa = {.sin_family = AF_INET};
    socklen_t len = sizeof(sa);

    sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c.listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_eq(bind(c.listen_fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    ck_assert_int_eq(listen(c.listen_fd, 16), 0);
    ck_assert_int_eq(getsockname(c.listen_fd, (struct sockaddr *)&sa, &len), 0);
    c.port = ntohs(sa.sin_port);
}

static void start_collector(const char *const *answers)
{
    c.answers = answers;
    atomic_store(&c.stop, false);
    ck_assert_int_eq(pthread_create(&c.thread, NULL, collect, NULL), 0);
}

static void stop_collector(void)
{
    atomic_store(&c.stop, true);
    pthread_join(c.thread, NULL);
}

/* ---- the exporter ---- */

static char endpoint[64], none[] = "", otlp[] = "otlp", always[] = "always_on", one[] = "1";
static struct otlp_settings settings;
static uint64_t before[6];
static const char *const results[6] = {"exported", "queue_full",  "rejected",
                                       "refused",  "unreachable", "stopped"};

static uint64_t counted(int i)
{
    char labels[64];

    snprintf(labels, sizeof(labels), "result=\"%s\"", results[i]);
    return metrics_value(metrics_counter("msg_trace_spans_total", "", labels));
}

static uint64_t since(const char *result)
{
    for (int i = 0; i < 6; i++)
        if (!strcmp(results[i], result))
            return counted(i) - before[i];
    ck_abort_msg("no result %s", result);
    return 0;
}

static void start_exporter(void)
{
    otlp_start(&settings, "test");
    for (int i = 0; i < 6; i++)
        before[i] = counted(i);
    ck_assert(tracer_on());
}

static void setup(void)
{
    listen_on_any_port();
    snprintf(endpoint, sizeof(endpoint), "http://127.0.0.1:%u", c.port);
    atomic_store(&c.requests, 0);
    atomic_store(&c.spans, 0);
    settings = (struct otlp_settings){.exporter = otlp,
                                      .service_name = none,
                                      .resource_attributes = none,
                                      .sampler = always,
                                      .sampler_arg = one,
                                      .schedule_delay_ms = 20,
                                      .export_timeout_ms = 8000,
                                      .queue_max = 64,
                                      .batch_max = 16};
    settings.all = (struct otlp_exporter_settings){.endpoint = endpoint,
                                                   .protocol = none,
                                                   .headers = none,
                                                   .compression = none,
                                                   .insecure = none,
                                                   .certificate = none,
                                                   .client_certificate = none,
                                                   .client_key = none,
                                                   .timeout_ms = 5000};
    settings.traces = settings.all;
    settings.traces.endpoint = none;
    settings.traces.timeout_ms = 0;
}

static void teardown(void)
{
    otlp_stop(0);
    close(c.listen_fd);
}

static void record(size_t n)
{
    struct trace_context t;

    for (size_t i = 0; i < n; i++) {
        trace_root(&t, true);
        tracer_span(&(struct tracer_span){.context = &t, .kind = TRACER_INTERNAL, .name = "n"});
    }
}

/* Polls a counter that another thread moves. */
static void wait_for(const char *result, uint64_t n)
{
    int64_t until_ms = clock_mono_ms() + WAIT_MS;

    while (since(result) < n) {
        ck_assert_msg(clock_mono_ms() < until_ms, "only %llu %s", (unsigned long long)since(result),
                      result);
        poll(NULL, 0, 2);
    }
    ck_assert_uint_eq(since(result), n);
}

/* ---- tests ---- */

START_TEST(off_without_an_endpoint)
{
    settings.all.endpoint = none;
    otlp_start(&settings, "test");
    ck_assert(!tracer_on());
    settings = (struct otlp_settings){0};
    otlp_start(&settings, "test");
    ck_assert(!tracer_on());
}
END_TEST

START_TEST(spans_arrive_by_timer_and_by_batch)
{
    static const char *const answers[] = {OK, NULL};

    start_collector(answers);
    start_exporter();
    record(1);
    wait_for("exported", 1);
    otlp_stop(1000);
    settings.schedule_delay_ms = 600000;
    start_exporter();
    record(16);
    wait_for("exported", 16);
    ck_assert_uint_eq(atomic_load(&c.requests), 2);
    stop_collector();
}
END_TEST

START_TEST(what_waits_is_delivered_at_the_end)
{
    static const char *const answers[] = {OK, NULL};

    start_collector(answers);
    settings.schedule_delay_ms = 600000;
    settings.batch_max = 64;
    start_exporter();
    record(40);
    otlp_stop(5000);
    ck_assert(!tracer_on());
    ck_assert_uint_eq(since("exported"), 40);
    ck_assert_uint_eq(atomic_load(&c.spans), 40);
    stop_collector();
}
END_TEST

START_TEST(a_busy_collector_is_asked_again)
{
    static const char *const answers[] = {ANSWER("503 Busy", EMPTY, ""),
                                          ANSWER("429 Slow", "Retry-After: 2\r\n" EMPTY, ""), OK,
                                          NULL};

    start_collector(answers);
    start_exporter();
    record(3);
    wait_for("exported", 3);
    ck_assert_uint_eq(atomic_load(&c.requests), 3);
    ck_assert_int_ge(atomic_load(&c.at_ms[1]) - atomic_load(&c.at_ms[0]), 450);
    ck_assert_int_ge(atomic_load(&c.at_ms[2]) - atomic_load(&c.at_ms[1]), 1950);
    stop_collector();
}
END_TEST

START_TEST(a_wish_beyond_the_timeout_is_kept_all_the_same)
{
    static const char *const answers[] = {ANSWER("503 Busy", "Retry-After: 2\r\n" EMPTY, ""), OK,
                                          NULL};

    start_collector(answers);
    settings.export_timeout_ms = 1000;
    start_exporter();
    record(3);
    wait_for("unreachable", 3);
    record(20);
    wait_for("exported", 20);
    ck_assert_int_ge(atomic_load(&c.at_ms[1]) - atomic_load(&c.at_ms[0]), 1950);
    stop_collector();
}
END_TEST

static const char *const refusals[] = {ANSWER("400 Bad", EMPTY, ""),
                                       ANSWER("500 Broken", EMPTY, ""), "nonsense\r\n\r\n",
                                       ANSWER("307 There", "Location: /x\r\n" EMPTY, "")};

START_TEST(a_refusal_is_not_repeated)
{
    const char *const answers[] = {refusals[_i], NULL};

    start_collector(answers);
    start_exporter();
    record(3);
    wait_for("refused", 3);
    record(1);
    wait_for("refused", 4);
    ck_assert_uint_eq(atomic_load(&c.requests), 2);
    stop_collector();
}
END_TEST

START_TEST(partial_success_is_counted_and_not_repeated)
{
    static const char *const answers[] = {
        ANSWER("200 OK", "Content-Length: 4\r\n", "\x0a\x02\x08\x02"), NULL};

    start_collector(answers);
    start_exporter();
    record(3);
    wait_for("exported", 1);
    ck_assert_uint_eq(since("rejected"), 2);
    ck_assert_uint_eq(atomic_load(&c.requests), 1);
    stop_collector();
}
END_TEST

START_TEST(a_huge_answer_is_cut_off)
{
    static char huge[6 * 1024 * 1024];
    const char *const answers[] = {huge, NULL};
    int n = snprintf(huge, 100, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", 5 * 1024 * 1024);

    memset(huge + n, 'x', sizeof(huge) - 1 - (size_t)n);
    start_collector(answers);
    start_exporter();
    record(3);
    wait_for("refused", 3);
    stop_collector();
}
END_TEST

/* Nothing listens, or nobody answers: the queue fills, recording goes on, and the end comes soon.
 */
static void assert_harmless(void)
{
    int64_t start_ms;

    settings.all.timeout_ms = 60000;
    settings.export_timeout_ms = 60000;
    start_exporter();
    start_ms = clock_mono_ms();
    record(50000);
    ck_assert_int_lt(clock_mono_ms() - start_ms, 2000);
    ck_assert_uint_ge(since("queue_full"), 50000 - 64 - 16);
    start_ms = clock_mono_ms();
    otlp_stop(500);
    ck_assert_int_lt(clock_mono_ms() - start_ms, 1500);
    ck_assert_uint_eq(since("queue_full") + since("unreachable") + since("stopped"), 50000);
}

START_TEST(a_silent_collector_costs_nothing)
{
    static const char *const answers[] = {SILENCE, NULL};

    start_collector(answers);
    assert_harmless();
    stop_collector();
}
END_TEST

START_TEST(a_collector_that_is_away_costs_nothing)
{
    shutdown(c.listen_fd, SHUT_RDWR);
    assert_harmless();
}
END_TEST

START_TEST(a_name_that_is_nobodys_costs_nothing)
{
    snprintf(endpoint, sizeof(endpoint), "http://collector.invalid:4318");
    assert_harmless();
}
END_TEST

static void *record_on(void *stop)
{
    while (!atomic_load((_Atomic bool *)stop))
        record(1);
    return NULL;
}

/* For ThreadSanitizer: threads that record while tracing begins and ends. */
START_TEST(recording_beyond_the_end_is_harmless)
{
    static const char *const answers[] = {OK, NULL};
    static _Atomic bool stop;
    pthread_t threads[3];

    atomic_store(&stop, false);
    start_collector(answers);
    start_exporter();
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, record_on, &stop), 0);
    wait_for("rejected", 0);
    while (since("exported") < 200)
        poll(NULL, 0, 2);
    otlp_stop(5000);
    atomic_store(&stop, true);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    ck_assert_uint_eq(atomic_load(&c.spans), since("exported"));
    stop_collector();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("otlp");
    TCase *t = tcase_create("otlp");

    tcase_set_timeout(t, 60);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, off_without_an_endpoint);
    tcase_add_test(t, spans_arrive_by_timer_and_by_batch);
    tcase_add_test(t, what_waits_is_delivered_at_the_end);
    tcase_add_test(t, a_busy_collector_is_asked_again);
    tcase_add_test(t, a_wish_beyond_the_timeout_is_kept_all_the_same);
    tcase_add_loop_test(t, a_refusal_is_not_repeated, 0, sizeof(refusals) / sizeof(refusals[0]));
    tcase_add_test(t, partial_success_is_counted_and_not_repeated);
    tcase_add_test(t, a_huge_answer_is_cut_off);
    tcase_add_test(t, a_silent_collector_costs_nothing);
    tcase_add_test(t, a_collector_that_is_away_costs_nothing);
    tcase_add_test(t, a_name_that_is_nobodys_costs_nothing);
    tcase_add_test(t, recording_beyond_the_end_is_harmless);
    suite_add_tcase(s, t);
    return suite_run(s);
}
