#ifndef OUTBOXD_POLLER_H
#define OUTBOXD_POLLER_H

/*
 * Where and when to look for a lane's rows next. Pure: the clock is passed in, nothing is locked;
 * the relay threads of a lane share one under a lock (relay_thread.c).
 *
 * Fresh rows are taken upwards from a cursor, so that a look never walks what this process has
 * taken or deleted. Rows become visible in commit order, not in id order, and another process may
 * have let go of some: a lagged look starts where the cursor stood one "longest transaction" ago,
 * and a full look from 0 at an interval that grows with what it costs. Rows that are put off live
 * by time and are looked for on their own; so are those that only ask (outbox.h), which are not
 * urgent: at the full look's interval, or while they come in pages, in a part of the time.
 *
 * While rings can arrive (poller_hears), fresh rows are looked for when a ring says so. Each row
 * puts the next look off a little, so that a lane whose rows come one by one takes each at once,
 * and one that is rung without end takes many with each batch. What no ring says, a peek at an
 * interval does, however busy the lane is: that there are rows, and when the next put-off one's
 * time comes; it locks nothing. While no ring can arrive, looks go by the clock.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum poller_look {
    LOOK_WAIT,   /* nothing yet: wait_us */
    LOOK_PEEK,   /* whether there is anything to look for */
    LOOK_FRESH,  /* above the cursor */
    LOOK_LAGGED, /* above the cursor of a while ago */
    LOOK_FULL,   /* everything */
    LOOK_SWEEP,  /* goes on where a lagged or full look had its hands full */
    LOOK_DUE,    /* put-off rows whose time has come */
    LOOK_AHEAD,  /* put-off rows that were written in the future: the clock was set back */
    LOOK_ASK,    /* the same of the kind OUTBOX_ASK */
    LOOKS,
};

struct poller_limits {
    int64_t poll_min_us, poll_max_us; /* between looks: while rows come; while none do */
    int64_t idle_us;                  /* between peeks */
    int64_t apart_us;                 /* from a batch to the next while rows come in numbers */
    int64_t lag_us, full_us;
    int64_t batch, batch_bytes;
};

#define POLLER_NONE INT64_MAX

struct poller_task {
    enum poller_look look;
    int64_t from;  /* rows with ids above this */
    int64_t skip;  /* LOOK_DUE: as many of the first ones are held by others */
    int64_t limit; /* rows */
    int64_t wait_us;
};

struct poller {
    struct poller_limits limits;
    int64_t cursor;            /* no fresh row above it has been seen */
    int64_t mark, lagged_from; /* the cursor at marked_at_us, and a lag before that */
    int64_t marked_at_us;
    bool sweeping;
    int64_t sweep_from;
    bool hears;              /* rings can arrive */
    bool rung, rung_later;   /* one has, since the last look for fresh or put-off rows began */
    int64_t ready_at_us;     /* a ring is followed again */
    int64_t poll_us, due_us; /* the present pauses */
    int64_t poll_at_us, lagged_at_us, full_at_us, ahead_at_us, due_at_us, ask_at_us;
    int64_t peek_at_us;
    bool settled;        /* a look at everything found nothing, and nothing has come since */
    int64_t due_from_us; /* the last such look's end, and a pause */
    int64_t next_us;     /* as poller_put_off was told */
    int64_t ask_from_us, ahead_from_us; /* before that such a look would find nothing */
    int64_t due_skip;
    bool due_last; /* the last look was for put-off rows: fresh ones are next */
    int64_t limit; /* batch, less while payloads are large */
};

void poller_init(struct poller *p, const struct poller_limits *limits, int64_t now_us);
struct poller_task poller_next(struct poller *p, int64_t now_us);
/* What the look of task has come upon (rows that others hold included: whoever holds one sees to
 * it, or a full look does): rows, how many of them were claimed, those payloads' bytes, the highest
 * id, what the look cost. */
void poller_found(struct poller *p, const struct poller_task *task, size_t rows, size_t claimed,
                  size_t bytes, int64_t last_id, int64_t cost_us, int64_t now_us);
/* Before poller_found of a LOOK_DUE: how long until the next one's time comes, and the first one's
 * of those that ask (0: it has come); POLLER_NONE: there is none. */
void poller_put_off(struct poller *p, int64_t next_us, int64_t next_ask_us, int64_t now_us);
/* What a LOOK_PEEK has told, of which poller_found hears nothing: whether there are fresh rows, and
 * likewise; next_us may have passed, too. */
void poller_peeked(struct poller *p, bool fresh, int64_t next_us, int64_t next_ask_us,
                   int64_t cost_us, int64_t now_us);
/* From now on rings can arrive, or none. */
void poller_hears(struct poller *p, bool yes, int64_t now_us);
/* A ring: there are fresh rows; there are rows that are put off. */
void poller_rung(struct poller *p, bool fresh, bool put_off, int64_t now_us);
/* Claimed rows are free again, unpublished: the lowest id of fresh ones (0: none), whether there
 * were put-off ones. Those that ask wait for the next look at them. */
void poller_returned(struct poller *p, int64_t lowest_id, bool put_off, int64_t now_us);

#endif
