#ifndef OUTBOXD_LANE_H
#define OUTBOXD_LANE_H

/*
 * Where and when to look for a lane's rows next. Pure: the clock is passed in, nothing is locked;
 * the workers of a lane share one under a lock (relay.c).
 *
 * Fresh rows are taken upwards from a cursor, so that a look never walks what this process has
 * taken or deleted. Rows become visible in commit order, not in id order, and another process may
 * have let go of some: a lagged look starts where the cursor stood one "longest transaction" ago,
 * and a full look from 0 at an interval that grows with what it costs. Rows that are put off live
 * by time and are looked for on their own.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum lane_look {
    LANE_WAIT,   /* nothing yet: wait_us */
    LANE_FRESH,  /* above the cursor */
    LANE_LAGGED, /* above the cursor of a while ago */
    LANE_FULL,   /* everything */
    LANE_SWEEP,  /* goes on where a lagged or full look had its hands full */
    LANE_DUE,    /* put-off rows whose time has come */
    LANE_LOOKS,
};

struct lane_limits {
    int64_t poll_min_us, poll_max_us; /* between looks: while rows come; while none do */
    int64_t lag_us, full_us;
    int64_t batch, batch_bytes;
};

struct lane_task {
    enum lane_look look;
    int64_t from;  /* rows with ids above this */
    int64_t skip;  /* LANE_DUE: as many of the first ones are held by others */
    int64_t limit; /* rows */
    int64_t wait_us;
};

struct lane {
    struct lane_limits limits;
    int64_t cursor;            /* no fresh row above it has been seen */
    int64_t mark, lagged_from; /* the cursor at marked_at_us, and one turn before that */
    int64_t marked_at_us;
    bool sweeping;
    int64_t sweep_from;
    int64_t poll_us, due_us; /* the present pauses */
    int64_t poll_at_us, lagged_at_us, full_at_us, due_at_us;
    int64_t due_skip;
    bool due_last; /* the last look was for put-off rows: fresh ones have their turn first */
    int64_t limit; /* batch, less while payloads are large */
};

void lane_init(struct lane *l, const struct lane_limits *limits, int64_t now_us);
struct lane_task lane_next(struct lane *l, int64_t now_us);
/* What the look of task has come upon (rows that others hold included: whoever holds one sees to
 * it, or a full look does): rows, how many of them were claimed, those payloads' bytes, the highest
 * id, what the look cost. */
void lane_found(struct lane *l, const struct lane_task *task, size_t rows, size_t claimed,
                size_t bytes, int64_t last_id, int64_t cost_us, int64_t now_us);
/* Claimed rows are free again, unpublished: the lowest id of fresh ones (0: none), whether there
 * were put-off ones. */
void lane_returned(struct lane *l, int64_t lowest_id, bool put_off, int64_t now_us);

#endif
