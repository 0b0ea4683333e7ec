#include "outboxd/sample.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/domain/outbox.h"
#include "libcommon/telemetry/metrics.h"
#include "outboxd/settings.h"

struct sampler {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool stopping, ended;
    struct db *db;
    struct daemon_beat *beat;
    struct metric *pending[MESSAGE_LANES], *oldest[MESSAGE_LANES];
};

static struct db_label sample_label = {.query = "outbox_sample"};

static const char *const pending_names[MESSAGE_LANES] = {"pending normal", "pending express"};
static const char *const oldest_names[MESSAGE_LANES] = {"oldest normal", "oldest express"};

static void put_lane(struct db_packet *packet, enum message_type lane)
{
    outbox_put_count(db_statement(packet, pending_names[lane]), lane, OUTBOX_DELIVER,
                     outboxd_settings.sample_limit);
    outbox_put_oldest(db_statement(packet, oldest_names[lane]), lane, OUTBOX_DELIVER);
}

/* Failures are not logged here: relay threads and probe see the same database. */
static void sample(struct sampler *s)
{
    struct db_packet packet = {0};
    struct db_results results;
    struct err err;
    int64_t since;

    if (db_acquire(s->db, &err))
        return;
    for (int i = 0; i < MESSAGE_LANES; i++)
        put_lane(&packet, (enum message_type)i);
    if (!db_run_packet(s->db, &sample_label, &packet, &results, &err)) {
        for (size_t i = 0; i < MESSAGE_LANES; i++) {
            metrics_set(s->pending[i], db_number(db_result(&results, pending_names[i])));
            since = db_number(db_result(&results, oldest_names[i]));
            metrics_set(s->oldest[i], since ? since : clock_wall_us() / 1000000);
        }
        db_results_free(&results);
    }
    db_packet_free(&packet);
    db_release(s->db);
}

static struct timespec monotonic_in(int64_t ms)
{
    struct timespec at;

    clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_sec += ms / 1000;
    at.tv_nsec += (long)(ms % 1000) * 1000000;
    at.tv_sec += at.tv_nsec / 1000000000;
    at.tv_nsec %= 1000000000;
    return at;
}

static bool stopped_within(struct sampler *s, int64_t ms)
{
    struct timespec until = monotonic_in(ms);
    bool stopping;

    pthread_mutex_lock(&s->lock);
    while (!s->stopping && pthread_cond_timedwait(&s->wake, &s->lock, &until) == 0)
        ;
    stopping = s->stopping;
    pthread_mutex_unlock(&s->lock);
    return stopping;
}

static void *sampler_main(void *arg)
{
    struct sampler *s = arg;

    do {
        sample(s);
    } while (!stopped_within(s, outboxd_settings.sample_ms));
    pthread_mutex_lock(&s->lock);
    s->ended = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

struct sampler *sampler_start(void)
{
    struct sampler *s = must_alloc(1, sizeof(*s));
    pthread_condattr_t attr;
    char labels[32];

    db_label_register(&sample_label);
    for (int i = 0; i < MESSAGE_LANES; i++) {
        snprintf(labels, sizeof(labels), "lane=\"%s\"", message_type_name((enum message_type)i));
        s->pending[i] =
            metrics_gauge("msg_outbox_pending",
                          "Outbox rows waiting, counted up to OUTBOX_SAMPLE_LIMIT.", labels);
        s->oldest[i] = metrics_gauge(
            "msg_outbox_oldest_timestamp_seconds",
            "Since when the oldest row that is due has been due; the sample's time when none is.",
            labels);
        metrics_set(s->oldest[i], clock_wall_us() / 1000000);
    }
    s->db = db_new(&outboxd_settings.db);
    pthread_mutex_init(&s->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&s->wake, &attr);
    pthread_condattr_destroy(&attr);
    MUST(pthread_create(&s->thread, NULL, sampler_main, s) == 0);
    pthread_setname_np(s->thread, "sampler");
    return s;
}

bool sampler_stop(struct sampler *s, int timeout_ms)
{
    struct timespec until = monotonic_in(timeout_ms);
    bool ended;

    pthread_mutex_lock(&s->lock);
    s->stopping = true;
    pthread_cond_broadcast(&s->wake);
    while (!s->ended && pthread_cond_timedwait(&s->wake, &s->lock, &until) == 0)
        ;
    ended = s->ended;
    pthread_mutex_unlock(&s->lock);
    if (!ended)
        return false;
    pthread_join(s->thread, NULL);
    db_free(s->db);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->wake);
    free(s);
    return true;
}
