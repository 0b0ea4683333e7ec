#include "consumerd/webhook_desk.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/queue.h>

#include "consumerd/webhook_post.h"
#include "consumerd/webhook_spans.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/base/pause.h"
#include "libcommon/base/random.h"
#include "libcommon/daemon/failpoint.h"
#include "libcommon/db/schema.h"
#include "libcommon/domain/webhook_set.h"
#include "libcommon/domain/webhook_store.h"
#include "libcommon/telemetry/log.h"
#include "libcommon/telemetry/metrics.h"

#define ENDPOINTS_MAX 500 /* with a lease at a time */
#define DUE_MAX (2 * ENDPOINTS_MAX)
#define PAGE_MAX 500 /* events of one round */
#define LEASE_MS 10000
#define RENEW_MS 3000
#define EVENTS_MAX 50000 /* of all rounds that are out; one may exceed it */
#define LOOK_MS 200      /* between two looks for what has just become due */
#define LOOK_ALL_MS 1000 /* ... and for all that is due */
#define LOOK_SHARE 10    /* a look takes one part of so many of the time at most */
#define BUSY_MS 20       /* between two settles while calls are out: they share a transaction */
#define COUNT_MS 10000   /* between two counts of endpoints */
#define RETRY_MS 500     /* after a failure of the database */
#define SETTLE_MAX 1000  /* calls of one transaction */

struct endpoint {
    TAILQ_ENTRY(endpoint) link;
    uint64_t id, calls;
    int64_t from_us; /* nothing that is due was due before, as far as is known */
    unsigned failures;
    int64_t failing_since_ms;    /* monotonic; of failures */
    int64_t rest_ms;             /* asked for by the last call */
    struct webhook_round *round; /* NULL: none is out */
    bool touched, gone;
};
TAILQ_HEAD(endpoint_list, endpoint);

struct webhook_desk {
    const struct settings *settings;
    struct webhook_schedule schedule;
    struct network *allowed;
    struct webhook_post *post;
    struct db *db;
    pthread_t thread;
    struct pause pause;
    struct daemon_beat *beat;
    uint64_t owner;
    bool schema_seen, failing;
    _Atomic bool draining, news;
    struct endpoint_list endpoints;
    size_t endpoint_count, rounds, events; /* the last two: that are out */
    struct webhook_posted_list over;       /* to be written down */
    int64_t renewed_ms, look_at_ms, look_all_at_ms, count_at_ms;
};

static struct {
    struct metric *calls[WEBHOOK_RESULTS];
    struct metric *delivered, *again, *given_up;
    struct metric *seconds, *sizes, *lag, *enabled, *disabled;
    struct metric *disabled_gone, *disabled_failing;
} stats;

static void register_stats(void)
{
    static const char calls[] = "Calls of customers' endpoints.";
    static const char events[] = "Events that were sent to an endpoint.";
    static const char disabled[] = "Endpoints that were disabled.";
    char labels[48];

    for (int i = 0; i < WEBHOOK_RESULTS; i++) {
        snprintf(labels, sizeof(labels), "result=\"%s\"",
                 webhook_result_name((enum webhook_result)i));
        stats.calls[i] = metrics_counter("msg_webhook_calls_total", calls, labels);
    }
    stats.delivered = metrics_counter("msg_webhook_events_total", events, "result=\"delivered\"");
    stats.again = metrics_counter("msg_webhook_events_total", events, "result=\"again\"");
    stats.given_up = metrics_counter("msg_webhook_events_total", events, "result=\"given_up\"");
    stats.seconds =
        metrics_latency("msg_webhook_call_seconds", "Time of a call of an endpoint.", "");
    stats.sizes = metrics_sizes("msg_webhook_settle_calls", "Calls written down at a time.", "");
    stats.lag = metrics_gauge(
        "msg_webhook_lag_seconds",
        "How long the longest waiting event of an endpoint that works has been due.", "");
    stats.enabled = metrics_gauge("msg_webhooks", "Endpoints.", "state=\"enabled\"");
    stats.disabled = metrics_gauge("msg_webhooks", "Endpoints.", "state=\"disabled\"");
    stats.disabled_gone =
        metrics_counter("msg_webhook_disabled_total", disabled, "reason=\"gone\"");
    stats.disabled_failing =
        metrics_counter("msg_webhook_disabled_total", disabled, "reason=\"failing\"");
}

/* ---- endpoints ---- */

static void add_endpoint(struct webhook_desk *d, const struct webhook_due *due)
{
    struct endpoint *e = must_alloc(1, sizeof(*e));

    e->id = due->id;
    e->from_us = due->since_us;
    TAILQ_INSERT_TAIL(&d->endpoints, e, link);
    d->endpoint_count++;
}

static void forget_endpoint(struct webhook_desk *d, struct endpoint *e)
{
    MUST(!e->round);
    TAILQ_REMOVE(&d->endpoints, e, link);
    d->endpoint_count--;
    free(e);
}

static size_t ids_of(const struct webhook_desk *d, uint64_t ids[ENDPOINTS_MAX])
{
    size_t n = 0;

    for (struct endpoint *e = TAILQ_FIRST(&d->endpoints); e; e = TAILQ_NEXT(e, link))
        ids[n++] = e->id;
    return n;
}

static struct endpoint *find_endpoint(const struct webhook_desk *d, uint64_t id)
{
    struct endpoint *e = TAILQ_FIRST(&d->endpoints);

    while (e && e->id != id)
        e = TAILQ_NEXT(e, link);
    return e;
}

static int renew(struct webhook_desk *d, struct err *err)
{
    int64_t began_ms = clock_mono_ms();
    uint64_t ids[ENDPOINTS_MAX];
    size_t n = ids_of(d, ids);

    if (began_ms - d->renewed_ms < RENEW_MS)
        return 0;
    if (webhook_queue_renew(d->db, d->owner, LEASE_MS, ids, n, err))
        return -1;
    d->renewed_ms = began_ms;
    webhook_post_allow_until(d->post, began_ms + LEASE_MS);
    return 0;
}

static int count(struct webhook_desk *d, struct err *err)
{
    uint64_t all, disabled;

    if (clock_mono_ms() < d->count_at_ms)
        return 0;
    if (webhook_store_count(d->db, &all, &disabled, err))
        return -1;
    metrics_set(stats.enabled, (int64_t)(all - disabled));
    metrics_set(stats.disabled, (int64_t)disabled);
    d->count_at_ms = clock_mono_ms() + COUNT_MS;
    return 0;
}

/* After every_ms, or later where looking takes long. */
static int64_t next_look(int64_t began_ms, int64_t every_ms)
{
    int64_t took_ms = clock_mono_ms() - began_ms;

    return began_ms + (took_ms * LOOK_SHARE > every_ms ? took_ms * LOOK_SHARE : every_ms);
}

static int find(struct webhook_desk *d, struct webhook_due *due, size_t *found, struct err *err)
{
    int64_t began_ms = clock_mono_ms();
    bool all = began_ms >= d->look_all_at_ms;
    int64_t lag_ms;

    if (webhook_queue_find(d->db, d->owner, !all, due, DUE_MAX, found, &lag_ms, err))
        return -1;
    d->look_at_ms = next_look(began_ms, LOOK_MS);
    if (all) {
        d->look_all_at_ms = next_look(began_ms, LOOK_ALL_MS);
        metrics_set(stats.lag, lag_ms / 1000);
    }
    return 0;
}

static const struct webhook_due *due_of(const struct webhook_due *due, uint64_t id)
{
    while (due->id != id)
        due++;
    return due;
}

/* Takes what is due and nobody else's. Where something of ours was due earlier than we knew (it had
 * to wait for another event, or was committed late), its pages begin there. */
static int look(struct webhook_desk *d, struct err *err)
{
    struct webhook_due due[DUE_MAX];
    uint64_t ids[ENDPOINTS_MAX];
    size_t found, n = 0;

    if (!webhook_set_any()) {
        metrics_set(stats.lag, 0);
        return 0;
    }
    if (clock_mono_ms() < d->look_at_ms)
        return 0;
    if (find(d, due, &found, err))
        return -1;
    for (size_t i = 0; i < found; i++) {
        struct endpoint *e = find_endpoint(d, due[i].id);

        if (e && due[i].since_us < e->from_us)
            e->from_us = due[i].since_us;
        if (!e && n < ENDPOINTS_MAX - d->endpoint_count)
            ids[n++] = due[i].id;
    }
    if (webhook_queue_claim(d->db, d->owner, LEASE_MS, ids, &n, err))
        return -1;
    for (size_t i = 0; i < n; i++)
        add_endpoint(d, due_of(due, ids[i]));
    return 0;
}

/* ---- rounds ---- */

static size_t page_size(const struct webhook_desk *d, const struct endpoint *e)
{
    size_t most = e->failures ? WEBHOOK_BATCH_MAX : PAGE_MAX;
    size_t room = d->events < EVENTS_MAX ? EVENTS_MAX - d->events : 1;

    return most < room ? most : room;
}

static void send_round(struct webhook_desk *d, struct endpoint *e, struct webhook_round *round)
{
    const struct webhook_page *page = &round->page;

    if (page->failures && !e->failures)
        e->failing_since_ms = clock_mono_ms() - page->failing_ms;
    e->failures = page->failures;
    e->calls = page->calls;
    e->round = round;
    round->owner = e;
    d->rounds++;
    d->events += page->n;
    webhook_post_give(d->post, round);
}

/* *resting: nothing is to be sent now, and its lease may go. */
static int load(struct webhook_desk *d, struct endpoint *e, bool *resting, struct err *err)
{
    struct webhook_round *round = must_alloc(1, sizeof(*round));

    if (webhook_queue_load(d->db, d->owner, e->id, e->from_us, page_size(d, e), &round->page,
                           err)) {
        free(round);
        return -1;
    }
    if (round->page.n)
        e->from_us = round->page.since_us;
    *resting = !round->page.ours || round->page.paused_ms || !round->page.n;
    if (*resting) {
        webhook_page_free(&round->page);
        free(round);
    } else {
        send_round(d, e, round);
    }
    return 0;
}

static int load_all(struct webhook_desk *d, struct err *err)
{
    uint64_t resting[ENDPOINTS_MAX];
    struct endpoint *next;
    size_t n = 0;
    int rc = 0;

    for (struct endpoint *e = TAILQ_FIRST(&d->endpoints); e && !rc; e = next) {
        bool rests = false;

        next = TAILQ_NEXT(e, link);
        if (e->round)
            continue;
        rc = load(d, e, &rests, err);
        if (rests && n < ENDPOINTS_MAX) {
            resting[n++] = e->id;
            forget_endpoint(d, e);
        }
    }
    return webhook_queue_release(d->db, d->owner, resting, n, err) ? -1 : rc;
}

/* ---- what is over ---- */

static int64_t pause_of(const struct webhook_desk *d, const struct endpoint *e)
{
    int64_t ms = d->schedule.sec[0] * 1000;
    int64_t most_ms = d->schedule.sec[d->schedule.n > 1 ? 1 : 0] * 1000;

    if (e->rest_ms)
        return e->rest_ms;
    if (e->failures < WEBHOOK_PAUSE_AFTER)
        return 0;
    for (unsigned i = WEBHOOK_PAUSE_AFTER; i < e->failures && ms < most_ms; i++)
        ms *= 2;
    return ms < most_ms ? ms : most_ms;
}

/* The endpoint as it stands after this call. */
static void note_call(struct endpoint *e, struct webhook_posted *p)
{
    bool ok = p->result == WEBHOOK_OK;

    if (!ok && !e->failures)
        e->failing_since_ms = p->ended_ms;
    e->failures = ok ? 0 : e->failures + 1;
    e->rest_ms = p->rest_ms;
    e->gone |= p->result == WEBHOOK_GONE;
    e->touched = true;
    p->call_no = ++e->calls;
    metrics_add(stats.calls[p->result], 1);
    metrics_observe(stats.seconds, p->took_us);
    webhook_spans_called(p);
}

/* Once for each call, whatever becomes of the writing. */
static void take_news(struct webhook_desk *d)
{
    struct webhook_posted_list list = TAILQ_HEAD_INITIALIZER(list);
    struct webhook_posted *p;

    atomic_store(&d->news, false);
    webhook_post_take(d->post, &list);
    for (p = TAILQ_FIRST(&list); p; p = TAILQ_NEXT(p, link))
        if (p->n)
            note_call(p->round->owner, p);
    TAILQ_CONCAT(&d->over, &list, link);
}

static size_t collect_calls(const struct webhook_desk *d, struct webhook_call *calls)
{
    int64_t now_ms = clock_mono_ms();
    size_t n = 0;

    for (const struct webhook_posted *p = TAILQ_FIRST(&d->over); p && n < SETTLE_MAX;
         p = TAILQ_NEXT(p, link)) {
        if (!p->n)
            continue;
        calls[n] = (struct webhook_call){
            .webhook_id = p->round->page.id,
            .call_no = p->call_no,
            .events = p->round->page.events + p->first,
            .n = p->n,
            .delivered = p->result == WEBHOOK_OK,
            .result = webhook_result_name(p->result),
            .status = p->status,
            .took_ms = p->took_us / 1000,
            .ago_ms = now_ms - p->ended_ms,
            .rest_ms = p->rest_ms,
        };
        n++;
    }
    return n;
}

static int by_endpoint(const void *a, const void *b)
{
    const struct webhook_call *x = a;
    const struct webhook_call *y = b;

    if (x->webhook_id != y->webhook_id)
        return x->webhook_id < y->webhook_id ? -1 : 1;
    return x->call_no < y->call_no ? -1 : x->call_no > y->call_no;
}

static size_t collect_standings(const struct webhook_desk *d, struct webhook_standing *standings)
{
    size_t n = 0;

    for (const struct endpoint *e = TAILQ_FIRST(&d->endpoints); e; e = TAILQ_NEXT(e, link))
        if (e->touched)
            standings[n++] = (struct webhook_standing){.id = e->id,
                                                       .calls = e->calls,
                                                       .failures = e->failures,
                                                       .pause_ms = pause_of(d, e)};
    return n;
}

static void count_events(const struct webhook_desk *d, const struct webhook_call *call)
{
    for (size_t i = 0; i < call->n; i++)
        if (call->delivered)
            metrics_add(stats.delivered, 1);
        else
            metrics_add(call->events[i].attempts < d->schedule.n ? stats.again : stats.given_up, 1);
}

static void free_round(struct webhook_desk *d, struct webhook_round *round)
{
    struct endpoint *e = round->owner;

    e->round = NULL;
    d->rounds--;
    d->events -= round->page.n;
    webhook_page_free(&round->page);
    free(round);
}

/* What has been written down leaves the list; a round ends behind its calls. */
static void drop_settled(struct webhook_desk *d, size_t calls)
{
    struct webhook_posted *p;

    while ((p = TAILQ_FIRST(&d->over)) && (calls || !p->n)) { /* NOLINT: lost in the macros */
        TAILQ_REMOVE(&d->over, p, link);
        if (p->n)
            calls--;
        else
            free_round(d, p->round);
        free(p);
    }
}

/* One transaction's worth. */
static int settle_some(struct webhook_desk *d, struct webhook_call *calls, size_t n,
                       struct err *err)
{
    struct webhook_standing standings[ENDPOINTS_MAX];
    size_t count = collect_standings(d, standings);

    qsort(calls, n, sizeof(*calls), by_endpoint);
    if (failpoint_err(FAILPOINT_WEBHOOKS_BEFORE_SETTLE, err) ||
        webhook_queue_settle(d->db, d->owner, &d->schedule, calls, n, standings, count, err) ||
        failpoint_err(FAILPOINT_WEBHOOKS_AFTER_SETTLE, err))
        return -1;
    metrics_observe(stats.sizes, (int64_t)n);
    for (size_t i = 0; i < n; i++)
        count_events(d, &calls[i]);
    return 0;
}

static int settle(struct webhook_desk *d, struct err *err)
{
    struct webhook_call *calls = must_alloc(SETTLE_MAX, sizeof(*calls));
    int rc = 0;
    size_t n;

    take_news(d);
    do {
        n = collect_calls(d, calls);
        rc = n ? settle_some(d, calls, n, err) : 0;
        if (!rc)
            drop_settled(d, n);
    } while (!rc && n == SETTLE_MAX);
    free(calls);
    return rc;
}

/* An endpoint that is to be called no more. */
static int disable(struct webhook_desk *d, struct endpoint *e, struct err *err)
{
    const char *why = e->gone ? "gone" : "failing";
    int64_t failing_ms = clock_mono_ms() - e->failing_since_ms;
    bool changed;

    if (!e->gone &&
        (e->failures < 2 || failing_ms < d->settings->webhooks.disable_after_sec * 1000))
        return 0;
    if (webhook_store_disable(d->db, e->id, why, &changed, err))
        return -1;
    if (!changed)
        return 0;
    log_warn("webhook.disabled", L_INT("webhook_id", e->id), L_STR("reason", why));
    metrics_add(e->gone ? stats.disabled_gone : stats.disabled_failing, 1);
    return 0;
}

static int disable_some(struct webhook_desk *d, struct err *err)
{
    for (struct endpoint *e = TAILQ_FIRST(&d->endpoints); e; e = TAILQ_NEXT(e, link)) {
        if (!e->touched)
            continue;
        if (disable(d, e, err))
            return -1;
        e->touched = false;
    }
    return 0;
}

/* ---- the thread ---- */

static int work(struct webhook_desk *d, struct err *err)
{
    if (schema_look(d->db, &d->schema_seen, err) != SCHEMA_READY)
        return -1;
    if (renew(d, err) || settle(d, err) || disable_some(d, err) || count(d, err))
        return -1;
    if (atomic_load(&d->draining))
        return 0;
    return look(d, err) || load_all(d, err) ? -1 : 0;
}

/* A database that is away is the probe's to tell. */
static bool turn(struct webhook_desk *d)
{
    struct err err;
    bool connected = !db_acquire(d->db, &err);
    int rc = connected ? work(d, &err) : -1;

    if (rc)
        db_rollback(d->db);
    db_release(d->db);
    if (rc && connected && d->schema_seen && !d->failing && !db_is_conflict(&err))
        log_warn("webhooks.failed", L_ERR(&err));
    d->failing = rc != 0;
    return !rc;
}

static bool has_news(void *arg)
{
    struct webhook_desk *d = arg;

    return atomic_load(&d->news) || atomic_load(&d->draining);
}

static void poke(void *arg)
{
    struct webhook_desk *d = arg;

    atomic_store(&d->news, true);
    pause_poke(&d->pause);
}

/* While rounds are out, what comes of them shares a transaction. */
static void wait_for_work(struct webhook_desk *d, bool worked)
{
    if (!worked)
        pause_for(&d->pause, RETRY_MS);
    else if (!d->rounds || !atomic_load(&d->draining))
        pause_for_or(&d->pause, webhook_set_any() ? LOOK_MS : LOOK_ALL_MS, has_news, d);
    if (worked && d->rounds)
        pause_for(&d->pause, BUSY_MS);
}

static bool is_at_end(const struct webhook_desk *d)
{
    return pause_stopping(&d->pause) || (atomic_load(&d->draining) && !d->rounds);
}

static void *desk_main(void *arg)
{
    struct webhook_desk *d = arg;

    while (!is_at_end(d)) {
        daemon_beat(d->beat);
        wait_for_work(d, turn(d));
    }
    pause_leave(&d->pause);
    return NULL;
}

/* curl has a pair for each endpoint's connections. */
int64_t webhook_desk_descriptors(const struct settings *settings)
{
    if (!settings_has_part(settings, PART_WEBHOOKS))
        return 0;
    return settings->webhooks.in_flight + ENDPOINTS_MAX * 2 + 8;
}

struct webhook_desk *webhook_desk_start(const struct settings *settings)
{
    const struct webhook_settings *w = &settings->webhooks;
    struct webhook_desk *d = must_alloc(1, sizeof(*d));
    struct webhook_post_config config = {
        .tls_ca = w->tls_ca,
        .timeout_ms = w->timeout_ms,
        .in_flight = w->in_flight,
        .in_flight_each = w->in_flight_each,
        .poke = poke,
        .arg = d,
    };

    register_stats();
    webhook_queue_register();
    webhook_store_register();
    d->settings = settings;
    MUST(webhook_schedule_parse(w->schedule, &d->schedule)); /* the settings' check has seen it */
    config.guard.allowed = d->allowed = networks_parse(w->allow_private, &config.guard.count);
    d->owner = random_u64() >> 1 | 1;
    d->renewed_ms = clock_mono_ms() - RENEW_MS;
    TAILQ_INIT(&d->endpoints);
    TAILQ_INIT(&d->over);
    pause_init(&d->pause);
    d->db = db_new(&settings->db);
    d->beat = daemon_beat_new("webhooks");
    d->post = webhook_post_start(&config);
    pause_enter(&d->pause);
    MUST(pthread_create(&d->thread, NULL, desk_main, d) == 0);
    pthread_setname_np(d->thread, "webhooks");
    return d;
}

void webhook_desk_begin_stop(struct webhook_desk *d)
{
    if (!d)
        return;
    atomic_store(&d->draining, true);
    webhook_post_drain(d->post);
    pause_poke(&d->pause);
}

/* What is written down now is not delivered again. */
static void settle_rest(struct webhook_desk *d)
{
    uint64_t ids[ENDPOINTS_MAX];
    size_t n = ids_of(d, ids);
    struct err err;

    if (db_acquire(d->db, &err) || (d->schema_seen && settle(d, &err)) ||
        webhook_queue_release(d->db, d->owner, ids, n, &err))
        log_warn("webhooks.failed", L_ERR(&err));
    db_release(d->db);
}

static void free_all(struct webhook_desk *d)
{
    struct webhook_posted *p;
    struct endpoint *e;

    while ((p = TAILQ_FIRST(&d->over))) {
        TAILQ_REMOVE(&d->over, p, link);
        free(p);
    }
    while ((e = TAILQ_FIRST(&d->endpoints))) {
        if (e->round) /* NOLINT: lost in the macros */
            free_round(d, e->round);
        forget_endpoint(d, e);
    }
    db_free(d->db);
    free(d->allowed);
    pause_destroy(&d->pause);
    free(d);
}

void webhook_desk_stop(struct webhook_desk *d)
{
    if (!d)
        return;
    webhook_desk_begin_stop(d);
    pause_ended(&d->pause, daemon_drain_left_ms());
    pause_stop(&d->pause);
    pthread_join(d->thread, NULL);
    settle_rest(d);
    webhook_post_stop(d->post);
    free_all(d);
}
