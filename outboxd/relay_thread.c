#include "libcommon/base/backoff.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/random.h"
#include "libcommon/daemon/failpoint.h"
#include "libcommon/db/schema.h"
#include "libcommon/domain/doorbell.h"
#include "libcommon/telemetry/log.h"
#include "libcommon/telemetry/metrics.h"
#include "libcommon/telemetry/tracer.h"
#include "outboxd/payload.h"
#include "outboxd/relay_internal.h"
#include "outboxd/spans.h"

#define ATTEND_EVERY_MS 1000  /* far below half a heartbeat */
#define ATTEND_RARELY_MS 2000 /* the same for who has nothing to do; below half of it */
#define REST_US 150000        /* longest wait with a transaction that holds the restore mode */
#define BLOCKED_WAIT_MS 500
#define HELD_BACK_MS 500 /* between looks in restore mode */
#define BACKOFF_BASE_MS 100
#define BACKOFF_MAX_MS 3000
#define BACKOFF_REFUSED_MAX_MS 15000 /* a person must act first */
#define DELETE_TRIES 8

static bool may_pass(const struct err *err)
{
    return err->kind == ERR_RETRY || err->kind == ERR_UNKNOWN;
}

static bool is_news(_Atomic int *told, int kind)
{
    return atomic_exchange(told, kind) != kind;
}

/* Logged once for all threads that share it when trouble begins, changes its kind, or ends. */
static void tell_database(struct relay *r, const struct err *err)
{
    if (!is_news(&r->db_kind, err ? (int)err->kind : ERR_NONE))
        return;
    if (!err)
        log_info("outbox.database", L_MSG("available again"));
    else if (may_pass(err))
        log_warn("outbox.database", L_ERR(err));
    else
        log_error("outbox.database", L_ERR(err));
}

static void tell_broker(struct pool *pool, const struct err *err)
{
    const char *lane = message_type_name(pool->type);

    readiness_lane_is(pool->readiness, err ? err->msg : NULL);
    if (!is_news(&pool->broker_kind, err ? (int)err->kind : ERR_NONE))
        return;
    if (!err)
        log_info("outbox.broker", L_STR("lane", lane), L_MSG("available again"));
    else if (may_pass(err))
        log_warn("outbox.broker", L_STR("lane", lane), L_ERR(err));
    else
        log_error("outbox.broker", L_STR("lane", lane), L_ERR(err));
}

static void take_pause(struct relay_thread *t)
{
    int64_t ms = t->pause_ms;

    t->pause_ms = 0;
    if (!ms)
        return;
    daemon_beat_rest(t->beat, ms);
    pause_for(&t->pool->relay->pause, ms);
}

static void db_failed(struct relay_thread *t, const struct err *err)
{
    struct relay *r = t->pool->relay;

    t->db_failures++;
    if (!db_is_conflict(err))
        tell_database(r, err);
    t->pause_ms = backoff_ms(t->db_failures, BACKOFF_BASE_MS, BACKOFF_MAX_MS, random_u64());
}

static void db_worked(struct relay_thread *t)
{
    t->db_failures = 0;
    tell_database(t->pool->relay, NULL);
}

/* ---- the broker connection ---- */

static void note_blocked(struct relay_thread *t)
{
    struct relay *r = t->pool->relay;
    bool blocked = broker_is_blocked(t->broker);
    int n;

    if (blocked == t->blocked)
        return;
    t->blocked = blocked;
    n = atomic_fetch_add(&r->blocked, blocked ? 1 : -1) + (blocked ? 1 : -1);
    metrics_set(r->blocked_gauge, n > 0);
    if (blocked && n == 1)
        log_warn("broker.blocked", L_MSG("the broker takes no messages; nothing is claimed"));
    else if (!blocked && n == 0)
        log_info("broker.unblocked", L_MSG("the broker takes messages again"));
}

static void broker_failed(struct relay_thread *t, const struct err *err)
{
    note_blocked(t);
    t->broker_failures++;
    tell_broker(t->pool, err);
    t->pause_ms = backoff_ms(t->broker_failures, BACKOFF_BASE_MS,
                             err->kind == ERR_PERMANENT ? BACKOFF_REFUSED_MAX_MS : BACKOFF_MAX_MS,
                             random_u64());
}

static void on_idle_event(const struct broker_event *event, void *arg)
{
    struct relay_thread *t = arg;

    if (event->type == BROKER_CHANNEL_CLOSED)
        t->stray_close = true;
}

static void warn_of_declaration(struct relay_thread *t)
{
    const char *warning = broker_warning(t->broker);

    if (readiness_warn("dead letters", warning) && *warning)
        log_warn("broker.declared_otherwise", L_STR("lane", message_type_name(t->pool->type)),
                 L_MSG(warning));
}

/* Reads what has come and keeps heartbeats going; opens what is closed. */
static int attend(struct relay_thread *t, struct err *err)
{
    t->attended_ms = clock_mono_ms();
    if (broker_may_go_home(t->broker)) /* nothing is on its way: batches end with their confirms */
        broker_close(t->broker);
    if (!broker_is_open(t->broker)) {
        if (broker_open(t->broker, err) || broker_confirm(t->broker, err))
            return -1;
        if (t->opened_before)
            metrics_add(t->pool->relay->reconnects, 1);
        t->opened_before = true;
        tell_broker(t->pool, NULL);
        warn_of_declaration(t);
        return 0;
    }
    t->stray_close = false;
    if (broker_pump(t->broker, t->blocked ? BLOCKED_WAIT_MS : 0, 0, on_idle_event, t, err))
        return -1;
    if (t->stray_close) {
        broker_drop(t->broker);
        return err_set(err, ERR_RETRY, 0, "broker: channel closed");
    }
    return 0;
}

/* Whether a batch could be published now. */
static bool broker_takes(struct relay_thread *t)
{
    struct err err;

    if (attend(t, &err)) {
        broker_failed(t, &err);
        return false;
    }
    note_blocked(t);
    return !t->blocked;
}

/* ---- looking ---- */

/* For how long a thread may leave its connection alone. */
static int64_t unattended_ms(void)
{
    int64_t most_ms = outboxd_settings.broker.heartbeat_sec * 1000 * 2 / 5;

    return most_ms < ATTEND_RARELY_MS ? most_ms : ATTEND_RARELY_MS;
}

static bool start_looking(struct relay_thread *t)
{
    struct pool *pool = t->pool;
    struct timespec until = pause_until(unattended_ms());
    bool mine;

    pthread_mutex_lock(&pool->lock);
    while (pool->looking && !pause_stopping(&pool->relay->pause) &&
           pause_cond_wait(&pool->nobody_looks, &pool->lock, &until))
        ;
    mine = !pool->looking && !pause_stopping(&pool->relay->pause);
    if (mine)
        pool->looking = true;
    pthread_mutex_unlock(&pool->lock);
    return mine;
}

static void stop_looking(struct relay_thread *t)
{
    pthread_mutex_lock(&t->pool->lock);
    t->pool->looking = false;
    pthread_cond_signal(&t->pool->nobody_looks);
    pthread_mutex_unlock(&t->pool->lock);
}

/* What to look for; when there is nothing yet, after a wait until there may be, or the connection
 * wants to be attended to. */
static struct poller_task next_task(struct relay_thread *t)
{
    struct pool *pool = t->pool;
    struct poller_task task;
    struct timespec until;

    pthread_mutex_lock(&pool->lock);
    task = poller_next(&pool->poller, clock_mono_us());
    if (task.look == LOOK_WAIT && task.wait_us > REST_US && t->claim.open) {
        pthread_mutex_unlock(&pool->lock);
        claim_rest(&t->claim);
        return task;
    }
    if (task.look == LOOK_WAIT && !pause_stopping(&pool->relay->pause)) {
        until = pause_until_us(task.wait_us < ATTEND_EVERY_MS * 1000 ? task.wait_us
                                                                     : ATTEND_EVERY_MS * 1000);
        pause_cond_wait(&pool->sooner, &pool->lock, &until);
    }
    pthread_mutex_unlock(&pool->lock);
    return task;
}

static int peek(struct relay_thread *t, struct err *err)
{
    const struct claim *c = &t->claim;
    struct pool *pool = t->pool;
    int64_t start_us = clock_mono_us();
    int64_t now_us;

    if (claim_peek(&t->claim, err))
        return -1;
    now_us = clock_mono_us();
    pthread_mutex_lock(&pool->lock);
    poller_peeked(&pool->poller, c->fresh, c->next_us, c->next_ask_us, now_us - start_us, now_us);
    pthread_mutex_unlock(&pool->lock);
    return 0;
}

static int look(struct relay_thread *t, struct poller_task *task, struct err *err)
{
    struct pool *pool = t->pool;
    int64_t start_us = clock_mono_us();
    int64_t now_us;

    if (task->look == LOOK_PEEK)
        return peek(t, err);
    if (task->limit > t->limit)
        task->limit = t->limit;
    if (claim_take(&t->claim, task, task->limit, err))
        return -1;
    if (t->claim.held_back)
        return 0;
    now_us = clock_mono_us();
    pthread_mutex_lock(&pool->lock);
    if (task->look == LOOK_DUE)
        poller_put_off(&pool->poller, t->claim.next_us, t->claim.next_ask_us, now_us);
    poller_found(&pool->poller, task, t->claim.seen, t->claim.n, t->claim.bytes, t->claim.last_id,
                 now_us - start_us, now_us);
    pthread_mutex_unlock(&pool->lock);
    return 0;
}

/* Looks until there are rows (true), or there is a reason to stop looking. */
static bool find_work(struct relay_thread *t)
{
    struct relay *r = t->pool->relay;
    struct err err;

    while (!pause_stopping(&r->pause)) {
        struct poller_task task;

        daemon_beat(t->beat);
        if (clock_mono_ms() - t->attended_ms >= ATTEND_EVERY_MS && !broker_takes(t))
            break;
        task = next_task(t);
        if (task.look == LOOK_WAIT)
            continue;
        if (look(t, &task, &err)) {
            db_failed(t, &err);
            break;
        }
        db_worked(t);
        if (t->claim.n)
            return true;
        if (t->claim.held_back) {
            t->pause_ms = HELD_BACK_MS;
            break;
        }
    }
    claim_end(&t->claim);
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

static void report_refused(struct relay_thread *t)
{
    static const char *const causes[CAUSES] = {[CAUSE_PAYLOAD] = "payload",
                                               [CAUSE_UNROUTABLE] = "unroutable",
                                               [CAUSE_CHANNEL] = "channel"};
    struct relay *r = t->pool->relay;

    for (size_t i = 0; i < t->claim.n; i++) {
        const struct row *row = &t->claim.rows[i];
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
static int delete_stubbornly(struct relay_thread *t, struct err *err)
{
    int rc = -1;

    for (int i = 0; rc && i < DELETE_TRIES; i++) {
        daemon_beat(t->beat);
        db_failed(t, err);
        take_pause(t);
        rc = claim_delete_again(&t->claim, err);
    }
    return rc;
}

/* The poller learns how the batch went. */
static void hand_back(struct relay_thread *t, const struct outcome *o)
{
    struct pool *pool = t->pool;
    int64_t now_us = clock_mono_us();

    pthread_mutex_lock(&pool->lock);
    if (o->refused)
        poller_rung(&pool->poller, false, true, now_us);
    if (o->left)
        poller_returned(&pool->poller, o->lowest_left, t->claim.put_off, now_us);
    if (o->refused || o->left)
        pthread_cond_signal(&pool->sooner);
    pthread_mutex_unlock(&pool->lock);
}

static void leave_all(struct claim *c)
{
    for (size_t i = 0; i < c->n; i++)
        c->rows[i].state = ROW_LEFT;
}

static void finish(struct relay_thread *t)
{
    struct outcome o = tally(&t->claim);
    struct err err;
    int rc;

    if (o.confirmed && failpoint(FAILPOINT_OUTBOX_AFTER_CONFIRM)) {
        leave_all(&t->claim);
        o = tally(&t->claim);
    }
    rc = claim_finish(&t->claim, &err);
    if (rc)
        rc = delete_stubbornly(t, &err);
    else
        report_refused(t);
    if (rc)
        leave_all(&t->claim);
    else
        db_worked(t);
    metrics_add(t->pool->published, o.confirmed);
    o = tally(&t->claim);
    hand_back(t, &o);
    claim_end(&t->claim);
    failpoint(FAILPOINT_OUTBOX_AFTER_DELETE);
}

/* Slower and with fewer rows while the broker does not keep up; back by doubling. */
static void slow_down(struct relay_thread *t, const struct err *err)
{
    t->limit = t->limit > 1 ? t->limit / 2 : 1;
    broker_failed(t, err);
}

static void adjust(struct relay_thread *t, int rc, const struct outcome *o, const struct err *err)
{
    struct err why;

    note_blocked(t);
    if (rc) {
        slow_down(t, err);
    } else if (t->publisher.nacked) {
        err_set(&why, ERR_RETRY, 0, "broker: messages were not taken (nack)");
        slow_down(t, &why);
    } else if (!o->confirmed && !o->refused && !t->blocked) {
        err_set(&why, ERR_RETRY, 0, "broker: no message of a batch was taken");
        slow_down(t, &why);
    } else if (o->confirmed) {
        t->broker_failures = 0;
        tell_broker(t->pool, NULL);
        t->limit = t->limit * 2 < outboxd_settings.batch ? t->limit * 2 : outboxd_settings.batch;
    }
}

static int64_t publish_deadline_ms(struct relay *r)
{
    int64_t most_ms = outboxd_settings.confirm_timeout_ms;

    if (pause_stopping(&r->pause) && daemon_drain_left_ms() < most_ms)
        most_ms = daemon_drain_left_ms();
    return clock_mono_ms() + most_ms;
}

static void deliver(struct relay_thread *t)
{
    struct claim *c = &t->claim;
    int64_t start_us = clock_wall_us();
    struct outcome o;
    struct err err;
    int rc;

    metrics_observe(t->pool->batch_size, (int64_t)c->n);
    if (failpoint(FAILPOINT_OUTBOX_AFTER_CLAIM)) {
        leave_all(c);
        o = tally(c);
        hand_back(t, &o);
        claim_return(c);
        return;
    }
    rc = publish_batch(&t->publisher, t->broker, c->rows, c->n, publish_deadline_ms(t->pool->relay),
                       &err);
    t->attended_ms = clock_mono_ms();
    daemon_beat(t->beat);
    if (tracer_on())
        spans_publish(c, start_us);
    o = tally(c);
    finish(t);
    adjust(t, rc, &o, &err);
}

/* ---- the doorbell ---- */

void relay_heard(void *relay, unsigned what)
{
    struct relay *r = relay;

    for (int i = 0; i < MESSAGE_LANES; i++) {
        struct pool *pool = &r->pools[i];

        if (!(what & (DOORBELL_FRESH(i) | DOORBELL_LATER(i))))
            continue;
        pthread_mutex_lock(&pool->lock);
        poller_rung(&pool->poller, what & DOORBELL_FRESH(i), what & DOORBELL_LATER(i),
                    clock_mono_us());
        pthread_cond_signal(&pool->sooner);
        pthread_mutex_unlock(&pool->lock);
    }
}

void relay_hears(void *relay, bool yes)
{
    struct relay *r = relay;

    for (int i = 0; i < MESSAGE_LANES; i++) {
        struct pool *pool = &r->pools[i];

        pthread_mutex_lock(&pool->lock);
        poller_hears(&pool->poller, yes, clock_mono_us());
        pthread_cond_signal(&pool->sooner);
        pthread_mutex_unlock(&pool->lock);
    }
}

/* ---- threads ---- */

static bool schema_ready(struct relay_thread *t, bool *seen)
{
    struct db *db = t->claim.db;
    enum schema schema = SCHEMA_UNKNOWN;
    struct err err;

    if (*seen)
        return true;
    if (!db_acquire(db, &err))
        schema = schema_look(db, seen, &err);
    db_release(db);
    if (schema == SCHEMA_UNKNOWN) {
        db_failed(t, &err);
        return false;
    }
    db_worked(t);
    if (schema == SCHEMA_NOT_YET) {
        if (!atomic_exchange(&t->pool->relay->waiting_for_schema, true))
            log_info("schema.waiting", L_MSG(err.msg));
        t->pause_ms = BLOCKED_WAIT_MS;
    }
    return *seen;
}

void *relay_thread_main(void *arg)
{
    struct relay_thread *t = arg;
    struct relay *r = t->pool->relay;
    bool schema_seen = false;

    while (!pause_stopping(&r->pause)) {
        bool work;

        daemon_beat(t->beat);
        take_pause(t);
        if (!schema_ready(t, &schema_seen))
            continue;
        daemon_beat(t->beat);
        if (!broker_takes(t) || !start_looking(t))
            continue;
        work = find_work(t);
        stop_looking(t);
        if (work)
            deliver(t);
    }
    broker_close(t->broker);
    pause_leave(&r->pause);
    return NULL;
}
