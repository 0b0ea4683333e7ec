#include "outboxd/lane.h"

/* A look that is repeated for safety's sake may cost a twentieth of the time. */
#define COST_FACTOR 20
#define LAGGED_EVERY_US 50000
#define DUE_MIN_US 100000
#define DUE_MAX_US 500000
#define DUE_HELD_US 10000 /* before the next page, when others hold all of this one */

static int64_t lower(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t higher(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

void lane_init(struct lane *l, const struct lane_limits *limits, int64_t now_us)
{
    *l = (struct lane){
        .limits = *limits,
        .marked_at_us = now_us,
        .poll_us = limits->poll_min_us,
        .due_us = DUE_MIN_US,
        .poll_at_us = now_us,
        .lagged_at_us = now_us,
        .full_at_us = now_us + limits->full_us,
        .due_at_us = now_us,
        .limit = limits->batch,
    };
}

/* lagged_from is between one and two lags old at any time. */
static void move_marks(struct lane *l, int64_t now_us)
{
    if (now_us - l->marked_at_us < l->limits.lag_us)
        return;
    l->lagged_from = l->mark;
    l->mark = l->cursor;
    l->marked_at_us = now_us;
}

static bool fresh_waits(const struct lane *l, int64_t now_us)
{
    return l->sweeping || now_us >= l->full_at_us || now_us >= l->poll_at_us;
}

struct lane_task lane_next(struct lane *l, int64_t now_us)
{
    struct lane_task task = {.limit = l->limit};
    int64_t at_us;

    move_marks(l, now_us);
    if (now_us >= l->due_at_us && !(l->due_last && fresh_waits(l, now_us))) {
        task.look = LANE_DUE;
        task.skip = l->due_skip;
    } else if (now_us >= l->full_at_us) {
        task.look = LANE_FULL;
    } else if (l->sweeping) {
        task.look = LANE_SWEEP;
        task.from = l->sweep_from;
    } else if (now_us >= l->poll_at_us) {
        task.look = now_us >= l->lagged_at_us ? LANE_LAGGED : LANE_FRESH;
        task.from = task.look == LANE_LAGGED ? l->lagged_from : l->cursor;
    } else {
        at_us = lower(l->poll_at_us, lower(l->due_at_us, l->full_at_us));
        task.wait_us = at_us - now_us;
    }
    return task;
}

/* A look begins at the oldest row: what others hold of it is skipped until the end has been seen.
 */
static void found_due(struct lane *l, const struct lane_task *task, size_t rows, size_t claimed,
                      int64_t cost_us, int64_t now_us)
{
    l->due_us = rows ? DUE_MIN_US : lower(l->due_us * 3 / 2, DUE_MAX_US);
    if ((int64_t)rows == task->limit) {
        l->due_skip += (int64_t)(rows - claimed);
        l->due_at_us = claimed ? now_us : now_us + DUE_HELD_US;
    } else {
        l->due_skip = 0;
        l->due_at_us = now_us + higher(l->due_us, cost_us * COST_FACTOR);
    }
}

static void found_fresh(struct lane *l, const struct lane_task *task, size_t rows, int64_t last_id,
                        int64_t cost_us, int64_t now_us)
{
    bool full_hands = (int64_t)rows == task->limit;

    if (task->look == LANE_FULL)
        l->full_at_us = now_us + higher(l->limits.full_us, cost_us * COST_FACTOR);
    if (task->look == LANE_FULL || task->look == LANE_LAGGED)
        l->lagged_at_us = now_us + higher(LAGGED_EVERY_US, cost_us * COST_FACTOR);
    if (task->look != LANE_FRESH) {
        l->sweeping = full_hands && last_id < l->cursor;
        l->sweep_from = last_id;
    }
    if (rows)
        l->cursor = higher(l->cursor, last_id);
    if (rows)
        l->poll_us = l->limits.poll_min_us;
    else if (task->look == LANE_FRESH || task->look == LANE_LAGGED)
        l->poll_us = lower(l->poll_us * 9 / 8 + 1, l->limits.poll_max_us);
    l->poll_at_us = full_hands ? now_us : now_us + l->poll_us;
}

/* The mean payload decides how many rows fit; recovery is by doubling. */
static void fit_limit(struct lane *l, size_t rows, size_t bytes)
{
    int64_t most = l->limits.batch_bytes;

    if ((int64_t)bytes > most)
        l->limit = higher(1, (int64_t)rows * most / (int64_t)bytes);
    else if ((int64_t)bytes < most / 2)
        l->limit = lower(l->limits.batch, l->limit * 2);
}

void lane_found(struct lane *l, const struct lane_task *task, size_t rows, size_t claimed,
                size_t bytes, int64_t last_id, int64_t cost_us, int64_t now_us)
{
    l->due_last = task->look == LANE_DUE;
    if (task->look == LANE_DUE)
        found_due(l, task, rows, claimed, cost_us, now_us);
    else
        found_fresh(l, task, rows, last_id, cost_us, now_us);
    if (rows)
        fit_limit(l, rows, bytes);
}

void lane_returned(struct lane *l, int64_t lowest_id, bool put_off, int64_t now_us)
{
    if (lowest_id > 0) {
        l->cursor = lower(l->cursor, lowest_id - 1);
        l->mark = lower(l->mark, lowest_id - 1);
        l->lagged_from = lower(l->lagged_from, lowest_id - 1);
        if (l->sweeping)
            l->sweep_from = lower(l->sweep_from, lowest_id - 1);
        l->poll_at_us = lower(l->poll_at_us, now_us + l->limits.poll_min_us);
    }
    if (put_off) {
        l->due_skip = 0;
        l->due_at_us = lower(l->due_at_us, now_us + DUE_MIN_US);
    }
}
