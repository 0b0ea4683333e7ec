#ifndef LIBCOMMON_BROKER_BROKER_ACKS_H
#define LIBCOMMON_BROKER_BROKER_ACKS_H

/*
 * Which deliveries of a channel are outstanding, and the fewest ack frames that say what is done:
 * one "multiple" for the finished head, single ones beyond a gap. Pure; one thread. Memory is
 * bounded by the prefetch (twice, amortised).
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct broker_ack_entry {
    uint64_t tag;
    enum { ACK_OUTSTANDING, ACK_DUE, ACK_SENT } state;
};

struct broker_acks {
    struct broker_ack_entry *entries; /* head..tail, tags ascending */
    size_t head, tail, cap;
    size_t due;
};

void broker_acks_free(struct broker_acks *a);
void broker_acks_clear(struct broker_acks *a); /* a new channel */
bool broker_acks_delivered(struct broker_acks *a,
                           uint64_t tag); /* false: out of memory, or not ascending */
/* False: the tag is not outstanding. */
bool broker_acks_done(struct broker_acks *a, uint64_t tag, bool multiple);
/* Settled with a frame of its own (reject). */
bool broker_acks_settled(struct broker_acks *a, uint64_t tag);

typedef void broker_acks_fn(uint64_t tag, bool multiple, void *arg);
/* Calls fn for each frame to send; nothing is due afterwards. */
void broker_acks_collect(struct broker_acks *a, broker_acks_fn *fn, void *arg);

#endif
