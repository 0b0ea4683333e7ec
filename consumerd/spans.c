#include "consumerd/spans.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "libcommon/base/clock.h"
#include "libcommon/telemetry/tracer.h"

void spans_arrived(struct inflight *m)
{
    if (tracer_wants(&m->trace))
        trace_child(&m->trace, &m->process);
}

void spans_call_begins(struct transport_call *call)
{
    const struct inflight *m = call->job->message;

    if (tracer_wants(&m->process))
        trace_child(&m->process, &call->trace);
}

static void record_call(const struct transport_call *call, const struct transport_result *r,
                        const struct operator_address *operator)
{
    const struct job *job = call->job;
    const struct inflight *m = job->message;
    const struct transport *t = operator->transport;
    const struct transport_span *words = r->lookup ? &t->lookup_span : &t->submit_span;
    const char *result = r->lookup ? lookup_answer_name(r->answer) : verdict_name(r->verdict);
    bool good = r->lookup ? r->answer != LOOKUP_UNREACHABLE : r->verdict == VERDICT_ACCEPTED;
    int64_t end_us = clock_wall_us();
    struct tracer_attr attrs[6 + TRANSPORT_SPAN_ATTRS] = {
        T_STR("peer.service", operator->name), T_STR("messaging.message.id", m->id),
        T_INT("msg.position", job->position),  T_INT("msg.attempt", job->attempt),
        T_STR("msg.result", result),           T_STR("error.type", good ? NULL : result),
    };

    memcpy(attrs + 6, words->attrs, sizeof(words->attrs));
    tracer_span(&(struct tracer_span){
        .context = &call->trace,
        .parent = &m->process,
        .state = m->tracestate,
        .kind = TRACER_CLIENT,
        .name = words->name,
        .start_us = end_us - r->duration_us,
        .end_us = end_us,
        .status = good ? TRACER_UNSET : TRACER_ERROR,
        .message = good ? NULL : r->error,
        .attrs = attrs,
        .attr_count = 6 + words->attr_count,
    });
}

void spans_call_ends(const struct transport_call *call, const struct transport_result *r,
                     const struct operator_address *operator)
{
    if (tracer_wants(&call->job->message->process))
        record_call(call, r, operator);
}

static void settle_span(const struct job *job, size_t n, int64_t start_us, int64_t end_us)
{
    static const char *const outcomes[] = {[JOB_DONE] = "done",
                                           [JOB_FAILED] = "failed",
                                           [JOB_LATER] = "retry",
                                           [JOB_ABANDONED] = "abandoned"};
    const struct inflight *m = job->message;
    struct trace_context own;

    trace_child(&m->process, &own);
    tracer_span(&(struct tracer_span){
        .context = &own,
        .parent = &m->process,
        .state = m->tracestate,
        .kind = TRACER_INTERNAL,
        .name = "settle",
        .start_us = start_us,
        .end_us = end_us,
        .status = job->ours ? TRACER_UNSET : TRACER_ERROR,
        .message = job->ours ? NULL : "the recipient is no longer ours",
        .attrs =
            (const struct tracer_attr[]){
                T_STR("messaging.message.id", m->id),
                T_INT("msg.position", job->position),
                T_STR("msg.outcome", outcomes[job->outcome]),
                T_BOOL("msg.refunded", job->ours && job->outcome == JOB_FAILED),
                T_INT("db.operation.batch.size", n),
            },
        .attr_count = 5,
    });
}

void spans_settled(struct job *const *jobs, size_t n, int64_t start_us)
{
    int64_t end_us;

    if (!tracer_on())
        return;
    end_us = clock_wall_us();
    for (size_t i = 0; i < n; i++)
        if (tracer_wants(&jobs[i]->message->process))
            settle_span(jobs[i], n, start_us, end_us);
}

void spans_processed(const struct inflight *m, const char *exchange, const char *queue)
{
    int64_t end_us = clock_wall_us();
    char destination[512];
    char name[TRACER_NAME_MAX];
    char user[24];

    if (!tracer_wants(&m->process))
        return;
    snprintf(destination, sizeof(destination), "%s:%s", exchange, queue);
    snprintf(name, sizeof(name), "process %.*s", TRACER_NAME_MAX - 9, destination);
    snprintf(user, sizeof(user), "%" PRId64, m->customer_id);
    tracer_span(&(struct tracer_span){
        .context = &m->process,
        .parent = &m->trace,
        .parent_remote = true,
        .state = m->tracestate,
        .kind = TRACER_CONSUMER,
        .name = name,
        .start_us = end_us - (clock_mono_us() - m->arrived_us),
        .end_us = end_us,
        .status = m->failed ? TRACER_ERROR : TRACER_UNSET,
        .message = m->failed ? "a recipient failed and was refunded" : NULL,
        .attrs =
            (const struct tracer_attr[]){
                T_STR("messaging.system", "rabbitmq"),
                T_STR("messaging.operation.name", "process"),
                T_STR("messaging.operation.type", "process"),
                T_STR("messaging.destination.name", destination),
                T_STR("messaging.rabbitmq.destination.routing_key", queue),
                T_INT("messaging.rabbitmq.message.delivery_tag", m->arrival->tag),
                T_STR("messaging.message.id", m->id),
                T_STR("user.id", user),
                T_BOOL("msg.redelivered", m->redelivered),
                T_INT("msg.done", m->done),
                T_INT("msg.failed", m->failed),
                T_INT("msg.put_off", m->put_off),
            },
        .attr_count = 12,
        .links = &m->trace,
        .link_count = 1,
    });
}
