#include "api/spans.h"

#include <inttypes.h>
#include <stdio.h>

#include "libcommon/base/clock.h"
#include "libcommon/telemetry/tracer.h"

void spans_commit(struct operation *const *ops, size_t n, int64_t start_us)
{
    struct trace_context stored;
    struct trace_context own;
    char user[24];
    int64_t end_us = clock_wall_us();

    for (size_t i = 0; i < n; i++) {
        const struct operation *op = ops[i];

        if (op->kind != OPERATION_SEND || op->outcome != OUTCOME_DONE ||
            !trace_parse(op->traceparent, &stored) || !tracer_wants(&stored))
            continue;
        trace_child(&stored, &own);
        snprintf(user, sizeof(user), "%" PRId64, op->customer_id);
        tracer_span(&(struct tracer_span){
            .context = &own,
            .parent = &stored,
            .state = op->tracestate,
            .kind = TRACER_INTERNAL,
            .name = "commit",
            .start_us = start_us,
            .end_us = end_us,
            .attrs =
                (const struct tracer_attr[]){
                    T_STR("messaging.message.id", op->message.id),
                    T_STR("user.id", user),
                    T_INT("db.operation.batch.size", n),
                    T_INT("msg.recipients", op->message.recipient_count),
                },
            .attr_count = 4,
        });
    }
}
