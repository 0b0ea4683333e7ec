#include "consumerd/inflight.h"

#include <stdlib.h>
#include <string.h>

#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/domain/bundle.h"

/* ---- arrivals ---- */

struct arrival *arrival_new(const struct broker_event *event, uint64_t generation, size_t *sum)
{
    struct arrival *a = calloc(1, sizeof(*a));

    if (!a)
        return NULL;
    a->tag = event->tag;
    a->generation = generation;
    a->open = 1;
    if (event->is_bundle) {
        a->bundle = malloc(event->body_len + 1);
        if (!a->bundle) {
            free(a);
            return NULL;
        }
        memcpy(a->bundle, event->body, event->body_len);
    }
    a->bytes = event->body_len;
    a->sum = sum;
    *sum += a->bytes;
    return a;
}

bool arrival_over(struct arrival *a, struct arrival *out)
{
    MUST(a->open);
    *out = *a;
    if (--a->open)
        return false;
    *a->sum -= a->bytes;
    free(a->bundle);
    free(a);
    return !out->comes_again;
}

void arrival_let_go(struct arrival *a)
{
    struct arrival was;

    if (!a)
        return;
    a->comes_again = true;
    (void)arrival_over(a, &was);
}

/* ---- members ---- */

/* The text and the trace state lie behind the struct, in the same allocation. */
static struct inflight *copy_message(const struct message *m, const char *tracestate)
{
    size_t state_len = strlen(tracestate);
    struct inflight *copy = calloc(1, sizeof(*copy) + m->text_len + 1 + state_len + 1);

    if (!copy)
        return NULL;
    memcpy(copy->id, m->id, sizeof(copy->id));
    memcpy(copy->transaction_id, m->transaction_id, sizeof(copy->transaction_id));
    copy->customer_id = m->customer_id;
    copy->type = m->type;
    copy->text = (char *)(copy + 1);
    copy->text_len = m->text_len;
    memcpy(copy->text, m->text, m->text_len);
    copy->text[m->text_len] = '\0';
    if (state_len && trace_state_ok(tracestate, state_len)) {
        copy->tracestate = copy->text + m->text_len + 1;
        memcpy(copy->tracestate, tracestate, state_len);
    }
    copy->recipients = m->recipient_count;
    return copy;
}

struct reading {
    struct arrival *arrival;
    const struct broker_event *event;
    arrival_member_fn *fn;
    void *arg;
};

static bool give(const struct bundle_member *from, void *arg)
{
    const struct reading *r = arg;
    struct inflight *m =
        from->message ? copy_message(from->message, from->tracestate) : calloc(1, sizeof(*m));

    if (!m)
        return false;
    if (trace_parse(from->traceparent, &m->trace))
        memcpy(m->traceparent, from->traceparent, TRACE_PARENT_SIZE - 1);
    if (!from->message && strlen(from->id) <= MESSAGE_ID_MAX)
        memcpy(m->id, from->id, strlen(from->id));
    m->accepted_us = from->accepted_us;
    m->arrived_us = clock_mono_us();
    m->redelivered = r->event->redelivered;
    m->arrival = r->arrival;
    m->arrival->open++;
    m->json = m->arrival->bundle ? from->json : NULL;
    m->json_len = from->json_len;
    TAILQ_INIT(&m->jobs);
    r->fn(m, from->why, r->arg);
    return true;
}

/* What travels in headers with a message alone. */
static int read_one(struct reading *r, struct err *err)
{
    const struct broker_event *event = r->event;
    struct bundle_member one = {.json_len = event->body_len,
                                .id = event->message_id,
                                .traceparent = event->traceparent,
                                .tracestate = event->tracestate,
                                .accepted_us = event->accepted_us};
    struct message decoded;
    struct err why;
    bool given;

    if (!message_decode(event->body, event->body_len, &decoded, &why))
        one.message = &decoded;
    else if (why.kind == ERR_PERMANENT)
        one.why = why.msg;
    given = (one.message || one.why) && give(&one, r);
    if (one.message)
        message_free(&decoded);
    return given ? 0 : err_set(err, ERR_RETRY, 0, "out of memory");
}

int arrival_read(struct arrival *a, const struct broker_event *event, arrival_member_fn *fn,
                 void *arg, struct err *err)
{
    struct reading r = {a, event, fn, arg};

    if (event->is_bundle)
        return bundle_read(event->bundle, a->bundle, event->body_len, give, &r, err);
    return read_one(&r, err);
}

void inflight_free(struct inflight *m)
{
    struct job *job;
    struct job *next;

    if (!m)
        return;
    arrival_let_go(m->arrival);
    for (job = TAILQ_FIRST(&m->jobs); job; job = next) {
        next = TAILQ_NEXT(job, in_message);
        free(job->gone);
        free(job);
    }
    free(m);
}

struct job *job_new(struct inflight *m)
{
    struct job *job = calloc(1, sizeof(*job));

    if (!job)
        return NULL;
    job->message = m;
    TAILQ_INSERT_TAIL(&m->jobs, job, in_message);
    m->job_count++;
    return job;
}

void job_free(struct job *job)
{
    if (!job)
        return;
    TAILQ_REMOVE(&job->message->jobs, job, in_message);
    job->message->job_count--;
    free(job->gone);
    free(job);
}

struct inflight *inflight_find(const struct inflight_table *h, const char *id)
{
    struct inflight *m;

    HASH_FIND_STR(h->by_id, id, m);
    return m;
}

void inflight_add(struct inflight_table *h, struct inflight *m)
{
    HASH_ADD_STR(h->by_id, id, m);
}

void inflight_remove(struct inflight_table *h, struct inflight *m)
{
    HASH_DEL(h->by_id, m);
}
