#include <stdlib.h>
#include <string.h>

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
#define CLAIM_MAX 1000 /* messages; CLAIM_BATCH has a lower limit */
/* A bundle that was begun is through before that, or something keeps its members waiting: a suspect
 * that takes its time, slow operators. It would grow old with the broker, whole. */
#define BUNDLE_STALE_MS 5000

static const struct consumer_settings *limits(const struct lane *l)
{
    return &l->config.settings->consumer;
}

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

static void count_event(const struct lane *l, const struct inflight *m, enum stats_event event)
{
    metrics_add(stats.lane[l->config.type].events[event], 1);
    metrics_observe_traced(stats.lane[l->config.type].event_seconds,
                           clock_mono_us() - m->arrived_us, &m->process);
}

/* Its last job is settled. */
static void complete(struct lane *l, struct inflight *m)
{
    count_event(l, m, outcome_of(m));
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

void lane_turn_collect(struct lane *l)
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

static void db_failed(struct lane *l, const char *what, const struct err *err)
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

/* The first n of the array are settled, or, if err is given, cannot be. */
static void take_settled(struct lane *l, struct job_array *a, size_t n, int64_t start_us,
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
    l->settle_limit = (size_t)limits(l)->settle_batch;
}

static int fail_settle_if_asked(struct err *err)
{
    return failpoint(FAILPOINT_CONSUMER_AFTER_SETTLE)
               ? err_set(err, ERR_UNKNOWN, 0, "settle: failpoint")
               : 0;
}

/* False: the rest has to wait. */
static bool settle_some(struct lane *l, struct job_array *a, bool done)
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
        rc = fail_settle_if_asked(&err);
    if (rc && (err.kind == ERR_RETRY || err.kind == ERR_UNKNOWN)) {
        db_failed(l, "settle", &err);
        return false;
    }
    if (rc && l->settle_limit > 1) {
        shrink(&l->settle_limit, n);
        return true;
    }
    if (!rc && !done)
        doorbell_ring(l->config.doorbell, DOORBELL_LATER(l->config.type));
    take_settled(l, a, n, start_us, rc ? &err : NULL);
    return true;
}

/* ---- claiming ---- */

static bool is_stale(const struct inflight *m, int64_t now_ms)
{
    return !m->ours && m->arrival->begun_ms && now_ms - m->arrival->begun_ms > BUNDLE_STALE_MS;
}

static void note_begun(struct lane *l, int64_t begun_ms)
{
    if (begun_ms + BUNDLE_STALE_MS < l->stale_at_ms)
        l->stale_at_ms = begun_ms + BUNDLE_STALE_MS;
}

static void note_all_begun(struct lane *l, const struct inflight_list *list)
{
    const struct inflight *m;

    for (m = TAILQ_FIRST(list); m; m = TAILQ_NEXT(m, link))
        if (!m->ours && m->arrival->begun_ms)
            note_begun(l, m->arrival->begun_ms);
}

/* What was noted may be over by now. The lists are long: they are walked when it is time only. */
static void see_what_is_stale(struct lane *l)
{
    if (clock_mono_ms() <= l->stale_at_ms)
        return;
    l->stale_at_ms = INT64_MAX;
    note_all_begun(l, &l->arrived);
    note_all_begun(l, &l->suspects);
}

static void begin_arrival(struct lane *l, struct arrival *a)
{
    a->begun_ms = clock_mono_ms();
    note_begun(l, a->begun_ms);
}

/* As if it had arrived just now. */
static void release_suspect(struct lane *l, struct inflight *m)
{
    TAILQ_REMOVE(&l->suspects, m, link);
    l->suspect_count--;
    TAILQ_INSERT_HEAD(&l->arrived, m, link);
    l->arrived_count++;
}

/* In their order. */
static void release_stale_suspects(struct lane *l, int64_t now_ms)
{
    struct inflight *m;
    struct inflight *before;

    for (m = TAILQ_LAST(&l->suspects, inflight_list); m; m = before) {
        before = TAILQ_PREV(m, inflight_list, link);
        if (is_stale(m, now_ms))
            release_suspect(l, m);
    }
}

/* The first messages that have arrived, as many as may be in hand beside so many recipients, or
 * those that are stale at stale_ms (0: not asked). Of two deliveries of one message the second
 * waits for the next turn, which sees what became of the first. */
static size_t gather(struct lane *l, size_t recipients, int64_t stale_ms, struct claim_item *items)
{
    struct inflight *batch = NULL;
    struct inflight *twin;
    struct inflight *m;
    size_t n = 0;

    for (m = TAILQ_FIRST(&l->arrived); m; m = TAILQ_NEXT(m, link)) {
        unsigned len = (unsigned)strlen(m->id);

        if (n == l->claim_limit || (!stale_ms && recipients >= l->recipients_max))
            break;
        if (stale_ms && !is_stale(m, stale_ms))
            continue;
        HASH_FIND(batch_hh, batch, m->id, len, twin);
        if (twin)
            continue;
        HASH_ADD(batch_hh, batch, id, len, m);
        items[n++] = (struct claim_item){
            .message = m, .stale = stale_ms != 0, .in_hand = inflight_find(&l->hand, m->id)};
        recipients += m->recipients;
    }
    HASH_CLEAR(batch_hh, batch);
    return n;
}

/* What a letter is made of goes with the delivery that it lies in. */
static void swap_deliveries(struct inflight *a, struct inflight *b)
{
    struct arrival *arrival = a->arrival;
    const char *json = a->json;
    size_t json_len = a->json_len;

    a->arrival = b->arrival;
    a->json = b->json;
    a->json_len = b->json_len;
    b->arrival = arrival;
    b->json = json;
    b->json_len = json_len;
}

/* Its jobs go on under the message that is in hand already. */
static void merge(struct lane *l, struct inflight *known, struct inflight *m)
{
    struct job *job;

    while ((job = TAILQ_FIRST(&m->jobs))) {
        TAILQ_REMOVE(&m->jobs, job, in_message);
        m->job_count--;
        job->message = known;
        TAILQ_INSERT_TAIL(&known->jobs, job, in_message);
        known->job_count++;
    }
    /* The delivery that counts is the one whose ack still means something. */
    if (known->arrival->generation != broker_generation(l->broker) || !broker_is_open(l->broker))
        swap_deliveries(known, m);
    count_event(l, m, STATS_DUPLICATE);
    lane_over(l, m);
}

/* Operators that cannot be asked because they are not configured any more: one line a message. */
static void tell_gone(const struct inflight *m)
{
    const struct job *job = TAILQ_FIRST(&m->jobs);

    while (job && !job->gone)
        job = TAILQ_NEXT(job, in_message);
    if (job)
        log_warn("delivery.operator_gone", L_STR("message_id", m->id),
                 L_INT("position", job->position), L_STR("operators", job->gone),
                 L_MSG("may have it, and is not in OPERATORS"), L_TRACE(&m->trace));
}

static void take_on(struct lane *l, struct claim_item *item)
{
    struct inflight *m = item->message;
    struct inflight *known = inflight_find(&l->hand, m->id);
    struct job_list jobs = TAILQ_HEAD_INITIALIZER(jobs);
    struct job *job;

    for (job = TAILQ_FIRST(&m->jobs); job; job = TAILQ_NEXT(job, in_message)) {
        TAILQ_INSERT_TAIL(&jobs, job, link);
        l->hand.recipients++;
        l->out++;
    }
    if (item->taken_over) {
        metrics_add(stats.takeovers, item->taken_over);
        log_info("delivery.taken_over", L_STR("message_id", m->id),
                 L_INT("recipients", item->taken_over), L_TRACE(&m->trace));
    }
    tell_gone(m);
    if (known)
        merge(l, known, m);
    else
        inflight_add(&l->hand, m);
    dispatch_submit(l->dispatch, &jobs, l->lease.era);
}

static void nothing_to_do(struct lane *l, struct claim_item *item)
{
    struct inflight *m = item->message;
    struct inflight *known = inflight_find(&l->hand, m->id);

    if (known) {
        merge(l, known, m);
        return;
    }
    if (item->put_off)
        log_info("delivery.put_off", L_STR("message_id", m->id), L_INT("recipients", item->put_off),
                 L_TRACE(&m->trace));
    count_event(l, m, item->put_off ? STATS_PUT_OFF : STATS_DUPLICATE);
    lane_over(l, m);
}

static void carry_out(struct lane *l, struct claim_item *item)
{
    struct inflight *m = item->message;

    TAILQ_REMOVE(&l->arrived, m, link);
    l->arrived_count--;
    if (m->json && !m->arrival->begun_ms && item->verdict != CLAIM_SET_ASIDE)
        begin_arrival(l, m->arrival);
    switch (item->verdict) {
    case CLAIM_WORK:
        take_on(l, item);
        break;
    case CLAIM_NOTHING:
        nothing_to_do(l, item);
        break;
    case CLAIM_SET_ASIDE:
        TAILQ_INSERT_TAIL(&l->suspects, m, link);
        l->suspect_count++;
        break;
    case CLAIM_DEAD:
        lane_dead_letter(l, m, item->reason, NULL);
        break;
    }
}

static void ring_for_put_off(struct lane *l, const struct claim_item *items, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (items[i].put_off)
            doorbell_ring(l->config.doorbell, DOORBELL_LATER(l->config.type));
}

static void take_claimed(struct lane *l, struct claim_item *items, size_t n)
{
    metrics_observe(stats.claim_batch, (int64_t)n);
    l->turn_work += n;
    for (size_t i = 0; i < n; i++)
        carry_out(l, &items[i]);
    (void)failpoint(FAILPOINT_CONSUMER_AFTER_DISPATCH);
    l->claim_limit = (size_t)limits(l)->claim_batch;
}

static struct claim claim_of(const struct lane *l)
{
    return (struct claim){l->db, l->config.settings, l->config.operators, l->config.operator_count};
}

/* False: the rest has to wait. */
static bool claim_items(struct lane *l, bool suspects, struct claim_item *items, size_t n)
{
    const struct claim c = claim_of(l);
    struct err err = {0};
    int rc;

    if (!worker_holds(l->config.worker, l->lease.era))
        return false;
    if (!n)
        return true;
    rc = claim_run(&c, l->lease.id, suspects, items, n, &err);
    if (rc && (err.kind == ERR_RETRY || err.kind == ERR_UNKNOWN)) {
        db_failed(l, "claim", &err);
        return false;
    }
    if (rc && n > 1) {
        l->claim_limit = n / 2;
        return true;
    }
    if (rc) {
        log_error("delivery.not_writable", L_STR("message_id", items[0].message->id), L_ERR(&err),
                  L_TRACE(&items[0].message->trace));
        items[0].verdict = CLAIM_DEAD;
        items[0].reason = STATS_DEAD_UNSETTLED;
    }
    ring_for_put_off(l, items, n);
    take_claimed(l, items, n);
    return true;
}

static bool claim_some(struct lane *l)
{
    struct claim_item items[CLAIM_MAX];

    return claim_items(l, false, items, gather(l, l->hand.recipients, 0, items));
}

static bool put_off_stale(struct lane *l)
{
    struct claim_item items[CLAIM_MAX];
    int64_t now_ms = clock_mono_ms();
    bool ok;

    release_stale_suspects(l, now_ms);
    ok = claim_items(l, false, items, gather(l, 0, now_ms, items));
    see_what_is_stale(l);
    return ok;
}

static bool claim_suspect(struct lane *l)
{
    struct inflight *m = TAILQ_FIRST(&l->suspects);
    struct claim_item item = {.message = m};

    release_suspect(l, m);
    if (claim_items(l, true, &item, 1))
        return true;
    TAILQ_REMOVE(&l->arrived, m, link);
    l->arrived_count--;
    TAILQ_INSERT_HEAD(&l->suspects, m, link);
    l->suspect_count++;
    return false;
}

/* ---- the turn ---- */

static bool claims_at_all(const struct lane *l)
{
    return !atomic_load(&l->draining) && worker_may_claim(l->config.worker);
}

static bool may_claim(const struct lane *l, size_t recipients)
{
    return l->arrived_count && recipients < l->recipients_max && claims_at_all(l) &&
           alone_may_join(l->config.alone, l->config.type);
}

static bool may_claim_suspect(const struct lane *l)
{
    return l->suspect_count && !l->hand.by_id && claims_at_all(l) &&
           alone_may_begin(l->config.alone, l->config.type);
}

static bool may_put_off(const struct lane *l)
{
    return clock_mono_ms() > l->stale_at_ms && claims_at_all(l);
}

/* All of them are done, and one statement writes them. */
static bool settles_at_once(const struct lane *l)
{
    return l->done.n && l->done.n <= l->settle_limit && !l->not_done.n;
}

/* What is done and what has arrived in one transaction: one packet, one flush. Nothing is lost if
 * it cannot be: each is done on its own then. False: the rest has to wait. */
static bool settle_and_claim(struct lane *l)
{
    const struct results r = {l->db, l->config.settings, l->config.operators};
    const struct claim c = claim_of(l);
    struct claim_item items[CLAIM_MAX];
    struct results_claim along = {&c, items, 0};
    int64_t start_us = clock_wall_us();
    size_t settled = l->done.n;
    struct err err = {0};
    int rc;

    if (!settles_at_once(l) || !may_claim(l, l->hand.recipients - settled) ||
        !worker_holds(l->config.worker, l->lease.era))
        return true;
    if (!alone_join(l->config.alone, l->config.type))
        return true;
    along.n = gather(l, l->hand.recipients - settled, 0, items);
    if (!along.n || !claim_is_plain(items, along.n))
        return true;
    rc = results_done(&r, l->lease.id, l->done.jobs, settled, &along, &err);
    if (!rc)
        rc = fail_settle_if_asked(&err);
    if (rc && err.kind != ERR_PERMANENT && err.kind != ERR_BUG && !db_is_conflict(&err)) {
        db_failed(l, "settle and claim", &err);
        return false;
    }
    if (!rc) {
        take_claimed(l, items, along.n);
        take_settled(l, &l->done, settled, start_us, NULL);
    }
    return true;
}

bool lane_turn_has_work(const struct lane *l)
{
    return l->done.n || l->not_done.n || may_claim(l, l->hand.recipients) || may_put_off(l) ||
           may_claim_suspect(l);
}

int64_t lane_turn_opens_ms(const struct lane *l)
{
    int64_t due_ms = l->suspect_count ? alone_due_ms(l->config.alone) : INT64_MAX;

    return due_ms > clock_mono_ms() ? due_ms : INT64_MAX;
}

static void work(struct lane *l)
{
    int64_t start_us = clock_mono_us();
    int64_t next_us;
    struct err err;
    bool ok;

    l->next_turn_at_us = 0; /* the turn may have begun early */
    l->turn_work = 0;
    if (!lane_turn_has_work(l) || clock_mono_ms() < l->db_retry_at_ms)
        return;
    if (db_acquire(l->db, &err)) {
        db_failed(l, "connect", &err);
        return;
    }
    ok = settle_and_claim(l);
    while (ok && l->done.n)
        ok = settle_some(l, &l->done, true);
    while (ok && l->not_done.n)
        ok = settle_some(l, &l->not_done, false);
    if (ok && may_put_off(l))
        ok = put_off_stale(l);
    if (ok && may_claim(l, l->hand.recipients) && alone_join(l->config.alone, l->config.type))
        ok = claim_some(l);
    if (ok && may_claim_suspect(l) && alone_begin(l->config.alone, l->config.type))
        ok = claim_suspect(l);
    if (ok)
        l->db_failures = 0;
    next_us = pace_next_us(&l->pace, start_us, clock_mono_us(), l->turn_work);
    if (!lane_turn_has_work(l))
        l->next_turn_at_us = next_us;
    db_release(l->db);
    metrics_set(stats.lane[l->config.type].in_hand, (int64_t)l->hand.recipients);
}

/* While the database has to be left alone no suspect of ours keeps the other lane waiting. */
static void tell_what_is_in_hand(struct lane *l)
{
    bool suspects = l->suspect_count && clock_mono_ms() >= l->db_retry_at_ms;

    alone_tell(l->config.alone, l->config.type, l->hand.by_id, suspects);
}

void lane_turn_work(struct lane *l)
{
    see_what_is_stale(l);
    work(l);
    tell_what_is_in_hand(l);
}

void lane_turn_forget(struct lane *l)
{
    struct inflight *m;

    lane_drop_arrived(l);
    while ((m = l->hand.by_id)) {
        inflight_remove(&l->hand, m);
        lane_let_go(l, m);
    }
    l->hand.recipients = 0;
    l->done.n = l->not_done.n = 0;
    l->abandoned = false;
    tell_what_is_in_hand(l);
    metrics_set(stats.lane[l->config.type].in_hand, 0);
}
