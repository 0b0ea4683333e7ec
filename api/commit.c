#include "api/commit.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "api/batch.h"
#include "api/commit_queue.h"
#include "api/settings.h"
#include "api/spans.h"
#include "libcommon/base/backoff.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/base/pause.h"
#include "libcommon/daemon/daemon.h"
#include "libcommon/daemon/failpoint.h"
#include "libcommon/telemetry/log.h"
#include "libcommon/telemetry/metrics.h"
#include "libcommon/telemetry/tracer.h"

#define CONFLICT_TRIES 3  /* deadlock or lock wait, before SKIP LOCKED */
#define CAREFUL_MS 5000   /* how long SKIP LOCKED is kept up after a row was found held */
#define ASIDE_PAUSE_MS 20 /* between looks at a held row when nothing else is to do */
#define DOWN_PAUSE_MS 100 /* between connection attempts */
#define IDLE_BEAT_MS 5000

struct committer {
    struct commit *parent;
    pthread_t thread;
    struct db *db;
    struct batch *batch;
    struct daemon_beat *beat;
    struct commit_hand hand;
    int64_t ended_us; /* the last batch, on clock_mono_us */
    bool read_only;   /* the database took no writes when it was last asked */
};

struct commit {
    commit_answer_fn *answer;
    struct batch_settings batch_settings;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct commit_queue *queue; /* under lock */
    bool closed;                /* under lock */
    _Atomic bool stopping;      /* what waits is answered, not begun */
    _Atomic int64_t careful_until_ms;
    _Atomic bool told_too_large;
    _Atomic int64_t down_since_ms; /* 0: the database answered last time */
    _Atomic unsigned failed_with;  /* what has been logged and goes on; 0: the last batch worked */
    size_t count;
    struct committer committers[];
};

static struct metric *batch_sizes;
static struct metric *set_aside;
static struct metric *lost_commits;

static void finish(struct committer *c, struct operation *op, enum operation_outcome outcome)
{
    op->outcome = outcome;
    c->parent->answer(op);
}

/* What becomes of one that is given up. Where an earlier try of it may have been written all the
 * same, nobody is told that it was not. */
static enum operation_outcome given_up(const struct operation *op, enum operation_outcome outcome)
{
    return op->doubted ? OUTCOME_UNKNOWN : outcome;
}

static void give_up_all(struct committer *c, struct operation **ops, size_t n,
                        enum operation_outcome outcome)
{
    for (size_t i = 0; i < n; i++)
        finish(c, ops[i], given_up(ops[i], outcome));
}

/* What becomes of one that is to be tried, perhaps after a try that failed; OUTCOME_OPEN: it is. */
static enum operation_outcome before_try(struct committer *c, struct operation *op, int64_t now_ms)
{
    enum operation_outcome last = op->outcome;

    if (last == OUTCOME_WRITTEN)
        return OUTCOME_DONE;
    if (last == OUTCOME_EXPIRED ||
        (op->begun && !c->parent->batch_settings.enter(op, STAGE_WAITING)))
        return OUTCOME_EXPIRED;
    op->begun = false;
    if (op->deadline_ms > now_ms && !atomic_load(&c->parent->stopping))
        return OUTCOME_OPEN;
    return given_up(op, last == OUTCOME_LOCKED ? OUTCOME_LOCKED_TOO_LONG : OUTCOME_TOO_LATE);
}

/* Answers those whose deadline has passed, keeps the others in order; returns how many are left. */
static size_t keep_waiting(struct committer *c, struct operation **ops, size_t n)
{
    int64_t now_ms = clock_mono_ms();
    size_t kept = 0;

    for (size_t i = 0; i < n; i++) {
        enum operation_outcome outcome = before_try(c, ops[i], now_ms);

        if (outcome == OUTCOME_OPEN)
            ops[kept++] = ops[i];
        else
            finish(c, ops[i], outcome);
    }
    return kept;
}

static void log_failure(const char *event, const struct err *err, size_t n)
{
    log_warn(event, L_ERR(err), L_INT("requests", n));
}

/* A connection, or -1 after a pause. Nobody waits behind an outage that has outlasted the deadline.
 */
static int connect_or_pause(struct committer *c, struct err *err)
{
    int64_t up = 0;

    c->read_only = false;
    if (db_acquire(c->db, err) == 0) {
        atomic_store(&c->parent->down_since_ms, 0);
        return 0;
    }
    if (atomic_compare_exchange_strong(&c->parent->down_since_ms, &up, clock_mono_ms()))
        log_failure("commit.database_away", err, 0);
    c->read_only = db_is_read_only(err);
    pause_sleep(DOWN_PAUSE_MS); /* neither new work nor a stop brings the database back */
    return -1;
}

static bool outage_is_old(const struct commit *commit)
{
    int64_t since_ms = atomic_load(&commit->down_since_ms);

    return since_ms && clock_mono_ms() - since_ms > api_settings.request_deadline_ms;
}

static void be_careful(struct commit *commit)
{
    atomic_store(&commit->careful_until_ms, clock_mono_ms() + CAREFUL_MS);
}

/* Of one whose batch's fate is not known. */
static enum operation_outcome unresolved(const struct operation *op)
{
    if (op->begun)
        return OUTCOME_UNKNOWN;
    if (op->outcome == OUTCOME_WRITTEN)
        return OUTCOME_DONE;
    return op->outcome == OUTCOME_LOCKED ? given_up(op, OUTCOME_LOCKED_TOO_LONG) : op->outcome;
}

/* The answer to COMMIT was lost: nothing may be answered before its fate is known. The session to
 * be ended is that one: others may be lost on the way. Returns 1 committed, 0 not committed, -1 not
 * found out by the last deadline (all answered OUTCOME_UNKNOWN). */
static int resolve(struct committer *c, struct operation **ops, size_t n)
{
    struct db_lost_session lost = db_lost_session(c->db);
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
        if (db_end_lost_session(c->db, &lost, &err) == 0 &&
            batch_look(c->batch, c->db, &committed, &err) == 0)
            return committed;
        log_failure("commit.look_failed", &err, n);
    } while (clock_mono_ms() < give_up_ms && !atomic_load(&c->parent->stopping));
    for (size_t i = 0; i < n; i++)
        finish(c, ops[i], unresolved(ops[i]));
    return -1;
}

/* Somebody else has its customer's balance row. */
static void set_aside_until_free(struct committer *c, struct operation *op)
{
    struct commit *commit = c->parent;

    be_careful(commit);
    metrics_add(set_aside, 1);
    if (!commit->batch_settings.enter(op, STAGE_HELD)) {
        finish(c, op, OUTCOME_EXPIRED);
        return;
    }
    pthread_mutex_lock(&commit->lock);
    commit_queue_set_aside(commit->queue, op);
    pthread_mutex_unlock(&commit->lock);
}

/* What was written and looked up in vain: should it be there in the end, it must be neither charged
 * again nor refused. */
static void doubt(struct operation **ops, size_t n)
{
    for (size_t i = 0; i < n; i++)
        ops[i]->doubted |= ops[i]->begun;
}

static void answer_batch(struct committer *c, struct operation **ops, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (ops[i]->outcome == OUTCOME_WRITTEN)
            ops[i]->outcome = OUTCOME_DONE;
        if (ops[i]->outcome == OUTCOME_LOCKED)
            set_aside_until_free(c, ops[i]);
        else
            c->parent->answer(ops[i]);
    }
}

enum attempt { ATTEMPT_DONE, ATTEMPT_AGAIN, ATTEMPT_SPLIT, ATTEMPT_TOO_LARGE };

/* What has become of a batch's tries so far. */
struct tries {
    unsigned conflicts;
    bool refused; /* by batch_accept: it must be decided */
};

/* Once: a server with a small limit would have it told with every batch. */
static void tell_too_large(struct commit *commit, const struct err *err, size_t n)
{
    if (!atomic_exchange(&commit->told_too_large, true))
        log_warn("commit.packet_too_large", L_ERR(err), L_INT("requests", n),
                 L_MSG("batches are split; raise the server's max_allowed_packet, or lower "
                       "COMMIT_MAX_BYTES and COMMIT_MAX_ROWS"));
}

static enum attempt failed(struct committer *c, struct err *err, size_t n, struct tries *tries)
{
    db_rollback(c->db);
    if (db_is_conflict(err)) {
        if (++tries->conflicts >= CONFLICT_TRIES || err->code == 1205)
            be_careful(c->parent);
        return ATTEMPT_AGAIN;
    }
    if (db_is_too_large(err)) {
        tell_too_large(c->parent, err, n);
        return ATTEMPT_TOO_LARGE;
    }
    if (err->kind == ERR_RETRY) {
        if (atomic_exchange(&c->parent->failed_with, err->code) != err->code)
            log_failure("commit.failed", err, n);
        pause_sleep(DOWN_PAUSE_MS);
        return ATTEMPT_AGAIN;
    }
    log_failure("commit.failed", err, n);
    return ATTEMPT_SPLIT;
}

/* easy: all of it, which may be refused. */
static int write_batch(struct committer *c, bool easy, enum batch_accepted *accepted,
                       struct err *err)
{
    *accepted = BATCH_WRITTEN;
    if (failpoint_err(FAILPOINT_API_BEFORE_COMMIT, err))
        return -1;
    if (easy ? batch_accept(c->batch, c->db, accepted, err) : batch_write(c->batch, c->db, err))
        return -1;
    if (*accepted == BATCH_WRITTEN && failpoint(FAILPOINT_API_AFTER_COMMIT))
        return err_set(err, ERR_UNKNOWN, 0, "failpoint");
    return 0;
}

static enum attempt try_batch(struct committer *c, struct operation **ops, size_t n,
                              struct tries *tries)
{
    bool careful = clock_mono_ms() < atomic_load(&c->parent->careful_until_ms);
    int64_t start_us = clock_wall_us();
    bool writes = true;
    bool easy;
    enum batch_accepted accepted;
    struct err err;
    int fate;

    if (connect_or_pause(c, &err))
        return ATTEMPT_AGAIN;
    if (batch_start(c->batch, ops, n))
        return ATTEMPT_SPLIT;
    if (failpoint(FAILPOINT_API_BEFORE_BEGIN))
        return ATTEMPT_AGAIN;
    easy = !careful && !tries->refused && batch_is_easy(c->batch, c->db);
    if (!easy && batch_decide(c->batch, c->db, careful, &writes, &err))
        return failed(c, &err, n, tries);
    daemon_beat(c->beat);
    if (!writes) {
        db_rollback(c->db);
    } else if (write_batch(c, easy, &accepted, &err)) {
        if (err.kind != ERR_UNKNOWN)
            return failed(c, &err, n, tries);
        log_failure("commit.outcome_unknown", &err, n);
        fate = resolve(c, ops, n);
        if (fate < 0)
            return ATTEMPT_DONE;
        if (fate == 0) {
            doubt(ops, n);
            return ATTEMPT_AGAIN;
        }
    } else if (accepted == BATCH_REFUSED) {
        tries->refused = true;
        return ATTEMPT_AGAIN;
    }
    atomic_store(&c->parent->failed_with, 0);
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
    struct tries tries = {0};
    enum attempt attempt = ATTEMPT_AGAIN;
    size_t tried = 0;

    n = keep_waiting(c, ops, n);
    while (n && attempt == ATTEMPT_AGAIN) {
        daemon_beat(c->beat);
        tried = n;
        attempt = try_batch(c, ops, n, &tries);
        if (attempt == ATTEMPT_DONE)
            return;
        n = keep_waiting(c, ops, n);
        /* A primary that was demoted stays so for longer than anybody should wait. */
        if (attempt == ATTEMPT_AGAIN && (c->read_only || outage_is_old(c->parent))) {
            give_up_all(c, ops, n, OUTCOME_UNAVAILABLE);
            return;
        }
    }
    if (!n)
        return;
    if (n == 1 && tried > 1) { /* the others' time was up: it has not been tried alone */
        run_batch(c, ops, n);
        return;
    }
    if (n == 1 && attempt == ATTEMPT_TOO_LARGE) {
        finish(c, ops[0], given_up(ops[0], OUTCOME_TOO_LARGE));
        return;
    }
    if (n == 1) {
        log_error("commit.request_failed", L_STR("message_id", ops[0]->message.id),
                  L_MSG("this request alone fails; nothing of it is stored"));
        finish(c, ops[0], given_up(ops[0], OUTCOME_INTERNAL));
        return;
    }
    run_batch(c, ops, n / 2);
    run_batch(c, ops + n / 2, n - n / 2);
}

static bool at_end(const struct commit *commit)
{
    return commit->closed && commit_queue_empty(commit->queue);
}

/* Under the lock. Waits for a batch, but not past the next look at what is aside, or beat. What is
 * aside is first in every batch that is taken. */
static void next_batch(struct committer *c)
{
    struct commit *commit = c->parent;
    struct timespec until =
        pause_until(commit_queue_has_aside(commit->queue) ? ASIDE_PAUSE_MS : IDLE_BEAT_MS);

    while (!commit_queue_may_take(commit->queue) && !at_end(commit))
        if (!pause_cond_wait(&commit->wake, &commit->lock, &until))
            break;
    commit_queue_return(commit->queue);
    if (!commit_queue_may_take(commit->queue))
        return;
    commit_queue_take(commit->queue, &c->hand);
    if (at_end(commit))
        pthread_cond_broadcast(&commit->wake);
    else if (commit_queue_may_take(commit->queue))
        pthread_cond_signal(&commit->wake);
}

/* Under the lock, but for the moment in which a surplus connection may be closed. */
static void release_if_idle(struct committer *c)
{
    struct commit *commit = c->parent;

    if (commit_queue_may_take(commit->queue) || commit_queue_has_aside(commit->queue))
        return;
    pthread_mutex_unlock(&commit->lock);
    db_release(c->db);
    pthread_mutex_lock(&commit->lock);
}

/* Its customers' other requests wait as long; what is worth a transaction of its own is taken by
 * another committer. */
static void gather(struct committer *c, int64_t start_us)
{
    int64_t pause_us =
        commit_queue_gather_us(start_us - c->ended_us, clock_mono_us() - start_us, c->hand.n);

    if (pause_us && !atomic_load(&c->parent->stopping))
        pause_sleep_us(pause_us);
    c->ended_us = clock_mono_us();
}

static void *committer_main(void *arg)
{
    struct committer *c = arg;
    struct commit *commit = c->parent;
    int64_t start_us;

    pthread_mutex_lock(&commit->lock);
    while (!at_end(commit)) {
        daemon_beat(c->beat);
        release_if_idle(c);
        next_batch(c);
        if (!c->hand.n)
            continue;
        pthread_mutex_unlock(&commit->lock);
        start_us = clock_mono_us();
        run_batch(c, c->hand.ops, c->hand.n);
        gather(c, start_us);
        pthread_mutex_lock(&commit->lock);
        commit_queue_done(commit->queue, &c->hand);
    }
    pthread_mutex_unlock(&commit->lock);
    db_release(c->db);
    return NULL;
}

static struct commit_limits queue_limits(void)
{
    return (struct commit_limits){
        .max = (size_t)api_settings.commit_queue_max,
        .max_bytes = (size_t)api_settings.commit_queue_bytes,
        .batch_rows = (size_t)api_settings.commit_max_rows,
        .batch_bytes = (size_t)api_settings.commit_max_bytes,
        .beside_rows = (size_t)api_settings.commit_beside_rows,
    };
}

static void committer_start(struct commit *commit, struct committer *c)
{
    c->parent = commit;
    c->db = db_new(&api_settings.db);
    c->batch = batch_new(&commit->batch_settings);
    c->beat = daemon_beat_new("committer");
    MUST(pthread_create(&c->thread, NULL, committer_main, c) == 0);
}

struct commit *commit_start(commit_answer_fn *answer, operation_enter_fn *enter)
{
    size_t count = (size_t)api_settings.committers;
    struct commit *commit = must_alloc(1, sizeof(*commit) + count * sizeof(commit->committers[0]));
    struct commit_limits limits = queue_limits();

    batch_register();
    batch_sizes = metrics_sizes("msg_commit_batch_size", "Requests in one transaction.", "");
    set_aside = metrics_counter("msg_commit_set_aside_total",
                                "Requests put off because a balance row was held.", "");
    lost_commits =
        metrics_counter("msg_commit_lost_answers_total", "COMMITs whose answer was lost.", "");
    commit->answer = answer;
    commit->count = count;
    commit->queue = commit_queue_new(&limits);
    pthread_mutex_init(&commit->lock, NULL);
    pause_cond_init(&commit->wake);
    commit->batch_settings.enter = enter;
    commit->batch_settings.exchange = api_settings.broker.exchange;
    commit->batch_settings.balance_low = api_settings.balance_low;
    for (int i = 0; i < MESSAGE_LANES; i++)
        commit->batch_settings.queues[i] =
            topology_queue(&api_settings.broker, (enum message_type)i);
    for (size_t i = 0; i < count; i++)
        committer_start(commit, &commit->committers[i]);
    return commit;
}

bool commit_submit(struct commit *commit, struct operation *op)
{
    bool could, fits;

    pthread_mutex_lock(&commit->lock);
    could = commit_queue_may_take(commit->queue); /* then somebody has been woken for it */
    fits = !commit->closed && commit_queue_put(commit->queue, op);
    if (!could && commit_queue_may_take(commit->queue))
        pthread_cond_signal(&commit->wake);
    pthread_mutex_unlock(&commit->lock);
    return fits;
}

void commit_stop(struct commit *commit)
{
    atomic_store(&commit->stopping, true);
    pthread_mutex_lock(&commit->lock);
    commit->closed = true;
    pthread_cond_broadcast(&commit->wake);
    pthread_mutex_unlock(&commit->lock);
    for (size_t i = 0; i < commit->count; i++) {
        struct committer *c = &commit->committers[i];

        pthread_join(c->thread, NULL);
        batch_free(c->batch);
        db_free(c->db);
    }
    commit_queue_free(commit->queue);
    pthread_cond_destroy(&commit->wake);
    pthread_mutex_destroy(&commit->lock);
    free(commit);
}
