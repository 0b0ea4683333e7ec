#include "libcommon/domain/outbox.h"

#include <stdlib.h>
#include <string.h>

#define CHUNK 500
#define PACKET_BYTES (2u << 20) /* where the server takes so much */

static struct db_label lock_label = {.query = "retry_lock_messages"};
static struct db_label count_label = {.query = "retry_count"};
static struct db_label insert_label = {.query = "retry_insert_outbox"};
static struct db_label forget_label = {.query = "outbox_forget_ask"};

void outbox_register(void)
{
    db_label_register(&lock_label);
    db_label_register(&count_label);
    db_label_register(&insert_label);
    db_label_register(&forget_label);
}

void outbox_put_row(struct db *db, struct buf *sql, enum outbox_kind kind, const char *message_id,
                    unsigned n, enum message_type type, const struct buf *payload, int64_t delay_ms)
{
    buf_putc(sql, '(');
    buf_put_uint(sql, (unsigned)kind);
    buf_puts(sql, ",'message',");
    db_put_quoted(db, sql, message_id, strlen(message_id));
    if (n)
        buf_printf(sql, ",'message.retry.%u',", n);
    else
        buf_puts(sql, ",'message.send',");
    if (payload->failed)
        sql->failed = true;
    else
        db_put_quoted(db, sql, payload->data, payload->len);
    buf_putc(sql, ',');
    buf_put_int(sql, message_priority(type));
    if (delay_ms > 0)
        buf_printf(sql, ",NOW(6)+INTERVAL %lld MICROSECOND)", (long long)delay_ms * 1000);
    else
        buf_puts(sql, ",NULL)");
}

/* ---- counting ---- */

void outbox_put_part(struct buf *sql, enum message_type lane, enum outbox_kind kind)
{
    buf_printf(sql, "lane=%d AND kind=%d", (int)lane, (int)kind);
}

static void put_from(struct buf *sql, enum message_type lane, enum outbox_kind kind,
                     const char *when)
{
    buf_puts(sql, " FROM outbox_events FORCE INDEX(idx_outbox_poll) WHERE ");
    outbox_put_part(sql, lane, kind);
    buf_puts(sql, " AND next_run_at");
    buf_puts(sql, when);
}

static void put_count(struct buf *sql, enum message_type lane, enum outbox_kind kind, int64_t limit)
{
    buf_puts(sql, "(SELECT COUNT(*) FROM ((SELECT 1");
    put_from(sql, lane, kind, " IS NULL");
    buf_printf(sql, " LIMIT %lld) UNION ALL (SELECT 1", (long long)limit);
    put_from(sql, lane, kind, "<=NOW(6)");
    buf_printf(sql, " LIMIT %lld)) t)", (long long)limit);
}

/* The longest waiting ones are at the front of the two parts of the index. */
static void put_oldest(struct buf *sql, enum message_type lane, enum outbox_kind kind)
{
    buf_puts(sql, "(SELECT UNIX_TIMESTAMP(MIN(t.since)) FROM ((SELECT created_at since");
    put_from(sql, lane, kind, " IS NULL");
    buf_puts(sql, " ORDER BY id LIMIT 1) UNION ALL (SELECT next_run_at");
    put_from(sql, lane, kind, "<=NOW(6)");
    buf_puts(sql, " ORDER BY next_run_at LIMIT 1)) t)");
}

void outbox_put_sample(struct buf *sql, enum outbox_kind kind, int64_t limit)
{
    buf_puts(sql, "SELECT UNIX_TIMESTAMP()");
    for (int lane = 0; lane < MESSAGE_LANES; lane++) {
        buf_putc(sql, ',');
        put_count(sql, (enum message_type)lane, kind, limit);
        buf_putc(sql, ',');
        put_oldest(sql, (enum message_type)lane, kind);
    }
}

static int64_t number_of(const char *column)
{
    return column ? strtoll(column, NULL, 10) : 0;
}

void outbox_read_sample(struct db_set *set, struct outbox_sample *out)
{
    char **row = db_next(set);

    *out = (struct outbox_sample){0};
    if (!row)
        return;
    out->now_sec = number_of(row[0]);
    for (size_t lane = 0; lane < MESSAGE_LANES; lane++) {
        out->pending[lane] = number_of(row[1 + 2 * lane]);
        out->since_sec[lane] = number_of(row[2 + 2 * lane]);
    }
}

/* By its index, whatever the optimizer makes of the EXISTS: else it may walk the table. */
void outbox_put_exists(struct buf *sql, const char *column)
{
    buf_printf(sql,
               "EXISTS (SELECT 1 FROM outbox_events o FORCE INDEX(uq_outbox_aggregate_event) "
               "WHERE o.aggregate_id=%s)",
               column);
}

void outbox_put_asked(struct buf *sql, const char *column)
{
    buf_printf(sql,
               "EXISTS (SELECT 1 FROM outbox_events o FORCE INDEX(uq_outbox_aggregate_event) "
               "WHERE o.aggregate_id=%s AND o.kind=%d)",
               column, OUTBOX_ASK);
}

int outbox_forget_ask(struct db *db, const char *message_id, struct err *err)
{
    struct buf sql = {0};
    int rc;

    buf_printf(&sql, "DELETE FROM outbox_events WHERE kind=%d AND aggregate_id=", OUTBOX_ASK);
    db_put_quoted(db, &sql, message_id, strlen(message_id));
    rc = db_run_buf(db, &forget_label, &sql, NULL, err);
    buf_free(&sql);
    return rc;
}

/* ---- again ---- */

static int by_message(const void *a, const void *b)
{
    return strcmp(((const struct outbox_entry *)a)->message->id,
                  ((const struct outbox_entry *)b)->message->id);
}

static void put_ids(struct db *db, struct buf *sql, const struct outbox_entry *entries, size_t n)
{
    bool first = true;

    buf_puts(sql, "message_identifier IN (");
    for (size_t i = 0; i < n; i++) {
        if (entries[i].missing)
            continue;
        if (!first)
            buf_putc(sql, ',');
        first = false;
        db_put_quoted(db, sql, entries[i].message->id, strlen(entries[i].message->id));
    }
    buf_putc(sql, ')');
}

static int lock_messages(struct db *db, struct outbox_entry *entries, size_t n, size_t *found,
                         struct err *err)
{
    struct db_results results;
    struct buf sql = {0};
    size_t i = 0;
    char **row;
    int rc;

    for (size_t k = 0; k < n; k++)
        entries[k].missing = false;
    buf_puts(&sql, "SELECT message_identifier,enqueues FROM messages FORCE INDEX(PRIMARY) WHERE ");
    put_ids(db, &sql, entries, n);
    buf_puts(&sql, " ORDER BY message_identifier FOR UPDATE");
    rc = db_run_buf(db, &lock_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    for (size_t k = 0; k < n; k++)
        entries[k].missing = true;
    *found = 0;
    while ((row = db_next(db_only(&results)))) {
        while (i < n && strcmp(entries[i].message->id, row[0]) < 0)
            i++;
        if (i == n || strcmp(entries[i].message->id, row[0]) != 0)
            continue;
        entries[i].missing = false;
        entries[i].enqueues = (unsigned)strtoul(row[1], NULL, 10) + 1;
        (*found)++;
    }
    db_results_free(&results);
    return 0;
}

static int count_chunk(struct db *db, struct outbox_entry *entries, size_t n, struct err *err)
{
    struct buf sql = {0};
    size_t found = 0;
    int rc;

    if (lock_messages(db, entries, n, &found, err))
        return -1;
    if (!found)
        return 0;
    buf_puts(&sql, "UPDATE messages FORCE INDEX(PRIMARY) SET enqueues=enqueues+1 WHERE ");
    put_ids(db, &sql, entries, n);
    rc = db_run_buf(db, &count_label, &sql, NULL, err);
    buf_free(&sql);
    return rc;
}

int outbox_count(struct db *db, struct outbox_entry *entries, size_t n, struct err *err)
{
    int rc = 0;

    if (n > 1)
        qsort(entries, n, sizeof(*entries), by_message);
    for (size_t i = 0; i < n && !rc; i += CHUNK)
        rc = count_chunk(db, entries + i, n - i < CHUNK ? n - i : CHUNK, err);
    return rc;
}

/* As one row of the INSERT. */
static void put_entry(struct db *db, struct buf *row, struct buf *payload,
                      const struct broker_settings *topology, const struct outbox_entry *e)
{
    const struct message *m = e->message;

    buf_reset(payload);
    buf_reset(row);
    message_put_payload(payload, m, topology->exchange, topology_queue(topology, m->type),
                        e->traceparent, e->tracestate ? e->tracestate : "", e->accepted_us);
    outbox_put_row(db, row, e->kind, m->id, e->enqueues, m->type, payload, e->delay_ms);
}

static int insert(struct db *db, struct buf *sql, struct err *err)
{
    int rc = sql->len || sql->failed ? db_run_buf(db, &insert_label, sql, NULL, err) : 0;

    buf_reset(sql);
    return rc;
}

/* A row alone may still be too large for the server: then it is that row's own fault. */
static size_t packet_bytes(const struct db *db)
{
    return db_packet_max(db) < PACKET_BYTES ? db_packet_max(db) : PACKET_BYTES;
}

int outbox_write(struct db *db, const struct broker_settings *topology,
                 const struct outbox_entry *entries, size_t n, struct err *err)
{
    size_t most = packet_bytes(db);
    struct buf payload = {0};
    struct buf row = {0};
    struct buf sql = {0};
    int rc = 0;

    for (size_t i = 0; i < n && !rc; i++) {
        if (entries[i].missing)
            continue;
        put_entry(db, &row, &payload, topology, &entries[i]);
        if (sql.len && sql.len + 1 + row.len > most)
            rc = insert(db, &sql, err);
        buf_puts(&sql, sql.len ? "," : OUTBOX_INSERT);
        buf_put(&sql, row.data, row.len);
        sql.failed |= row.failed;
    }
    if (!rc)
        rc = insert(db, &sql, err);
    buf_free(&sql);
    buf_free(&row);
    buf_free(&payload);
    return rc;
}
