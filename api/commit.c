#include "api/commit.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "api/batch.h"
#include "api/settings.h"
#include "api/spans.h"
#include "libcommon/backoff.h"
#include "libcommon/clock.h"
#include "libcommon/daemon.h"
#include "libcommon/failpoint.h"
#include "libcommon/log.h"
#include "libcommon/metrics.h"
#include "libcommon/must.h"
#include "libcommon/pause.h"
#include "libcommon/tracer.h"

#define CONFLICT_TRIES 3  /* deadlock or lock wait, before SKIP LOCKED */
#define CAREFUL_MS 5000   /* how long SKIP LOCKED is kept up after a row was found held */
#define ASIDE_PAUSE_MS 20 /* between looks at a held row when nothing else is to do */
#define DOWN_PAUSE_MS 100 /* between connection attempts */
#define IDLE_BEAT_MS 5000

struct queue {
    struct operation *first;
    struct operation **last;
    size_t count;
    size_t bytes;
};

struct committer {
    struct commit *parent;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct queue queue; /* under lock */
    bool closed;        /* under lock */

    /* the thread's own */
    struct db *db;
    struct batch *batch;
    struct daemon_beat *beat;
    struct queue aside; /* customers whose row somebody else holds */
    int64_t careful_until_ms;
    int64_t down_since_ms; /* 0: the database answered last time */
};

struct commit {
    commit_answer_fn *answer;
    struct batch_settings batch_settings;
    size_t count;
    struct committer committers[];
};

static struct metric *batch_sizes;
static struct metric *set_aside;
static struct metric *lost_commits;

static void queue_put(struct queue *q, struct operation *op)
{
    op->next = NULL;
    *(q->first ? q->last : &q->first) = op;
    q->last = &op->next;
    q->count++;
    q->bytes += op->bytes;
}

static struct operation *queue_take(struct queue *q)
{
    struct operation *op = q->first;

    q->first = op->next;
    q->count--;
    q->bytes -= op->bytes;
    op->next = NULL;
    return op;
}

static void finish(struct committer *c, struct operation *op, enum operation_outcome outcome)
{
    op->outcome = outcome;
    c->parent->answer(op);
}

static void finish_all(struct committer *c, struct operation **ops, size_t n,
                       enum operation_outcome outcome)
{
    for (size_t i = 0; i < n; i++)
        finish(c, ops[i], outcome);
}

/* Answers those whose deadline has passed, keeps the others in order; returns how many are left. */
static size_t expire(struct committer *c, struct operation **ops, size_t n,
                     enum operation_outcome outcome)
{
    int64_t now_ms = clock_mono_ms();
    size_t kept = 0;

    for (size_t i = 0; i < n; i++) {
        if (ops[i]->deadline_ms <= now_ms)
            finish(c, ops[i], outcome);
        else
            ops[kept++] = ops[i];
    }
    return kept;
}

static void pause_ms(struct committer *c, int ms)
{
    struct timespec until = pause_until(ms);

    pthread_mutex_lock(&c->lock);
    pthread_cond_timedwait(&c->wake, &c->lock, &until);
    pthread_mutex_unlock(&c->lock);
}

static void log_failure(const char *event, const struct err *err, size_t n)
{
    log_warn(event, L_ERR(err), L_INT("requests", n));
}

/* A connection, or -1 after a pause. Nobody waits behind an outage that has outlasted the deadline.
 */
static int connect_or_pause(struct committer *c, struct err *err)
{
    if (db_acquire(c->db, err) == 0) {
        c->down_since_ms = 0;
        return 0;
    }
    if (!c->down_since_ms) {
        c->down_since_ms = clock_mono_ms();
        log_failure("commit.database_away", err, 0);
    }
    pause_ms(c, DOWN_PAUSE_MS);
    return -1;
}

static bool outage_is_old(const struct committer *c)
{
    return c->down_since_ms &&
           clock_mono_ms() - c->down_since_ms > api_settings.request_deadline_ms;
}

/* The answer to COMMIT was lost: nothing may be answered before its fate is known. Returns 1
 * committed, 0 not committed, -1 not found out by the last deadline (all answered OUTCOME_UNKNOWN).
 */
static int resolve(struct committer *c, struct operation **ops, size_t n)
{
    struct err err;
    bool committed;
    int64_t give_up_ms = 0;

    metrics_add(lost_commits, 1);
    for (size_t i = 0; i < n; i++)
        if (ops[i]->deadline_ms > give_up_ms)
            give_up_ms = ops[i]->deadline_ms;
    do {
        daemon_beat(c->beat);
        if (connect_or_pause(c, &err))
            continue;
        if (db_end_lost_session(c->db, &err) == 0 &&
            batch_look(c->batch, c->db, &committed, &err) == 0)
            return committed;
        log_failure("commit.look_failed", &err, n);
    } while (clock_mono_ms() < give_up_ms);
    for (size_t i = 0; i < n; i++) {
        if (ops[i]->outcome == OUTCOME_DONE || ops[i]->twin)
            ops[i]->outcome = OUTCOME_UNKNOWN;
        else if (ops[i]->outcome == OUTCOME_LOCKED)
            ops[i]->outcome = OUTCOME_LOCKED_TOO_LONG;
        c->parent->answer(ops[i]);
    }
    return -1;
}

static void answer_batch(struct committer *c, struct operation **ops, size_t n)
{
    int64_t now_ms = clock_mono_ms();

    for (size_t i = 0; i < n; i++) {
        if (ops[i]->outcome == OUTCOME_LOCKED) {
            c->careful_until_ms = now_ms + CAREFUL_MS;
            metrics_add(set_aside, 1);
            queue_put(&c->aside, ops[i]);
        } else {
            c->parent->answer(ops[i]);
        }
    }
}

enum attempt { ATTEMPT_DONE, ATTEMPT_AGAIN, ATTEMPT_SPLIT };

static enum attempt failed(struct committer *c, struct err *err, size_t n, unsigned *conflicts)
{
    db_rollback(c->db);
    if (db_is_conflict(err)) {
        if (++*conflicts >= CONFLICT_TRIES || err->code == 1205)
            c->careful_until_ms = clock_mono_ms() + CAREFUL_MS;
        return ATTEMPT_AGAIN;
    }
    log_failure("commit.failed", err, n);
    if (err->kind == ERR_RETRY) {
        pause_ms(c, DOWN_PAUSE_MS);
        return ATTEMPT_AGAIN;
    }
    return ATTEMPT_SPLIT;
}

static int write_batch(struct committer *c, struct err *err)
{
    if (failpoint(FAILPOINT_API_BEFORE_COMMIT))
        return err_set(err, ERR_RETRY, 0, "failpoint");
    if (batch_write(c->batch, c->db, err))
        return -1;
    if (failpoint(FAILPOINT_API_AFTER_COMMIT))
        return err_set(err, ERR_UNKNOWN, 0, "failpoint");
    return 0;
}

static enum attempt try_batch(struct committer *c, struct operation **ops, size_t n,
                              unsigned *conflicts)
{
    bool careful = clock_mono_ms() < c->careful_until_ms;
    int64_t start_us = clock_wall_us();
    bool writes;
    struct err err;
    int fate;

    if (connect_or_pause(c, &err))
        return ATTEMPT_AGAIN;
    if (batch_start(c->batch, ops, n))
        return ATTEMPT_SPLIT;
    if (failpoint(FAILPOINT_API_BEFORE_BEGIN))
        return ATTEMPT_AGAIN;
    if (batch_decide(c->batch, c->db, careful, &writes, &err))
        return failed(c, &err, n, conflicts);
    if (!writes) {
        db_rollback(c->db);
    } else if (write_batch(c, &err)) {
        if (err.kind != ERR_UNKNOWN)
            return failed(c, &err, n, conflicts);
        log_failure("commit.outcome_unknown", &err, n);
        fate = resolve(c, ops, n);
        if (fate < 0)
            return ATTEMPT_DONE;
        if (fate == 0)
            return ATTEMPT_AGAIN;
    }
    metrics_observe(batch_sizes, (int64_t)n);
    if (tracer_on())
        spans_commit(ops, n, start_us);
    answer_batch(c, ops, n);
    (void)failpoint(FAILPOINT_API_AFTER_REPLY);
    return ATTEMPT_DONE;
}

/* Decides every one of ops, by as many transactions as it takes. */
static void run_batch(struct committer *c, struct operation **ops, size_t n)
{
    unsigned conflicts = 0;
    enum attempt attempt = ATTEMPT_AGAIN;

    while (n && attempt == ATTEMPT_AGAIN) {
        daemon_beat(c->beat);
        attempt = try_batch(c, ops, n, &conflicts);
        if (attempt == ATTEMPT_AGAIN && outage_is_old(c)) {
            finish_all(c, ops, n, OUTCOME_UNAVAILABLE);
            return;
        }
        if (attempt == ATTEMPT_AGAIN)
            n = expire(c, ops, n, OUTCOME_UNAVAILABLE);
    }
    if (attempt != ATTEMPT_SPLIT || !n)
        return;
    if (n == 1) {
        log_error("commit.request_failed", L_STR("message_id", ops[0]->message.id),
                  L_MSG("this request alone fails; nothing of it is stored"));
        finish(c, ops[0], OUTCOME_INTERNAL);
        return;
    }
    run_batch(c, ops, n / 2);
    run_batch(c, ops + n / 2, n - n / 2);
}

static size_t rows_of(const struct operation *op)
{
    return op->kind == OPERATION_SEND ? op->message.recipient_count : 1;
}

/* Moves what fits one transaction from q to ops; at least one. */
static size_t take_batch(struct queue *q, struct operation **ops)
{
    size_t n = 0;
    size_t rows = 0;
    size_t bytes = 0;

    while (q->first && n < BATCH_CUSTOMERS_MAX) {
        rows += rows_of(q->first);
        bytes += q->first->bytes;
        if (n && (rows > (size_t)api_settings.commit_max_rows ||
                  bytes > (size_t)api_settings.commit_max_bytes))
            break;
        ops[n++] = queue_take(q);
    }
    return n;
}

static void retry_aside(struct committer *c)
{
    struct operation *ops[BATCH_CUSTOMERS_MAX];
    size_t n = take_batch(&c->aside, ops);

    n = expire(c, ops, n, OUTCOME_LOCKED_TOO_LONG);
    if (n) {
        c->careful_until_ms = clock_mono_ms() + CAREFUL_MS;
        run_batch(c, ops, n);
    }
}

static void wait_for_work(struct committer *c)
{
    struct timespec until = pause_until(IDLE_BEAT_MS);

    while (!c->queue.first && !c->closed && !c->aside.first)
        if (pthread_cond_timedwait(&c->wake, &c->lock, &until))
            break;
}

static void *committer_main(void *arg)
{
    struct committer *c = arg;
    struct operation *ops[BATCH_CUSTOMERS_MAX];
    bool closed;
    size_t n;

    do {
        daemon_beat(c->beat);
        pthread_mutex_lock(&c->lock);
        if (!c->queue.first && !c->closed && !c->aside.first) {
            db_release(c->db);
            wait_for_work(c);
        }
        n = take_batch(&c->queue, ops);
        closed = c->closed && !c->queue.first;
        pthread_mutex_unlock(&c->lock);
        if (n)
            run_batch(c, ops, n);
        else if (c->aside.first)
            pause_ms(c, ASIDE_PAUSE_MS);
        if (c->aside.first)
            retry_aside(c);
    } while (!closed || c->aside.first);
    db_release(c->db);
    return NULL;
}

struct commit *commit_start(commit_answer_fn *answer)
{
    size_t count = (size_t)api_settings.committers;
    struct commit *commit = must_alloc(1, sizeof(*commit) + count * sizeof(commit->committers[0]));

    batch_register();
    batch_sizes = metrics_sizes("msg_commit_batch_size", "Requests in one transaction.", "");
    set_aside = metrics_counter("msg_commit_set_aside_total",
                                "Requests put off because a balance row was held.", "");
    lost_commits =
        metrics_counter("msg_commit_lost_answers_total", "COMMITs whose answer was lost.", "");
    commit->answer = answer;
    commit->count = count;
    commit->batch_settings.exchange = api_settings.broker.exchange;
    for (int i = 0; i < MESSAGE_LANES; i++)
        commit->batch_settings.queues[i] = broker_queue(&api_settings.broker, (enum message_type)i);
    for (size_t i = 0; i < count; i++) {
        struct committer *c = &commit->committers[i];

        c->parent = commit;
        c->db = db_new(&api_settings.db);
        c->batch = batch_new(&commit->batch_settings);
        c->beat = daemon_beat_new("committer");
        pthread_mutex_init(&c->lock, NULL);
        pause_cond_init(&c->wake);
        MUST(pthread_create(&c->thread, NULL, committer_main, c) == 0);
    }
    return commit;
}

bool commit_submit(struct commit *commit, struct operation *op)
{
    struct committer *c =
        &commit->committers[(uint64_t)op->customer_id * 0x9e3779b97f4a7c15u % commit->count];
    size_t most = (size_t)api_settings.commit_queue_max / commit->count + 1;
    size_t most_bytes = (size_t)api_settings.commit_queue_bytes / commit->count;
    bool fits;

    pthread_mutex_lock(&c->lock);
    fits = !c->closed && c->queue.count < most &&
           (!c->queue.count || c->queue.bytes + op->bytes <= most_bytes);
    if (fits) {
        bool was_empty = !c->queue.first;

        queue_put(&c->queue, op);
        if (was_empty)
            pthread_cond_signal(&c->wake);
    }
    pthread_mutex_unlock(&c->lock);
    return fits;
}

void commit_stop(struct commit *commit)
{
    for (size_t i = 0; i < commit->count; i++) {
        struct committer *c = &commit->committers[i];

        pthread_mutex_lock(&c->lock);
        c->closed = true;
        pthread_cond_signal(&c->wake);
        pthread_mutex_unlock(&c->lock);
    }
    for (size_t i = 0; i < commit->count; i++) {
        struct committer *c = &commit->committers[i];

        pthread_join(c->thread, NULL);
        batch_free(c->batch);
        db_free(c->db);
        pthread_cond_destroy(&c->wake);
        pthread_mutex_destroy(&c->lock);
    }
    free(commit);
}
