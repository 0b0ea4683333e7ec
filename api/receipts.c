#include "api/receipts.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "api/receipt_early.h"
#include "api/receipt_forward.h"
#include "api/receipt_moved.h"
#include "api/receipt_spans.h"
#include "api/receipt_stats.h"
#include "api/receipt_sweep.h"
#include "api/settings.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/base/pause.h"
#include "libcommon/daemon/daemon.h"
#include "libcommon/daemon/failpoint.h"
#include "libcommon/telemetry/log.h"
#include "libcommon/telemetry/metrics.h"

#define TRIES 5 /* of one transaction, in a row */
#define RETRY_MS 20
#define IDLE_BEAT_MS 5000
#define JOBS_MAX 500 /* of one transaction */

struct worker {
    struct receipts *parent;
    pthread_t thread;
    struct db *db;
    struct daemon_beat *beat;
    struct recipient_receipt batch[RECEIPT_BATCH_MAX];
    struct receipt_job *jobs[JOBS_MAX];
    size_t job_count, receipt_count;
};

struct receipts {
    receipts_answer_fn *answer;
    struct recipient_hearing hearing;
    struct receipt_sweep *sweep;
    struct receipt_forward *forward;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct receipt_job *first; /* under lock, as the next three */
    struct receipt_job **last;
    size_t waiting; /* receipts */
    bool closed;
    size_t count;
    struct worker workers[];
};

static struct metric *batch_sizes;

struct receipt_job *receipt_job_new(size_t n)
{
    struct receipt_job *job = calloc(1, sizeof(*job) + n * sizeof(job->receipts[0]));

    if (job)
        job->n = n;
    return job;
}

/* ---- one transaction ---- */

static void gather(struct worker *w, size_t from, size_t n)
{
    w->receipt_count = 0;
    for (size_t i = from; i < from + n; i++)
        for (size_t k = 0; k < w->jobs[i]->n; k++)
            w->batch[w->receipt_count++] = w->jobs[i]->receipts[k];
}

static bool is_any(const struct worker *w, enum receipt_result result)
{
    for (size_t i = 0; i < w->receipt_count; i++)
        if (w->batch[i].result == result)
            return true;
    return false;
}

static bool has_no_room(const struct worker *w)
{
    const struct receipts *r = w->parent;

    return (receipt_sweep_is_full(r->sweep) && is_any(w, RECEIPT_EARLY)) ||
           (receipt_forward_is_full(r->forward) && is_any(w, RECEIPT_MOVED));
}

/* *full: nothing is stored, for there is no room for those that are early, or another cell's. */
static int store_once(struct worker *w, bool *full, struct err *err)
{
    struct receipts *r = w->parent;

    *full = false;
    if (db_acquire(w->db, err))
        return -1;
    db_begin(w->db);
    if (recipient_hear(w->db, &r->hearing, w->batch, w->receipt_count, err))
        goto fail;
    if (has_no_room(w)) {
        db_rollback(w->db);
        *full = true;
        return 0;
    }
    if (receipt_early_put(w->db, w->batch, w->receipt_count, err) ||
        receipt_moved_put(w->db, w->batch, w->receipt_count, err) ||
        failpoint_err(FAILPOINT_RECEIPTS_BEFORE_COMMIT, err) || db_commit(w->db, err) ||
        failpoint_err(FAILPOINT_RECEIPTS_AFTER_COMMIT, err))
        goto fail;
    return 0;
fail:
    db_rollback(w->db);
    return -1;
}

static void finish(struct worker *w, size_t from, size_t n, enum receipts_outcome outcome)
{
    for (size_t i = from; i < from + n; i++) {
        w->parent->answer(w->jobs[i], outcome);
        free(w->jobs[i]);
    }
}

static void note_stored(const struct worker *w)
{
    for (size_t i = 0; i < w->receipt_count; i++) {
        const struct recipient_receipt *r = &w->batch[i];

        receipt_stats_stored(r);
        if (r->result == RECEIPT_AFTER_REFUND)
            receipt_sweep_tell_late(r);
    }
    metrics_observe(batch_sizes, (int64_t)w->receipt_count);
}

/* Whether another try makes sense: the time is not up for all of them. */
static bool may_try_again(struct worker *w, size_t from, size_t n)
{
    int64_t now_ms = clock_mono_ms();

    for (size_t i = from; i < from + n; i++)
        if (w->jobs[i]->deadline_ms > now_ms + RETRY_MS)
            return true;
    return false;
}

/* One that cannot be written does not keep its neighbours: they are stored in halves. */
static void store(struct worker *w, size_t from, size_t n)
{
    int64_t start_us = clock_wall_us();
    struct err err;
    bool full;
    int rc = -1;

    gather(w, from, n);
    for (int tries = 0; rc && tries < TRIES; tries++) {
        daemon_beat(w->beat);
        rc = store_once(w, &full, &err);
        if (rc &&
            ((err.kind != ERR_RETRY && err.kind != ERR_UNKNOWN) || !may_try_again(w, from, n)))
            break;
        if (rc)
            pause_sleep(RETRY_MS);
    }
    if (!rc) {
        if (!full)
            note_stored(w);
        finish(w, from, n, full ? RECEIPTS_FULL : RECEIPTS_STORED);
        if (!full)
            receipt_spans(w->db, w->batch, w->receipt_count, false, start_us);
    } else if (err.kind == ERR_RETRY || err.kind == ERR_UNKNOWN) {
        log_warn("receipts.not_stored", L_ERR(&err), L_INT("receipts", w->receipt_count));
        finish(w, from, n, RECEIPTS_UNAVAILABLE);
    } else if (n > 1) {
        store(w, from, n / 2);
        store(w, from + n / 2, n - n / 2);
    } else {
        log_error("receipts.failed", L_ERR(&err), L_STR("operator", w->batch[0].operator_name));
        finish(w, from, n, RECEIPTS_INTERNAL);
    }
}

/* ---- the queue ---- */

/* Under the lock. */
static void take(struct worker *w)
{
    struct receipts *r = w->parent;
    size_t receipts = 0;

    w->job_count = 0;
    while (r->first && w->job_count < JOBS_MAX && receipts + r->first->n <= RECEIPT_BATCH_MAX) {
        struct receipt_job *job = r->first;

        r->first = job->next;
        if (!r->first)
            r->last = &r->first;
        receipts += job->n;
        r->waiting -= job->n;
        w->jobs[w->job_count++] = job;
    }
}

/* Answers what has waited past its deadline: nobody hears it any more. */
static void drop_late(struct worker *w)
{
    int64_t now_ms = clock_mono_ms();
    size_t kept = 0;

    for (size_t i = 0; i < w->job_count; i++) {
        struct receipt_job *job = w->jobs[i];

        if (job->deadline_ms > now_ms) {
            w->jobs[kept++] = job;
        } else {
            w->parent->answer(job, RECEIPTS_UNAVAILABLE);
            free(job);
        }
    }
    w->job_count = kept;
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    struct receipts *r = w->parent;

    pthread_mutex_lock(&r->lock);
    for (;;) {
        struct timespec until = pause_until(IDLE_BEAT_MS);

        daemon_beat(w->beat);
        if (!r->first && r->closed)
            break;
        if (!r->first) {
            pause_cond_wait(&r->wake, &r->lock, &until);
            continue;
        }
        take(w);
        pthread_mutex_unlock(&r->lock);
        drop_late(w);
        if (w->job_count)
            store(w, 0, w->job_count);
        db_release(w->db);
        pthread_mutex_lock(&r->lock);
    }
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

struct receipts *receipts_start(receipts_answer_fn *answer)
{
    size_t count = (size_t)api_settings.receipt_workers;
    struct receipts *r = must_alloc(1, sizeof(*r) + count * sizeof(r->workers[0]));

    recipient_register();
    receipt_early_register();
    receipt_spans_register();
    batch_sizes = metrics_sizes("msg_receipt_batch_size", "Receipts in one transaction.", "");
    r->answer = answer;
    r->hearing = (struct recipient_hearing){
        .refund_undelivered = api_settings.refund_undelivered,
        .wait_hours = api_settings.receipts.wait_hours,
    };
    r->last = &r->first;
    r->sweep = receipt_sweep_start(&r->hearing);
    r->forward = receipt_forward_start();
    pthread_mutex_init(&r->lock, NULL);
    pause_cond_init(&r->wake);
    r->count = count;
    for (size_t i = 0; i < count; i++) {
        struct worker *w = &r->workers[i];

        w->parent = r;
        w->db = db_new(&api_settings.db);
        w->beat = daemon_beat_new("receipts");
        MUST(pthread_create(&w->thread, NULL, worker_main, w) == 0);
    }
    return r;
}

bool receipts_submit(struct receipts *r, struct receipt_job *job)
{
    bool fits;

    pthread_mutex_lock(&r->lock);
    fits = !r->closed && r->waiting + job->n <= (size_t)api_settings.receipt_queue_max;
    if (fits) {
        job->next = NULL;
        *r->last = job;
        r->last = &job->next;
        r->waiting += job->n;
        pthread_cond_signal(&r->wake);
    }
    pthread_mutex_unlock(&r->lock);
    return fits;
}

void receipts_stop(struct receipts *r)
{
    if (!r)
        return;
    pthread_mutex_lock(&r->lock);
    r->closed = true;
    pthread_cond_broadcast(&r->wake);
    pthread_mutex_unlock(&r->lock);
    receipt_sweep_stop(r->sweep);
    receipt_forward_stop(r->forward);
    for (size_t i = 0; i < r->count; i++) {
        pthread_join(r->workers[i].thread, NULL);
        db_free(r->workers[i].db);
    }
    pthread_cond_destroy(&r->wake);
    pthread_mutex_destroy(&r->lock);
    free(r);
}
