#ifndef OPERATOR_SIM_FAULT_H
#define OPERATOR_SIM_FAULT_H

/*
 * What the simulator is told to do wrong. A set of faults is one flat JSON object (fields: sim.h);
 * a PUT replaces the whole set. Whether a fault strikes is no coin tossed in order of arrival but a
 * keyed hash of seed, fault, reference and how often that reference has come: a run with the same
 * seed replays, however its requests interleave. Not thread-safe: the caller locks.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/base/buf.h"

#define FAULT_PREFIX_MAX 20
#define FAULT_UNLIMITED (-1)

enum fault_kind {
    FAULT_STATUS,
    FAULT_RESET,
    FAULT_HANG,
    FAULT_ACCEPT_THEN_HANG,
    FAULT_ACCEPT_THEN_RESET,
    FAULT_REJECT,
    FAULT_LOOKUP_STATUS,
    FAULT_LOOKUP_HANG,
    FAULT_KINDS
};

struct fault {
    double share;  /* of the requests; 0: off */
    int64_t times; /* how often it strikes yet, or FAULT_UNLIMITED */
};

struct fault_set {
    struct fault kind[FAULT_KINDS];
    int64_t latency_ms, latency_max_ms;
    int64_t status, lookup_status, reject_status;
    int64_t retry_after; /* seconds; -1: no Retry-After */
    char reject_prefix[FAULT_PREFIX_MAX + 1];
    bool refuse;
    int64_t refuse_ms; /* refuse, for this long */
};

void fault_none(struct fault_set *set);
/* False with a reason when the text is no set of faults; *set is then unchanged. */
bool fault_parse(const char *json, size_t n, struct fault_set *set, char *why, size_t size);
void fault_put_json(struct buf *out, const struct fault_set *set);

/* Whether the fault strikes this request; counts it. attempt: 1 for a reference's first request. */
bool fault_strikes(struct fault_set *set, enum fault_kind kind, uint64_t seed,
                   const char *reference, uint32_t attempt);
int64_t fault_latency_us(const struct fault_set *set, uint64_t seed, const char *reference,
                         uint32_t attempt);

#endif
