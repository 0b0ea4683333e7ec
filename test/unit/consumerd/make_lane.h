#ifndef TEST_UNIT_CONSUMERD_MAKE_LANE_H
#define TEST_UNIT_CONSUMERD_MAKE_LANE_H

/*
 * A lane whose thread is not started: the test takes its turns. Database and broker are scripted;
 * the incarnation and the dispatch are below.
 */

#include "consumerd/lane_internal.h"
#include "test/unit/consumerd/make.h"
#include "test/unit/fake_broker.h"
#include "test/unit/fake_db.h"

static struct settings settings;
static struct lane *lane;
static struct job_queue *queue;
static struct alone *lanes_alone; /* the other lane has nothing, but for what a test says */
static bool holds, may_claim;
static struct job *submitted[8];
static size_t submitted_count;

/* ---- collaborators ---- */

bool worker_holds(struct worker *w, uint64_t era)
{
    (void)w;
    (void)era;
    return holds;
}

bool worker_lease(struct worker *w, struct worker_lease *lease)
{
    (void)w;
    (void)lease;
    return false;
}

bool worker_may_claim(const struct worker *w)
{
    (void)w;
    return may_claim;
}

void worker_renounce(struct worker *w, uint64_t era)
{
    (void)w;
    (void)era;
}

void worker_waiting(struct worker *w, enum message_type type, size_t messages)
{
    (void)w;
    (void)type;
    (void)messages;
}

void dispatch_submit(struct dispatch *d, struct job_list *jobs, uint64_t era)
{
    struct job *job;

    (void)d;
    (void)era;
    while ((job = TAILQ_FIRST(jobs))) {
        TAILQ_REMOVE(jobs, job, link);
        submitted[submitted_count++] = job;
    }
}

/* ---- a lane ---- */

static inline void make_lane_with_bundles_of(int64_t messages)
{
    struct lane_config config = {.type = MESSAGE_NORMAL,
                                 .settings = &settings,
                                 .operators = make_operators,
                                 .operator_count = 2};
    struct err err;

    fake_db_begin();
    fake_broker_begin();
    make_settings(&settings);
    settings.broker.bundle_max = messages;
    settings.consumer.settle_batch = 4;
    stats_register(&settings, make_operators, 2);
    config.queue = queue = job_queue_new();
    config.alone = lanes_alone =
        alone_new((struct job_queue *[MESSAGE_LANES]){queue, queue}, ALONE_CLOSED_MS_MAX);
    holds = may_claim = true;
    submitted_count = 0;
    lane = lane_new(&config);
    lane->lease.id = MAKE_ME;
    ck_assert_int_eq(broker_open(lane->broker, &err), 0);
}

static inline void make_lane(void)
{
    make_lane_with_bundles_of(50);
}

static inline void unmake_lane(void)
{
    lane_free(lane);
    alone_free(lanes_alone);
    job_queue_free(queue);
    fake_db_end();
    fake_broker_end();
}

/* A message that was claimed; its jobs follow. */
static inline struct inflight *in_hand(const char *id, uint64_t tag)
{
    struct inflight *m = make_message(id, tag);

    m->arrival->generation = broker_generation(lane->broker);
    lane->messages++;
    inflight_add(&lane->hand, m);
    return m;
}

/* The dispatch is through with row status_id of the message. */
static inline struct job *finish(struct inflight *m, uint64_t status_id, enum job_outcome outcome)
{
    struct job *job = make_job(m, status_id, outcome);

    lane->hand.recipients++;
    lane->out++;
    job_queue_put(queue, job);
    return job;
}

static inline void arrive(const char *id, uint64_t tag)
{
    struct inflight *m = make_message(id, tag);

    m->arrival->generation = broker_generation(lane->broker);
    lane->messages++;
    TAILQ_INSERT_TAIL(&lane->arrived, m, link);
    lane->arrived_count++;
}

static inline void turn(void)
{
    lane->db_retry_at_ms = 0; /* no test waits */
    lane_settle_collect(lane);
    lane_turn_work(lane);
}

static inline uint64_t events(enum stats_event event)
{
    return metrics_value(stats.lane[MESSAGE_NORMAL].events[event]);
}

static inline void expect_acks(const char *acks)
{
    const char *calls = fake_broker_calls();

    ck_assert_str_eq(strncmp(calls, "open ", 5) ? calls : calls + 5, acks);
}

/* What a packet of the lane answers; a row that nobody has. */
#define DONE(count) .answers = {{"done-1", .affected = (count)}}
#define TAKEN(locked, count) .answers = {{"rows", .rows = (locked)}, {"taken", .affected = (count)}}
#define FRESH(id, message) id "|" message "|0912|0|pending|0|0|0|7|10||\\N|0"

#endif
