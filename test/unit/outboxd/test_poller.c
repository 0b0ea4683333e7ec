#include "outboxd/poller.h"
#include "test/unit/suite.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#define MS 1000
#define SECOND 1000000
#define ROWS 4000

static int64_t lower(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t higher(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static const struct poller_limits limits = {.poll_min_us = 5 * MS,
                                            .poll_max_us = 50 * MS,
                                            .idle_us = SECOND,
                                            .apart_us = 4 * MS,
                                            .lag_us = SECOND,
                                            .full_us = 2 * SECOND,
                                            .batch = 200,
                                            .batch_bytes = 100000};

/* An outbox in memory: when a row becomes visible, and whether somebody has it. */
struct world {
    struct poller poller;
    int64_t now_us;
    int64_t visible_at_us[ROWS + 1]; /* by id, from 1 */
    bool taken[ROWS + 1];
    int64_t looks, walked;
};

static struct world w;

static bool is_for_fresh(const struct poller_task *task)
{
    return task->look != LOOK_DUE && task->look != LOOK_ASK && task->look != LOOK_AHEAD;
}

static void begin(void)
{
    memset(&w, 0, sizeof(w));
    w.now_us = 1000 * SECOND;
    poller_init(&w.poller, &limits, w.now_us);
    for (size_t i = 0; i <= ROWS; i++)
        w.visible_at_us[i] = INT64_MAX;
}

static void insert(int64_t id, int64_t visible_at_us)
{
    w.visible_at_us[id] = visible_at_us;
}

static int64_t left(void)
{
    int64_t n = 0;

    for (int64_t id = 1; id <= ROWS; id++)
        n += w.visible_at_us[id] <= w.now_us && !w.taken[id];
    return n;
}

/* One step: looks as told or moves the clock, no farther than at_us. Returns the number of rows
 * found. */
static size_t step(int64_t at_us)
{
    struct poller_task task = poller_next(&w.poller, w.now_us);
    size_t found = 0;
    int64_t last = 0;

    if (task.look == LOOK_WAIT) {
        ck_assert_int_gt(task.wait_us, 0);
        ck_assert_int_le(task.wait_us, w.poller.hears ? limits.idle_us : limits.poll_max_us);
        w.now_us += lower(task.wait_us, at_us - w.now_us);
        return 0;
    }
    w.looks++;
    if (task.look == LOOK_PEEK) {
        poller_peeked(&w.poller, left() > 0, POLLER_NONE, POLLER_NONE, 100, w.now_us += 100);
        return 0;
    }
    for (int64_t id = task.from + 1;
         is_for_fresh(&task) && id <= ROWS && (int64_t)found < task.limit; id++) {
        w.walked++;
        if (w.taken[id] || w.visible_at_us[id] > w.now_us)
            continue;
        w.taken[id] = true;
        last = id;
        found++;
    }
    w.now_us += 100;
    poller_found(&w.poller, &task, found, found, found * 100, last, 100, w.now_us);
    return found;
}

static void run_until(int64_t at_us)
{
    while (w.now_us < at_us)
        step(at_us);
}

START_TEST(a_backlog_is_taken_without_a_pause)
{
    int64_t start_us;

    begin();
    start_us = w.now_us;
    for (int64_t id = 1; id <= ROWS; id++)
        insert(id, 0);
    while (left())
        step(INT64_MAX);
    ck_assert_int_le(w.now_us - start_us, (ROWS / 200 + 5) * 100);
    ck_assert_int_le(w.walked, ROWS + 1000);
}
END_TEST

START_TEST(an_idle_lane_looks_seldom)
{
    begin();
    run_until(w.now_us + 10 * SECOND);
    ck_assert_int_le(w.looks, 10 * (20 + 5 + 1) + 50);
    ck_assert_int_ge(w.looks, 10 * 20);
}
END_TEST

START_TEST(a_fresh_row_waits_for_a_poll_at_most)
{
    begin();
    run_until(w.now_us + 3 * SECOND);
    insert(1, w.now_us);
    run_until(w.now_us + 60 * MS);
    ck_assert_int_eq(left(), 0);
}
END_TEST

/* Ids become visible in commit order: rows that newer ones have passed are seen by the lagged look.
 */
START_TEST(rows_that_commit_late_are_found_soon)
{
    int64_t start_us;

    begin();
    start_us = w.now_us;
    for (int64_t id = 1; id <= 2000; id++)
        insert(id, start_us + id * MS + (id % 7 == 0 ? 600 * MS : 0));
    for (int64_t at = 1; at <= 2700; at++) {
        run_until(start_us + at * MS);
        if (at < 700 || at % 100)
            continue;
        for (int64_t id = 1; id <= 2000; id++)
            ck_assert_msg(w.taken[id] || w.visible_at_us[id] > w.now_us - 80 * MS,
                          "%lld visible for %lld us", (long long)id,
                          (long long)(w.now_us - w.visible_at_us[id]));
    }
}
END_TEST

/* What took longer than the lag, or another process let go of, is seen by the full look. */
START_TEST(rows_below_every_mark_are_found_by_the_full_look)
{
    begin();
    for (int64_t id = 500; id <= 1500; id++)
        insert(id, 0);
    run_until(w.now_us + 10 * SECOND);
    ck_assert_int_eq(left(), 0);
    for (int64_t id = 1; id < 500; id++)
        insert(id, w.now_us);
    run_until(w.now_us + 2 * SECOND + 100 * MS);
    ck_assert_int_eq(left(), 0);
}
END_TEST

START_TEST(a_returned_claim_is_looked_for_at_once)
{
    int64_t lowest = 0;

    begin();
    for (int64_t id = 1; id <= 300; id++)
        insert(id, 0);
    run_until(w.now_us + 5 * SECOND);
    for (int64_t id = 120; id <= 200; id++) {
        w.taken[id] = false;
        lowest = lowest ? lowest : id;
    }
    poller_returned(&w.poller, lowest, false, w.now_us);
    run_until(w.now_us + 10 * MS);
    ck_assert_int_eq(left(), 0);
}
END_TEST

/* A look whose cost grows with tombstones must not eat the lane's time. */
START_TEST(costly_looks_become_rare)
{
    int64_t spent_us = 0;
    int64_t start_us;

    begin();
    start_us = w.now_us;
    while (w.now_us < start_us + 60 * SECOND) {
        struct poller_task task = poller_next(&w.poller, w.now_us);
        int64_t cost_us = task.look == LOOK_FULL     ? 500 * MS
                          : task.look == LOOK_LAGGED ? 20 * MS
                                                     : 50;

        if (task.look == LOOK_WAIT) {
            w.now_us += task.wait_us;
            continue;
        }
        w.now_us += cost_us;
        /* Rows keep coming, so that the lane is never quiet. */
        poller_found(&w.poller, &task, task.look == LOOK_FRESH, task.look == LOOK_FRESH, 100, 1,
                     cost_us, w.now_us);
        if (task.look == LOOK_FULL || task.look == LOOK_LAGGED)
            spent_us += cost_us;
    }
    ck_assert_int_lt(spent_us, 60 * SECOND / 9);
}
END_TEST

START_TEST(large_payloads_make_small_batches)
{
    struct poller_task task = {.look = LOOK_FRESH, .limit = 200};

    begin();
    poller_found(&w.poller, &task, 200, 200, 1000000, 200, 100, w.now_us);
    task = poller_next(&w.poller, w.now_us + SECOND / 10);
    ck_assert_int_eq(task.limit, 20);
    poller_found(&w.poller, &task, 20, 20, 10 * 1000 * 1000, 220, 100, w.now_us);
    ck_assert_int_eq(poller_next(&w.poller, w.now_us + SECOND / 5).limit, 1);
    for (int i = 0; i < 10; i++)
        poller_found(&w.poller, &task, 1, 1, 100, 220 + i, 100, w.now_us);
    ck_assert_int_eq(poller_next(&w.poller, w.now_us + SECOND / 4).limit, 200);
}
END_TEST

START_TEST(put_off_rows_have_looks_of_their_own)
{
    int64_t start_us, due = 0;

    begin();
    start_us = w.now_us;
    while (w.now_us < start_us + 10 * SECOND) {
        struct poller_task task = poller_next(&w.poller, w.now_us);

        if (task.look == LOOK_WAIT) {
            w.now_us += task.wait_us;
            continue;
        }
        due += task.look == LOOK_DUE;
        /* Fresh rows without end must not starve them. */
        poller_found(&w.poller, &task, is_for_fresh(&task) ? 200 : 0, is_for_fresh(&task) ? 200 : 0,
                     2000, 1, 1000, w.now_us += 1000);
    }
    ck_assert_int_ge(due, 10 * 2 - 2);
    ck_assert_int_le(due, 10 * 10 + 2);
}
END_TEST

/* A process that was stopped holds the oldest put-off rows: those behind them and the fresh ones go
 * on, and nothing spins. */
START_TEST(held_rows_stand_in_nobodys_way)
{
    int64_t start_us, held = 450, free_rows = 700, looks = 0, fresh = 0;

    begin();
    start_us = w.now_us;
    while (w.now_us < start_us + 5 * SECOND) {
        struct poller_task task = poller_next(&w.poller, w.now_us);
        int64_t seen = 0, claimed = 0;

        if (task.look == LOOK_WAIT) {
            w.now_us += task.wait_us;
            continue;
        }
        looks++;
        fresh += task.look == LOOK_FRESH || task.look == LOOK_LAGGED;
        if (task.look == LOOK_DUE) {
            int64_t there = held + free_rows - task.skip;

            seen = there < task.limit ? there : task.limit;
            claimed = seen - (task.skip < held ? held - task.skip : 0);
            if (claimed < 0)
                claimed = 0;
            free_rows -= claimed;
        }
        w.now_us += 500;
        poller_found(&w.poller, &task, (size_t)seen, (size_t)claimed, 100, 0, 500, w.now_us);
    }
    ck_assert_int_eq(free_rows, 0);
    ck_assert_int_gt(fresh, 5 * 9);
    ck_assert_int_lt(looks, 5 * 200);
}
END_TEST

/* Questions are not urgent: seldom while there are none, in pages when they come, and never more
 * than a part of the time. */
START_TEST(rows_that_ask_have_looks_of_their_own)
{
    int64_t start_us, looks = 0, asking = 3000, ask_us = 0;

    begin();
    start_us = w.now_us;
    while (w.now_us < start_us + 20 * SECOND) {
        struct poller_task task = poller_next(&w.poller, w.now_us);
        int64_t rows = 200;

        if (task.look == LOOK_WAIT) {
            w.now_us += task.wait_us;
            continue;
        }
        if (task.look == LOOK_ASK) {
            ck_assert(w.now_us >= start_us + 2 * SECOND);
            looks++;
            ask_us += 10000;
            ck_assert_int_le(task.limit, 20); /* a trickle, however many have waited */
            rows = asking < task.limit ? asking : task.limit;
            asking -= rows;
        }
        w.now_us += 10000;
        poller_found(&w.poller, &task, (size_t)rows, (size_t)rows, 2000, 1, 10000, w.now_us);
    }
    ck_assert_int_lt(asking, 3000);
    ck_assert_int_le(looks, 20 / 2);
    ck_assert_int_le(ask_us, SECOND);
}
END_TEST

/* A clock that was set back is as seldom: a look when others for the whole outbox come, in pages.
 */
START_TEST(rows_of_a_clock_that_was_set_back_are_looked_for)
{
    int64_t start_us, looks = 0, ahead = 1000;

    begin();
    start_us = w.now_us;
    while (w.now_us < start_us + 10 * SECOND) {
        struct poller_task task = poller_next(&w.poller, w.now_us);
        int64_t rows = 0;

        if (task.look == LOOK_WAIT) {
            w.now_us += task.wait_us;
            continue;
        }
        if (task.look == LOOK_AHEAD) {
            looks++;
            rows = ahead < task.limit ? ahead : task.limit;
            ahead -= rows;
        }
        w.now_us += 100;
        poller_found(&w.poller, &task, (size_t)rows, (size_t)rows, 2000, 1, 100, w.now_us);
    }
    ck_assert_int_eq(ahead, 0);
    ck_assert_int_ge(looks, 1000 / 200 + 1);
    ck_assert_int_le(looks, 1000 / 200 + 10 / 2);
}
END_TEST

/* ---- with a doorbell ---- */

static void begin_with_bell(void)
{
    begin();
    poller_hears(&w.poller, true, w.now_us);
    run_until(w.now_us + 3 * SECOND);
    w.looks = 0;
}

START_TEST(a_ring_is_followed_at_once)
{
    begin_with_bell();
    insert(1, w.now_us);
    poller_rung(&w.poller, true, false, w.now_us);
    run_until(w.now_us + MS);
    ck_assert_int_eq(left(), 0);
}
END_TEST

START_TEST(a_lost_ring_costs_an_idle_poll)
{
    begin_with_bell();
    insert(1, w.now_us);
    run_until(w.now_us + SECOND + 10 * MS);
    ck_assert_int_eq(left(), 0);
}
END_TEST

/* Of a claim that another process let go of, and below every mark. */
START_TEST(a_peek_sees_old_rows)
{
    begin();
    for (int64_t id = 500; id <= 1500; id++)
        insert(id, 0);
    poller_hears(&w.poller, true, w.now_us);
    run_until(w.now_us + 10 * SECOND);
    ck_assert_int_eq(left(), 0);
    for (int64_t id = 1; id < 500; id++)
        insert(id, w.now_us);
    run_until(w.now_us + SECOND + 100 * MS);
    ck_assert_int_eq(left(), 0);
}
END_TEST

START_TEST(a_lane_that_could_hear_looks_seldom)
{
    begin_with_bell();
    run_until(w.now_us + 20 * SECOND);
    ck_assert_int_le(w.looks, 20 + 3); /* peeks, and what was left of before */
    ck_assert_int_ge(w.looks, 20 - 1);
    poller_hears(&w.poller, false, w.now_us);
    w.looks = 0;
    run_until(w.now_us + 10 * SECOND);
    ck_assert_int_ge(w.looks, 10 * 20);
}
END_TEST

/* What was rung while nobody could hear it is looked for when the bell is there. */
START_TEST(a_bell_that_comes_back_is_looked_after)
{
    begin_with_bell();
    poller_hears(&w.poller, false, w.now_us);
    run_until(w.now_us + SECOND);
    insert(1, w.now_us);
    poller_hears(&w.poller, true, w.now_us);
    run_until(w.now_us + MS);
    ck_assert_int_eq(left(), 0);
}
END_TEST

/* It may be for a row that the look did not see. */
START_TEST(a_ring_during_a_look_is_not_lost)
{
    struct poller_task task;

    begin_with_bell();
    poller_rung(&w.poller, true, true, w.now_us);
    for (int looks = 0; looks < 2; looks++) {
        task = poller_next(&w.poller, w.now_us);
        ck_assert_int_ne(task.look, LOOK_WAIT);
        insert(1, w.now_us + 1);
        poller_rung(&w.poller, true, true, w.now_us + 1);
        if (task.look == LOOK_DUE)
            poller_put_off(&w.poller, POLLER_NONE, POLLER_NONE, w.now_us);
        poller_found(&w.poller, &task, 0, 0, 0, 0, 100, w.now_us += 100);
    }
    run_until(w.now_us + 5 * MS);
    ck_assert_int_eq(left(), 0);
    ck_assert_int_le(w.poller.due_at_us, w.now_us + 100 * MS);
}
END_TEST

/* A lane that is rung without end takes batches in a part of the time: many rows with each. */
START_TEST(batches_leave_time)
{
    int64_t start_us, batches = 0, batch_us = 2 * MS, oldest = 1;

    begin_with_bell();
    start_us = w.now_us;
    for (int64_t id = 1; id <= ROWS; id++)
        insert(id, start_us + id * MS);
    while (w.now_us < start_us + (ROWS - 100) * MS) {
        struct poller_task task;
        int64_t before_us = w.now_us;

        poller_rung(&w.poller, true, false, w.now_us);
        task = poller_next(&w.poller, w.now_us);
        if (task.look == LOOK_WAIT) {
            w.now_us += MS;
        } else if (step(INT64_MAX)) {
            batches++;
            w.now_us = before_us + batch_us;
        }
        while (w.taken[oldest])
            oldest++;
        ck_assert_int_gt(w.visible_at_us[oldest], w.now_us - 50 * MS);
    }
    ck_assert_int_ge(batches, 4 * 20);
    ck_assert_int_le(batches, ROWS * MS / limits.apart_us + 3);
}
END_TEST

struct pace {
    int64_t batches, longest_us; /* from when a row was there to the look that took it */
};

/* Rows so far apart, each with a ring, at a lane whose batches may be 40 ms apart. */
static struct pace paced(int64_t every_us)
{
    struct poller_limits patient = limits;
    struct pace pace = {0};
    int64_t start_us;

    patient.poll_min_us = 50 * MS;
    patient.apart_us = 40 * MS;
    begin();
    poller_init(&w.poller, &patient, w.now_us);
    poller_hears(&w.poller, true, w.now_us);
    run_until(w.now_us + 3 * SECOND);
    start_us = w.now_us;
    for (int64_t id = 1, taken = 1; id <= 1000; id++) {
        insert(id, start_us + id * every_us + id % 3 * every_us / 3);
        while (w.now_us < w.visible_at_us[id])
            pace.batches += step(w.visible_at_us[id]) > 0;
        for (; w.taken[taken]; taken++)
            pace.longest_us = higher(pace.longest_us, w.now_us - w.visible_at_us[taken]);
        poller_rung(&w.poller, true, false, w.now_us);
    }
    return pace;
}

START_TEST(rows_that_come_one_by_one_go_at_once)
{
    ck_assert_int_ge(paced(40 * MS).batches, 990);
    ck_assert_int_ge(paced(24 * MS).batches, 990);
}
END_TEST

/* But for the first ones, which the quiet time before has saved up for. */
START_TEST(rows_that_come_in_numbers_go_together)
{
    struct pace pace = paced(MS);

    ck_assert_int_le(pace.batches, 1000 / 40 + 16);
    ck_assert_int_le(pace.longest_us, 41 * MS);
    pace = paced(5 * MS);
    ck_assert_int_le(pace.batches, 5 * 1000 / 40 + 30);
    ck_assert_int_le(pace.longest_us, 46 * MS);
}
END_TEST

START_TEST(a_backlog_leaves_no_debt)
{
    begin_with_bell();
    for (int64_t id = 1; id <= ROWS - 1; id++)
        insert(id, w.now_us);
    poller_rung(&w.poller, true, false, w.now_us);
    while (left())
        step(INT64_MAX);
    run_until(w.now_us + 30 * MS); /* the looks after the last rows */
    insert(ROWS, w.now_us);
    poller_rung(&w.poller, true, false, w.now_us);
    run_until(w.now_us + limits.poll_min_us);
    ck_assert_int_eq(left(), 0);
}
END_TEST

/* Its ring finds newer rows, or none: it is looked for from further back soon after. */
START_TEST(rows_that_commit_late_are_found_soon_after_their_ring)
{
    begin_with_bell();
    for (int64_t id = 1; id <= 300; id++) {
        insert(2 * id, w.now_us);
        poller_rung(&w.poller, true, false, w.now_us);
        run_until(w.now_us + 5 * MS);
        insert(2 * id - 1, w.now_us);
        poller_rung(&w.poller, true, false, w.now_us);
        run_until(w.now_us + 25 * MS);
        ck_assert_int_eq(left(), 0);
    }
}
END_TEST

/* Its hands are always full, and the rings for what is put off, or asks, or was written by a clock
 * that was set back since, were lost. */
START_TEST(a_drain_hides_nothing)
{
    int64_t looks[LOOKS] = {0}, start_us;

    begin_with_bell();
    poller_put_off(&w.poller, POLLER_NONE, POLLER_NONE, w.now_us);
    poller_rung(&w.poller, true, false, w.now_us);
    start_us = w.now_us;
    while (w.now_us < start_us + 10 * SECOND) {
        struct poller_task task = poller_next(&w.poller, w.now_us);

        looks[task.look]++;
        w.now_us += MS;
        if (task.look == LOOK_WAIT)
            continue;
        if (task.look == LOOK_PEEK) {
            poller_peeked(&w.poller, true, 0, 0, 100, w.now_us);
            continue;
        }
        if (task.look == LOOK_DUE)
            poller_put_off(&w.poller, 0, 0, w.now_us);
        poller_found(&w.poller, &task, (size_t)task.limit, (size_t)task.limit, 2000,
                     w.poller.cursor + task.limit, MS, w.now_us);
        if (w.now_us < start_us + SECOND + 3 * MS)
            continue;
        ck_assert_int_gt(looks[LOOK_DUE], 0);
        ck_assert_int_gt(looks[LOOK_AHEAD], 0);
        ck_assert_int_gt(looks[LOOK_ASK], 0);
    }
    ck_assert_int_le(looks[LOOK_PEEK], 10 + 1);
    ck_assert_int_ge(looks[LOOK_FRESH] + looks[LOOK_LAGGED], 4000);
}
END_TEST

START_TEST(a_ring_may_be_for_a_late_row_and_a_newer_one)
{
    begin_with_bell();
    for (int64_t id = 1; id <= 300; id++) {
        insert(3 * id, w.now_us);
        poller_rung(&w.poller, true, false, w.now_us);
        run_until(w.now_us + 5 * MS);
        insert(3 * id - 1, w.now_us); /* the late one */
        insert(3 * id + 1, w.now_us);
        poller_rung(&w.poller, true, false, w.now_us);
        run_until(w.now_us + 25 * MS);
        ck_assert_int_eq(left(), 0);
    }
}
END_TEST

static int64_t from_now(int64_t at_us)
{
    return at_us == POLLER_NONE ? POLLER_NONE : at_us - w.now_us;
}

static bool looks_for(enum poller_look look, int64_t at_us, const int64_t *next_us)
{
    while (w.now_us < at_us) {
        struct poller_task task = poller_next(&w.poller, w.now_us);

        if (task.look == LOOK_WAIT) {
            w.now_us += lower(task.wait_us, at_us - w.now_us);
            continue;
        }
        if (task.look == LOOK_PEEK) {
            poller_peeked(&w.poller, false, from_now(*next_us), POLLER_NONE, 100, w.now_us += 100);
            continue;
        }
        if (task.look == LOOK_DUE)
            poller_put_off(&w.poller, *next_us > w.now_us ? from_now(*next_us) : POLLER_NONE,
                           POLLER_NONE, w.now_us);
        poller_found(&w.poller, &task, 0, 0, 0, 0, 100, w.now_us += 100);
        if (task.look == look)
            return true;
    }
    return false;
}

START_TEST(put_off_rows_are_looked_for_when_their_time_has_come)
{
    int64_t next_us;

    begin_with_bell();
    next_us = w.now_us + 1300 * MS;
    ck_assert(looks_for(LOOK_DUE, next_us + MS, &next_us));
    ck_assert_int_ge(w.now_us, next_us);
    next_us = POLLER_NONE;
    ck_assert(!looks_for(LOOK_DUE, w.now_us + 10 * SECOND, &next_us));
    next_us = w.now_us - SECOND; /* somebody has put one off, and nobody heard of it */
    ck_assert(looks_for(LOOK_DUE, w.now_us + SECOND + 10 * MS, &next_us));
    next_us = POLLER_NONE;
    ck_assert(!looks_for(LOOK_DUE, w.now_us + 10 * SECOND, &next_us));
    poller_rung(&w.poller, false, true, w.now_us); /* somebody has put one off */
    ck_assert(looks_for(LOOK_DUE, w.now_us + MS, &next_us));
}
END_TEST

/* While nothing is put off, nothing asks and nothing was written ahead of time. */
START_TEST(looks_that_would_find_nothing_are_left_out)
{
    int64_t next_us = POLLER_NONE;

    begin();
    ck_assert(looks_for(LOOK_DUE, w.now_us + SECOND, &next_us));
    ck_assert(!looks_for(LOOK_AHEAD, w.now_us + 10 * SECOND, &next_us));
    ck_assert(!looks_for(LOOK_ASK, w.now_us + 10 * SECOND, &next_us));
    next_us = w.now_us + 3600 * (int64_t)SECOND;
    ck_assert(looks_for(LOOK_AHEAD, w.now_us + 3 * SECOND, &next_us));
    ck_assert(!looks_for(LOOK_ASK, w.now_us + 10 * SECOND, &next_us));
    poller_put_off(&w.poller, POLLER_NONE, 0, w.now_us);
    ck_assert_int_eq(poller_next(&w.poller, w.now_us + 3 * SECOND).look, LOOK_ASK);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("poller");
    TCase *tc = tcase_create("all");

    tcase_add_test(tc, a_backlog_is_taken_without_a_pause);
    tcase_add_test(tc, an_idle_lane_looks_seldom);
    tcase_add_test(tc, a_fresh_row_waits_for_a_poll_at_most);
    tcase_add_test(tc, rows_that_commit_late_are_found_soon);
    tcase_add_test(tc, rows_below_every_mark_are_found_by_the_full_look);
    tcase_add_test(tc, a_returned_claim_is_looked_for_at_once);
    tcase_add_test(tc, costly_looks_become_rare);
    tcase_add_test(tc, large_payloads_make_small_batches);
    tcase_add_test(tc, put_off_rows_have_looks_of_their_own);
    tcase_add_test(tc, held_rows_stand_in_nobodys_way);
    tcase_add_test(tc, rows_that_ask_have_looks_of_their_own);
    tcase_add_test(tc, rows_of_a_clock_that_was_set_back_are_looked_for);
    tcase_add_test(tc, a_ring_is_followed_at_once);
    tcase_add_test(tc, a_lost_ring_costs_an_idle_poll);
    tcase_add_test(tc, a_peek_sees_old_rows);
    tcase_add_test(tc, a_lane_that_could_hear_looks_seldom);
    tcase_add_test(tc, a_bell_that_comes_back_is_looked_after);
    tcase_add_test(tc, a_ring_during_a_look_is_not_lost);
    tcase_add_test(tc, batches_leave_time);
    tcase_add_test(tc, rows_that_come_one_by_one_go_at_once);
    tcase_add_test(tc, rows_that_come_in_numbers_go_together);
    tcase_add_test(tc, a_backlog_leaves_no_debt);
    tcase_add_test(tc, rows_that_commit_late_are_found_soon_after_their_ring);
    tcase_add_test(tc, a_ring_may_be_for_a_late_row_and_a_newer_one);
    tcase_add_test(tc, a_drain_hides_nothing);
    tcase_add_test(tc, put_off_rows_are_looked_for_when_their_time_has_come);
    tcase_add_test(tc, looks_that_would_find_nothing_are_left_out);
    suite_add_tcase(s, tc);
    return suite_run(s);
}
