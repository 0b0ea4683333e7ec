#ifndef LIBCOMMON_TELEMETRY_TRACER_H
#define LIBCOMMON_TELEMETRY_TRACER_H

/* clang-format off */
/*
 * Spans, as OpenTelemetry has them. Whoever did the work says when it began and ended and in which
 * context; the span is copied into a bounded queue that one thread (otlp.h) empties. Recording
 * never blocks, never allocates and calls nothing but a wake-up: what does not fit is dropped and
 * counted (msg_trace_spans_total). Any thread may record; tracing that is off, or a context that is
 * not sampled, costs one branch:
 *
 *     if (tracer_wants(&trace))
 *         tracer_span(&(struct tracer_span){...});
 *
 * A message has one trace. Its stored context is the server span of its POST and is never changed;
 * each later step is a child of it with a span id of its own, and the operator calls are children
 * of the process span. A batch makes one span a message, in a loop over what is sampled: the same
 * times and attributes, its own context:
 *
 *     step        name                   kind       parent           recorded
 *     commit      "commit"               INTERNAL   stored context   api, after COMMIT
 *     publish     "publish ex:express"   PRODUCER   stored, remote   outboxd, after the confirm
 *     process     "process ex:express"   CONSUMER   stored, remote   consumerd, after the ack (it
 *                                                                    links to the stored context)
 *     operator    "POST"                 CLIENT     process          consumerd, after the answer
 *     settle      "settle"               INTERNAL   process          consumerd, after COMMIT
 *     receipt     "receipt"              INTERNAL   stored, remote   api, after COMMIT
 *     webhook     "POST webhook"         CLIENT     stored, remote   consumerd, after the answer
 *
 *     struct tracer_attr attrs[] = {T_STR("messaging.system", "rabbitmq"),
 *                                   T_INT("messaging.batch.message_count", n),
 *                                   T_STR("messaging.message.id", NULL)};
 *     struct tracer_span span = {.kind = TRACER_PRODUCER, .name = "publish ex:express",
 *                                .start_us = started_us, .end_us = clock_wall_us(),
 *                                .parent_remote = true, .attrs = attrs, .attr_count = 3};
 *     for (size_t i = 0; i < n; i++) {
 *         struct trace_context own;
 *
 *         if (!tracer_wants(&rows[i].trace))
 *             continue;
 *         trace_child(&rows[i].trace, &own);
 *         span.context = &own;
 *         span.parent = &rows[i].trace;
 *         span.state = rows[i].tracestate;
 *         attrs[2] = T_STR("messaging.message.id", rows[i].id);
 *         tracer_span(&span);
 *     }
 *
 * Where a child ends before its parent does (operator, then process), the parent's id is made first
 * and kept until both are recorded. Recipients and texts are never attributes.
 */
/* clang-format on */

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/base/trace.h"

/* What is beyond a limit is cut off or, attributes and links, dropped and counted in the span. */
#define TRACER_ATTRS_MAX 16
#define TRACER_LINKS_MAX 4
#define TRACER_NAME_MAX 128  /* bytes of a name or a status message */
#define TRACER_VALUE_MAX 256 /* bytes of an attribute */
#define TRACER_TEXT_MAX 1280 /* bytes of all texts of a span together, each with a NUL */

enum tracer_kind { /* the numbers of the protocol */
                   TRACER_INTERNAL = 1,
                   TRACER_SERVER,
                   TRACER_CLIENT,
                   TRACER_PRODUCER,
                   TRACER_CONSUMER
};

enum tracer_status { TRACER_UNSET, TRACER_OK, TRACER_ERROR };

struct tracer_attr {
    const char *key; /* a literal: it is not copied */
    enum { TRACER_STR, TRACER_INT, TRACER_BOOL } type;
    union {
        const char *str; /* copied; NULL or "": the attribute is left out */
        int64_t num;
        bool flag;
    } v;
};

#define T_STR(k, s) ((struct tracer_attr){.key = (k), .type = TRACER_STR, .v.str = (s)})
#define T_INT(k, n) ((struct tracer_attr){.key = (k), .type = TRACER_INT, .v.num = (int64_t)(n)})
#define T_BOOL(k, b) ((struct tracer_attr){.key = (k), .type = TRACER_BOOL, .v.flag = (b)})

/* All pointers are borrowed for the call. */
struct tracer_span {
    const struct trace_context *context; /* with the span's own id */
    const struct trace_context *parent;  /* NULL: a root */
    bool parent_remote;                  /* the parent was recorded by another process */
    const char *state;                   /* the trace's tracestate; NULL or "": none */
    enum tracer_kind kind;
    const char *name;
    int64_t start_us, end_us; /* wall clock */
    enum tracer_status status;
    const char *message; /* with TRACER_ERROR; NULL: none */
    const struct tracer_attr *attrs;
    size_t attr_count;
    const struct trace_context *links;
    size_t link_count;
};

extern _Atomic bool tracer_running;

static inline bool tracer_on(void)
{
    return __builtin_expect(atomic_load_explicit(&tracer_running, memory_order_relaxed), false);
}

static inline bool tracer_wants(const struct trace_context *t)
{
    return tracer_on() && (t->flags & TRACE_SAMPLED);
}

/* Sets the sampled flag of a context that is new here, as the sampler says. has_parent: it
 * continues a caller's trace. Tracing off: the flag stays as it is. */
void tracer_sample(struct trace_context *t, bool has_parent);

void tracer_span(const struct tracer_span *span);

/* Brings the gauge of the queue's length up to date, for a scrape. */
void tracer_observe(void);

#endif
