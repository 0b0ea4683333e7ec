#include "consumerd/results.h"

#include <stdlib.h>
#include <string.h>

#include "consumerd/retry.h"
#include "libcommon/base/clock.h"
#include "libcommon/domain/recipient.h"

void results_register(void)
{
    recipient_register();
    retry_register();
}

static int by_status_id(const void *a, const void *b)
{
    uint64_t x = (*(struct job *const *)a)->status_id;
    uint64_t y = (*(struct job *const *)b)->status_id;

    return x < y ? -1 : x > y;
}

/* ---- jobs and the changes of their rows ---- */

/* An operator that a recipient's receipts are waited for from, and what it calls the message. */
struct asked {
    char match_id[RECEIPT_MATCH_MAX + 1];
};

/* What is to become of n jobs' rows, in the order of the jobs, which are sorted by id; unknown[i]
 * keeps the names of operators for changes[i]. asked: of all changes, one after the other; NULL
 * where no operator gives receipts. */
struct plan {
    size_t n;
    struct recipient_change *changes;
    struct buf *unknown;
    struct recipient_asked *asked;
    struct asked *ids;
    size_t asked_count;
};

static void plan_free(struct plan *p)
{
    for (size_t i = 0; p->unknown && i < p->n; i++)
        buf_free(&p->unknown[i]);
    free(p->unknown);
    free(p->changes);
    free(p->asked);
    free(p->ids);
}

static enum recipient_transition transition_of(enum job_outcome outcome)
{
    switch (outcome) {
    case JOB_DONE:
        return RECIPIENT_DELIVER;
    case JOB_FAILED:
        return RECIPIENT_FAIL;
    default:
        return RECIPIENT_PUT_OFF;
    }
}

/* What is noted on the row is for a submission that its last error tells of. */
static const char *reason_of(const struct job *job)
{
    return job->noted && (job->error_is_minor || !*job->error) ? NULL : job->error;
}

static struct recipient_change change_of(const struct results *r, const struct job *job,
                                         const struct buf *unknown)
{
    return (struct recipient_change){
        .id = job->status_id,
        .transition = transition_of(job->outcome),
        .attempt = job->attempt,
        .position = job->position,
        .message_id = job->message->id,
        .user_id = job->user_id,
        .price = job->price,
        .provider = r->operators[job->op].name,
        .provider_id = job->provider_id,
        .unknown = unknown->len ? unknown->data : "",
        .reason = reason_of(job),
    };
}

/* ---- whom receipts are waited for from ---- */

static const struct operator_receipts *receipts_of(const struct results *r, unsigned op)
{
    const struct operator_set *set = r->settings->operators;

    return set && op < set->n && set->all[op]->receipts.given ? &set->all[op]->receipts : NULL;
}

/* Operators that may have what is done, and give receipts. */
static uint32_t asked_for(const struct results *r, const struct job *job)
{
    uint32_t all = job->outcome == JOB_DONE ? job->unknown | UINT32_C(1) << job->op : 0;
    uint32_t asked = 0;

    for (; all; all &= all - 1)
        if (receipts_of(r, (unsigned)__builtin_ctz(all)))
            asked |= all & -all;
    return asked;
}

/* Of an operator with an unknown outcome nobody knows an identifier: its receipts need the
 * reference. */
static void ask(const struct results *r, const struct job *job, unsigned op, struct plan *p)
{
    struct recipient_asked *asked = &p->asked[p->asked_count];
    char *match_id = p->ids[p->asked_count++].match_id;

    *asked = (struct recipient_asked){.name = r->operators[op].name, .match_id = match_id};
    if (op != job->op)
        return;
    operator_receipts_match_id(receipts_of(r, op), true, job->provider_id, match_id);
    asked->parts = job->parts;
}

static int plan_asked(struct plan *p, const struct results *r, struct job *const *jobs,
                      struct err *err)
{
    size_t count = 0;

    for (size_t i = 0; i < p->n; i++)
        count += (size_t)__builtin_popcount(asked_for(r, jobs[i]));
    if (!count)
        return 0;
    p->asked = calloc(count, sizeof(*p->asked));
    p->ids = calloc(count, sizeof(*p->ids));
    if (!p->asked || !p->ids)
        return err_set(err, ERR_RETRY, 0, "out of memory");
    for (size_t i = 0; i < p->n; i++) {
        p->changes[i].asked = &p->asked[p->asked_count];
        for (uint32_t ops = asked_for(r, jobs[i]); ops; ops &= ops - 1) {
            ask(r, jobs[i], (unsigned)__builtin_ctz(ops), p);
            p->changes[i].asked_count++;
        }
    }
    return 0;
}

static int plan_make(struct plan *p, const struct results *r, struct job **jobs, size_t n,
                     struct err *err)
{
    *p = (struct plan){.n = n,
                       .changes = calloc(n, sizeof(*p->changes)),
                       .unknown = calloc(n, sizeof(*p->unknown))};
    if (!p->changes || !p->unknown)
        return err_set(err, ERR_RETRY, 0, "out of memory");
    qsort(jobs, n, sizeof(struct job *), by_status_id);
    for (size_t i = 0; i < n; i++) {
        settings_put_noted(&p->unknown[i], r->operators, jobs[i]->unknown, jobs[i]->gone);
        if (p->unknown[i].failed)
            return err_set(err, ERR_RETRY, 0, "out of memory");
        p->changes[i] = change_of(r, jobs[i], &p->unknown[i]);
    }
    return plan_asked(p, r, jobs, err);
}

/* Both are in the order of ids. */
static void tell_jobs(const struct plan *p, struct job **jobs)
{
    for (size_t i = 0; i < p->n; i++)
        jobs[i]->ours = p->changes[i].result != RECIPIENT_LOST;
}

/* ---- done ---- */

int results_done(const struct results *r, uint64_t me, struct job **jobs, size_t n,
                 const struct results_claim *along, struct err *err)
{
    struct plan plan;
    int rc = plan_make(&plan, r, jobs, n, err);

    if (!rc) {
        struct recipient_packet packet = {.owner = me,
                                          .changes = plan.changes,
                                          .change_count = n,
                                          .receipt_wait_hours = r->settings->receipts.wait_hours};

        if (along)
            rc = claim_plain(along->claim, &packet, along->items, along->n, err);
        else
            rc = recipient_packet_run(r->db, &packet, err);
        recipient_rows_free(&packet.rows);
    }
    if (!rc)
        tell_jobs(&plan, jobs);
    plan_free(&plan);
    return rc;
}

/* ---- failed and later ---- */

static int by_message(const void *a, const void *b)
{
    const struct job *x = *(struct job *const *)a;
    const struct job *y = *(struct job *const *)b;
    int order = strcmp(x->message->id, y->message->id);

    return order ? order : by_status_id(a, b);
}

/* A message with a recipient that is to be sent again comes back to be delivered: those that are
 * held are asked about then, too. */
static void add_to_retry(const struct results *r, const struct job *job, int64_t now_ms,
                         bool at_once, struct retry *to)
{
    const struct consumer_settings *s = &r->settings->consumer;
    int64_t left_ms = job->give_up_at_ms - now_ms;

    if (job->outcome == JOB_LATER) {
        to->kind = OUTBOX_DELIVER;
        if (at_once)
            to->delay_ms = 0;
    }
    /* A call that was given up may still reach its operator: it is asked when that is over. */
    if (at_once && job->unknown)
        to->least_ms = settings_longest_timeout_ms(s);
    if (job->unknown && to->least_ms < settings_longest_settling_ms(s))
        to->least_ms = settings_longest_settling_ms(s);
    if (left_ms > to->window_left_ms)
        to->window_left_ms = left_ms;
}

/* One retry for each message of the jobs, which are in the order of their messages. */
static size_t collect_retries(const struct results *r, struct job *const *jobs, size_t n,
                              bool at_once, struct retry *retries, const char **names)
{
    int64_t now_ms = clock_mono_ms();
    size_t count = 0;

    for (size_t i = 0; i < n; i++) {
        if (!i || jobs[i]->message != jobs[i - 1]->message)
            retries[count++] = (struct retry){.message = jobs[i]->message,
                                              .kind = OUTBOX_ASK,
                                              .recipients = names + i,
                                              .delay_ms = RETRY_BACKOFF,
                                              .window_left_ms = INT64_MIN};
        names[i] = jobs[i]->recipient;
        retries[count - 1].count++;
        add_to_retry(r, jobs[i], now_ms, at_once, &retries[count - 1]);
    }
    return count;
}

static void mark_unwritable(const struct retry *retries, size_t count, struct job *const *jobs,
                            size_t n)
{
    for (size_t k = 0; k < count; k++)
        for (size_t i = 0; retries[k].missing && i < n; i++)
            if (jobs[i]->message == retries[k].message)
                jobs[i]->message->unwritable = true;
}

/* jobs: those put off by this transaction. One outbox row a message. */
static int write_retries(const struct results *r, struct job **jobs, size_t n, bool at_once,
                         struct err *err)
{
    struct retry *retries = calloc(n, sizeof(*retries));
    const char **names = calloc(n, sizeof(*names));
    size_t count;
    int rc;

    if (!retries || !names) {
        rc = err_set(err, ERR_RETRY, 0, "out of memory");
    } else {
        qsort(jobs, n, sizeof(struct job *), by_message);
        count = collect_retries(r, jobs, n, at_once, retries, names);
        rc = retry_write(r->db, r->settings, retries, count, err);
        if (!rc)
            mark_unwritable(retries, count, jobs, n);
    }
    free(names);
    free(retries);
    return rc;
}

static int put_off(const struct results *r, const struct plan *plan, struct job **jobs,
                   bool at_once, struct err *err)
{
    struct job **later = calloc(plan->n, sizeof(struct job *));
    size_t n = 0;
    int rc;

    if (!later)
        return err_set(err, ERR_RETRY, 0, "out of memory");
    rc = recipient_put_off(r->db, plan->changes, plan->n, err);
    for (size_t i = 0; i < plan->n && !rc; i++)
        if (plan->changes[i].transition == RECIPIENT_PUT_OFF &&
            plan->changes[i].result == RECIPIENT_CHANGED)
            later[n++] = jobs[i];
    if (!rc && n)
        rc = write_retries(r, later, n, at_once, err);
    free(later);
    return rc;
}

/* Lock order: recipients, then messages, then balances. */
static int settle_not_done(const struct results *r, uint64_t me, const struct plan *plan,
                           struct job **jobs, bool at_once, struct err *err)
{
    if (recipient_hold(r->db, me, plan->changes, plan->n, err) ||
        put_off(r, plan, jobs, at_once, err) || recipient_fail(r->db, plan->changes, plan->n, err))
        return -1;
    return db_commit(r->db, err);
}

int results_not_done(const struct results *r, uint64_t me, struct job **jobs, size_t n,
                     bool at_once, struct err *err)
{
    struct plan plan;
    int rc = plan_make(&plan, r, jobs, n, err);

    if (!rc) {
        db_begin(r->db);
        rc = settle_not_done(r, me, &plan, jobs, at_once, err);
        if (rc)
            db_rollback(r->db);
        else
            tell_jobs(&plan, jobs);
    }
    plan_free(&plan);
    return rc;
}
