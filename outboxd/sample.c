#include "outboxd/sample.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/base/pause.h"
#include "libcommon/domain/outbox.h"
#include "libcommon/telemetry/metrics.h"
#include "outboxd/settings.h"

struct sampler {
    pthread_t thread;
    struct pause pause;
    struct db *db;
    struct daemon_beat *beat;
    struct metric *pending[MESSAGE_LANES], *oldest[MESSAGE_LANES];
};

static struct db_label sample_label = {.query = "outbox_sample"};

/* Failures are not logged here: relay threads and probe see the same database. */
static void sample(struct sampler *s)
{
    struct buf sql = {0};
    struct db_results results;
    struct outbox_sample seen;
    struct err err;

    if (db_acquire(s->db, &err))
        return;
    outbox_put_sample(&sql, OUTBOX_DELIVER, outboxd_settings.sample_limit);
    if (!db_run_buf(s->db, &sample_label, &sql, &results, &err)) {
        outbox_read_sample(db_only(&results), &seen);
        for (size_t i = 0; i < MESSAGE_LANES; i++) {
            metrics_set(s->pending[i], seen.pending[i]);
            metrics_set(s->oldest[i],
                        seen.since_sec[i] ? seen.since_sec[i] : clock_wall_us() / 1000000);
        }
        db_results_free(&results);
    }
    buf_free(&sql);
    db_release(s->db);
}

static void *sampler_main(void *arg)
{
    struct sampler *s = arg;

    do {
        daemon_beat(s->beat);
        sample(s);
        daemon_beat_rest(s->beat, outboxd_settings.sample_ms);
    } while (!pause_for(&s->pause, outboxd_settings.sample_ms));
    pause_leave(&s->pause);
    return NULL;
}

struct sampler *sampler_start(void)
{
    struct sampler *s = must_alloc(1, sizeof(*s));
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
    s->db = db_new_reader(&outboxd_settings.db);
    s->beat = daemon_beat_new("sampler");
    pause_init(&s->pause);
    pause_enter(&s->pause);
    MUST(pthread_create(&s->thread, NULL, sampler_main, s) == 0);
    pthread_setname_np(s->thread, "sampler");
    return s;
}

bool sampler_stop(struct sampler *s, int timeout_ms)
{
    pause_stop(&s->pause);
    if (!pause_ended(&s->pause, timeout_ms))
        return false;
    pthread_join(s->thread, NULL);
    db_free(s->db);
    pause_destroy(&s->pause);
    free(s);
    return true;
}
