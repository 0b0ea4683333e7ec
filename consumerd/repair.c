#include "consumerd/repair.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "consumerd/published.h"
#include "consumerd/repair_internal.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/db/leader.h"
#include "libcommon/db/schema.h"
#include "libcommon/telemetry/log.h"
#include "libcommon/telemetry/metrics.h"

#define LEADER "repair"
#define BATCH 100      /* messages of one transaction: short locks */
#define COST_FACTOR 10 /* the walk may cost this part of the time */
#define BEATS_WAITED 3 /* for the workers' next heartbeats */
#define WALKS_VALID 3  /* a count is good until so many turns should have followed */

static struct db_label waiting_label = {.query = "repair_waiting"};

static int search(struct repair *r, struct err *err)
{
    const struct repair_found *found = &r->found;
    int rc = repair_walk(r, err);

    if (rc)
        return rc;
    metrics_set(r->oldest, found->oldest ? found->oldest : clock_wall_us() / 1000000);
    metrics_set(r->hopeless, (int64_t)(found->lanes[0].hopeless + found->lanes[1].hopeless));
    for (int i = 0; i < MESSAGE_LANES; i++)
        metrics_set(r->candidates[i], (int64_t)found->lanes[i].count);
    return 0;
}

/* ---- what may still be under way ---- */

/* Adds what is ready, as if all of it were full bundles. Read before the walk and again after it:
 * what is delivered in between was in the first count, what is published in between is in the
 * second. */
static int read_depths(struct repair *r, int64_t depths[MESSAGE_LANES], struct err *err)
{
    if (!broker_is_open(r->broker) && broker_open(r->broker, err))
        return -1;
    for (int i = 0; i < MESSAGE_LANES; i++) {
        uint32_t ready;

        if (broker_depth(r->broker, topology_queue(&r->settings->broker, (enum message_type)i),
                         &ready, NULL, err))
            return -1;
        depths[i] += (int64_t)ready *
                     (int64_t)topology_bundle_max(&r->settings->broker, (enum message_type)i);
    }
    return 0;
}

/* Messages that consumers hold and have not claimed, as their heartbeats after the walk say. -1
 * when not every living one has told in time. */
static int add_waiting(struct repair *r, int64_t depths[MESSAGE_LANES], struct err *err)
{
    static const char mark[] = "SET @repair_walked=NOW(6)";
    const struct consumer_settings *s = &r->settings->consumer;
    int64_t give_up_ms = clock_mono_ms() + BEATS_WAITED * s->heartbeat_ms;
    char sql[256];

    snprintf(sql, sizeof(sql),
             "SELECT COALESCE(SUM(waiting_normal),0),COALESCE(SUM(waiting_express),0),"
             "COALESCE(SUM(heartbeat_at<=@repair_walked),0) FROM workers "
             "WHERE heartbeat_at>NOW(6)-INTERVAL %lld SECOND",
             (long long)s->dead_sec);
    if (db_run(r->db, &waiting_label, mark, sizeof(mark) - 1, NULL, err))
        return -1;
    do {
        struct db_results results;
        char **row;
        bool all;

        if (db_run(r->db, &waiting_label, sql, strlen(sql), &results, err))
            return -1;
        row = db_next(db_only(&results));
        all = row && !strtoll(row[2], NULL, 10);
        if (all) {
            depths[MESSAGE_NORMAL] += strtoll(row[0], NULL, 10);
            depths[MESSAGE_EXPRESS] += strtoll(row[1], NULL, 10);
        }
        db_results_free(&results);
        if (all)
            return 0;
    } while (!pause_for(&r->pause, 200) && clock_mono_ms() < give_up_ms);
    return err_set(err, ERR_RETRY, 0, "repair: a consumer has not said what it holds");
}

/* ---- a turn ---- */

/* A message that cannot be written is passed over, and does not keep the others. */
static int enqueue(struct repair *r, const struct candidate *list, size_t n, size_t *done,
                   struct err *err)
{
    size_t more = 0;
    int rc = repair_enqueue(r, list, n, done, err);

    if (!rc || err->kind == ERR_RETRY || err->kind == ERR_UNKNOWN)
        return rc;
    *done = 0;
    if (n == 1) {
        log_error("repair.not_writable", L_STR("message_id", list->id), L_ERR(err));
        return 0;
    }
    rc = enqueue(r, list, n / 2, done, err);
    if (!rc)
        rc = enqueue(r, list + n / 2, n - n / 2, &more, err);
    *done += more;
    return rc;
}

/* Moves those to the front that the queue has overtaken: queues keep their order, and consumers
 * have had what was accepted long after these were published. No proof (a publisher may have stood
 * still), so one batch at most; without it a queue that is never empty would keep everything from
 * its repair. */
static size_t overtaken(const struct repair *r, struct candidates *c)
{
    int64_t before = c->claimed - r->settings->consumer.repair_after_sec;
    size_t n = 0;

    for (size_t i = 0; i < c->n && n < BATCH; i++) {
        struct candidate found = c->list[i];

        if (found.published >= before)
            continue;
        c->list[i] = c->list[n];
        c->list[n++] = found;
    }
    return n;
}

/* No more than what the queue cannot hold, or what it has overtaken; bounded by the rate. */
static int repair_lane(struct repair *r, enum message_type type, int64_t depth, struct err *err)
{
    struct candidates *c = &r->found.lanes[type];
    uint64_t missing = c->count > (uint64_t)depth ? c->count - (uint64_t)depth : 0;
    size_t n = c->n < missing ? c->n : (size_t)missing;
    size_t late = overtaken(r, c);
    size_t total = 0;
    size_t done;

    if (n < late)
        n = late;

    for (size_t i = 0; i < n; i += BATCH) {
        size_t count = n - i < BATCH ? n - i : BATCH;

        if (enqueue(r, c->list + i, count, &done, err))
            return -1;
        total += done;
        metrics_add(r->repaired[type], done);
        if (done)
            doorbell_ring(r->doorbell, DOORBELL_FRESH(type));
        if (pause_for(&r->pause, BATCH * 1000 / r->settings->consumer.repair_rate))
            break;
    }
    if (total)
        log_warn("repair.enqueued", L_STR("lane", message_type_name(type)),
                 L_INT("messages", total), L_INT("candidates", c->count),
                 L_INT("queued_or_held", depth));
    return 0;
}

static bool any_found(const struct repair *r)
{
    for (int i = 0; i < MESSAGE_LANES; i++)
        if (r->found.lanes[i].count)
            return true;
    return false;
}

static void tell_hopeless(const struct repair *r)
{
    uint64_t hopeless = r->found.lanes[0].hopeless + r->found.lanes[1].hopeless;
    struct buf ids = {0};

    if (!hopeless)
        return;
    for (size_t i = 0; i < r->found.named_count; i++) {
        if (i)
            buf_putc(&ids, ' ');
        buf_puts(&ids, r->found.named[i]);
    }
    log_error("repair.given_up", L_INT("messages", hopeless),
              L_STR("message_ids", ids.failed ? NULL : ids.data),
              L_MSG("repaired again and again without getting anywhere: look at them by hand"));
    buf_free(&ids);
}

/* How long to wait after this turn, as far as it has come. */
static int64_t wait_after(const struct repair *r)
{
    int64_t cost_ms = (clock_mono_ms() - r->turn_started_ms) * COST_FACTOR;
    int64_t interval_ms = r->settings->consumer.repair_interval_ms;

    return cost_ms > interval_ms ? cost_ms : interval_ms;
}

static int count_published(struct repair *r, struct err *err)
{
    int64_t open[MESSAGE_LANES];
    int rc = repair_count(r, open, err);
    int64_t wait_ms = wait_after(r);

    /* The dear part of the turn is still to come, if there is any: as the last one had it. */
    if (wait_ms < r->last_wait_ms)
        wait_ms = r->last_wait_ms;
    return rc ? rc : published_store(r->db, open, WALKS_VALID * wait_ms, err);
}

/* A first walk is cheap; what it finds is looked at again with the queues' lengths read before. */
static int run_once(struct repair *r, struct err *err)
{
    int64_t depths[MESSAGE_LANES] = {0};

    if (search(r, err) || count_published(r, err))
        return -1;
    tell_hopeless(r);
    if (!any_found(r)) {
        broker_close(r->broker);
        return 0;
    }
    if (read_depths(r, depths, err) || search(r, err) || read_depths(r, depths, err) ||
        add_waiting(r, depths, err))
        return -1;
    for (int i = 0; i < MESSAGE_LANES; i++)
        if (repair_lane(r, (enum message_type)i, depths[i], err))
            return -1;
    return 0;
}

static void turn(struct repair *r)
{
    struct err err = {0};
    enum schema schema = SCHEMA_UNKNOWN;
    bool mine = false;
    int rc = db_acquire(r->db, &err);

    if (!rc) {
        schema = schema_look(r->db, &r->schema_seen, &err);
        rc = schema == SCHEMA_UNKNOWN ? -1 : 0;
    }
    if (schema == SCHEMA_READY)
        rc = leader_try(r->db, LEADER, 0, &mine, &err);
    if (!rc && mine) {
        rc = run_once(r, &err);
        leader_resign(r->db, LEADER);
    }
    db_release(r->db);
    if (rc && err.kind && !r->failing)
        log_warn("repair.failed", L_ERR(&err));
    r->failing = rc && err.kind;
}

static void *repair_main(void *arg)
{
    struct repair *r = arg;
    int64_t wait_ms = r->settings->consumer.repair_interval_ms;

    while (!pause_for(&r->pause, wait_ms)) {
        r->turn_started_ms = clock_mono_ms();
        turn(r);
        wait_ms = r->last_wait_ms = wait_after(r);
    }
    return NULL;
}

static void register_metrics(struct repair *r)
{
    char text[32];

    repair_walk_register();
    repair_enqueue_register();
    repair_count_register();
    db_label_register(&waiting_label);
    for (int i = 0; i < MESSAGE_LANES; i++) {
        snprintf(text, sizeof(text), "lane=\"%s\"", message_type_name((enum message_type)i));
        r->candidates[i] = metrics_gauge(
            "msg_repair_candidates", "Messages without progress, queued ones among them.", text);
        r->repaired[i] = metrics_counter("msg_repaired_total",
                                         "Messages put into the outbox again by the repair.", text);
    }
    r->hopeless = metrics_gauge("msg_repair_given_up",
                                "Messages repaired REPAIR_MAX times and still not final.", "");
    r->oldest = metrics_gauge("msg_oldest_open_timestamp_seconds",
                              "When the oldest recipient that is neither final nor held was "
                              "accepted; now, when there is none.",
                              "");
    metrics_set(r->oldest, clock_wall_us() / 1000000);
}

struct repair *repair_start(const struct settings *settings, struct doorbell *doorbell)
{
    struct repair *r;

    if (!settings->consumer.repair_after_sec)
        return NULL;
    r = must_alloc(1, sizeof(*r));
    r->settings = settings;
    r->doorbell = doorbell;
    register_metrics(r);
    for (int i = 0; i < MESSAGE_LANES; i++)
        r->found.lanes[i].list =
            must_alloc((size_t)settings->consumer.repair_max_batch, sizeof(struct candidate));
    r->ranges = must_alloc(REPAIR_RANGES_MAX, sizeof(*r->ranges));
    r->db = db_new(&settings->db);
    r->broker = broker_new(&settings->broker, 0, "repair");
    pause_init(&r->pause);
    MUST(pthread_create(&r->thread, NULL, repair_main, r) == 0);
    pthread_setname_np(r->thread, "repair");
    return r;
}

void repair_begin_stop(struct repair *r)
{
    if (r)
        pause_stop(&r->pause);
}

void repair_stop(struct repair *r)
{
    if (!r)
        return;
    pause_stop(&r->pause);
    pthread_join(r->thread, NULL);
    db_free(r->db);
    broker_free(r->broker);
    for (int i = 0; i < MESSAGE_LANES; i++)
        free(r->found.lanes[i].list);
    free(r->ranges);
    db_packet_free(&r->packet);
    pause_destroy(&r->pause);
    free(r);
}
