#include <stdlib.h>

#include "consumerd/lane_internal.h"
#include "consumerd/spans.h"
#include "libcommon/base/backoff.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/base/random.h"
#include "libcommon/daemon/failpoint.h"
#include "libcommon/telemetry/log.h"

#define DB_RETRY_BASE_MS 20
#define DB_RETRY_MAX_MS 1000

static void array_add(struct job_array *a, struct job *job)
{
    if (a->n == a->cap) {
        a->cap = a->cap ? a->cap * 2 : 64;
        a->jobs = realloc(a->jobs, a->cap * sizeof(struct job *));
        MUST(a->jobs);
    }
    a->jobs[a->n++] = job;
}

static void array_drop_first(struct job_array *a, size_t n)
{
    a->n -= n;
    for (size_t i = 0; i < a->n; i++)
        a->jobs[i] = a->jobs[i + n];
}

/* ---- the end of a job and of a message ---- */

static enum stats_event outcome_of(const struct inflight *m)
{
    if (m->put_off)
        return STATS_RETRY;
    if (m->failed)
        return STATS_FAILED;
    return m->done ? STATS_SUCCESS : STATS_LOST;
}

void lane_count_event(const struct lane *l, const struct inflight *m, enum stats_event event)
{
    metrics_add(stats.lane[l->config.type].events[event], 1);
    metrics_observe_traced(stats.lane[l->config.type].event_seconds,
                           clock_mono_us() - m->arrived_us, &m->process);
}

/* Its last job is settled. */
static void complete(struct lane *l, struct inflight *m)
{
    lane_count_event(l, m, outcome_of(m));
    spans_processed(m, l->config.settings->broker.exchange,
                    topology_queue(&l->config.settings->broker, m->type));
    inflight_remove(&l->hand, m);
    if (m->unwritable)
        lane_dead_letter(l, m, STATS_DEAD_UNSETTLED, NULL);
    else
        lane_over(l, m);
}

/* When nothing else of the message is open, what is put off is settled in one go: it makes one
 * outbox row. */
static void release_later(struct lane *l, struct inflight *m)
{
    struct job *job;

    if (!m->later_count || m->later_count != m->job_count)
        return;
    for (job = TAILQ_FIRST(&m->jobs); job; job = TAILQ_NEXT(job, in_message))
        array_add(&l->not_done, job);
    m->later_count = 0;
}

static void job_over(struct lane *l, struct job *job)
{
    struct inflight *m = job->message;

    job_free(job);
    l->hand.recipients--;
    if (m->job_count)
        release_later(l, m);
    else
        complete(l, m);
}

/* ---- results from the dispatch ---- */

static void take_later(struct lane *l, struct job *job)
{
    job->message->later_count++;
    release_later(l, job->message);
}

static void take_done(struct lane *l, struct job *job)
{
    if (failpoint(FAILPOINT_CONSUMER_AFTER_ACCEPTED)) {
        job->outcome = JOB_LATER;
        job->unknown |= UINT32_C(1) << job->op;
        take_later(l, job);
        return;
    }
    array_add(&l->done, job);
}

void lane_settle_collect(struct lane *l)
{
    struct job_list finished = TAILQ_HEAD_INITIALIZER(finished);
    struct job *job;

    job_queue_take(l->config.queue, &finished);
    while ((job = TAILQ_FIRST(&finished))) {
        TAILQ_REMOVE(&finished, job, link);
        l->out--;
        switch (job->outcome) {
        case JOB_DONE:
            take_done(l, job);
            break;
        case JOB_FAILED:
            array_add(&l->not_done, job);
            break;
        case JOB_LATER:
        case JOB_HELD:
            take_later(l, job);
            break;
        case JOB_ABANDONED:
            l->abandoned = true;
            break;
        }
    }
}

/* ---- settling ---- */

static void count_unknown(uint32_t unknown)
{
    for (; unknown; unknown &= unknown - 1)
        metrics_add(stats.op[__builtin_ctz(unknown)].unknown, 1);
}

/* Two hosts' clocks may differ. */
static void observe_delivery(const struct lane *l, const struct inflight *m)
{
    int64_t us = clock_wall_us() - m->accepted_us;

    metrics_observe_traced(stats.lane[l->config.type].delivery_seconds, us > 0 ? us : 0,
                           &m->process);
}

static void count_done(struct lane *l, struct job *job)
{
    const struct inflight *m = job->message;

    metrics_add(stats.op[job->op].done, 1);
    count_unknown(job->unknown);
    if (m->accepted_us > 0)
        observe_delivery(l, m);
    job->message->done++;
    log_debug("delivery.done", L_STR("message_id", m->id), L_INT("position", job->position),
              L_INT("attempt", job->attempt), L_STR("operator", l->config.operators[job->op].name),
              L_TRACE(&m->trace));
}

static void count_failed(const struct job *job)
{
    const struct inflight *m = job->message;

    metrics_add(stats.failed, 1);
    metrics_add(stats.refunds[job->failure], 1);
    count_unknown(job->unknown);
    job->message->failed++;
    log_info("delivery.failed", L_STR("message_id", m->id), L_INT("position", job->position),
             L_INT("attempt", job->attempt), L_STR("reason", delivery_failure_name(job->failure)),
             L_STR("last_error", job->error), L_TRACE(&m->trace));
}

/* What is put off of a message is settled together: one line for all of it, and one for what is
 * held of it. */
static void count_later(const struct job *job)
{
    struct inflight *m = job->message;
    bool held = job->outcome == JOB_HELD;

    m->put_off++;
    metrics_add(held ? stats.holds : stats.retries, 1);
    if (held && !m->held++)
        log_info("delivery.held", L_STR("message_id", m->id), L_INT("position", job->position),
                 L_INT("attempt", job->attempt), L_STR("last_error", job->error),
                 L_TRACE(&m->trace));
    if (!held && m->put_off - m->held == 1)
        log_info("delivery.retry", L_STR("message_id", m->id), L_INT("recipients", m->job_count),
                 L_INT("attempt", job->attempt), L_STR("last_error", job->error),
                 L_TRACE(&m->trace));
}

static void count_result(struct lane *l, struct job *job)
{
    if (!job->ours)
        log_info("delivery.lost", L_STR("message_id", job->message->id),
                 L_INT("position", job->position), L_INT("attempt", job->attempt),
                 L_TRACE(&job->message->trace));
    else if (job->outcome == JOB_DONE)
        count_done(l, job);
    else if (job->outcome == JOB_FAILED)
        count_failed(job);
    else
        count_later(job);
}

void lane_db_failed(struct lane *l, const char *what, const struct err *err)
{
    l->db_failures++;
    l->db_retry_at_ms = clock_mono_ms() +
                        backoff_ms(l->db_failures, DB_RETRY_BASE_MS, DB_RETRY_MAX_MS, random_u64());
    if (!db_is_conflict(err) && l->db_failures == 1)
        log_warn("consumer.database_failed", L_STR("lane", l->name), L_STR("during", what),
                 L_ERR(err));
}

/* The rows of this message cannot be written whatever we do: for a person to look at. */
static void give_up_job(struct lane *l, struct job *job, const struct err *err)
{
    log_error("delivery.not_writable", L_STR("message_id", job->message->id),
              L_INT("position", job->position), L_ERR(err), L_TRACE(&job->message->trace));
    job->message->unwritable = true;
    job_over(l, job);
}

/* How many of the array go into one transaction. What is left of a message stays together when it
 * is put off. */
static size_t batch_of(const struct lane *l, const struct job_array *a)
{
    size_t n = a->n < l->settle_limit ? a->n : l->settle_limit;

    while (n < a->n && job_is_put_off(a->jobs[n]) && a->jobs[n]->message == a->jobs[n - 1]->message)
        n++;
    return n;
}

/* A batch of n, which may be more than the limit (batch_of), cannot be written: less next time. */
static void shrink(size_t *limit, size_t n)
{
    if (n < *limit)
        *limit = n;
    *limit = *limit > 1 ? *limit / 2 : 1;
}

void lane_settle_took(struct lane *l, struct job_array *a, size_t n, int64_t start_us,
                      const struct err *err)
{
    struct job **jobs = malloc(n * sizeof(struct job *));

    metrics_observe(stats.settle_batch, (int64_t)n);
    l->turn_work += n;
    /* Ending jobs may add to the array: what is in the batch leaves it first. */
    MUST(jobs);
    for (size_t i = 0; i < n; i++)
        jobs[i] = a->jobs[i];
    array_drop_first(a, n);
    if (!err)
        spans_settled(jobs, n, start_us);
    for (size_t i = 0; i < n; i++) {
        if (err) {
            give_up_job(l, jobs[i], err);
        } else {
            count_result(l, jobs[i]);
            job_over(l, jobs[i]);
        }
    }
    free(jobs);
    l->settle_limit = (size_t)lane_limits(l)->settle_batch;
}

int lane_settle_fail_if_asked(struct err *err)
{
    return failpoint(FAILPOINT_CONSUMER_AFTER_SETTLE)
               ? err_set(err, ERR_UNKNOWN, 0, "settle: failpoint")
               : 0;
}

bool lane_settle_some(struct lane *l, struct job_array *a, bool done)
{
    const struct results r = {l->db, l->config.settings, l->config.operators};
    int64_t start_us = clock_wall_us();
    struct err err = {0};
    size_t n = batch_of(l, a);
    int rc;

    if (!worker_holds(l->config.worker, l->lease.era))
        return false;
    rc = done ? results_done(&r, l->lease.id, a->jobs, n, NULL, &err)
              : results_not_done(&r, l->lease.id, a->jobs, n, atomic_load(&l->draining), &err);
    if (!rc)
        rc = lane_settle_fail_if_asked(&err);
    if (rc && (err.kind == ERR_RETRY || err.kind == ERR_UNKNOWN)) {
        lane_db_failed(l, "settle", &err);
        return false;
    }
    if (rc && l->settle_limit > 1) {
        shrink(&l->settle_limit, n);
        return true;
    }
    if (!rc && !done)
        doorbell_ring(l->config.doorbell, DOORBELL_LATER(l->config.type));
    lane_settle_took(l, a, n, start_us, rc ? &err : NULL);
    return true;
}
