#include "outboxd/spans.h"

#include <stdio.h>

#include "libcommon/base/clock.h"
#include "libcommon/telemetry/tracer.h"
#include "outboxd/payload.h"

static void publish_span(const struct claim *c, const struct row *row, int64_t start_us,
                         int64_t end_us)
{
    struct trace_context stored;
    struct trace_context own;
    struct payload p;
    struct err ignored;
    char destination[2 * PAYLOAD_NAME_MAX + 2];
    char name[TRACER_NAME_MAX];

    if (payload_parse(row->payload, row->payload_len, &p, &ignored) ||
        !trace_parse(p.traceparent, &stored) || !tracer_wants(&stored))
        return;
    trace_child(&stored, &own);
    snprintf(destination, sizeof(destination), "%s:%s", p.exchange, p.routing_key);
    snprintf(name, sizeof(name), "publish %.*s", TRACER_NAME_MAX - 9, destination);
    tracer_span(&(struct tracer_span){
        .context = &own,
        .parent = &stored,
        .parent_remote = true,
        .state = p.tracestate,
        .kind = TRACER_PRODUCER,
        .name = name,
        .start_us = start_us,
        .end_us = end_us,
        .attrs =
            (const struct tracer_attr[]){
                T_STR("messaging.system", "rabbitmq"),
                T_STR("messaging.operation.name", "publish"),
                T_STR("messaging.operation.type", "send"),
                T_STR("messaging.destination.name", destination),
                T_STR("messaging.rabbitmq.destination.routing_key", p.routing_key),
                T_STR("messaging.message.id", row->aggregate_id),
                T_STR("msg.event", row->event_type),
                T_INT("messaging.batch.message_count", c->n),
                T_INT("msg.bundle.size", row->together),
                T_INT("messaging.message.body.size", p.body_len),
            },
        .attr_count = 10,
    });
}

void spans_publish(const struct claim *c, int64_t start_us)
{
    int64_t end_us = clock_wall_us();

    for (size_t i = 0; i < c->n; i++)
        if (c->rows[i].state == ROW_CONFIRMED)
            publish_span(c, &c->rows[i], start_us, end_us);
}
