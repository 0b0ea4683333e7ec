#include "test/loadtest/verify.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/domain/recipient.h"
#include "test/loadtest/client.h"

#define PAGE 20000 /* rows read at once */
#define LEDGER_PAGE 5000
#define LOOK_MS 100
#define LEDGER_TIMEOUT_US 30000000

struct samples {
    int64_t *us;
    size_t count, room;
};

struct verify {
    const struct options *options;
    struct db_settings settings;
    struct db *db;
    struct buf sql;
    int64_t status_after, ledger_after; /* ids: what is above them is the run's */
    int64_t sent_us;                    /* database time at the end of the sends */
    char operators[BOOK_OPERATORS][256];
    int64_t operator_from[BOOK_OPERATORS]; /* position in its ledger at the start */
    unsigned operator_count;
    struct samples done[MESSAGE_LANES], handed[MESSAGE_LANES];
};

static struct db_label look_label = {.query = "loadtest_look"};

static int run(struct verify *v, struct db_results *results, struct err *err)
{
    return db_run_buf(v->db, &look_label, &v->sql, results, err);
}

/* One number: the only column of the only row, 0 for NULL. */
static int number(struct verify *v, const char *sql, int64_t *out, struct err *err)
{
    struct db_results results;
    char **row;

    buf_reset(&v->sql);
    buf_puts(&v->sql, sql);
    if (run(v, &results, err))
        return -1;
    row = db_next(db_only(&results));
    *out = row && row[0] ? strtoll(row[0], NULL, 10) : 0;
    db_results_free(&results);
    return 0;
}

static int get_json(const char *url, const char *path, json_t **out, struct err *err)
{
    struct buf body = {0};
    int rc = client_get(url, path, LEDGER_TIMEOUT_US, &body, err);

    if (!rc) {
        *out = json_loadb(body.data ? body.data : "", body.len, 0, NULL);
        if (!*out)
            rc = err_set(err, ERR_PERMANENT, 0, "GET %s: no JSON", path);
    }
    buf_free(&body);
    return rc;
}

static int note_operators(struct verify *v, struct err *err)
{
    const char *at = v->options->operators;

    while (*at) {
        size_t n = strcspn(at, ",");
        json_t *counts;
        char *url;

        if (v->operator_count == BOOK_OPERATORS || n >= sizeof(v->operators[0]))
            return err_set(err, ERR_PERMANENT, 0, "too many operators, or too long a URL");
        url = v->operators[v->operator_count];
        memcpy(url, at, n);
        url[n] = '\0';
        if (get_json(url, "/ledger/count", &counts, err))
            return -1;
        v->operator_from[v->operator_count++] = json_integer_value(json_object_get(counts, "seen"));
        json_decref(counts);
        at += n + (at[n] == ',');
    }
    return 0;
}

struct verify *verify_begin(const struct options *options, struct err *err)
{
    struct verify *v = must_alloc(1, sizeof(*v));

    v->options = options;
    db_label_register(&look_label);
    MUST(options_dsn(options->seed_db_dsn, &v->settings));
    v->db = db_new_reader(&v->settings);
    if (db_acquire(v->db, err) ||
        number(v, "SELECT MAX(id) FROM message_status", &v->status_after, err) ||
        number(v, "SELECT MAX(id) FROM user_transactions", &v->ledger_after, err) ||
        note_operators(v, err)) {
        verify_free(v);
        return NULL;
    }
    db_release(v->db);
    return v;
}

int verify_sent(struct verify *v, struct err *err)
{
    return db_acquire(v->db, err) ||
                   number(v, "SELECT CAST(UNIX_TIMESTAMP(NOW(6))*1000000 AS SIGNED)", &v->sent_us,
                          err)
               ? -1
               : 0;
}

static void put_range(struct verify *v, const char *column, int64_t after)
{
    const struct options *o = v->options;

    buf_printf(&v->sql, " id>%lld AND %s BETWEEN %lld AND %lld ", (long long)after, column,
               (long long)o->user_start, (long long)o->user_start + (long long)o->users - 1);
}

/* Looks for one row that is not final, each time from where the last one was: what lies before it
 * has been seen final. */
static int await_drain(struct verify *v, bool *drained, struct err *err)
{
    int64_t until_ms = clock_mono_ms() + v->options->drain_timeout_us / 1000;
    int64_t after = v->status_after;

    for (;;) {
        struct db_results results;
        char **row;
        bool open;

        buf_reset(&v->sql);
        buf_puts(&v->sql, "SELECT id FROM message_status FORCE INDEX(PRIMARY) WHERE");
        put_range(v, "user_id", after);
        recipient_put_template(&v->sql, "AND status IN ({open}) ORDER BY id LIMIT 1");
        if (run(v, &results, err))
            return -1;
        row = db_next(db_only(&results));
        open = row != NULL;
        if (open)
            after = strtoll(row[0], NULL, 10) - 1;
        db_results_free(&results);
        *drained = !open;
        if (!open || clock_mono_ms() > until_ms)
            return 0;
        usleep(LOOK_MS * 1000);
    }
}

static void add_sample(struct samples *s, int64_t us)
{
    if (s->count == s->room) {
        s->room = s->room ? 2 * s->room : 4096;
        s->us = realloc(s->us, s->room * sizeof(*s->us));
        MUST(s->us != NULL);
    }
    s->us[s->count++] = us;
}

static void take_row(struct verify *v, struct book *book, char **row, int64_t *last_us)
{
    enum recipient_state state;
    enum message_type type;
    int64_t taken_us = strtoll(row[6], NULL, 10);
    int64_t updated_us = strtoll(row[7], NULL, 10);
    unsigned position = (unsigned)strtoul(row[2], NULL, 10);

    if (!recipient_state_parse(row[3], &state) || !message_type_parse(row[4], &type) ||
        !book_row(book, row[1], position,
                  !recipient_is_final(state)     ? BOOK_OPEN
                  : recipient_is_refunded(state) ? BOOK_FAILED
                                                 : BOOK_DONE,
                  *row[5] == '1') ||
        !book_dated(book, row[1], position, updated_us - taken_us)) {
        book->strange++;
        return;
    }
    if (updated_us > *last_us)
        *last_us = updated_us;
    if (recipient_is_final(state) && !recipient_is_refunded(state))
        add_sample(&v->done[type], taken_us);
}

static int read_rows(struct verify *v, struct book *book, struct verify_result *r, struct err *err)
{
    int64_t after = v->status_after;
    int64_t last_us = 0;
    bool more = true;

    while (more) {
        struct db_results results;
        char **row;

        buf_reset(&v->sql);
        recipient_put_template(
            &v->sql,
            "SELECT id,message_identifier,position,status,type,unknown_operators<>'',"
            "TIMESTAMPDIFF(MICROSECOND,created_at,updated_at),"
            "CAST(UNIX_TIMESTAMP(updated_at)*1000000 AS SIGNED),"
            "IF(status IN ({refunded}),0,price) FROM message_status FORCE INDEX(PRIMARY) WHERE");
        put_range(v, "user_id", after);
        buf_printf(&v->sql, "ORDER BY id LIMIT %d", PAGE);
        if (run(v, &results, err))
            return -1;
        more = db_only(&results)->affected == PAGE;
        while ((row = db_next(db_only(&results)))) {
            after = strtoll(row[0], NULL, 10);
            r->owed_amount += strtoll(row[8], NULL, 10);
            take_row(v, book, row, &last_us);
        }
        db_results_free(&results);
    }
    r->drain_us = r->drained && last_us > v->sent_us ? last_us - v->sent_us : 0;
    return 0;
}

static int read_ledger(struct verify *v, struct book *book, struct verify_result *r,
                       struct err *err)
{
    int64_t after = v->ledger_after;
    bool more = true;

    while (more) {
        struct db_results results;
        char **row;

        buf_reset(&v->sql);
        buf_puts(&v->sql, "SELECT id,transaction_id,amount,transaction_type FROM user_transactions "
                          "FORCE INDEX(PRIMARY) WHERE");
        put_range(v, "user_id", after);
        buf_printf(&v->sql, "ORDER BY id LIMIT %d", PAGE);
        if (run(v, &results, err))
            return -1;
        more = db_only(&results)->affected == PAGE;
        while ((row = db_next(db_only(&results)))) {
            int64_t amount = strtoll(row[2], NULL, 10);

            after = strtoll(row[0], NULL, 10);
            if (!strcmp(row[3], "withdrawal")) {
                r->charged_amount -= amount;
                book->strange += !book_charge(book, row[1]);
            } else if (!strcmp(row[3], "refund")) {
                r->refunded_amount += amount;
                book->strange += !book_refund(book, row[1]);
            }
        }
        db_results_free(&results);
    }
    return 0;
}

static int check_balances(struct verify *v, struct verify_result *r, struct err *err)
{
    int64_t wrong = 0;
    struct db_results results;
    char **row;

    buf_reset(&v->sql);
    buf_puts(&v->sql, "SELECT COUNT(*) FROM user_balances b LEFT JOIN (SELECT user_id,SUM(amount) "
                      "total FROM user_transactions GROUP BY user_id) t ON t.user_id=b.user_id "
                      "WHERE b.balance<>COALESCE(t.total,0) AND");
    buf_printf(&v->sql, " b.user_id BETWEEN %lld AND %lld", (long long)v->options->user_start,
               (long long)v->options->user_start + (long long)v->options->users - 1);
    if (run(v, &results, err))
        return -1;
    row = db_next(db_only(&results));
    if (row && row[0])
        wrong = strtoll(row[0], NULL, 10);
    db_results_free(&results);
    r->balances_add_up = wrong == 0;
    return 0;
}

/* 2026-01-02T03:04:05.678901Z */
static bool read_time(const char *text, int64_t *us)
{
    struct tm tm = {0};
    const char *rest = strptime(text, "%Y-%m-%dT%H:%M:%S", &tm);

    if (!rest || *rest != '.' || strspn(rest + 1, "0123456789") != 6 || strcmp(rest + 7, "Z") != 0)
        return false;
    *us = (int64_t)timegm(&tm) * 1000000 + strtoll(rest + 1, NULL, 10);
    return true;
}

static void take_entry(struct verify *v, struct book *book, const json_t *item, unsigned operator)
{
    const char *reference = json_string_value(json_object_get(item, "reference"));
    const char *type_name = json_string_value(json_object_get(item, "type"));
    const char *time = json_string_value(json_object_get(item, "accepted_at"));
    enum message_type type;
    int64_t accepted_us;
    int64_t handed_us;

    if (!reference || !type_name || !time || !message_type_parse(type_name, &type) ||
        !read_time(time, &handed_us) || !book_delivered(book, reference, operator)) {
        book->strange++;
        return;
    }
    accepted_us = book_accepted_us(book, reference);
    if (accepted_us)
        add_sample(&v->handed[type], handed_us - accepted_us);
}

static int read_operator(struct verify *v, struct book *book, unsigned n, struct err *err)
{
    char path[64];
    json_int_t cursor = v->operator_from[n];

    for (;;) {
        json_t *page;
        json_t *item;
        const char *after;
        size_t i;

        snprintf(path, sizeof(path), "/ledger?limit=%d&cursor=%lld", LEDGER_PAGE,
                 (long long)cursor);
        if (get_json(v->operators[n], path, &page, err))
            return -1;
        json_array_foreach(json_object_get(page, "ledger"), i, item)
        {
            take_entry(v, book, item, n);
        }
        after = json_string_value(json_object_get(page, "next_cursor"));
        cursor = after ? strtoll(after, NULL, 10) : 0;
        json_decref(page);
        if (!cursor)
            return 0;
    }
}

static int by_size(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a;
    int64_t y = *(const int64_t *)b;

    return x < y ? -1 : x > y;
}

/* The smallest sample that a share of q (in thousandths) does not exceed. */
static int64_t exact(const struct samples *s, size_t thousandths)
{
    size_t rank = (s->count * thousandths + 999) / 1000;

    return s->count ? s->us[rank ? rank - 1 : 0] : 0;
}

static void measure_lane(struct samples *s, struct lane_latency *latency)
{
    if (s->count)
        qsort(s->us, s->count, sizeof(*s->us), by_size);
    *latency = (struct lane_latency){s->count,      exact(s, 500), exact(s, 900),
                                     exact(s, 990), exact(s, 999), exact(s, 1000)};
}

int verify_drain(struct verify *v, struct verify_result *result, struct err *err)
{
    *result = (struct verify_result){.operators_asked = v->operator_count > 0};
    return db_acquire(v->db, err) ? -1 : await_drain(v, &result->drained, err);
}

int verify_finish(struct verify *v, struct book *book, struct verify_result *result,
                  struct err *err)
{
    if (db_acquire(v->db, err) || read_rows(v, book, result, err) ||
        read_ledger(v, book, result, err) || check_balances(v, result, err))
        return -1;
    db_release(v->db);
    for (unsigned i = 0; i < v->operator_count; i++)
        if (read_operator(v, book, i, err))
            return -1;
    for (int i = 0; i < MESSAGE_LANES; i++) {
        measure_lane(&v->done[i], &result->done[i]);
        measure_lane(&v->handed[i], &result->handed[i]);
    }
    book_close(book, result->operators_asked, &result->verdict);
    return 0;
}

bool verify_ok(const struct verify_result *r, uint64_t unanswered_max)
{
    const struct book_verdict *v = &r->verdict;

    return r->drained && r->balances_add_up && !v->lost && !v->doubled && !v->strange &&
           v->unanswered <= unanswered_max &&
           r->charged_amount - r->refunded_amount == r->owed_amount;
}

void verify_free(struct verify *v)
{
    if (!v)
        return;
    for (int i = 0; i < MESSAGE_LANES; i++) {
        free(v->done[i].us);
        free(v->handed[i].us);
    }
    db_free(v->db);
    options_dsn_free(&v->settings);
    buf_free(&v->sql);
    free(v);
}
