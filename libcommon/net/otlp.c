#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "libcommon/base/backoff.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/base/random.h"
#include "libcommon/net/otlp_internal.h"
#include "libcommon/telemetry/log.h"
#include "libcommon/telemetry/metrics.h"

#define BACKOFF_MS 1000
#define BACKOFF_MAX_MS 8000
#define REST_MAX_MS 300000 /* longest that a collector may have us wait */
#define COMPLAIN_EVERY_MS 60000

static struct {
    struct otlp_target target;
    struct otlp_encoder *encoder;
    struct otlp_post *post;
    struct buf request;
    size_t batch_max;
    int64_t schedule_delay_ms, export_timeout_ms;
    pthread_t thread;
    bool started;
    int wake_fd;
    _Atomic int64_t stop_at_ms; /* 0: not stopping */
    /* the thread's own */
    int64_t give_up_ms;    /* on the batch in hand */
    int64_t rest_until_ms; /* as the collector wished */
    int64_t complained_ms; /* 0: the last export was fine */
    struct metric *requests[OTLP_REFUSED + 1], *seconds;
} o = {.wake_fd = -1};

static bool stopping(void)
{
    return atomic_load(&o.stop_at_ms) != 0;
}

static int64_t batch_deadline(void *unused)
{
    int64_t stop_at_ms = atomic_load(&o.stop_at_ms);

    (void)unused;
    return stop_at_ms && stop_at_ms < o.give_up_ms ? stop_at_ms : o.give_up_ms;
}

static void complain(const struct otlp_answer *a, size_t spans)
{
    int64_t now_ms = clock_mono_ms();

    if ((a->verdict == OTLP_TAKEN && !a->rejected && !*a->why) ||
        (o.complained_ms && now_ms - o.complained_ms < COMPLAIN_EVERY_MS))
        return;
    o.complained_ms = now_ms;
    log_warn("trace.export_failed", L_MSG(a->why), L_INT("spans", spans),
             L_INT("rejected", a->rejected));
}

/* Sleeps; ends early when the exporter is to end. */
static void rest(int64_t ms)
{
    int64_t until_ms = clock_mono_ms() + ms;
    int64_t left_ms;

    while (!stopping() && (left_ms = until_ms - clock_mono_ms()) > 0)
        otlp_post_wait(o.post, left_ms);
}

/* Repeats the request in o.request while that may help and there is time. */
static void deliver(struct otlp_answer *a)
{
    o.give_up_ms = clock_mono_ms() + o.export_timeout_ms;
    for (unsigned attempt = 1;; attempt++) {
        bool last = stopping();
        int64_t wait_ms;

        otlp_post(o.post, &o.request, batch_deadline, NULL, a);
        metrics_add(o.requests[a->verdict], 1);
        if (a->verdict != OTLP_RETRY)
            return;
        wait_ms = a->wait_ms >= 0 ? a->wait_ms
                                  : backoff_ms(attempt, BACKOFF_MS, BACKOFF_MAX_MS, random_u64());
        if (last || clock_mono_ms() + wait_ms >= o.give_up_ms) {
            o.rest_until_ms =
                clock_mono_ms() + (a->wait_ms < REST_MAX_MS ? a->wait_ms : REST_MAX_MS);
            return;
        }
        rest(wait_ms);
    }
}

/* How many spans were taken out of the queue; *taken: the collector has them. */
static size_t export_batch(bool *taken)
{
    struct otlp_answer a = {.verdict = OTLP_RETRY, .why = "out of memory"};
    int64_t start_us = clock_mono_us();
    size_t n;

    buf_reset(&o.request);
    n = otlp_encode(o.encoder, &o.request);
    if (!n)
        return 0;
    if (!o.request.failed)
        deliver(&a);
    metrics_observe(o.seconds, clock_mono_us() - start_us);
    *taken = a.verdict == OTLP_TAKEN;
    complain(&a, n);
    if (!*taken) {
        tracer_count(a.verdict == OTLP_REFUSED ? TRACER_REFUSED : TRACER_UNREACHABLE, n);
        return n;
    }
    if (a.rejected > n)
        a.rejected = n;
    tracer_count(TRACER_REJECTED, a.rejected);
    tracer_count(TRACER_EXPORTED, n - a.rejected);
    if (!*a.why)
        o.complained_ms = 0;
    return n;
}

/* The first batch that fails is the last: the collector is away, and the process shall end. */
static void flush(void)
{
    bool taken = true;

    while (taken && clock_mono_ms() < atomic_load(&o.stop_at_ms) && export_batch(&taken))
        ;
    tracer_count(TRACER_STOPPED, tracer_queued());
}

static void *run(void *unused)
{
    int64_t due_ms = clock_mono_ms() + o.schedule_delay_ms;
    bool taken;

    (void)unused;
    while (!stopping()) {
        int64_t now_ms = clock_mono_ms();

        if (now_ms < o.rest_until_ms) {
            rest(o.rest_until_ms - now_ms);
            continue;
        }
        tracer_arm();
        if (now_ms < due_ms && tracer_queued() < o.batch_max)
            otlp_post_wait(o.post, due_ms - now_ms);
        else if (export_batch(&taken) < o.batch_max)
            due_ms = clock_mono_ms() + o.schedule_delay_ms;
    }
    flush();
    return NULL;
}

/* Any thread, perhaps one that records beyond the end: the descriptor stays open. */
static void wake(void *unused)
{
    uint64_t one = 1;

    (void)unused;
    while (write(o.wake_fd, &one, sizeof(one)) < 0)
        if (errno != EINTR)
            return; /* full: it is readable */
}

static void register_metrics(void)
{
    static const char *const labels[] = {
        [OTLP_TAKEN] = "result=\"taken\"",
        [OTLP_RETRY] = "result=\"failed\"",
        [OTLP_REFUSED] = "result=\"refused\"",
    };

    tracer_register();
    for (int i = OTLP_TAKEN; i <= OTLP_REFUSED; i++)
        o.requests[i] = metrics_counter(
            "msg_trace_requests_total",
            "Requests to the trace collector; failed ones are repeated.", labels[i]);
    o.seconds =
        metrics_latency("msg_trace_export_seconds",
                        "Time to get a batch of spans to the collector, or to give up.", "");
}

static void start_thread(void)
{
    sigset_t all;
    sigset_t before;

    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    MUST(pthread_create(&o.thread, NULL, run, NULL) == 0);
    pthread_setname_np(o.thread, "otlp");
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    o.started = true;
}

void otlp_start(const struct otlp_settings *s, const char *service)
{
    struct tracer_config config = {.wake = wake};

    register_metrics();
    otlp_target_make(s, &o.target);
    if (!o.target.url)
        return;
    o.encoder = otlp_encoder_new(s, service);
    if (o.wake_fd < 0)
        o.wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    MUST(o.wake_fd >= 0);
    o.post = otlp_post_new(&o.target, o.wake_fd);
    o.batch_max = (size_t)s->batch_max;
    o.schedule_delay_ms = s->schedule_delay_ms;
    o.export_timeout_ms = s->export_timeout_ms;
    o.give_up_ms = o.rest_until_ms = o.complained_ms = 0;
    atomic_store(&o.stop_at_ms, 0);
    config.queue_max = (size_t)s->queue_max;
    config.wake_at = o.batch_max;
    otlp_sampler(s, &config);
    tracer_start(&config);
    start_thread();
    log_info("trace.on", L_STR("protocol", o.target.grpc ? "grpc" : "http/protobuf"),
             L_STR("sampler", s->sampler));
}

void otlp_stop(int timeout_ms)
{
    if (!o.started)
        return;
    tracer_stop();
    atomic_store(&o.stop_at_ms, clock_mono_ms() + timeout_ms);
    wake(NULL);
    pthread_join(o.thread, NULL);
    o.started = false;
    otlp_post_free(o.post);
    otlp_encoder_free(o.encoder);
    otlp_target_free(&o.target);
    buf_free(&o.request);
    o.post = NULL;
    o.encoder = NULL;
}
