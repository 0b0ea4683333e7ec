#ifndef OUTBOXD_PUBLISH_H
#define OUTBOXD_PUBLISH_H

/*
 * One batch on one broker connection: publish all, wait for the confirms, find out what to do about
 * the rest. Blocks until the deadline at most (plus the broker's own answers to declarations).
 *
 * A channel that the broker closes takes everything unconfirmed with it: the batch is sent again
 * once after exchange and queues were declared, then row by row to find the one to blame. A row
 * returned as unroutable gets a second chance after the same declarations. Only what fails then is
 * ROW_REFUSED; whatever has another explanation is ROW_LEFT.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/base/trace.h"
#include "libcommon/broker/broker.h"
#include "outboxd/claim.h"

struct publisher {
    struct broker *broker;
    struct row *rows;
    size_t n;
    int64_t deadline_ms; /* monotonic */
    /* one pass */
    uint64_t first_tag;
    size_t sent, low, waiting;
    size_t by_tag[CLAIM_MAX]; /* tag - first_tag -> row */
    bool traced;              /* trace is one of the pass's messages' */
    struct trace_context trace;
    bool closed;
    unsigned close_code;
    char close_text[128];
    bool nacked; /* the broker could not take some: slow down */
    uint64_t returned;
};

void publish_register(void); /* metrics; at start */

/* Afterwards every row is ROW_CONFIRMED, ROW_REFUSED or ROW_LEFT. -1: the connection is closed
 * (what was confirmed before is still confirmed). */
int publish_batch(struct publisher *p, struct broker *broker, struct row *rows, size_t n,
                  int64_t deadline_ms, struct err *err);

#endif
