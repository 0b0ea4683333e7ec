#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "consumerd/repair_internal.h"
#include "consumerd/worker.h"
#include "libcommon/domain/outbox.h"
#include "libcommon/domain/recipient.h"

static struct db_label take_label = {.query = "repair_take"};
static struct db_label write_label = {.query = "repair_write"};

void repair_enqueue_register(void)
{
    db_label_register(&take_label);
    db_label_register(&write_label);
}

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
    buf_puts(&r->packet.sql, ") AND NOT ");
    worker_put_lives(&r->packet.sql, &r->settings->consumer, "s.owner");
    buf_puts(&r->packet.sql, " AND NOT ");
    outbox_put_exists(&r->packet.sql, "s.message_identifier");
    buf_puts(&r->packet.sql, " ORDER BY s.message_identifier,s.position");
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
    const struct broker_settings *b = &r->settings->broker;
    struct buf *sql = &r->packet.sql;

    g->message.recipients = recipients;
    g->message.recipient_count = n;
    buf_reset(payload);
    message_put_payload(payload, &g->message, b->exchange, topology_queue(b, g->message.type),
                        g->traceparent, g->tracestate, g->accepted_us);
    if (ids->len)
        buf_putc(sql, ',');
    else
        buf_puts(db_statement(&r->packet, NULL), OUTBOX_INSERT);
    outbox_put_row(r->db, sql, OUTBOX_DELIVER, g->message.id, g->enqueues + 1, g->message.type,
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

/* Their outbox rows, and what the messages say of it; *done: how many. */
static int write_events(struct repair *r, struct db_set *messages, struct db_set *open,
                        size_t *done, struct err *err)
{
    struct buf ids = {0};
    int rc = 0;

    db_packet_reset(&r->packet);
    *done = put_events(r, messages, open, &ids);
    buf_printf(db_statement(&r->packet, NULL),
               "UPDATE messages FORCE INDEX(PRIMARY) SET enqueues=enqueues+1,repairs=repairs+1,"
               "repaired_at=NOW(6) WHERE message_identifier IN (%s)",
               ids.data ? ids.data : "''");
    buf_puts(db_statement(&r->packet, NULL), "COMMIT");
    r->packet.sql.failed |= ids.failed;
    if (*done)
        rc = db_run_packet(r->db, &write_label, &r->packet, NULL, err);
    buf_free(&ids);
    return rc;
}

int repair_enqueue(struct repair *r, const struct candidate *list, size_t n, size_t *done,
                   struct err *err)
{
    struct db_results results;
    int rc;

    *done = 0;
    if (take(r, list, n, &results, err)) {
        db_rollback(r->db);
        return -1;
    }
    rc = write_events(r, db_result(&results, "messages"), db_result(&results, "open"), done, err);
    db_results_free(&results);
    if (rc || !*done)
        db_rollback(r->db);
    return rc;
}
