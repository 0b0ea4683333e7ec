#ifndef OUTBOXD_PUBLISH_H
#define OUTBOXD_PUBLISH_H

/*
 * One batch on one broker connection: publish all, wait for the confirms, find out what to do about
 * the rest. Blocks until the deadline at most (plus the broker's own answers to declarations).
 *
 * Neighbours of one destination share an AMQP message (domain/bundle.h), whose confirm is that of
 * each. Alone go a row that has failed before, one larger than a bundle may be, and all once the
 * broker has refused anything: until the end of this batch, and in the next one. So nothing burns
 * an attempt for what happened to a bundle, and a broker that takes no bundles gets few.
 *
 * A channel that the broker closes takes everything unconfirmed with it: the batch is sent again
 * once after exchange and queues were declared, then row by row to find the one to blame. A row
 * returned as unroutable gets a second chance after the same declarations. Only what fails then is
 * ROW_REFUSED; whatever has another explanation is ROW_LEFT.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/base/buf.h"
#include "libcommon/base/trace.h"
#include "libcommon/broker/broker.h"
#include "outboxd/claim.h"
#include "outboxd/payload.h"

/* Rows of one AMQP message: first is one of them, and so are those up to end that are in its state
 * (the others could not be published). Empty: nothing more is heard of it. */
struct publish_span {
    size_t first, end;
};

struct publisher {
    enum message_type lane;
    size_t bundle_max;
    struct broker *broker;
    struct row *rows;
    size_t n;
    int64_t deadline_ms; /* monotonic */
    bool alone;          /* the broker refused something of the batch before */
    bool refused;        /* or of this one */
    bool renew;          /* the channel, for it nacked something of the batch before */
    /* the bundle that is being put together */
    struct publish_span open;
    struct payload head; /* of its first member */
    size_t members, members_max;
    struct buf body;
    /* one pass */
    uint64_t first_tag;
    size_t sent, low, waiting;             /* AMQP messages */
    struct publish_span by_tag[CLAIM_MAX]; /* at tag - first_tag */
    bool traced;                           /* trace is one of the pass's messages' */
    struct trace_context trace;
    bool closed;
    unsigned close_code;
    char close_text[128];
    bool nacked; /* the broker could not take some: slow down */
};

void publish_register(void); /* metrics; at start */
/* bundle_max: most messages of one AMQP message; 1: each goes alone. */
void publish_init(struct publisher *p, enum message_type lane, size_t bundle_max);
void publish_free(struct publisher *p);

/* Afterwards every row is ROW_CONFIRMED, ROW_REFUSED or ROW_LEFT. -1: the connection is closed
 * (what was confirmed before is still confirmed). */
int publish_batch(struct publisher *p, struct broker *broker, struct row *rows, size_t n,
                  int64_t deadline_ms, struct err *err);

#endif
