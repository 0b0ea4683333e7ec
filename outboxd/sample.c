#include "outboxd/sample.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/domain/message.h"
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

static int64_t number(struct db_set *set)
{
    char **row = db_next(set);

    return row && row[0] ? strtoll(row[0], NULL, 10) : 0;
}

/* Oldest: since when the longest waiting row that is due has been due; now, when none is. */
static void put_lane(struct buf *sql, int lane)
{
    buf_printf(sql,
               "SELECT COUNT(*) FROM (SELECT 1 FROM outbox_events FORCE INDEX(idx_outbox_poll)"
               " WHERE lane=%d LIMIT %lld) t;",
               lane, (long long)outboxd_settings.sample_limit);
    buf_printf(sql,
               "SELECT COALESCE(UNIX_TIMESTAMP(MIN(t.since)),UNIX_TIMESTAMP()) FROM ("
               "(SELECT created_at since FROM outbox_events FORCE INDEX(idx_outbox_poll)"
               " WHERE lane=%d AND next_run_at IS NULL ORDER BY id LIMIT 1) UNION ALL "
               "(SELECT next_run_at FROM outbox_events FORCE INDEX(idx_outbox_poll)"
               " WHERE lane=%d AND next_run_at<=NOW(6) ORDER BY next_run_at LIMIT 1)) t;",
               lane, lane);
}

/* Failures are not logged here: workers and probe see the same database. */
static void sample(struct sampler *s)
{
    struct db_results results;
    struct buf sql = {0};
    struct err err;

    if (db_acquire(s->db, &err))
        return;
    for (int i = 0; i < MESSAGE_LANES; i++)
        put_lane(&sql, i);
    sql.len--; /* no empty statement behind the last one */
    if (!db_run_buf(s->db, &sample_label, &sql, &results, &err)) {
        for (size_t i = 0; i < MESSAGE_LANES && results.n == 2 * MESSAGE_LANES; i++) {
            metrics_set(s->pending[i], number(&results.set[2 * i]));
            metrics_set(s->oldest[i], number(&results.set[2 * i + 1]));
        }
        db_results_free(&results);
    }
    buf_free(&sql);
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
