#include "api/pressure.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "api/settings.h"
#include "libcommon/base/must.h"
#include "libcommon/base/pause.h"
#include "libcommon/daemon/daemon.h"
#include "libcommon/db/schema.h"
#include "libcommon/domain/outbox.h"
#include "libcommon/telemetry/log.h"
#include "libcommon/telemetry/metrics.h"

#define REST_SAMPLE_MS 1000 /* while there is nothing to count */

struct pressure {
    pthread_t thread;
    struct pause pause;
    struct db *db;
    struct broker *broker; /* NULL: queue depth is not asked for */
    struct daemon_beat *beat;
    bool failing; /* logged once a change */
    bool schema_seen;

    _Atomic bool resting; /* the thread wants to be poked for what is accepted */

    _Atomic int64_t pending;  /* as sampled */
    _Atomic int64_t accepted; /* since start */
    _Atomic int64_t accepted_at_sample;
    _Atomic bool age_high;
    _Atomic bool depth_high;
    struct metric *pending_gauge;
    struct metric *age_gauge;
    struct metric *depth_gauge;
};

static struct db_label sample_label = {.query = "outbox_sample"};

static void read_sample(struct pressure *p, const struct outbox_sample *s)
{
    int64_t age_sec = 0;
    int64_t pending = 0;

    for (int i = 0; i < MESSAGE_LANES; i++) {
        pending += s->pending[i];
        if (s->since_sec[i] && s->now_sec - s->since_sec[i] > age_sec)
            age_sec = s->now_sec - s->since_sec[i];
    }
    atomic_store(&p->pending, pending);
    atomic_store(&p->age_high,
                 api_settings.pressure_age_sec && age_sec > api_settings.pressure_age_sec);
    metrics_set(p->pending_gauge, pending);
    metrics_set(p->age_gauge, age_sec);
}

static int sample(struct pressure *p, struct err *err)
{
    int64_t accepted = atomic_load(&p->accepted);
    struct buf sql = {0};
    struct db_results results;
    struct outbox_sample seen;
    int rc;

    outbox_put_sample(&sql, OUTBOX_DELIVER, api_settings.pressure_pending + 1);
    rc = db_run_buf(p->db, &sample_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    outbox_read_sample(db_only(&results), &seen);
    db_results_free(&results);
    read_sample(p, &seen);
    atomic_store(&p->accepted_at_sample, accepted);
    return 0;
}

static void sample_depth(struct pressure *p)
{
    int64_t total = 0;
    struct err err;

    if (!broker_is_open(p->broker) && broker_open(p->broker, &err))
        return; /* the readiness probe reports it; without an answer the last one stands */
    for (int i = 0; i < MESSAGE_LANES; i++) {
        uint32_t depth;

        if (broker_depth(p->broker, topology_queue(&api_settings.broker, (enum message_type)i),
                         &depth, NULL, &err))
            return;
        total += depth;
    }
    metrics_set(p->depth_gauge, total);
    atomic_store(&p->depth_high, total > api_settings.pressure_depth);
}

static void turn(struct pressure *p)
{
    enum schema schema = SCHEMA_UNKNOWN;
    struct err err;
    int rc = db_acquire(p->db, &err);

    if (!rc) {
        schema = schema_look(p->db, &p->schema_seen, &err);
        rc = schema == SCHEMA_UNKNOWN ? -1 : 0;
    }
    if (schema == SCHEMA_READY)
        rc = sample(p, &err);
    db_release(p->db);
    if (rc && !p->failing)
        log_warn("pressure.sample_failed", L_ERR(&err));
    p->failing = rc != 0;
}

static bool accepted_since(void *arg)
{
    const struct pressure *p = arg;

    return atomic_load(&p->accepted) != atomic_load(&p->accepted_at_sample);
}

/* Nothing waits, nothing is refused, and nothing has been accepted since that was found. */
static bool at_rest(struct pressure *p)
{
    return !p->failing && !atomic_load(&p->pending) && !atomic_load(&p->age_high) &&
           !atomic_load(&p->depth_high) && !accepted_since(p);
}

/* Until it is time for a sample; true: stop. Traffic ends the rest, and the usual time passes
 * then: what is accepted counts as pending until somebody has looked. Who accepts adds before it
 * reads resting, and this the other way round: one of the two sees the other. */
static bool wait_for_turn(struct pressure *p)
{
    int64_t ms = api_settings.pressure_sample_ms;
    bool stop;

    if (at_rest(p) && ms < REST_SAMPLE_MS) {
        atomic_store(&p->resting, true);
        stop = pause_for_or(&p->pause, REST_SAMPLE_MS, accepted_since, p);
        atomic_store(&p->resting, false);
        if (stop || !accepted_since(p))
            return stop;
    }
    return pause_for(&p->pause, ms);
}

static int64_t longest_wait_ms(void)
{
    int64_t ms = api_settings.pressure_sample_ms;

    return ms < REST_SAMPLE_MS ? REST_SAMPLE_MS + ms : ms;
}

static void *pressure_main(void *arg)
{
    struct pressure *p = arg;

    while (!wait_for_turn(p)) {
        daemon_beat(p->beat);
        turn(p);
        daemon_beat(p->beat);
        if (p->broker)
            sample_depth(p);
        daemon_beat_rest(p->beat, longest_wait_ms());
    }
    return NULL;
}

struct pressure *pressure_start(void)
{
    struct pressure *p = must_alloc(1, sizeof(*p));

    db_label_register(&sample_label);
    p->pending_gauge = metrics_gauge(
        "current_outbox_pending_events",
        "Outbox rows that are due, counted up to about the backpressure threshold.", "");
    p->age_gauge = metrics_gauge("msg_outbox_oldest_age_seconds",
                                 "Age of the oldest outbox row that is due.", "");
    p->db = db_new_reader(&api_settings.db);
    if (api_settings.pressure_depth) {
        p->depth_gauge = metrics_gauge("msg_queue_depth",
                                       "AMQP messages (a bundle is one) ready in both queues.", "");
        p->broker = broker_new(&api_settings.broker, 0, "pressure");
    }
    p->beat = daemon_beat_new("pressure");
    pause_init(&p->pause);
    MUST(pthread_create(&p->thread, NULL, pressure_main, p) == 0);
    return p;
}

void pressure_begin_stop(struct pressure *p)
{
    pause_stop(&p->pause);
}

void pressure_stop(struct pressure *p)
{
    pause_stop(&p->pause);
    pthread_join(p->thread, NULL);
    db_free(p->db);
    broker_free(p->broker);
    pause_destroy(&p->pause);
    free(p);
}

bool pressure_high(const struct pressure *p)
{
    int64_t pending = atomic_load_explicit(&p->pending, memory_order_relaxed) +
                      atomic_load_explicit(&p->accepted, memory_order_relaxed) -
                      atomic_load_explicit(&p->accepted_at_sample, memory_order_relaxed);

    if (!api_settings.pressure_enabled)
        return false;
    return pending > api_settings.pressure_pending ||
           atomic_load_explicit(&p->age_high, memory_order_relaxed) ||
           atomic_load_explicit(&p->depth_high, memory_order_relaxed);
}

void pressure_accepted(struct pressure *p, int64_t n)
{
    atomic_fetch_add(&p->accepted, n);
    if (atomic_load(&p->resting) && atomic_exchange(&p->resting, false))
        pause_poke(&p->pause);
}
