#include "outboxd/poller.h"

/* A look that is repeated for safety's sake may cost a twentieth of the time. */
#define COST_FACTOR 20
#define LAGGED_EVERY_US 20000
#define DUE_MIN_US 100000
#define DUE_MAX_US 500000
#define ASK_LIMIT 20      /* questions are not urgent, and take an operator's slots from messages */
#define DUE_HELD_US 10000 /* before the next page, when others hold all of this one */
#define DUE_AFTER_US 500  /* the row's time, and the clocks' difference */
#define ROW_APART_US 20000 /* up to fifty rows a second are worth a batch each */
#define LOOK_APART 4       /* a look that takes nothing may cost a fourth of the time */
#define PAUSES_SAVED 3     /* as many batches follow each other at once after a quiet time */

static int64_t lower(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t higher(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int64_t from_us(int64_t now_us, int64_t us)
{
    return us == POLLER_NONE ? POLLER_NONE : now_us + us;
}

void poller_init(struct poller *p, const struct poller_limits *limits, int64_t now_us)
{
    *p = (struct poller){
        .limits = *limits,
        .marked_at_us = now_us,
        .poll_us = limits->poll_min_us,
        .due_us = DUE_MIN_US,
        .poll_at_us = now_us,
        .lagged_at_us = now_us,
        .full_at_us = now_us + limits->full_us,
        .due_at_us = now_us,
        .ahead_at_us = now_us + limits->full_us,
        .ask_at_us = now_us + limits->full_us,
        .ready_at_us = now_us,
        .peek_at_us = now_us,
        .next_us = POLLER_NONE,
        .limit = limits->batch,
    };
}

/* lagged_from is between one and two lags old at any time. */
static void move_marks(struct poller *p, int64_t now_us)
{
    if (now_us - p->marked_at_us < p->limits.lag_us)
        return;
    p->lagged_from = p->mark;
    p->mark = p->cursor;
    p->marked_at_us = now_us;
}

/* A lane at rest need not be looked through: peeks see what comes. */
static int64_t full_at_us(const struct poller *p)
{
    return p->hears && p->settled ? POLLER_NONE : p->full_at_us;
}

static int64_t peek_at_us(const struct poller *p)
{
    return p->hears ? p->peek_at_us : POLLER_NONE;
}

static bool fresh_waits(const struct poller *p, int64_t now_us)
{
    return p->sweeping || now_us >= full_at_us(p) || now_us >= p->poll_at_us;
}

static int64_t ask_at_us(const struct poller *p)
{
    return higher(p->ask_at_us, p->ask_from_us);
}

static int64_t ahead_at_us(const struct poller *p)
{
    return higher(p->ahead_at_us, p->ahead_from_us);
}

struct poller_task poller_next(struct poller *p, int64_t now_us)
{
    struct poller_task task = {.limit = p->limit};
    int64_t at_us;

    move_marks(p, now_us);
    if (now_us >= peek_at_us(p)) {
        task.look = LOOK_PEEK; /* first: a drain must not hide what only a peek brings back */
    } else if (now_us >= ask_at_us(p)) {
        task.look = LOOK_ASK;
        task.limit = lower(p->limit, ASK_LIMIT);
    } else if (now_us >= ahead_at_us(p)) {
        task.look = LOOK_AHEAD;
    } else if (now_us >= p->due_at_us && !(p->due_last && fresh_waits(p, now_us))) {
        task.look = LOOK_DUE;
        task.skip = p->due_skip;
    } else if (now_us >= full_at_us(p)) {
        task.look = LOOK_FULL;
    } else if (p->sweeping) {
        task.look = LOOK_SWEEP;
        task.from = p->sweep_from;
    } else if (now_us >= p->poll_at_us) {
        task.look = now_us >= p->lagged_at_us ? LOOK_LAGGED : LOOK_FRESH;
        task.from = task.look == LOOK_LAGGED ? p->lagged_from : p->cursor;
    } else {
        at_us = lower(lower(p->poll_at_us, p->due_at_us), lower(full_at_us(p), ask_at_us(p)));
        at_us = lower(at_us, lower(ahead_at_us(p), peek_at_us(p)));
        task.wait_us = at_us - now_us;
    }
    if (task.look == LOOK_FULL || task.look == LOOK_LAGGED || task.look == LOOK_FRESH)
        p->rung = false;
    if (task.look == LOOK_DUE)
        p->rung_later = false;
    return task;
}

/* When the next look for put-off rows is due, after one that has come upon so many. */
static int64_t next_due_at_us(struct poller *p, size_t rows, int64_t cost_us, int64_t now_us)
{
    int64_t least_us = higher(rows ? DUE_MIN_US : 0, cost_us * COST_FACTOR);
    int64_t pause_us;

    p->due_us = rows ? DUE_MIN_US : lower(p->due_us * 3 / 2, DUE_MAX_US);
    pause_us = p->hears && !rows ? POLLER_NONE : p->due_us;
    if (p->next_us < pause_us)
        pause_us = p->next_us + DUE_AFTER_US;
    return from_us(now_us, higher(pause_us, least_us));
}

/* A look begins at the oldest row: what others hold of it is skipped until the end has been seen.
 */
static void found_due(struct poller *p, const struct poller_task *task, size_t rows, size_t claimed,
                      int64_t cost_us, int64_t now_us)
{
    int64_t next_at_us = next_due_at_us(p, rows, cost_us, now_us);

    p->next_us = POLLER_NONE;
    p->due_from_us = now_us + DUE_MIN_US;
    if ((int64_t)rows == task->limit) {
        p->due_skip += (int64_t)(rows - claimed);
        p->due_at_us = claimed ? now_us : now_us + DUE_HELD_US;
    } else {
        p->due_skip = 0;
        p->due_at_us = next_at_us;
        if (p->rung_later)
            p->due_at_us = lower(p->due_at_us, p->due_from_us);
    }
}

/* Of what is looked for as seldom as the whole outbox. */
static int64_t seldom_at_us(const struct poller *p, const struct poller_task *task, size_t rows,
                            int64_t cost_us, int64_t now_us)
{
    bool goes_on = task->look == LOOK_AHEAD && (int64_t)rows == task->limit;
    int64_t least_us = goes_on ? DUE_MIN_US : p->limits.full_us;

    return now_us + higher(least_us, cost_us * COST_FACTOR);
}

static int64_t apart_us(const struct poller *p)
{
    return lower(p->limits.apart_us, p->limits.poll_min_us);
}

/* Each look, and the batch that it begins, puts the next one off; a quiet time is saved up. Looks
 * with full hands do not wait, and what they spend is not owed afterwards. */
static void spend(struct poller *p, size_t claimed, int64_t cost_us, int64_t now_us)
{
    int64_t apart = apart_us(p);
    int64_t took_us = claimed ? (int64_t)claimed * ROW_APART_US : cost_us * LOOK_APART;

    p->ready_at_us = higher(p->ready_at_us, now_us - PAUSES_SAVED * apart) + lower(took_us, apart);
    p->ready_at_us = lower(p->ready_at_us, now_us + apart);
}

/* When to look again without a ring: soon while rows come in numbers; once more from further back
 * when they do not (the ring may have been for one that newer rows have passed). */
static int64_t unrung_at_us(const struct poller *p, const struct poller_task *task, size_t claimed,
                            int64_t now_us)
{
    if (claimed > 1)
        return higher(p->ready_at_us, now_us + apart_us(p));
    if (task->look == LOOK_FRESH)
        return higher(p->lagged_at_us, now_us);
    return POLLER_NONE;
}

static void found_fresh(struct poller *p, const struct poller_task *task, size_t rows,
                        size_t claimed, int64_t last_id, int64_t cost_us, int64_t now_us)
{
    bool full_hands = (int64_t)rows == task->limit;

    if (task->look == LOOK_FULL)
        p->full_at_us = now_us + higher(p->limits.full_us, cost_us * COST_FACTOR);
    if (task->look == LOOK_FULL || task->look == LOOK_LAGGED)
        p->lagged_at_us = now_us + higher(LAGGED_EVERY_US, cost_us * COST_FACTOR);
    if (task->look != LOOK_FRESH) {
        p->sweeping = full_hands && last_id < p->cursor;
        p->sweep_from = last_id;
    }
    if (rows)
        p->cursor = higher(p->cursor, last_id);
    if (rows || task->look == LOOK_FULL)
        p->settled = !rows;
    if (rows)
        p->poll_us = p->limits.poll_min_us;
    else if (task->look == LOOK_FRESH || task->look == LOOK_LAGGED)
        p->poll_us = lower(p->poll_us * 9 / 8 + 1, p->limits.poll_max_us);
    spend(p, claimed, cost_us, now_us);
    if (full_hands)
        p->poll_at_us = now_us;
    else if (!p->hears)
        p->poll_at_us = now_us + p->poll_us;
    else if (p->rung)
        p->poll_at_us = higher(p->ready_at_us, now_us);
    else
        p->poll_at_us = unrung_at_us(p, task, claimed, now_us);
}

/* The mean payload decides how many rows fit; recovery is by doubling. */
static void fit_limit(struct poller *p, size_t rows, size_t bytes)
{
    int64_t most = p->limits.batch_bytes;

    if ((int64_t)bytes > most)
        p->limit = higher(1, (int64_t)rows * most / (int64_t)bytes);
    else if ((int64_t)bytes < most / 2)
        p->limit = lower(p->limits.batch, p->limit * 2);
}

void poller_found(struct poller *p, const struct poller_task *task, size_t rows, size_t claimed,
                  size_t bytes, int64_t last_id, int64_t cost_us, int64_t now_us)
{
    p->due_last = task->look == LOOK_DUE;
    if (task->look == LOOK_ASK)
        p->ask_at_us = seldom_at_us(p, task, rows, cost_us, now_us);
    else if (task->look == LOOK_AHEAD)
        p->ahead_at_us = seldom_at_us(p, task, rows, cost_us, now_us);
    else if (task->look == LOOK_DUE)
        found_due(p, task, rows, claimed, cost_us, now_us);
    else
        found_fresh(p, task, rows, claimed, last_id, cost_us, now_us);
    if (rows)
        fit_limit(p, rows, bytes);
}

void poller_put_off(struct poller *p, int64_t next_us, int64_t next_ask_us, int64_t now_us)
{
    p->next_us = next_us;
    p->ask_from_us = from_us(now_us, next_ask_us);
    p->ahead_from_us = lower(next_us, next_ask_us) == POLLER_NONE ? POLLER_NONE : now_us;
}

void poller_peeked(struct poller *p, bool fresh, int64_t next_us, int64_t next_ask_us,
                   int64_t cost_us, int64_t now_us)
{
    p->peek_at_us = now_us + higher(p->limits.idle_us, cost_us * COST_FACTOR);
    poller_put_off(p, next_us, next_ask_us, now_us);
    p->next_us = POLLER_NONE;
    p->due_at_us =
        lower(p->due_at_us, higher(from_us(now_us + DUE_AFTER_US, next_us), p->due_from_us));
    if (!fresh)
        return;
    p->settled = false;
    p->poll_at_us = lower(p->poll_at_us, now_us);
}

void poller_hears(struct poller *p, bool yes, int64_t now_us)
{
    if (p->hears == yes)
        return;
    p->hears = yes;
    p->poll_us = p->limits.poll_min_us;
    p->due_us = DUE_MIN_US;
    p->settled = false;
    /* Those who rang before found nobody at home. */
    poller_rung(p, true, true, now_us);
}

void poller_rung(struct poller *p, bool fresh, bool put_off, int64_t now_us)
{
    if (fresh) {
        p->rung = true;
        p->poll_at_us = lower(p->poll_at_us, higher(now_us, p->ready_at_us));
    }
    if (put_off) {
        p->rung_later = true;
        p->due_at_us = lower(p->due_at_us, higher(now_us, p->due_from_us));
    }
}

void poller_returned(struct poller *p, int64_t lowest_id, bool put_off, int64_t now_us)
{
    if (lowest_id > 0) {
        p->settled = false;
        p->cursor = lower(p->cursor, lowest_id - 1);
        p->mark = lower(p->mark, lowest_id - 1);
        p->lagged_from = lower(p->lagged_from, lowest_id - 1);
        if (p->sweeping)
            p->sweep_from = lower(p->sweep_from, lowest_id - 1);
        p->poll_at_us = lower(p->poll_at_us, now_us + p->limits.poll_min_us);
    }
    if (put_off) {
        p->due_skip = 0;
        p->due_at_us = lower(p->due_at_us, now_us + DUE_MIN_US);
    }
}
