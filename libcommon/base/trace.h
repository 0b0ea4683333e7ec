#ifndef LIBCOMMON_BASE_TRACE_H
#define LIBCOMMON_BASE_TRACE_H

/*
 * W3C trace context (https://www.w3.org/TR/trace-context/): parse, continue, format. Pure. The
 * context travels HTTP -> message row -> outbox payload -> AMQP headers -> operator call, unchanged
 * once stored.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TRACE_PARENT_SIZE 56 /* 55 characters and a NUL */
#define TRACE_STATE_MAX 512
#define TRACE_SAMPLED 0x01

struct trace_context {
    uint8_t trace_id[16];
    uint8_t span_id[8];
    uint8_t flags; /* TRACE_SAMPLED; bit 1: the trace id is random */
};

bool trace_valid(const struct trace_context *t); /* neither id is all zero */

/* Section 3.2: false, *out untouched, when the header must be ignored. */
bool trace_parse(const char *traceparent, struct trace_context *out);
/* Always version 00. */
void trace_format(const struct trace_context *t, char out[TRACE_PARENT_SIZE]);
/* A new root: random ids, the random-id flag set, sampled as told. */
void trace_root(struct trace_context *out, bool sampled);
/* The same trace with a span id of its own. */
void trace_child(const struct trace_context *parent, struct trace_context *out);
/* Whether a tracestate may be passed on: printable, at most TRACE_STATE_MAX bytes and 32 members.
 */
bool trace_state_ok(const char *s, size_t n);

#endif
