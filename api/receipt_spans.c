#include "api/receipt_spans.h"

#include <stdlib.h>

#include "libcommon/base/clock.h"
#include "libcommon/telemetry/tracer.h"

static struct db_label traces_label = {.query = "receipt_traces"};

void receipt_spans_register(void)
{
    db_label_register(&traces_label);
}

/* What a batch's spans have in common. */
struct batch {
    const struct recipient_receipt *receipts;
    size_t n;
    bool early;
    int64_t start_us, end_us;
};

enum column { COLUMN_ID, COLUMN_MESSAGE, COLUMN_POSITION, COLUMN_PARENT, COLUMN_STATE };

static void record(const struct batch *b, size_t i, const struct trace_context *stored, char **row)
{
    const struct recipient_receipt *r = &b->receipts[i];
    struct trace_context own;

    trace_child(stored, &own);
    tracer_span(&(struct tracer_span){
        .context = &own,
        .parent = stored,
        .parent_remote = true,
        .state = row[COLUMN_STATE],
        .kind = TRACER_INTERNAL,
        .name = "receipt",
        .start_us = b->start_us,
        .end_us = b->end_us,
        .attrs =
            (const struct tracer_attr[]){
                T_STR("peer.service", r->operator_name),
                T_STR("messaging.message.id", row[COLUMN_MESSAGE]),
                T_INT("msg.position", strtoll(row[COLUMN_POSITION], NULL, 10)),
                T_STR("msg.result", r->delivered ? "delivered" : "undelivered"),
                T_STR("msg.reason", r->reason),
                T_STR("msg.outcome", receipt_result_name(r->result)),
                T_BOOL("msg.early", b->early),
                T_INT("db.operation.batch.size", b->n),
            },
        .attr_count = 8,
    });
}

/* Of all receipts for that recipient. */
static void record_all(const struct batch *b, char **row)
{
    uint64_t id = strtoull(row[COLUMN_ID], NULL, 10);
    struct trace_context stored;

    if (!trace_parse(row[COLUMN_PARENT], &stored) || !tracer_wants(&stored))
        return;
    for (size_t i = 0; i < b->n; i++)
        if (b->receipts[i].status_id == id && b->receipts[i].result != RECEIPT_EARLY)
            record(b, i, &stored, row);
}

/* False: none of them has matched. */
static bool put_traces(struct buf *sql, const struct recipient_receipt *receipts, size_t n)
{
    const char *before =
        "SELECT s.id,s.message_identifier,s.position,m.traceparent,m.tracestate FROM "
        "message_status s FORCE INDEX(PRIMARY) STRAIGHT_JOIN messages m FORCE INDEX(PRIMARY) ON "
        "m.message_identifier=s.message_identifier WHERE CONV(RIGHT(m.traceparent,2),16,10)&1 AND "
        "s.id IN (";
    bool any = false;

    for (size_t i = 0; i < n; i++) {
        if (receipts[i].result == RECEIPT_EARLY)
            continue;
        buf_puts(sql, any ? "," : before);
        buf_put_uint(sql, receipts[i].status_id);
        any = true;
    }
    buf_putc(sql, ')');
    return any;
}

void receipt_spans(struct db *db, const struct recipient_receipt *receipts, size_t n, bool early,
                   int64_t start_us)
{
    struct batch b = {receipts, n, early, start_us, clock_wall_us()};
    struct db_results results;
    struct buf sql = {0};
    struct err err;
    char **row;

    if (tracer_on() && put_traces(&sql, receipts, n) &&
        !db_run_buf(db, &traces_label, &sql, &results, &err)) {
        while ((row = db_next(db_only(&results))))
            record_all(&b, row);
        db_results_free(&results);
    }
    buf_free(&sql);
}
