#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "consumerd/repair_internal.h"
#include "consumerd/worker.h"
#include "libcommon/domain/outbox.h"
#include "libcommon/domain/recipient.h"

#define RANGE 10000 /* rows of message_status a statement walks */

static struct db_label walk_label = {.query = "repair_walk"};

void repair_walk_register(void)
{
    db_label_register(&walk_label);
}

/* The rows of a range that are not final and have not moved for repair_after_sec, by message, with
 * when they were published at the latest: the longest pause of a retry later. Then the first open
 * id, the last id, since when the oldest open one waits that is not held, and of each lane how
 * young the youngest is that was claimed. The range ends before rows so young that older ids may
 * still become visible. */
static void put_walk(struct repair *r, int64_t after)
{
    const struct consumer_settings *s = &r->settings->consumer;
    long long age = (long long)s->repair_after_sec;
    struct buf open = {0};
    struct buf *sql;

    db_packet_reset(&r->packet);
    recipient_put_states(&open, RECIPIENT_OPEN);
    sql = db_statement(&r->packet, "candidates");
    buf_printf(
        sql,
        "SELECT t.message_identifier,t.type,MAX(m.repairs),UNIX_TIMESTAMP(GREATEST("
        "MAX(t.updated_at),COALESCE(MAX(m.repaired_at),MAX(t.updated_at))))"
        "+IF(MAX(t.unknown_operators<>''),%lld,%lld) FROM "
        "(SELECT id,message_identifier,type,status,owner,takeovers,updated_at,unknown_operators "
        "FROM message_status "
        "FORCE INDEX(PRIMARY) WHERE id>%lld ORDER BY id LIMIT %d) t "
        "STRAIGHT_JOIN messages m ON m.message_identifier=t.message_identifier "
        "WHERE t.status IN (%s) AND t.updated_at<NOW(6)-INTERVAL %lld SECOND "
        "AND t.takeovers<%lld "
        "AND (m.repaired_at IS NULL OR m.repaired_at<NOW(6)-INTERVAL "
        "(%lld*(1<<LEAST(m.repairs,6))) SECOND) AND NOT ",
        (long long)s->held_ask_max_sec, (long long)(s->retry_max_ms + 999) / 1000, (long long)after,
        RANGE, open.data, age, (long long)s->takeovers_max, age);
    worker_put_lives(sql, s, "t.owner");
    buf_puts(sql, " AND NOT ");
    outbox_put_exists(sql, "t.message_identifier");
    buf_puts(sql, " AND NOT EXISTS (SELECT 1 FROM outbox_parked p WHERE "
                  "p.aggregate_id=t.message_identifier) "
                  "GROUP BY t.message_identifier,t.type ORDER BY MIN(t.id)");
    sql = db_statement(&r->packet, "range");
    buf_printf(sql,
               "SELECT COALESCE(MIN(IF(t.status IN (%s),t.id,NULL)),0),"
               "COALESCE(MAX(IF(t.created_at<NOW(6)-INTERVAL %lld SECOND,t.id,NULL)),0),COUNT(*),"
               "COALESCE(UNIX_TIMESTAMP(MIN(IF(t.status IN (%s) AND NOT (t.unknown_operators<>'' "
               "AND ",
               open.data, age, open.data);
    outbox_put_asked(sql, "t.message_identifier");
    buf_printf(sql, "),t.created_at,NULL))),0)");
    for (int i = 0; i < MESSAGE_LANES; i++)
        buf_printf(sql,
                   ",COALESCE(UNIX_TIMESTAMP(MAX(IF(t.status<>'%s' AND t.type='%s',t.created_at,"
                   "NULL))),0)",
                   recipient_state_name(RECIPIENT_PENDING),
                   message_type_name((enum message_type)i));
    buf_printf(sql,
               " FROM (SELECT id,message_identifier,type,status,unknown_operators,created_at "
               "FROM message_status FORCE INDEX(PRIMARY) WHERE id>%lld ORDER BY id LIMIT %d) t",
               (long long)after, RANGE);
    r->packet.sql.failed |= open.failed;
    buf_free(&open);
}

static void note(struct repair *r, char **row)
{
    enum message_type type;
    struct repair_found *found = &r->found;
    struct candidates *c;
    unsigned repairs = (unsigned)strtoul(row[2], NULL, 10);

    if (!message_type_parse(row[1], &type) || strlen(row[0]) > MESSAGE_ID_MAX)
        return;
    c = &found->lanes[type];
    if (repairs >= (unsigned)r->settings->consumer.repair_max) {
        c->hopeless++;
        if (found->named_count < REPAIR_NAMED_MAX)
            snprintf(found->named[found->named_count++], sizeof(found->named[0]), "%s", row[0]);
        return;
    }
    c->count++;
    if (c->n == (size_t)r->settings->consumer.repair_max_batch)
        return;
    snprintf(c->list[c->n].id, sizeof(c->list[0].id), "%s", row[0]);
    c->list[c->n].published = strtoll(row[3], NULL, 10);
    c->n++;
}

/* What one range says about where the next begins. */
struct range {
    int64_t first_open;
    int64_t last_old; /* the last id old enough to be behind no commit */
    int64_t rows, oldest, claimed[MESSAGE_LANES];
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
        for (int i = 0; i < MESSAGE_LANES; i++)
            range->claimed[i] = strtoll(row[4 + i], NULL, 10);
    }
    db_results_free(&results);
    return 0;
}

static void forget(struct repair_found *found)
{
    for (int i = 0; i < MESSAGE_LANES; i++) {
        struct candidates *c = &found->lanes[i];

        c->n = c->count = c->hopeless = 0;
        c->claimed = 0;
    }
    found->named_count = 0;
    found->oldest = 0;
}

int repair_walk(struct repair *r, struct err *err)
{
    int64_t after = r->low;
    bool all_final = true;
    struct range range;

    forget(&r->found);
    do {
        if (walk_range(r, after, &range, err))
            return -1;
        if (all_final && range.first_open)
            r->low = range.first_open - 1;
        else if (all_final && range.last_old)
            r->low = range.last_old;
        all_final = all_final && !range.first_open;
        if (range.oldest && (!r->found.oldest || range.oldest < r->found.oldest))
            r->found.oldest = range.oldest;
        for (int i = 0; i < MESSAGE_LANES; i++)
            if (range.claimed[i] > r->found.lanes[i].claimed)
                r->found.lanes[i].claimed = range.claimed[i];
        if (range.last_old <= after)
            break;
        after = range.last_old;
        if (pause_for(&r->pause, 0))
            return 1;
    } while (range.rows == RANGE);
    return 0;
}
