#include "consumerd/inflight.h"

#include <stdlib.h>
#include <string.h>

#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"

#define BODY_MAX (4u << 20) /* far above what msg-api accepts */

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

struct inflight *inflight_new(const struct broker_event *event, struct err *err)
{
    struct message decoded;
    struct inflight *m;

    if (event->body_len > BODY_MAX) {
        err_set(err, ERR_PERMANENT, 0, "the body is too large");
        return NULL;
    }
    if (message_decode(event->body, event->body_len, &decoded, err))
        return NULL;
    m = copy_message(&decoded, event->tracestate);
    message_free(&decoded);
    if (!m) {
        err_set(err, ERR_RETRY, 0, "out of memory");
        return NULL;
    }
    if (trace_parse(event->traceparent, &m->trace))
        memcpy(m->traceparent, event->traceparent, TRACE_PARENT_SIZE - 1);
    m->accepted_us = event->accepted_us;
    m->arrived_us = clock_mono_us();
    m->redelivered = event->redelivered;
    m->tag = event->tag;
    TAILQ_INIT(&m->jobs);
    return m;
}

void inflight_free(struct inflight *m)
{
    struct job *job;
    struct job *next;

    if (!m)
        return;
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
