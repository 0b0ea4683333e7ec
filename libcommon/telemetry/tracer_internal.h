#ifndef LIBCOMMON_TELEMETRY_TRACER_INTERNAL_H
#define LIBCOMMON_TELEMETRY_TRACER_INTERNAL_H

/* The far end of the tracer: the queue as its only consumer, the exporter, sees it. */

#include "libcommon/telemetry/tracer.h"

enum tracer_sampler { TRACER_SAMPLE_ON, TRACER_SAMPLE_OFF, TRACER_SAMPLE_RATIO };

struct tracer_config {
    size_t queue_max; /* spans, at least 2 */
    size_t wake_at;   /* spans in the queue from which on wake is called */
    enum tracer_sampler sampler;
    bool parent_based; /* a caller's decision holds; the sampler is for roots */
    double ratio;
    /* Called by a recording thread, at most once until tracer_arm. Must not block. */
    void (*wake)(void *arg);
    void *arg;
};

/* Texts are offsets into texts, each ended by a NUL; 0 is the empty one. */
struct tracer_value {
    const char *key;
    unsigned type; /* as in struct tracer_attr */
    union {
        int64_t num;
        bool flag;
        uint16_t text;
    } v;
};

struct tracer_record {
    struct trace_context context;
    uint8_t parent_id[8]; /* all zero: a root */
    bool parent_remote;
    uint8_t kind, status;
    uint8_t attr_count, link_count;
    uint16_t name, state, message;
    uint16_t text_len;
    uint32_t attrs_dropped, links_dropped;
    int64_t start_us, end_us;
    struct tracer_value attrs[TRACER_ATTRS_MAX];
    struct trace_context links[TRACER_LINKS_MAX];
    char texts[TRACER_TEXT_MAX];
};

/* What became of a span; the labels of msg_trace_spans_total. */
enum tracer_result {
    TRACER_EXPORTED,
    TRACER_QUEUE_FULL,  /* it found no room */
    TRACER_REJECTED,    /* the collector took its batch without it */
    TRACER_REFUSED,     /* the collector said no, for good */
    TRACER_UNREACHABLE, /* no collector took it in time */
    TRACER_STOPPED,     /* left in the queue at the end */
    TRACER_RESULTS
};

void tracer_register(void); /* the metrics; once, before anything is counted */
/* Neither may run beside the other. A thread that still records after tracer_stop does no harm, and
 * is not heard: the queue's memory stays until the next start. */
void tracer_start(const struct tracer_config *config);
void tracer_stop(void);

/* The consumer's thread only. */
void tracer_arm(void);                       /* from now on wake is called again */
size_t tracer_queued(void);                  /* with those still being written */
struct tracer_record *tracer_peek(size_t i); /* the i-th oldest; NULL: it is not there yet */
void tracer_release(size_t n);               /* gives the n oldest places back */
void tracer_count(enum tracer_result result, uint64_t n);

#endif
