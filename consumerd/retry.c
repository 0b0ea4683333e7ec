#include "consumerd/retry.h"

#include <stdlib.h>
#include <string.h>

#include "libcommon/base/backoff.h"
#include "libcommon/base/random.h"
#include "libcommon/domain/outbox.h"

#define CHUNK 500
#define PACKET_BYTES (2u << 20) /* well inside max_allowed_packet */

static struct db_label lock_label = {.query = "retry_lock_messages"};
static struct db_label count_label = {.query = "retry_count"};
static struct db_label insert_label = {.query = "retry_insert_outbox"};

void retry_register(void)
{
    db_label_register(&lock_label);
    db_label_register(&count_label);
    db_label_register(&insert_label);
}

static int by_message(const void *a, const void *b)
{
    return strcmp(((const struct retry *)a)->message->id, ((const struct retry *)b)->message->id);
}

static void put_ids(struct db *db, struct buf *sql, const struct retry *retries, size_t n)
{
    bool first = true;

    buf_puts(sql, "message_identifier IN (");
    for (size_t i = 0; i < n; i++) {
        if (retries[i].missing)
            continue;
        if (!first)
            buf_putc(sql, ',');
        first = false;
        db_put_quoted(db, sql, retries[i].message->id, strlen(retries[i].message->id));
    }
    buf_putc(sql, ')');
}

/* enqueues[i]: how often the message was put into the outbox after the first time. */
static int lock_messages(struct db *db, struct retry *retries, unsigned *enqueues, size_t n,
                         size_t *found, struct err *err)
{
    struct buf sql = {0};
    struct db_results results;
    char **row;
    size_t i = 0;

    for (size_t k = 0; k < n; k++)
        retries[k].missing = false;
    buf_puts(&sql, "SELECT message_identifier,enqueues FROM messages FORCE INDEX(PRIMARY) WHERE ");
    put_ids(db, &sql, retries, n);
    buf_puts(&sql, " ORDER BY message_identifier FOR UPDATE");
    if (db_run_buf(db, &lock_label, &sql, &results, err)) {
        buf_free(&sql);
        return -1;
    }
    buf_free(&sql);
    for (size_t k = 0; k < n; k++)
        retries[k].missing = true;
    *found = 0;
    while ((row = db_next(&results.set[0]))) {
        while (i < n && strcmp(retries[i].message->id, row[0]) < 0)
            i++;
        if (i == n || strcmp(retries[i].message->id, row[0]) != 0)
            continue;
        retries[i].missing = false;
        enqueues[i] = (unsigned)strtoul(row[1], NULL, 10);
        (*found)++;
    }
    db_results_free(&results);
    return 0;
}

static void put_window_ends(struct db *db, struct buf *sql, const struct retry *retries, size_t n)
{
    bool any = false;

    for (size_t i = 0; i < n; i++) {
        const char *id = retries[i].message->id;

        if (retries[i].missing || retries[i].window_left_ms == INT64_MIN)
            continue;
        /* Recipients of one message may have been claimed for the first time at different times. */
        buf_puts(sql, any ? " WHEN " : ",retry_until=CASE message_identifier WHEN ");
        any = true;
        db_put_quoted(db, sql, id, strlen(id));
        buf_printf(sql,
                   " THEN GREATEST(COALESCE(retry_until,'1970-01-01'),"
                   "NOW(6)+INTERVAL %lld MICROSECOND)",
                   (long long)retries[i].window_left_ms * 1000);
    }
    if (any)
        buf_puts(sql, " ELSE retry_until END");
}

static int count_enqueues(struct db *db, const struct retry *retries, size_t n, struct err *err)
{
    struct buf sql = {0};
    int rc;

    buf_puts(&sql, "UPDATE messages FORCE INDEX(PRIMARY) SET enqueues=enqueues+1");
    put_window_ends(db, &sql, retries, n);
    buf_puts(&sql, " WHERE ");
    put_ids(db, &sql, retries, n);
    rc = db_run_buf(db, &count_label, &sql, NULL, err);
    buf_free(&sql);
    return rc;
}

static int64_t delay_of(const struct settings *s, const struct retry *r, unsigned enqueues)
{
    int64_t ms = r->delay_ms;

    if (ms == RETRY_BACKOFF) {
        ms = backoff_ms(enqueues + 1, s->consumer.retry_base_ms, s->consumer.retry_max_ms,
                        random_u64());
        if (r->window_left_ms != INT64_MIN && ms > r->window_left_ms)
            ms = r->window_left_ms > 0 ? r->window_left_ms : 1;
    }
    return ms;
}

static void put_row(struct db *db, struct buf *sql, struct buf *payload,
                    const struct settings *settings, const struct retry *r, unsigned enqueues)
{
    const struct inflight *m = r->message;
    struct message out = {
        .customer_id = m->customer_id,
        .type = m->type,
        .text = m->text,
        .text_len = m->text_len,
        .recipients = r->recipients,
        .recipient_count = r->count,
    };

    memcpy(out.id, m->id, sizeof(out.id));
    memcpy(out.transaction_id, m->transaction_id, sizeof(out.transaction_id));
    buf_reset(payload);
    message_put_payload(payload, &out, settings->broker.exchange,
                        topology_queue(&settings->broker, m->type), m->traceparent,
                        m->tracestate ? m->tracestate : "", m->accepted_us);
    outbox_put_row(db, sql, m->id, enqueues + 1, m->type, payload, delay_of(settings, r, enqueues));
}

static int insert_rows(struct db *db, const struct settings *settings, const struct retry *retries,
                       const unsigned *enqueues, size_t n, struct err *err)
{
    struct buf sql = {0};
    struct buf payload = {0};
    int rc = 0;

    for (size_t i = 0; i < n && !rc; i++) {
        if (!retries[i].missing) {
            buf_puts(&sql, sql.len ? "," : OUTBOX_INSERT);
            put_row(db, &sql, &payload, settings, &retries[i], enqueues[i]);
        }
        if (sql.failed || sql.len > PACKET_BYTES || (i + 1 == n && sql.len)) {
            rc = db_run_buf(db, &insert_label, &sql, NULL, err);
            buf_reset(&sql);
        }
    }
    buf_free(&sql);
    buf_free(&payload);
    return rc;
}

int retry_write(struct db *db, const struct settings *settings, struct retry *retries, size_t n,
                struct err *err)
{
    unsigned enqueues[CHUNK];
    int rc = 0;

    if (n > 1)
        qsort(retries, n, sizeof(*retries), by_message);
    for (size_t i = 0; i < n && !rc; i += CHUNK) {
        size_t count = n - i < CHUNK ? n - i : CHUNK;
        size_t found = 0;

        rc = lock_messages(db, retries + i, enqueues, count, &found, err);
        if (!rc && found)
            rc = count_enqueues(db, retries + i, count, err);
        if (!rc && found)
            rc = insert_rows(db, settings, retries + i, enqueues, count, err);
    }
    return rc;
}
