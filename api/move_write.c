#include "api/move_write.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROWS 500     /* of one INSERT */
#define BYTES 524288 /* ... about */
#define KEY_SIZE 80  /* a message and a recipient, or a number */

static struct db_label write_label = {.query = "move_write"};
static struct db_label number_label = {.query = "move_numbers"};

/* A row that waits: what its number stands for, and the rest of it as SQL. */
struct row {
    char key[KEY_SIZE]; /* "<message>/<recipient>", or "<old number>" */
    char number[24];    /* ""; what it is there, once that is looked up */
    size_t from, to;    /* of rest */
};

struct move_writer {
    struct db *db;
    int64_t customer_id;
    const struct move_table *table;
    bool lives;
    struct row rows[ROWS];
    size_t n;
    struct buf rest, sql;
};

void move_write_register(void)
{
    db_label_register(&write_label);
    db_label_register(&number_label);
}

struct move_writer *move_writer_new(struct db *there, int64_t customer_id,
                                    const struct move_table *table, bool lives)
{
    struct move_writer *w = calloc(1, sizeof(*w));

    if (!w)
        return NULL;
    w->db = there;
    w->customer_id = customer_id;
    w->table = table;
    w->lives = lives;
    return w;
}

void move_writer_free(struct move_writer *w)
{
    if (!w)
        return;
    buf_free(&w->rest);
    buf_free(&w->sql);
    free(w);
}

/* ---- numbers ---- */

static int by_key(const void *a, const void *b)
{
    return strcmp(((const struct row *)a)->key, ((const struct row *)b)->key);
}

/* Several rows may have the same key, side by side. */
static void set_number(struct move_writer *w, const char *key, const char *number)
{
    struct row wanted = {.key = ""};
    struct row *row;

    snprintf(wanted.key, sizeof(wanted.key), "%s", key);
    row = bsearch(&wanted, w->rows, w->n, sizeof(wanted), by_key);
    if (!row)
        return;
    while (row > w->rows && !strcmp(row[-1].key, key))
        row--;
    for (; row < w->rows + w->n && !strcmp(row->key, key); row++)
        snprintf(row->number, sizeof(row->number), "%s", number);
}

/* The rows are sorted: those of one message follow each other. */
static void put_messages(struct move_writer *w, struct buf *sql)
{
    const char *last = "";
    size_t last_len = 0;

    for (size_t i = 0; i < w->n; i++) {
        const char *key = w->rows[i].key;
        size_t len = strcspn(key, "/");

        if (len == last_len && !memcmp(key, last, len))
            continue;
        if (i)
            buf_putc(sql, ',');
        db_put_quoted(w->db, sql, key, len);
        last = key;
        last_len = len;
    }
}

static int look_up(struct move_writer *w, struct err *err)
{
    struct db_results results;
    char **row;

    qsort(w->rows, w->n, sizeof(w->rows[0]), by_key);
    buf_reset(&w->sql);
    if (w->table->number == MOVE_OF_ENDPOINT) {
        buf_printf(&w->sql, "SELECT old_id,new_id FROM moved_webhooks WHERE customer_id=%lld",
                   (long long)w->customer_id);
    } else {
        buf_puts(&w->sql, "SELECT CONCAT(message_identifier,'/',recipient),id FROM message_status "
                          "FORCE INDEX(uq_message_status_identifier_recipient) WHERE "
                          "message_identifier IN (");
        put_messages(w, &w->sql);
        buf_putc(&w->sql, ')');
    }
    if (db_run_buf(w->db, &number_label, &w->sql, &results, err))
        return -1;
    while ((row = db_next(db_only(&results))))
        set_number(w, row[0], row[1]);
    db_results_free(&results);
    return 0;
}

/* ---- statements ---- */

static void put_literal(struct move_writer *w, struct buf *sql, const struct move_column *c,
                        const char *text, unsigned long n)
{
    if (!text)
        buf_puts(sql, "NULL");
    else if (c->bytes)
        db_put_bytes(sql, text, n);
    else
        db_put_quoted(w->db, sql, text, n);
}

static void put_value(struct move_writer *w, const struct move_column *c, const char *text,
                      unsigned long n)
{
    for (const char *at = c->written ? c->written : "{0}"; *at;) {
        if (!strncmp(at, "{0}", 3)) {
            put_literal(w, &w->rest, c, text, n);
            at += 3;
        } else {
            buf_putc(&w->rest, *at++);
        }
    }
}

/* "a,b", or "a=VALUES(a),b=VALUES(b)". */
static void put_names(struct buf *sql, const struct move_table *t, bool assigned)
{
    const char *before = "";

    for (const struct move_column *c = t->columns; !move_column_is_last(c); c++) {
        if (!c->name)
            continue;
        buf_puts(sql, before);
        buf_puts(sql, c->name);
        if (assigned)
            buf_printf(sql, "=VALUES(%s)", c->name);
        before = ",";
    }
}

/* How many rows are written; those without their number are not. */
static size_t put_insert(struct move_writer *w)
{
    size_t count = 0;

    buf_reset(&w->sql);
    buf_printf(&w->sql, "INSERT INTO %s(", w->table->name);
    put_names(&w->sql, w->table, false);
    buf_puts(&w->sql, ") VALUES ");
    for (size_t i = 0; i < w->n; i++) {
        const struct row *row = &w->rows[i];

        if (w->table->number && !*row->number)
            continue;
        buf_puts(&w->sql, count++ ? ",(" : "(");
        buf_puts(&w->sql, row->number);
        buf_put(&w->sql, w->rest.data + row->from, row->to - row->from);
        buf_putc(&w->sql, ')');
    }
    buf_puts(&w->sql, " ON DUPLICATE KEY UPDATE ");
    put_names(&w->sql, w->table, true);
    w->sql.failed |= w->rest.failed;
    return count;
}

static int write_all(struct move_writer *w, struct err *err)
{
    size_t count;

    if (w->table->number && look_up(w, err))
        return -1;
    if (w->rest.failed)
        return err_set(err, ERR_RETRY, 0, "out of memory");
    count = put_insert(w);
    if (count < w->n && !w->lives)
        return err_set(err, ERR_BUG, 0, "%zu rows of %s belong to nothing that is there",
                       w->n - count, w->table->name);
    return count ? db_run_buf(w->db, &write_label, &w->sql, NULL, err) : 0;
}

int move_writer_flush(struct move_writer *w, struct err *err)
{
    int rc = w->n ? write_all(w, err) : 0;

    buf_reset(&w->rest);
    w->n = 0;
    return rc;
}

/* How many of the first columns are the number's. */
static size_t key_columns(enum move_number number)
{
    return number == MOVE_OF_RECIPIENT ? 2 : number == MOVE_OF_ENDPOINT ? 1 : 0;
}

int move_writer_put(struct move_writer *w, char **row, const unsigned long *lengths,
                    struct err *err)
{
    const size_t keys = key_columns(w->table->number);
    struct row *to = &w->rows[w->n++];
    const char *before = keys ? "," : "";

    *to = (struct row){.from = w->rest.len};
    if (keys)
        snprintf(to->key, sizeof(to->key), keys == 2 ? "%s/%s" : "%s", row[0], row[keys - 1]);
    for (size_t i = keys; !move_column_is_last(&w->table->columns[i]); i++) {
        buf_puts(&w->rest, before);
        put_value(w, &w->table->columns[i], row[i], lengths[i]);
        before = ",";
    }
    to->to = w->rest.len;
    return w->n == ROWS || w->rest.len >= BYTES ? move_writer_flush(w, err) : 0;
}
