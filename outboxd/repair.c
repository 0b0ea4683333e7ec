#include "outboxd/repair.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/base/pause.h"
#include "libcommon/db/leader.h"
#include "libcommon/db/schema.h"
#include "libcommon/domain/outbox.h"
#include "libcommon/domain/recipient.h"
#include "libcommon/telemetry/log.h"
#include "libcommon/telemetry/metrics.h"
#include "outboxd/settings.h"

#define LEADER "repair"
#define RANGE 10000       /* rows of message_status a statement walks */
#define BATCH 100         /* messages of one transaction: short locks */
#define COST_FACTOR 10    /* the walk may cost this part of the time */
#define DEAD_SEC 10       /* a worker silent for longer is dead */
#define BEAT_WAIT_MS 6000 /* for the workers' next heartbeats */
#define NAMED_MAX 10      /* hopeless messages whose ids are logged */

struct candidate {
    char id[MESSAGE_ID_MAX + 1];
    unsigned repairs;
};

struct candidates {
    struct candidate *list; /* at most repair_max_batch: the oldest */
    size_t n;
    uint64_t count;    /* all of them */
    uint64_t hopeless; /* repaired REPAIR_MAX times already */
};

struct repair {
    pthread_t thread;
    struct pause pause;
    struct db *db;
    struct broker *broker;
    int64_t low; /* every recipient up to this id is final */
    bool failing, schema_seen;
    struct candidates lanes[MESSAGE_LANES];
    char named[NAMED_MAX][MESSAGE_ID_MAX + 1]; /* the oldest hopeless ones */
    size_t named_count;
    struct db_packet packet;
    struct buf sql;
    struct metric *found[MESSAGE_LANES], *repaired[MESSAGE_LANES], *hopeless, *oldest;
};

static struct db_label walk_label = {.query = "repair_walk"};
static struct db_label waiting_label = {.query = "repair_waiting"};
static struct db_label take_label = {.query = "repair_take"};
static struct db_label write_label = {.query = "repair_write"};

/* ---- the walk ---- */

/* The rows of a range that are not final and have not moved for repair_after_sec, by message; then
 * the first open id, the last id, and since when the oldest open one waits. The range ends before
 * rows so young that older ids may still become visible. */
static void put_walk(struct repair *r, int64_t after)
{
    long long age = (long long)outboxd_settings.repair_after_sec;
    struct buf open = {0};

    db_packet_reset(&r->packet);
    recipient_put_states(&open, RECIPIENT_OPEN);
    buf_printf(
        db_statement(&r->packet, "candidates"),
        "SELECT t.message_identifier,t.type,MAX(m.repairs) FROM "
        "(SELECT id,message_identifier,type,status,owner,takeovers,updated_at FROM message_status "
        "FORCE INDEX(PRIMARY) WHERE id>%lld ORDER BY id LIMIT %d) t "
        "STRAIGHT_JOIN messages m ON m.message_identifier=t.message_identifier "
        "WHERE t.status IN (%s) AND t.updated_at<NOW(6)-INTERVAL %lld SECOND "
        "AND t.takeovers<%lld "
        "AND (m.repaired_at IS NULL OR m.repaired_at<NOW(6)-INTERVAL "
        "(%lld*(1<<LEAST(m.repairs,6))) SECOND) "
        "AND NOT EXISTS (SELECT 1 FROM workers w WHERE w.id=t.owner AND "
        "w.heartbeat_at>NOW(6)-INTERVAL %d SECOND) "
        "AND NOT EXISTS (SELECT 1 FROM outbox_events o WHERE o.aggregate_id=t.message_identifier) "
        "AND NOT EXISTS (SELECT 1 FROM outbox_parked p WHERE p.aggregate_id=t.message_identifier) "
        "GROUP BY t.message_identifier,t.type ORDER BY MIN(t.id)",
        (long long)after, RANGE, open.data, age, (long long)outboxd_settings.takeovers_max, age,
        DEAD_SEC);
    buf_printf(db_statement(&r->packet, "range"),
               "SELECT COALESCE(MIN(IF(t.status IN (%s),t.id,NULL)),0),"
               "COALESCE(MAX(IF(t.created_at<NOW(6)-INTERVAL %lld SECOND,t.id,NULL)),0),COUNT(*),"
               "COALESCE(UNIX_TIMESTAMP(MIN(IF(t.status IN (%s),t.created_at,NULL))),0) "
               "FROM (SELECT id,status,created_at FROM message_status FORCE INDEX(PRIMARY) WHERE "
               "id>%lld ORDER BY id LIMIT %d) t",
               open.data, age, open.data, (long long)after, RANGE);
    r->packet.sql.failed |= open.failed;
    buf_free(&open);
}

static void note(struct repair *r, char **row)
{
    enum message_type type;
    struct candidates *c;
    unsigned repairs = (unsigned)strtoul(row[2], NULL, 10);

    if (!message_type_parse(row[1], &type) || strlen(row[0]) > MESSAGE_ID_MAX)
        return;
    c = &r->lanes[type];
    if (repairs >= (unsigned)outboxd_settings.repair_max) {
        c->hopeless++;
        if (r->named_count < NAMED_MAX)
            snprintf(r->named[r->named_count++], sizeof(r->named[0]), "%s", row[0]);
        return;
    }
    c->count++;
    if (c->n == (size_t)outboxd_settings.repair_max_batch)
        return;
    snprintf(c->list[c->n].id, sizeof(c->list[c->n].id), "%s", row[0]);
    c->list[c->n++].repairs = repairs;
}

/* What one range says about where the next begins. */
struct range {
    int64_t first_open, last_old, rows,
        oldest; /* last_old: the last id old enough to be behind no commit */
};

static int walk_range(struct repair *r, int64_t after, struct range *range, struct err *err)
{
    struct db_results results;
    char **row;

    put_walk(r, after);
    if (db_run_packet(r->db, &walk_label, &r->packet, &results, err))
        return -1;
    while ((row = db_next(db_result(&results, "candidates"))))
        note(r, row);
    row = db_next(db_result(&results, "range"));
    *range = (struct range){0};
    if (row) {
        range->first_open = strtoll(row[0], NULL, 10);
        range->last_old = strtoll(row[1], NULL, 10);
        range->rows = strtoll(row[2], NULL, 10);
        range->oldest = strtoll(row[3], NULL, 10);
    }
    db_results_free(&results);
    return 0;
}

/* From the lowest open recipient to those that are too young. -1, or 1 when the thread is to stop.
 */
static int walk(struct repair *r, struct err *err)
{
    int64_t oldest = 0;
    int64_t after = r->low;
    bool all_final = true;
    struct range range;

    for (int i = 0; i < MESSAGE_LANES; i++)
        r->lanes[i].n = r->lanes[i].count = r->lanes[i].hopeless = 0;
    r->named_count = 0;
    do {
        if (walk_range(r, after, &range, err))
            return -1;
        if (all_final && range.first_open)
            r->low = range.first_open - 1;
        else if (all_final && range.last_old)
            r->low = range.last_old;
        all_final = all_final && !range.first_open;
        if (range.oldest && (!oldest || range.oldest < oldest))
            oldest = range.oldest;
        if (range.last_old <= after)
            break;
        after = range.last_old;
        if (pause_for(&r->pause, 0))
            return 1;
    } while (range.rows == RANGE);
    metrics_set(r->oldest, oldest ? oldest : clock_wall_us() / 1000000);
    metrics_set(r->hopeless, (int64_t)(r->lanes[0].hopeless + r->lanes[1].hopeless));
    for (int i = 0; i < MESSAGE_LANES; i++)
        metrics_set(r->found[i], (int64_t)r->lanes[i].count);
    return 0;
}

/* ---- what may still be under way ---- */

/* Adds what is ready. Read before the walk and again after it: what is delivered in between was in
 * the first count, what is published in between is in the second. */
static int read_depths(struct repair *r, int64_t depths[MESSAGE_LANES], struct err *err)
{
    if (!broker_is_open(r->broker) && broker_open(r->broker, err))
        return -1;
    for (int i = 0; i < MESSAGE_LANES; i++) {
        uint32_t ready;

        if (broker_depth(r->broker, topology_queue(&outboxd_settings.broker, (enum message_type)i),
                         &ready, err))
            return -1;
        depths[i] += ready;
    }
    return 0;
}

/* Messages that consumers hold and have not claimed, as their heartbeats after the walk say. -1
 * when not every living one has told in time. */
static int add_waiting(struct repair *r, int64_t depths[MESSAGE_LANES], struct err *err)
{
    static const char sql[] =
        "SELECT COALESCE(SUM(waiting_normal),0),COALESCE(SUM(waiting_express),0),"
        "COALESCE(SUM(heartbeat_at<=@repair_walked),0) FROM workers "
        "WHERE heartbeat_at>NOW(6)-INTERVAL 10 SECOND";
    static const char mark[] = "SET @repair_walked=NOW(6)";
    int64_t give_up_ms = clock_mono_ms() + BEAT_WAIT_MS;

    if (db_run(r->db, &waiting_label, mark, sizeof(mark) - 1, NULL, err))
        return -1;
    do {
        struct db_results results;
        char **row;
        bool all;

        if (db_run(r->db, &waiting_label, sql, sizeof(sql) - 1, &results, err))
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

/* ---- the repair ---- */

static void put_ids(struct repair *r, const struct candidate *list, size_t n)
{
    struct buf *sql = &r->packet.sql;

    for (size_t i = 0; i < n; i++) {
        if (i)
            buf_putc(sql, ',');
        db_put_quoted(r->db, sql, list[i].id, strlen(list[i].id));
    }
}

/* Locks the recipients, then their messages (the lock order), and reads the messages, each text
 * once, and the recipients that are still open and in nobody's hands, in the same order. */
static int take(struct repair *r, const struct candidate *list, size_t n,
                struct db_results *results, struct err *err)
{
    db_begin(r->db);
    db_packet_reset(&r->packet);
    buf_puts(db_statement(&r->packet, NULL),
             "SELECT id FROM message_status "
             "FORCE INDEX(uq_message_status_identifier_recipient) WHERE message_identifier IN (");
    put_ids(r, list, n);
    buf_puts(&r->packet.sql, ") ORDER BY message_identifier,recipient FOR UPDATE");
    buf_puts(db_statement(&r->packet, "messages"),
             "SELECT message_identifier,customer_id,type,text,traceparent,tracestate,"
             "CAST(UNIX_TIMESTAMP(accepted_at)*1000000 AS SIGNED),enqueues "
             "FROM messages FORCE INDEX(PRIMARY) WHERE message_identifier IN (");
    put_ids(r, list, n);
    buf_puts(&r->packet.sql, ") ORDER BY message_identifier FOR UPDATE");
    buf_puts(db_statement(&r->packet, "open"),
             "SELECT s.message_identifier,s.recipient FROM message_status s "
             "FORCE INDEX(uq_message_status_identifier_recipient) "
             "WHERE s.message_identifier IN (");
    put_ids(r, list, n);
    buf_puts(&r->packet.sql, ") AND s.status IN (");
    recipient_put_states(&r->packet.sql, RECIPIENT_OPEN);
    buf_puts(&r->packet.sql, ") AND NOT EXISTS (SELECT 1 FROM workers w WHERE w.id=s.owner AND "
                             "w.heartbeat_at>NOW(6)-INTERVAL 10 SECOND) "
                             "AND NOT EXISTS (SELECT 1 FROM outbox_events o WHERE "
                             "o.aggregate_id=s.message_identifier) "
                             "ORDER BY s.message_identifier,s.position");
    return db_run_packet(r->db, &take_label, &r->packet, results, err);
}

/* The recipients of one message, and what is needed to send it to them. */
struct group {
    struct message message;
    const char *traceparent, *tracestate;
    int64_t accepted_us;
    unsigned enqueues;
};

/* Goes on to the row of the message with that identifier; both sets are in its order. */
static bool start_group(struct group *g, struct db_set *messages, const char *id)
{
    char **row;

    do
        row = db_next(messages);
    while (row && strcmp(row[0], id) != 0);
    *g = (struct group){0};
    if (!row || !message_type_parse(row[2], &g->message.type))
        return false;
    g->message.customer_id = strtoll(row[1], NULL, 10);
    snprintf(g->message.id, sizeof(g->message.id), "%s", row[0]);
    snprintf(g->message.transaction_id, sizeof(g->message.transaction_id), "c-%s", row[0]);
    g->message.text = row[3];
    g->message.text_len = messages->lengths[3];
    g->traceparent = row[4];
    g->tracestate = row[5];
    g->accepted_us = strtoll(row[6], NULL, 10);
    g->enqueues = (unsigned)strtoul(row[7], NULL, 10);
    return true;
}

static void put_event(struct repair *r, struct buf *payload, struct group *g,
                      const char **recipients, size_t n, struct buf *ids)
{
    const struct broker_settings *b = &outboxd_settings.broker;

    g->message.recipients = recipients;
    g->message.recipient_count = n;
    buf_reset(payload);
    message_put_payload(payload, &g->message, b->exchange, topology_queue(b, g->message.type),
                        g->traceparent, g->tracestate, g->accepted_us);
    buf_puts(&r->sql, ids->len ? "," : OUTBOX_INSERT);
    outbox_put_row(r->db, &r->sql, OUTBOX_DELIVER, g->message.id, g->enqueues + 1, g->message.type,
                   payload, 0);
    if (ids->len)
        buf_putc(ids, ',');
    db_put_quoted(r->db, ids, g->message.id, strlen(g->message.id));
}

/* The outbox rows of all messages in the result; ids lists them, quoted. Returns their number. */
static size_t put_events(struct repair *r, struct db_set *messages, struct db_set *open,
                         struct buf *ids)
{
    const char **recipients = calloc(open->affected + 1, sizeof(const char *));
    struct buf payload = {0};
    struct group g = {0};
    size_t count = 0;
    size_t n = 0;
    char **row;

    while (recipients && (row = db_next(open))) {
        if (n && strcmp(row[0], g.message.id) != 0) {
            put_event(r, &payload, &g, recipients, n, ids);
            count++;
            n = 0;
        }
        if (n || start_group(&g, messages, row[0]))
            recipients[n++] = row[1];
    }
    if (n) {
        put_event(r, &payload, &g, recipients, n, ids);
        count++;
    }
    buf_free(&payload);
    free(recipients);
    return count;
}

static int repair_batch(struct repair *r, const struct candidate *list, size_t n, size_t *done,
                        struct err *err)
{
    struct db_results results;
    struct buf ids = {0};
    int rc;

    *done = 0;
    if (take(r, list, n, &results, err)) {
        db_rollback(r->db);
        return -1;
    }
    buf_reset(&r->sql);
    *done = put_events(r, db_result(&results, "messages"), db_result(&results, "open"), &ids);
    buf_printf(&r->sql,
               ";UPDATE messages FORCE INDEX(PRIMARY) SET enqueues=enqueues+1,repairs=repairs+1,"
               "repaired_at=NOW(6) WHERE message_identifier IN (%s);COMMIT",
               ids.data ? ids.data : "''");
    rc = *done ? db_run_buf(r->db, &write_label, &r->sql, NULL, err) : 0;
    db_results_free(&results);
    buf_free(&ids);
    if (rc || !*done)
        db_rollback(r->db);
    return rc;
}

/* No more than what the queue cannot hold; bounded by the rate. */
static int repair_lane(struct repair *r, enum message_type type, int64_t depth, struct err *err)
{
    struct candidates *c = &r->lanes[type];
    uint64_t missing = c->count > (uint64_t)depth ? c->count - (uint64_t)depth : 0;
    size_t n = c->n < missing ? c->n : (size_t)missing;
    size_t total = 0;
    size_t done;

    for (size_t i = 0; i < n; i += BATCH) {
        size_t count = n - i < BATCH ? n - i : BATCH;

        if (repair_batch(r, c->list + i, count, &done, err))
            return -1;
        total += done;
        metrics_add(r->repaired[type], done);
        if (pause_for(&r->pause, BATCH * 1000 / outboxd_settings.repair_rate))
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
        if (r->lanes[i].count)
            return true;
    return false;
}

static void tell_hopeless(const struct repair *r)
{
    uint64_t hopeless = r->lanes[0].hopeless + r->lanes[1].hopeless;
    struct buf ids = {0};

    if (!hopeless)
        return;
    for (size_t i = 0; i < r->named_count; i++) {
        if (i)
            buf_putc(&ids, ' ');
        buf_puts(&ids, r->named[i]);
    }
    log_error("repair.given_up", L_INT("messages", hopeless),
              L_STR("message_ids", ids.failed ? NULL : ids.data),
              L_MSG("repaired again and again without getting anywhere: look at them by hand"));
    buf_free(&ids);
}

/* A first walk is cheap; what it finds is looked at again with the queues' lengths read before. */
static int run_once(struct repair *r, struct err *err)
{
    int64_t depths[MESSAGE_LANES] = {0};

    if (walk(r, err))
        return -1;
    tell_hopeless(r);
    if (!any_found(r)) {
        broker_close(r->broker);
        return 0;
    }
    if (read_depths(r, depths, err) || walk(r, err) || read_depths(r, depths, err) ||
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
    int64_t wait_ms = outboxd_settings.repair_interval_ms;

    while (!pause_for(&r->pause, wait_ms)) {
        int64_t start_ms = clock_mono_ms();

        turn(r);
        wait_ms = (clock_mono_ms() - start_ms) * COST_FACTOR;
        if (wait_ms < outboxd_settings.repair_interval_ms)
            wait_ms = outboxd_settings.repair_interval_ms;
    }
    return NULL;
}

static void register_metrics(struct repair *r)
{
    struct db_label *labels[] = {&walk_label, &waiting_label, &take_label, &write_label};
    char text[32];

    for (size_t i = 0; i < sizeof(labels) / sizeof(labels[0]); i++)
        db_label_register(labels[i]);
    for (int i = 0; i < MESSAGE_LANES; i++) {
        snprintf(text, sizeof(text), "lane=\"%s\"", message_type_name((enum message_type)i));
        r->found[i] = metrics_gauge("msg_repair_candidates",
                                    "Messages without progress, queued ones among them.", text);
        r->repaired[i] = metrics_counter("msg_repaired_total",
                                         "Messages put into the outbox again by the repair.", text);
    }
    r->hopeless = metrics_gauge("msg_repair_given_up",
                                "Messages repaired REPAIR_MAX times and still not final.", "");
    r->oldest = metrics_gauge("msg_oldest_open_timestamp_seconds",
                              "When the oldest recipient that is not final was accepted; now, when "
                              "there is none.",
                              "");
    metrics_set(r->oldest, clock_wall_us() / 1000000);
}

struct repair *repair_start(void)
{
    struct repair *r;

    if (!outboxd_settings.repair_after_sec)
        return NULL;
    r = must_alloc(1, sizeof(*r));
    register_metrics(r);
    for (int i = 0; i < MESSAGE_LANES; i++)
        r->lanes[i].list =
            must_alloc((size_t)outboxd_settings.repair_max_batch, sizeof(struct candidate));
    r->db = db_new(&outboxd_settings.db);
    r->broker = broker_new(&outboxd_settings.broker, "outboxd repair");
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
        free(r->lanes[i].list);
    db_packet_free(&r->packet);
    buf_free(&r->sql);
    pause_destroy(&r->pause);
    free(r);
}
