#include <stdlib.h>
#include <string.h>

#include "consumerd/repair_internal.h"
#include "libcommon/domain/recipient.h"

#define RANGE 10000 /* rows of message_status a statement looks at */

static struct db_label count_label = {.query = "repair_count"};

void repair_count_register(void)
{
    db_label_register(&count_label);
}

/* The open messages of a range: all of the next RANGE rows, or those up to last. */
static int look(struct repair *r, int64_t after, int64_t last, struct repair_range *range,
                struct err *err)
{
    struct db_results results;
    struct buf sql = {0};
    char **row;
    int rc;

    buf_puts(&sql, "SELECT COUNT(*),COALESCE(MAX(t.id),0)");
    for (int i = 0; i < MESSAGE_LANES; i++) {
        buf_puts(&sql, ",COUNT(DISTINCT IF(t.status IN (");
        recipient_put_states(&sql, RECIPIENT_OPEN);
        buf_printf(&sql, ") AND t.type='%s',t.message_identifier,NULL))",
                   message_type_name((enum message_type)i));
    }
    buf_printf(&sql,
               " FROM (SELECT id,status,type,message_identifier FROM message_status "
               "FORCE INDEX(PRIMARY) WHERE id>%lld AND id<=%lld ORDER BY id LIMIT %d) t",
               (long long)after, (long long)last, RANGE);
    rc = db_run_buf(r->db, &count_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    *range = (struct repair_range){.after = after};
    row = db_next(db_only(&results));
    if (row) {
        range->rows = strtoll(row[0], NULL, 10);
        range->last = strtoll(row[1], NULL, 10);
        for (int i = 0; i < MESSAGE_LANES; i++)
            range->open[i] = strtoll(row[2 + i], NULL, 10);
    }
    db_results_free(&results);
    return 0;
}

static bool any_open(const struct repair_range *range)
{
    return range->open[MESSAGE_NORMAL] || range->open[MESSAGE_EXPRESS];
}

/* Rows that became final since leave, and with the last open one its range. */
static int look_again(struct repair *r, struct err *err)
{
    size_t kept = 0;

    for (size_t i = 0; i < r->range_count; i++) {
        struct repair_range *range = &r->ranges[i];

        if (look(r, range->after, range->last, range, err))
            return -1;
        if (any_open(range))
            r->ranges[kept++] = *range;
    }
    r->range_count = kept;
    return 0;
}

static void add_range(struct repair *r, const struct repair_range *range)
{
    if (r->range_count == REPAIR_RANGES_MAX) {
        r->range_count--;
        memmove(r->ranges, r->ranges + 1, r->range_count * sizeof(*r->ranges));
    }
    r->ranges[r->range_count++] = *range;
}

/* A range that is not full yet is looked at from its beginning. */
static int look_on(struct repair *r, struct err *err)
{
    struct repair_range range;

    do {
        int64_t after = r->counted > r->low ? r->counted : r->low;

        if (r->range_count && r->ranges[r->range_count - 1].rows < RANGE)
            after = r->ranges[--r->range_count].after;
        if (look(r, after, INT64_MAX, &range, err))
            return -1;
        if (range.last > r->counted)
            r->counted = range.last;
        if (any_open(&range))
            add_range(r, &range);
        if (pause_for(&r->pause, 0))
            return 1;
    } while (range.rows == RANGE);
    return 0;
}

/* The next RANGE rows of one of the outbox's tables, off what is open. */
static int subtract_range(struct repair *r, const char *table, int64_t *after, int64_t *rows,
                          int64_t open[MESSAGE_LANES], struct err *err)
{
    struct db_results results;
    struct buf sql = {0};
    char **row;
    int rc;

    buf_printf(&sql,
               "SELECT COUNT(*),COALESCE(MAX(t.id),0),COALESCE(SUM(t.priority>=5),0) FROM "
               "(SELECT id,priority FROM %s FORCE INDEX(PRIMARY) WHERE id>%lld "
               "ORDER BY id LIMIT %d) t",
               table, (long long)*after, RANGE);
    rc = db_run_buf(r->db, &count_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    *rows = 0;
    row = db_next(db_only(&results));
    if (row) {
        int64_t express = strtoll(row[2], NULL, 10);

        *rows = strtoll(row[0], NULL, 10);
        *after = strtoll(row[1], NULL, 10);
        open[MESSAGE_EXPRESS] -= express;
        open[MESSAGE_NORMAL] -= *rows - express;
    }
    db_results_free(&results);
    return 0;
}

/* What waits in the outbox, or is parked there, is not with the broker. */
static int subtract_outbox(struct repair *r, int64_t open[MESSAGE_LANES], struct err *err)
{
    static const char *const tables[] = {"outbox_events", "outbox_parked"};

    for (size_t i = 0; i < sizeof(tables) / sizeof(*tables); i++) {
        int64_t after = 0;
        int64_t rows = 0;

        do {
            if (subtract_range(r, tables[i], &after, &rows, open, err))
                return -1;
            if (pause_for(&r->pause, 0))
                return 1;
        } while (rows == RANGE);
    }
    return 0;
}

int repair_count(struct repair *r, int64_t open[MESSAGE_LANES], struct err *err)
{
    int rc;

    memset(open, 0, MESSAGE_LANES * sizeof(*open));
    rc = subtract_outbox(r, open, err);
    if (!rc)
        rc = look_again(r, err);
    if (!rc)
        rc = look_on(r, err);
    if (rc)
        return rc;
    for (size_t i = 0; i < r->range_count; i++)
        for (int lane = 0; lane < MESSAGE_LANES; lane++)
            open[lane] += r->ranges[i].open[lane];
    for (int i = 0; i < MESSAGE_LANES; i++)
        if (open[i] < 0)
            open[i] = 0;
    return 0;
}
