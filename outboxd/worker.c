#include "libcommon/base/backoff.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/random.h"
#include "libcommon/daemon/failpoint.h"
#include "libcommon/db/schema.h"
#include "libcommon/telemetry/log.h"
#include "libcommon/telemetry/metrics.h"
#include "libcommon/telemetry/tracer.h"
#include "outboxd/payload.h"
#include "outboxd/relay_internal.h"
#include "outboxd/spans.h"

#define ATTEND_EVERY_MS 1000 /* far below half a heartbeat */
#define BLOCKED_WAIT_MS 500
#define BACKOFF_BASE_MS 100
#define BACKOFF_MAX_MS 3000
#define BACKOFF_REFUSED_MAX_MS 15000 /* a person must act first */
#define DELETE_TRIES 8

/* Logged once for all workers when trouble begins, changes its kind, or ends. */
static void tell(_Atomic int *told, const char *event, const struct err *err)
{
    int kind = err ? (int)err->kind : ERR_NONE;

    if (atomic_exchange(told, kind) == kind)
        return;
    if (!err)
        log_info(event, L_MSG("available again"));
    else if (err->kind == ERR_RETRY || err->kind == ERR_UNKNOWN)
        log_warn(event, L_ERR(err));
    else
        log_error(event, L_ERR(err));
}

static void take_pause(struct worker *w)
{
    int64_t ms = w->pause_ms;

    w->pause_ms = 0;
    if (ms)
        relay_pause_us(w->pool->relay, ms * 1000);
}

static void db_failed(struct worker *w, const struct err *err)
{
    struct relay *r = w->pool->relay;

    w->db_failures++;
    if (!db_is_conflict(err))
        tell(&r->db_kind, "outbox.database", err);
    w->pause_ms = backoff_ms(w->db_failures, BACKOFF_BASE_MS, BACKOFF_MAX_MS, random_u64());
}

static void db_worked(struct worker *w)
{
    w->db_failures = 0;
    tell(&w->pool->relay->db_kind, "outbox.database", NULL);
}

/* ---- the broker connection ---- */

static void note_blocked(struct worker *w)
{
    struct relay *r = w->pool->relay;
    bool blocked = broker_is_blocked(w->broker);
    int n;

    if (blocked == w->blocked)
        return;
    w->blocked = blocked;
    n = atomic_fetch_add(&r->blocked, blocked ? 1 : -1) + (blocked ? 1 : -1);
    metrics_set(r->blocked_gauge, n > 0);
    if (blocked && n == 1)
        log_warn("broker.blocked", L_MSG("the broker takes no messages; nothing is claimed"));
    else if (!blocked && n == 0)
        log_info("broker.unblocked", L_MSG("the broker takes messages again"));
}

static void broker_failed(struct worker *w, const struct err *err)
{
    struct relay *r = w->pool->relay;

    note_blocked(w);
    w->broker_failures++;
    tell(&r->broker_kind, "outbox.broker", err);
    w->pause_ms = backoff_ms(w->broker_failures, BACKOFF_BASE_MS,
                             err->kind == ERR_PERMANENT ? BACKOFF_REFUSED_MAX_MS : BACKOFF_MAX_MS,
                             random_u64());
}

static void on_idle_event(const struct broker_event *event, void *arg)
{
    struct worker *w = arg;

    if (event->type == BROKER_CHANNEL_CLOSED)
        w->stray_close = true;
}

/* Reads what has come and keeps heartbeats going; opens what is closed. */
static int attend(struct worker *w, struct err *err)
{
    w->attended_ms = clock_mono_ms();
    if (!broker_is_open(w->broker)) {
        if (broker_open(w->broker, err) || broker_confirm(w->broker, err))
            return -1;
        if (w->opened_before)
            metrics_add(w->pool->relay->reconnects, 1);
        w->opened_before = true;
        tell(&w->pool->relay->broker_kind, "outbox.broker", NULL);
        return 0;
    }
    w->stray_close = false;
    if (broker_pump(w->broker, w->blocked ? BLOCKED_WAIT_MS : 0, 0, on_idle_event, w, err))
        return -1;
    if (w->stray_close) {
        broker_drop(w->broker);
        return err_set(err, ERR_RETRY, 0, "broker: channel closed");
    }
    return 0;
}

/* Whether a batch could be published now. */
static bool broker_takes(struct worker *w)
{
    struct err err;

    if (attend(w, &err)) {
        broker_failed(w, &err);
        return false;
    }
    note_blocked(w);
    return !w->blocked;
}

/* ---- the turn ---- */

static bool take_turn(struct worker *w)
{
    struct pool *pool = w->pool;
    struct timespec until = relay_in(ATTEND_EVERY_MS * 1000);
    bool mine;

    pthread_mutex_lock(&pool->lock);
    while (pool->turn_taken && !atomic_load(&pool->relay->stopping) &&
           pthread_cond_timedwait(&pool->turn_free, &pool->lock, &until) == 0)
        ;
    mine = !pool->turn_taken && !atomic_load(&pool->relay->stopping);
    if (mine)
        pool->turn_taken = true;
    pthread_mutex_unlock(&pool->lock);
    return mine;
}

static void give_turn(struct worker *w)
{
    pthread_mutex_lock(&w->pool->lock);
    w->pool->turn_taken = false;
    pthread_cond_signal(&w->pool->turn_free);
    pthread_mutex_unlock(&w->pool->lock);
}

static struct lane_task next_task(struct pool *pool)
{
    struct lane_task task;

    pthread_mutex_lock(&pool->lock);
    task = lane_next(&pool->lane, clock_mono_us());
    pthread_mutex_unlock(&pool->lock);
    return task;
}

static int look(struct worker *w, struct lane_task *task, struct err *err)
{
    struct pool *pool = w->pool;
    int64_t start_us = clock_mono_us();
    int64_t now_us;

    if (task->limit > w->limit)
        task->limit = w->limit;
    if (claim_take(&w->claim, task, task->limit, err))
        return -1;
    now_us = clock_mono_us();
    pthread_mutex_lock(&pool->lock);
    lane_found(&pool->lane, task, w->claim.seen, w->claim.n, w->claim.bytes, w->claim.last_id,
               now_us - start_us, now_us);
    pthread_mutex_unlock(&pool->lock);
    return 0;
}

/* Looks until there are rows (true), or there is a reason to stop looking. */
static bool find_work(struct worker *w)
{
    struct relay *r = w->pool->relay;
    struct err err;

    while (!atomic_load(&r->stopping)) {
        struct lane_task task;

        daemon_beat(w->beat);
        if (clock_mono_ms() - w->attended_ms >= ATTEND_EVERY_MS && !broker_takes(w))
            break;
        task = next_task(w->pool);
        if (task.look == LANE_WAIT) {
            relay_pause_us(r, task.wait_us);
            continue;
        }
        if (look(w, &task, &err)) {
            db_failed(w, &err);
            break;
        }
        db_worked(w);
        if (w->claim.n)
            return true;
    }
    claim_end(&w->claim);
    return false;
}

/* ---- a batch ---- */

struct outcome {
    size_t confirmed, refused, left;
    int64_t lowest_left; /* fresh row; 0: none */
};

static struct outcome tally(const struct claim *c)
{
    struct outcome o = {0};

    for (size_t i = 0; i < c->n; i++) {
        const struct row *row = &c->rows[i];

        o.confirmed += row->state == ROW_CONFIRMED;
        o.refused += row->state == ROW_REFUSED;
        if (row->state != ROW_LEFT)
            continue;
        o.left++;
        if (!c->put_off && (!o.lowest_left || row->id < o.lowest_left))
            o.lowest_left = row->id;
    }
    return o;
}

static void report_refused(struct worker *w)
{
    static const char *const causes[CAUSES] = {[CAUSE_PAYLOAD] = "payload",
                                               [CAUSE_UNROUTABLE] = "unroutable",
                                               [CAUSE_CHANNEL] = "channel"};
    struct relay *r = w->pool->relay;

    for (size_t i = 0; i < w->claim.n; i++) {
        const struct row *row = &w->claim.rows[i];
        struct trace_context trace = {0};
        struct payload payload;
        struct err ignored;

        if (row->state != ROW_REFUSED)
            continue;
        if (row->payload && !payload_parse(row->payload, row->payload_len, &payload, &ignored))
            trace_parse(payload.traceparent, &trace);
        metrics_add(r->failed[row->cause], 1);
        if (claim_parks(row))
            metrics_add(r->parked, 1);
        log_warn(claim_parks(row) ? "outbox.parked" : "outbox.attempt_failed",
                 L_INT("outbox_id", row->id), L_STR("message_id", row->aggregate_id),
                 L_INT("attempt", row->attempts + 1), L_STR("cause", causes[row->cause]),
                 L_MSG(row->reason), L_TRACE(&trace));
    }
}

/* The delete was undone or its fate is unknown: it is tried again for as long as a restart of the
 * database may take. Given up, the rows are published once more. */
static int delete_stubbornly(struct worker *w, struct err *err)
{
    int rc = -1;

    for (int i = 0; rc && i < DELETE_TRIES; i++) {
        daemon_beat(w->beat);
        db_failed(w, err);
        take_pause(w);
        rc = claim_delete_again(&w->claim, err);
    }
    return rc;
}

static void hand_back(struct worker *w, const struct outcome *o)
{
    struct pool *pool = w->pool;

    if (!o->left)
        return;
    pthread_mutex_lock(&pool->lock);
    lane_returned(&pool->lane, o->lowest_left, w->claim.put_off, clock_mono_us());
    pthread_mutex_unlock(&pool->lock);
}

static void leave_all(struct claim *c)
{
    for (size_t i = 0; i < c->n; i++)
        c->rows[i].state = ROW_LEFT;
}

static void finish(struct worker *w)
{
    struct outcome o = tally(&w->claim);
    struct err err;
    int rc;

    if (o.confirmed && failpoint(FAILPOINT_OUTBOX_AFTER_CONFIRM)) {
        leave_all(&w->claim);
        o = tally(&w->claim);
    }
    rc = claim_finish(&w->claim, &err);
    if (rc)
        rc = delete_stubbornly(w, &err);
    else
        report_refused(w);
    if (rc)
        leave_all(&w->claim);
    else
        db_worked(w);
    metrics_add(w->pool->published, o.confirmed);
    o = tally(&w->claim);
    hand_back(w, &o);
    claim_end(&w->claim);
    failpoint(FAILPOINT_OUTBOX_AFTER_DELETE);
}

/* Slower and with fewer rows while the broker does not keep up; back by doubling. */
static void slow_down(struct worker *w, const struct err *err)
{
    w->limit = w->limit > 1 ? w->limit / 2 : 1;
    broker_failed(w, err);
}

static void adjust(struct worker *w, int rc, const struct outcome *o, const struct err *err)
{
    struct err why;

    note_blocked(w);
    if (rc) {
        slow_down(w, err);
    } else if (w->publisher.nacked) {
        err_set(&why, ERR_RETRY, 0, "broker: messages were not taken (nack)");
        slow_down(w, &why);
    } else if (!o->confirmed && !o->refused && !w->blocked) {
        err_set(&why, ERR_RETRY, 0, "broker: no message of a batch was taken");
        slow_down(w, &why);
    } else if (o->confirmed) {
        w->broker_failures = 0;
        tell(&w->pool->relay->broker_kind, "outbox.broker", NULL);
        w->limit = w->limit * 2 < outboxd_settings.batch ? w->limit * 2 : outboxd_settings.batch;
    }
}

static int64_t publish_deadline_ms(struct relay *r)
{
    int64_t most_ms = outboxd_settings.confirm_timeout_ms;

    if (atomic_load(&r->stopping) && daemon_drain_left_ms() < most_ms)
        most_ms = daemon_drain_left_ms();
    return clock_mono_ms() + most_ms;
}

static void deliver(struct worker *w)
{
    struct claim *c = &w->claim;
    int64_t start_us = clock_wall_us();
    struct outcome o;
    struct err err;
    int rc;

    metrics_observe(w->pool->batch_size, (int64_t)c->n);
    if (failpoint(FAILPOINT_OUTBOX_AFTER_CLAIM)) {
        leave_all(c);
        o = tally(c);
        hand_back(w, &o);
        claim_return(c);
        return;
    }
    rc = publish_batch(&w->publisher, w->broker, c->rows, c->n, publish_deadline_ms(w->pool->relay),
                       &err);
    w->attended_ms = clock_mono_ms();
    daemon_beat(w->beat);
    if (tracer_on())
        spans_publish(c, start_us);
    o = tally(c);
    finish(w);
    adjust(w, rc, &o, &err);
}

/* ---- threads ---- */

static bool schema_ready(struct worker *w)
{
    struct relay *r = w->pool->relay;
    struct db *db = w->claim.db;
    struct err err;
    int version = 0;
    int rc = db_acquire(db, &err);

    if (!rc)
        rc = schema_version(db, &version, &err);
    db_release(db);
    if (rc) {
        db_failed(w, &err);
        return false;
    }
    db_worked(w);
    if (version >= SCHEMA_VERSION)
        return true;
    if (!atomic_exchange(&r->waiting_for_schema, true))
        log_info("schema.waiting", L_INT("version", version), L_INT("needed", SCHEMA_VERSION));
    w->pause_ms = BLOCKED_WAIT_MS;
    return false;
}

void *worker_main(void *arg)
{
    struct worker *w = arg;
    struct relay *r = w->pool->relay;
    bool ready = false;

    while (!atomic_load(&r->stopping)) {
        bool work;

        daemon_beat(w->beat);
        take_pause(w);
        if (!ready && !(ready = schema_ready(w)))
            continue;
        if (!broker_takes(w) || !take_turn(w))
            continue;
        work = find_work(w);
        give_turn(w);
        if (work)
            deliver(w);
    }
    broker_close(w->broker);
    pthread_mutex_lock(&r->lock);
    r->running--;
    pthread_cond_broadcast(&r->wake);
    pthread_mutex_unlock(&r->lock);
    return NULL;
}
