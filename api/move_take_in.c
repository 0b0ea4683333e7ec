#include "api/move_take_in.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/daemon/failpoint.h"
#include "libcommon/domain/outbox.h"
#include "libcommon/domain/recipient_move.h"

#define PAGE 500 /* recipients */
#define TRIES 10 /* of a transaction that meets another one */

static struct db_label read_label = {.query = "move_read_messages"};

void move_take_in_register(void)
{
    db_label_register(&read_label);
    recipient_register();
    outbox_register();
}

/* Messages whose recipients are locked, and what goes into the outbox of them. */
struct page {
    const char *ids[PAGE];
    size_t n;
    uint64_t last;
    struct recipient_rows rows;
    struct db_results texts; /* what the messages below point to */
    struct message messages[PAGE];
    struct outbox_entry entries[PAGE];
    const char **numbers;
};

/* Their identifiers, each once: the recipients of one lie side by side. */
static void collect(struct page *p, struct db_set *found)
{
    char **row;

    while ((row = db_next(found))) {
        p->last = strtoull(row[0], NULL, 10);
        if (!p->n || strcmp(p->ids[p->n - 1], row[1]) != 0)
            p->ids[p->n++] = row[1];
    }
}

static int read_messages(struct db *db, struct page *p, struct err *err)
{
    struct buf sql = {0};
    int rc;

    buf_puts(&sql, "SELECT message_identifier,customer_id,type,text,traceparent,tracestate,"
                   "CAST(UNIX_TIMESTAMP(accepted_at)*1000000 AS SIGNED) FROM messages "
                   "FORCE INDEX(PRIMARY) WHERE message_identifier IN (");
    for (size_t i = 0; i < p->n; i++) {
        if (i)
            buf_putc(&sql, ',');
        db_put_quoted(db, &sql, p->ids[i], strlen(p->ids[i]));
    }
    buf_puts(&sql, ") ORDER BY message_identifier");
    rc = db_run_buf(db, &read_label, &sql, &p->texts, err);
    buf_free(&sql);
    return rc;
}

static bool read_message(char **row, unsigned long text_len, struct message *m,
                         struct outbox_entry *e)
{
    *m = (struct message){
        .customer_id = strtoll(row[1], NULL, 10), .text = row[3], .text_len = text_len};
    snprintf(m->id, sizeof(m->id), "%s", row[0]);
    snprintf(m->transaction_id, sizeof(m->transaction_id), "c-%s", row[0]);
    *e = (struct outbox_entry){.kind = OUTBOX_DELIVER,
                               .message = m,
                               .traceparent = row[4],
                               .tracestate = row[5],
                               .accepted_us = strtoll(row[6], NULL, 10)};
    return message_type_parse(row[2], &m->type);
}

/* Rows and messages are both in the order of identifiers. *n: how many have recipients to take in.
 */
static int gather(struct page *p, size_t *n, struct err *err)
{
    struct db_set *set = db_only(&p->texts);
    size_t used = 0;
    size_t at = 0;
    char **row;

    *n = 0;
    p->numbers = calloc(p->rows.n + 1, sizeof(*p->numbers));
    if (!p->numbers)
        return err_set(err, ERR_RETRY, 0, "out of memory");
    while (*n < PAGE && (row = db_next(set))) {
        struct message *m = &p->messages[*n];

        if (!read_message(row, set->lengths[3], m, &p->entries[*n]))
            return err_set(err, ERR_BUG, 0, "take in: a message of no type that is known");
        m->recipients = p->numbers + used;
        while (at < p->rows.n && strcmp(p->rows.all[at].message_id, m->id) < 0)
            at++;
        for (; at < p->rows.n && !strcmp(p->rows.all[at].message_id, m->id); at++)
            if (p->rows.all[at].state == RECIPIENT_MOVED)
                p->numbers[used++] = p->rows.all[at].number;
        m->recipient_count = (size_t)(p->numbers + used - m->recipients);
        *n += m->recipient_count > 0;
    }
    return 0;
}

static int take(struct db *db, const struct broker_settings *topology, struct page *p,
                uint64_t *taken, struct err *err)
{
    size_t n = 0;

    if (recipient_lock(db, p->ids, p->n, &p->rows, err) || read_messages(db, p, err) ||
        gather(p, &n, err) || recipient_take_in(db, &p->rows, taken, err) ||
        outbox_count(db, p->entries, n, err) || outbox_write(db, topology, p->entries, n, err))
        return -1;
    return db_commit(db, err);
}

static void empty(struct page *p)
{
    free(p->numbers);
    p->numbers = NULL;
    db_results_free(&p->texts);
    recipient_rows_free(&p->rows);
}

static int take_page(struct db *db, const struct broker_settings *topology, struct page *p,
                     uint64_t *taken, struct err *err)
{
    int rc = -1;

    for (int i = 0; rc && i < TRIES; i++) {
        db_begin(db);
        rc = take(db, topology, p, taken, err);
        empty(p);
        if (!rc)
            break;
        db_rollback(db);
        if (!db_is_conflict(err))
            return -1;
    }
    return rc;
}

int move_take_in(struct db *db, const struct broker_settings *topology, int64_t customer_id,
                 uint64_t *taken, struct err *err)
{
    struct page *p = calloc(1, sizeof(*p));
    bool more = true;
    int rc = 0;

    if (!p)
        return err_set(err, ERR_RETRY, 0, "out of memory");
    while (more && !rc) {
        struct db_results found;
        uint64_t n = 0;

        p->n = 0;
        rc = recipient_find_moved(db, customer_id, p->last, PAGE, &found, err);
        if (rc)
            break;
        collect(p, db_only(&found));
        more = p->n;
        if (more)
            rc = take_page(db, topology, p, &n, err);
        *taken += n;
        db_results_free(&found);
        if (!rc && more)
            rc = failpoint_err(FAILPOINT_MOVE_TAKEN_IN, err);
    }
    free(p);
    return rc;
}
