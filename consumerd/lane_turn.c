#include <string.h>

#include "consumerd/lane_internal.h"
#include "libcommon/base/clock.h"
#include "libcommon/daemon/failpoint.h"
#include "libcommon/telemetry/log.h"

#define CLAIM_MAX 1000 /* messages; CLAIM_BATCH has a lower limit */
/* A bundle that was begun is through before that, or something keeps its members waiting: a suspect
 * that takes its time, slow operators. It would grow old with the broker, whole. */
#define BUNDLE_STALE_MS 5000

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
    lane_count_event(l, m, STATS_DUPLICATE);
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
    lane_count_event(l, m, item->put_off ? STATS_PUT_OFF : STATS_DUPLICATE);
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
    l->claim_limit = (size_t)lane_limits(l)->claim_batch;
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
        lane_db_failed(l, "claim", &err);
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
        rc = lane_settle_fail_if_asked(&err);
    if (rc && err.kind != ERR_PERMANENT && err.kind != ERR_BUG && !db_is_conflict(&err)) {
        lane_db_failed(l, "settle and claim", &err);
        return false;
    }
    if (!rc) {
        take_claimed(l, items, along.n);
        lane_settle_took(l, &l->done, settled, start_us, NULL);
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
        lane_db_failed(l, "connect", &err);
        return;
    }
    ok = settle_and_claim(l);
    while (ok && l->done.n)
        ok = lane_settle_some(l, &l->done, true);
    while (ok && l->not_done.n)
        ok = lane_settle_some(l, &l->not_done, false);
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
