#include "api/move_copy.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/move_write.h"
#include "libcommon/domain/ledger.h"
#include "libcommon/domain/webhook_store.h"

#define ENTRIES 500   /* of the ledger, in a transaction */
#define RUN_ROWS 5000 /* of spans that are read as one */
#define PAGE 1000     /* rows of one SELECT by number */

static struct db_label compare_label = {.query = "move_compare"};
static struct db_label read_label = {.query = "move_read"};
static struct db_label remove_label = {.query = "move_remove"};

void move_copy_register(void)
{
    db_label_register(&compare_label);
    db_label_register(&read_label);
    db_label_register(&remove_label);
    move_write_register();
}

/* ---- statements ---- */

static void put_value(struct buf *sql, const struct move_copy *m, const struct move_column *c,
                      enum move_side side)
{
    const char *value = c->value[side] ? c->value[side] : c->value[MOVE_HERE];

    if (value) {
        move_table_put(sql, value, (long long)m->customer_id);
    } else {
        buf_puts(sql, "t.");
        buf_puts(sql, c->name);
    }
}

/* " FROM … WHERE …" */
static void put_rows(struct buf *sql, const struct move_copy *m, const struct move_table *t,
                     enum move_side side)
{
    buf_puts(sql, " FROM ");
    move_table_put(sql, t->rows[side] ? t->rows[side] : t->rows[MOVE_HERE],
                   (long long)m->customer_id);
}

static void put_between(struct buf *sql, const struct move_table *t, const struct move_span *s)
{
    buf_printf(sql, " AND %s BETWEEN '%s' AND '%s'", t->place, s->first, s->last);
}

/* ---- comparing ---- */

struct spans {
    struct move_span *all;
    size_t n;
};

static void put_compare(struct buf *sql, const struct move_copy *m, const struct move_table *t,
                        enum move_side side)
{
    if (t->moment)
        buf_printf(sql, "SELECT UNIX_TIMESTAMP(%s) DIV %u", t->moment, t->span_sec);
    else
        buf_puts(sql, "SELECT 0");
    buf_printf(sql, ",COUNT(*),SUM(CRC32(CONCAT_WS(',"
                    "'");
    for (const struct move_column *c = t->columns; !move_column_is_last(c); c++) {
        buf_puts(sql, ",COALESCE(CAST(");
        put_value(sql, m, c, side);
        buf_puts(sql, " AS BINARY),'~')");
    }
    buf_printf(sql, "))),SUM(%s),MIN(%s),MAX(%s)", t->sum ? t->sum : "0", t->place, t->place);
    put_rows(sql, m, t, side);
    buf_puts(sql, " GROUP BY 1 ORDER BY 1");
}

static void read_span(char **row, struct move_span *s)
{
    s->at = strtoll(row[0], NULL, 10);
    s->rows = strtoull(row[1], NULL, 10);
    snprintf(s->check, sizeof(s->check), "%s", row[2]);
    snprintf(s->sum, sizeof(s->sum), "%s", row[3]);
    snprintf(s->first, sizeof(s->first), "%s", row[4]);
    snprintf(s->last, sizeof(s->last), "%s", row[5]);
}

static int read_spans(const struct move_copy *m, const struct move_table *t, enum move_side side,
                      struct spans *spans, struct err *err)
{
    struct db_results results;
    struct buf sql = {0};
    char **row;
    int rc;

    put_compare(&sql, m, t, side);
    rc = db_run_buf(m->db[side], &compare_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    spans->all = calloc(db_only(&results)->affected + 1, sizeof(*spans->all));
    while (spans->all && (row = db_next(db_only(&results))))
        read_span(row, &spans->all[spans->n++]);
    db_results_free(&results);
    return spans->all ? 0 : err_set(err, ERR_RETRY, 0, "out of memory");
}

bool move_span_same(const struct move_span *a, const struct move_span *b)
{
    return a && b && a->rows == b->rows && !strcmp(a->check, b->check) && !strcmp(a->sum, b->sum);
}

/* ---- copying a span ---- */

/* From that place on: a page, or all of it. */
static void put_read(struct buf *sql, const struct move_copy *m, const struct move_table *t,
                     const struct move_span *s, const char *from)
{
    const char *before = "SELECT ";

    for (const struct move_column *c = t->columns; !move_column_is_last(c); c++) {
        buf_puts(sql, before);
        put_value(sql, m, c, MOVE_HERE);
        before = ",";
    }
    buf_printf(sql, ",%s", t->place);
    put_rows(sql, m, t, MOVE_HERE);
    put_between(sql, t, s);
    if (t->by_number)
        buf_printf(sql, " AND %s>=%s ORDER BY %s LIMIT %d", t->place, from, t->place, PAGE);
}

static size_t count_columns(const struct move_table *t)
{
    size_t n = 0;

    while (!move_column_is_last(&t->columns[n]))
        n++;
    return n;
}

/* A recipient may have several rows with its number: a page begins with the number that the last
 * one ended with. */
static int copy_rows(const struct move_copy *m, const struct move_table *t,
                     const struct move_span *s, struct err *err)
{
    struct move_writer *w = move_writer_new(m->db[MOVE_THERE], m->customer_id, t, m->lives);
    const size_t columns = count_columns(t);
    struct buf sql = {0};
    char from[40];
    bool more = true;
    int rc = 0;

    if (!w)
        return err_set(err, ERR_RETRY, 0, "out of memory");
    snprintf(from, sizeof(from), "%s", s->first);
    while (more && !rc) {
        struct db_results results;
        struct db_set *set;
        char last[40] = "";
        char **row;

        buf_reset(&sql);
        put_read(&sql, m, t, s, from);
        rc = db_run_buf(m->db[MOVE_HERE], &read_label, &sql, &results, err);
        if (rc)
            break;
        set = db_only(&results);
        while (!rc && (row = db_next(set))) {
            rc = move_writer_put(w, row, set->lengths, err);
            snprintf(last, sizeof(last), "%s", row[columns]);
        }
        more = t->by_number && set->affected == PAGE && strcmp(last, from) != 0;
        snprintf(from, sizeof(from), "%s", last);
        db_results_free(&results);
        if (!rc)
            rc = move_writer_flush(w, err);
    }
    buf_free(&sql);
    move_writer_free(w);
    return rc;
}

static int remove_rows(const struct move_copy *m, const struct move_table *t,
                       const struct move_span *s, struct err *err)
{
    struct buf sql = {0};
    int rc;

    buf_puts(&sql, "DELETE t");
    put_rows(&sql, m, t, MOVE_THERE);
    put_between(&sql, t, s);
    rc = db_run_buf(m->db[MOVE_THERE], &remove_label, &sql, NULL, err);
    buf_free(&sql);
    return rc;
}

/* Spans that follow each other and differ, as one: a statement and a commit for each would be most
 * of the work. */
struct run {
    struct move_span span; /* no rows: none */
};

static bool is_beyond(const struct move_table *t, const char *a, const char *b)
{
    return t->by_number ? strtoull(a, NULL, 10) > strtoull(b, NULL, 10) : strcmp(a, b) > 0;
}

static int end_run(const struct move_copy *m, const struct move_table *t, struct run *run,
                   struct err *err)
{
    int rc = run->span.rows ? copy_rows(m, t, &run->span, err) : 0;

    run->span.rows = 0;
    return rc;
}

static int add_to_run(const struct move_copy *m, const struct move_table *t, struct run *run,
                      const struct move_span *here, struct err *err)
{
    if (!run->span.rows) {
        run->span = *here;
    } else {
        run->span.rows += here->rows;
        if (is_beyond(t, run->span.first, here->first))
            memcpy(run->span.first, here->first, sizeof(here->first));
        if (is_beyond(t, here->last, run->span.last))
            memcpy(run->span.last, here->last, sizeof(here->last));
    }
    return run->span.rows >= RUN_ROWS ? end_run(m, t, run, err) : 0;
}

static int copy_span(const struct move_copy *m, const struct move_table *t, struct run *run,
                     const struct move_span *here, const struct move_span *there, struct err *err)
{
    if (m->dry_run || t->is_ledger)
        return 0;
    if (t->shrinks && there && (!here || there->rows > here->rows) && remove_rows(m, t, there, err))
        return -1;
    return here ? add_to_run(m, t, run, here, err) : 0;
}

/* ---- the ledger ---- */

/* The entries that follow those that are there, a page of them; after becomes the last one's. */
static int take_page(const struct move_copy *m, char after[LEDGER_ID_SIZE], size_t *n,
                     struct err *err)
{
    struct ledger_entry entries[ENTRIES];
    struct db_results results;
    struct buf sql = {0};
    char **row;
    int rc;

    *n = 0;
    buf_printf(&sql,
               "SELECT amount,transaction_type,description,transaction_id,created_at FROM "
               "user_transactions FORCE INDEX(idx_user_transactions_user) WHERE user_id=%lld AND "
               "id>COALESCE((SELECT id FROM user_transactions WHERE transaction_id='%s'),0) ORDER "
               "BY id LIMIT %d",
               (long long)m->customer_id, after, ENTRIES);
    rc = db_run_buf(m->db[MOVE_HERE], &read_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    while (*n < ENTRIES && (row = db_next(db_only(&results))))
        entries[(*n)++] = (struct ledger_entry){.amount = strtoll(row[0], NULL, 10),
                                                .type = row[1],
                                                .description = row[2],
                                                .id = row[3],
                                                .created_at = row[4]};
    if (*n) {
        db_begin(m->db[MOVE_THERE]);
        rc = ledger_take_in(m->db[MOVE_THERE], m->customer_id, after, entries, *n, err);
        if (!rc)
            rc = db_commit(m->db[MOVE_THERE], err);
        if (rc)
            db_rollback(m->db[MOVE_THERE]);
        else
            snprintf(after, LEDGER_ID_SIZE, "%s", entries[*n - 1].id);
    }
    db_results_free(&results);
    return rc;
}

/* Entries never change, and have rising numbers: what is there is the beginning of what is here. */
static int take_ledger(const struct move_copy *m, struct err *err)
{
    struct ledger_book book;
    size_t n = ENTRIES;
    int rc = ledger_read_book(m->db[MOVE_THERE], m->customer_id, &book, err);

    while (!rc && n == ENTRIES)
        rc = take_page(m, book.last, &n, err);
    return rc;
}

/* ---- endpoints ---- */

static int number_endpoints(const struct move_copy *m, struct err *err)
{
    struct db_results results;
    struct buf sql = {0};
    char **row;
    int rc;

    buf_printf(&sql, "SELECT id FROM webhooks WHERE customer_id=%lld", (long long)m->customer_id);
    rc = db_run_buf(m->db[MOVE_HERE], &read_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    while (!rc && (row = db_next(db_only(&results))))
        rc = webhook_store_number(m->db[MOVE_THERE], m->customer_id, strtoull(row[0], NULL, 10),
                                  err);
    db_results_free(&results);
    return rc;
}

/* ---- a table ---- */

static int prepare(const struct move_copy *m, const struct move_table *t, struct err *err)
{
    if (m->dry_run)
        return 0;
    if (t->is_ledger)
        return take_ledger(m, err);
    return !strcmp(t->name, "webhooks") ? number_endpoints(m, err) : 0;
}

static void add_up(struct move_figures *f, enum move_side side, const struct spans *spans)
{
    for (size_t i = 0; i < spans->n; i++) {
        f->rows[side] += spans->all[i].rows;
        f->sum[side] += strtoll(spans->all[i].sum, NULL, 10);
    }
}

/* Both lists are in order: the earlier of their next spans, or both where it is the same. */
static int walk(const struct move_copy *m, const struct move_table *t, const struct spans *here,
                const struct spans *there, struct move_figures *f, struct err *err)
{
    struct run run = {0};
    size_t i = 0;
    size_t k = 0;

    while (i < here->n || k < there->n) {
        const struct move_span *a = i < here->n ? &here->all[i] : NULL;
        const struct move_span *b = k < there->n ? &there->all[k] : NULL;

        if (a && b && a->at != b->at)
            *(a->at < b->at ? &b : &a) = NULL;
        i += a != NULL;
        k += b != NULL;
        f->spans++;
        if (move_span_same(a, b)) {
            if (end_run(m, t, &run, err))
                return -1;
            continue;
        }
        f->different++;
        if (copy_span(m, t, &run, a, b, err))
            return -1;
    }
    return end_run(m, t, &run, err);
}

int move_copy_table(const struct move_copy *m, const struct move_table *t,
                    struct move_figures *figures, struct err *err)
{
    struct spans here = {0};
    struct spans there = {0};
    int rc = -1;

    *figures = (struct move_figures){0};
    if (prepare(m, t, err) == 0 && read_spans(m, t, MOVE_HERE, &here, err) == 0 &&
        read_spans(m, t, MOVE_THERE, &there, err) == 0) {
        add_up(figures, MOVE_HERE, &here);
        add_up(figures, MOVE_THERE, &there);
        rc = walk(m, t, &here, &there, figures, err);
    }
    free(here.all);
    free(there.all);
    return rc;
}
