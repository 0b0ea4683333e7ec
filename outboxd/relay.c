#include "outboxd/relay.h"

#include <stdio.h>
#include <stdlib.h>

#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/domain/topology.h"
#include "libcommon/telemetry/metrics.h"
#include "outboxd/relay_internal.h"

/* Between batches under load: each costs a claim, a message to the broker, and a claim and a
 * settlement at the consumer, whatever it holds. Express rows have 50 ms to be done, most of which
 * others need; normal ones have time. */
#define APART_EXPRESS_MS 30
#define APART_NORMAL_MS 50

static void register_metrics(struct relay *r)
{
    static const char *const causes[CAUSES] = {[CAUSE_PAYLOAD] = "cause=\"payload\"",
                                               [CAUSE_UNROUTABLE] = "cause=\"unroutable\"",
                                               [CAUSE_CHANNEL] = "cause=\"channel\""};

    claim_register();
    publish_register();
    r->blocked_gauge =
        metrics_gauge("msg_broker_blocked", "1: the broker takes no messages (alarm).", "");
    r->reconnects = metrics_counter("msg_broker_reconnects_total",
                                    "Publishing connections opened again after a loss.", "");
    r->parked =
        metrics_counter("msg_outbox_parked_total", "Rows parked after their last attempt.", "");
    for (int i = 0; i < CAUSES; i++)
        r->failed[i] =
            metrics_counter("msg_outbox_attempts_failed_total",
                            "Attempts burnt by rows that could not be published.", causes[i]);
}

static void pool_init(struct relay *r, enum message_type type)
{
    const struct outboxd_settings *s = &outboxd_settings;
    struct pool *pool = &r->pools[type];
    char labels[32];
    struct poller_limits limits = {
        .poll_min_us = s->poll_min_ms * 1000,
        .poll_max_us = s->poll_max_ms * 1000,
        .idle_us = s->idle_poll_ms * 1000,
        .apart_us = (type == MESSAGE_EXPRESS ? APART_EXPRESS_MS : APART_NORMAL_MS) * 1000,
        .lag_us = s->lag_ms * 1000,
        .full_us = s->full_look_ms * 1000,
        .batch = s->batch,
        .batch_bytes = s->batch_bytes,
    };

    pool->relay = r;
    pool->type = type;
    pthread_mutex_init(&pool->lock, NULL);
    pause_cond_init(&pool->nobody_looks);
    pause_cond_init(&pool->sooner);
    poller_init(&pool->poller, &limits, clock_mono_us());
    snprintf(labels, sizeof(labels), "lane=\"%s\"", message_type_name(type));
    pool->readiness = readiness_lane_new(message_type_name(type));
    pool->published = metrics_counter(
        "msg_outbox_published_total",
        "Rows published and confirmed by the broker: each member of a bundle.", labels);
    pool->batch_size = metrics_sizes("msg_outbox_claim_batch_size", "Rows of a claim.", labels);
}

static void thread_start(struct relay *r, enum message_type type, int64_t number)
{
    struct relay_thread *t = &r->threads[r->n++];
    char name[32];

    t->pool = &r->pools[type];
    t->limit = outboxd_settings.batch;
    snprintf(name, sizeof(name), "relay %s %lld", message_type_name(type), (long long)number);
    t->beat = daemon_beat_new(name);
    snprintf(name, sizeof(name), "outboxd %s %lld", message_type_name(type), (long long)number);
    t->broker = broker_new(&outboxd_settings.broker, BROKER_QUEUE(type), name);
    publish_init(&t->publisher, type, topology_bundle_max(&outboxd_settings.broker, type));
    claim_init(&t->claim, &outboxd_settings.db, type);
    pause_enter(&r->pause);
    MUST(pthread_create(&t->thread, NULL, relay_thread_main, t) == 0);
    snprintf(name, sizeof(name), "%s-%lld", message_type_name(type), (long long)number);
    pthread_setname_np(t->thread, name);
}

struct relay *relay_start(void)
{
    const struct outboxd_settings *s = &outboxd_settings;
    struct relay *r = must_alloc(1, sizeof(*r));

    register_metrics(r);
    pause_init(&r->pause);
    r->threads = must_alloc((size_t)(s->high_workers + s->low_workers), sizeof(r->threads[0]));
    for (int i = 0; i < MESSAGE_LANES; i++)
        pool_init(r, (enum message_type)i);
    for (int64_t i = 1; i <= s->high_workers; i++)
        thread_start(r, MESSAGE_EXPRESS, i);
    for (int64_t i = 1; i <= s->low_workers; i++)
        thread_start(r, MESSAGE_NORMAL, i);
    r->bell = bell_start(&s->broker,
                         &(struct bell_ear){.arg = r, .heard = relay_heard, .hears = relay_hears},
                         &r->pause);
    return r;
}

static void wake_all(struct relay *r)
{
    pause_stop(&r->pause);
    for (int i = 0; i < MESSAGE_LANES; i++) {
        pthread_mutex_lock(&r->pools[i].lock);
        pthread_cond_broadcast(&r->pools[i].nobody_looks);
        pthread_cond_broadcast(&r->pools[i].sooner);
        pthread_mutex_unlock(&r->pools[i].lock);
    }
    bell_wake(r->bell);
}

bool relay_stop(struct relay *r, int timeout_ms)
{
    wake_all(r);
    if (!pause_ended(&r->pause, timeout_ms))
        return false;
    bell_free(r->bell);
    for (size_t i = 0; i < r->n; i++) {
        pthread_join(r->threads[i].thread, NULL);
        claim_free(&r->threads[i].claim);
        publish_free(&r->threads[i].publisher);
        broker_free(r->threads[i].broker);
    }
    for (int i = 0; i < MESSAGE_LANES; i++) {
        pthread_mutex_destroy(&r->pools[i].lock);
        pthread_cond_destroy(&r->pools[i].nobody_looks);
        pthread_cond_destroy(&r->pools[i].sooner);
    }
    pause_destroy(&r->pause);
    free(r->threads);
    free(r);
    return true;
}
