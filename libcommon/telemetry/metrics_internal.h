#ifndef LIBCOMMON_TELEMETRY_METRICS_INTERNAL_H
#define LIBCOMMON_TELEMETRY_METRICS_INTERNAL_H

/* What is registered (metrics.c), for those who write it out (metrics_render.c). */

#include <stdatomic.h>
#include <stdbool.h>

#include "libcommon/telemetry/metrics.h"

enum metric_type { METRIC_COUNTER, METRIC_GAUGE, METRIC_LATENCY, METRIC_SIZES };

/* The last traced observation of a bucket. A writer that meets another one leaves it alone. */
struct exemplar {
    _Atomic uint32_t version; /* odd: being written; 0: none yet */
    _Atomic uint64_t trace_id[2], span_id;
    _Atomic int64_t value, at_us;
};

struct metric {
    struct metric *next; /* in the family */
    enum metric_type type;
    char *labels;
    unsigned slot;              /* counter: one; histogram: a bucket each, +Inf, then the sum */
    _Atomic int64_t value;      /* gauge */
    struct exemplar *exemplars; /* of a latency: a bucket each and +Inf */
};

struct family {
    struct family *next;
    char *name;
    char *help;
    enum metric_type type;
    struct metric *first;
    struct metric **last;
};

size_t metrics_bounds(enum metric_type type, const int64_t **bounds);
uint64_t metrics_sum(unsigned slot);
/* All families; no more are registered until they are given back. */
const struct family *metrics_lock(void);
void metrics_unlock(void);

#endif
