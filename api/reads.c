#include "api/reads.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "api/read_copy.h"
#include "api/read_queue.h"
#include "api/settings.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/base/pause.h"
#include "libcommon/daemon/daemon.h"
#include "libcommon/telemetry/log.h"

#define BEAT_MS 5000
#define RETRY_PAUSE_MS 100

struct reader {
    struct reads *parent;
    pthread_t thread;
    struct pause pause; /* before a second try */
    struct db *db;
    struct read_copy *copy; /* NULL: there is none */
    struct daemon_beat *beat;
};

struct reads {
    read_answer_fn *answer;
    read_begin_fn *begin;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct read_queue *queue;
    bool closed;
    size_t count;
    struct reader readers[];
};

static struct db_label bottom_label = {.query = "history_bottom"};
static struct db_label history_label = {.query = "history"};
static struct db_label balance_label = {.query = "balance"};

/* "2026-01-02 03:04:05.678901" of a UTC session to RFC 3339. */
static void put_time(struct buf *out, const char *s)
{
    buf_putc(out, '"');
    buf_put(out, s, 10);
    buf_putc(out, 'T');
    buf_puts(out, s + 11);
    buf_puts(out, "Z\"");
}

static void put_text(struct buf *out, const char *key, const char *s, size_t n)
{
    buf_puts(out, key);
    buf_put_json(out, s, n);
}

static void put_cursor(struct buf *out, int64_t id)
{
    if (id)
        buf_printf(out, "],\"next_cursor\":\"%lld\"", (long long)id);
    else
        buf_puts(out, "],\"next_cursor\":null");
}

static void put_customers_rows(struct buf *sql, const struct read_job *job)
{
    buf_printf(sql, "user_id=%lld AND id<%lld", (long long)job->user_id, (long long)job->before);
}

/* What the operator said that decided, as JSON: looked for only where there is any. */
static void put_report_column(struct buf *sql)
{
    buf_printf(sql,
               ",delivery,IF(delivery IN (%d,%d),(SELECT JSON_OBJECT('operator',d.operator,'code',"
               "d.code,'words',d.words,'reason',d.reason,'at',DATE_FORMAT(d.reported_at,"
               "'%%Y-%%m-%%dT%%H:%%i:%%s.%%fZ')) FROM deliveries d WHERE d.status_id="
               "message_status.id AND d.state=message_status.delivery ORDER BY d.reported_at,"
               "d.operator LIMIT 1),NULL)",
               RECIPIENT_DELIVERY_DELIVERED, RECIPIENT_DELIVERY_UNDELIVERED);
}

/* A message's rows are few. A customer's are found by an index that is in the order of the answer
 * and does not know their state. */
static void put_history_query(struct db *db, struct buf *sql, const struct read_job *job,
                              int64_t bottom)
{
    buf_puts(
        sql,
        "SELECT id,user_id,type,status,recipient,provider,message_identifier,created_at,updated_at,"
        "price,position,provider_message_id,last_error");
    put_report_column(sql);
    buf_puts(sql, " FROM message_status FORCE INDEX(");
    if (*job->message_id) {
        buf_puts(sql, "uq_message_status_identifier_recipient) WHERE message_identifier=");
        db_put_quoted(db, sql, job->message_id, strlen(job->message_id));
        buf_puts(sql, " AND ");
    } else {
        buf_puts(sql, "idx_message_status_user) WHERE ");
    }
    put_customers_rows(sql, job);
    if (bottom)
        buf_printf(sql, " AND id>=%lld", (long long)bottom);
    if (job->by_state)
        buf_printf(sql, " AND status='%s'", recipient_state_name(job->state));
    buf_printf(sql, " ORDER BY id DESC LIMIT %lld", (long long)job->limit + 1);
}

static void put_history_row(struct buf *out, char **row, const unsigned long *n)
{
    const char *status = recipient_state_shown(row[3]);

    buf_printf(out, "{\"user_id\":%s", row[1]);
    put_text(out, ",\"type\":", row[2], n[2]);
    put_text(out, ",\"status\":", status, strlen(status));
    put_text(out, ",\"recipient\":", row[4], n[4]);
    put_text(out, ",\"provider\":", row[5], n[5]);
    put_text(out, ",\"message_identifier\":", row[6], n[6]);
    buf_puts(out, ",\"created_at\":");
    put_time(out, row[7]);
    buf_puts(out, ",\"updated_at\":");
    put_time(out, row[8]);
    buf_printf(out, ",\"price\":%s,\"position\":%s", row[9], row[10]);
    put_text(out, ",\"provider_message_id\":", row[11], n[11]);
    put_text(out, ",\"last_error\":", row[12], n[12]);
    buf_printf(out, ",\"delivery\":\"%s\",\"delivery_report\":%s}",
               recipient_delivery_name(recipient_delivery_read(row[13])),
               row[14] ? row[14] : "null");
}

/* The rows of a page, and the cursor behind it, as members of an object. bottom: the last row
 * looked at, when there may be others behind it. Whether there are any. */
static bool put_page(struct buf *out, const char *name, struct db_set *rows, int64_t limit,
                     int64_t bottom)
{
    int64_t last = 0;
    int64_t n = 0;
    char **row;

    buf_printf(out, "\"%s\":[", name);
    while (n < limit && (row = db_next(rows))) {
        if (n++)
            buf_putc(out, ',');
        put_history_row(out, row, rows->lengths);
        last = strtoll(row[0], NULL, 10);
    }
    put_cursor(out, db_next(rows) ? last : bottom);
    return n > 0;
}

/* How far down a search for a state may look: to the READ_SCAN_ROWS-th row, which the index alone
 * tells. 0: to the end of the history. */
static int find_bottom(struct db *db, const struct read_job *job, int64_t *bottom, struct err *err)
{
    struct db_results results;
    struct buf sql = {0};
    int rc;

    buf_puts(&sql, "SELECT id FROM message_status FORCE INDEX(idx_message_status_user) WHERE ");
    put_customers_rows(&sql, job);
    buf_printf(&sql, " ORDER BY id DESC LIMIT 1 OFFSET %lld",
               (long long)api_settings.read_scan_rows - 1);
    rc = db_run_buf(db, &bottom_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    *bottom = db_number(db_only(&results));
    db_results_free(&results);
    if (clock_mono_ms() >= job->deadline_ms)
        return err_set(err, ERR_RETRY, 0, "nobody waits for the rest any more");
    return 0;
}

/* Whether the customer has that message at all, which an empty page of it leaves open. */
static int find_message(struct db *db, const struct read_job *job, bool *found, struct err *err)
{
    struct read_job any = *job;
    struct db_results results;
    struct buf sql = {0};
    int rc;

    any.by_state = false;
    any.before = INT64_MAX;
    any.limit = 0; /* and one row more */
    put_history_query(db, &sql, &any, 0);
    rc = db_run_buf(db, &history_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    *found = db_next(db_only(&results));
    db_results_free(&results);
    return 0;
}

static int recipients(struct db *db, const struct read_job *job, const char *name, struct buf *out,
                      bool *found, struct err *err)
{
    struct db_results results;
    struct buf sql = {0};
    int64_t bottom = 0;
    int rc;

    if (job->by_state && !*job->message_id && find_bottom(db, job, &bottom, err))
        return -1;
    put_history_query(db, &sql, job, bottom);
    rc = db_run_buf(db, &history_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    *found = put_page(out, name, db_only(&results), job->limit, bottom);
    db_results_free(&results);
    if (!*found && *job->message_id && (job->for_itself || job->kind == READ_MESSAGE))
        return find_message(db, job, found, err);
    *found = true;
    return 0;
}

static int history(struct db *db, const struct read_job *job, struct buf *out, bool *found,
                   struct err *err)
{
    int rc;

    buf_putc(out, '{');
    rc = recipients(db, job, "history", out, found, err);
    buf_putc(out, '}');
    return rc;
}

/* A message, and what was told of it. */
static int message(struct db *db, const struct read_job *job, struct buf *out, bool *found,
                   struct err *err)
{
    buf_puts(out, "{\"message_identifier\":");
    buf_put_json(out, job->message_id, strlen(job->message_id));
    buf_putc(out, ',');
    if (recipients(db, job, "recipients", out, found, err))
        return -1;
    if (*found &&
        webhook_task_put_told(db, job->user_id, job->message_id, api_settings.page_max, out, err))
        return -1;
    buf_putc(out, '}');
    return 0;
}

static int balance(struct db *db, const struct read_job *job, struct buf *out, struct err *err)
{
    struct db_packet packet = {0};
    struct db_results results;
    struct db_set *transactions;
    int64_t last = 0;
    int64_t n = 0;
    char **row;
    int rc;

    buf_printf(db_statement(&packet, "balance"),
               "SELECT balance FROM user_balances WHERE user_id=%lld", (long long)job->user_id);
    buf_printf(
        db_statement(&packet, "transactions"),
        "SELECT id,amount,transaction_type,COALESCE(description,''),transaction_id,created_at "
        "FROM user_transactions FORCE INDEX(idx_user_transactions_user) WHERE user_id=%lld AND "
        "id<%lld "
        "ORDER BY id DESC LIMIT %lld",
        (long long)job->user_id, (long long)job->before, (long long)job->limit + 1);
    rc = db_run_packet(db, &balance_label, &packet, &results, err);
    db_packet_free(&packet);
    if (rc)
        return -1;
    transactions = db_result(&results, "transactions");
    row = db_next(db_result(&results, "balance"));
    buf_printf(out, "{\"balance\":%s,\"transactions\":[", row ? row[0] : "0");
    while (n < job->limit && (row = db_next(transactions))) {
        const unsigned long *len = transactions->lengths;

        last = strtoll(row[0], NULL, 10);
        buf_printf(out, "%s{\"amount\":%s", n++ ? "," : "", row[1]);
        put_text(out, ",\"transaction_type\":", row[2], len[2]);
        put_text(out, ",\"description\":", row[3], len[3]);
        put_text(out, ",\"transaction_id\":", row[4], len[4]);
        buf_puts(out, ",\"created_at\":");
        put_time(out, row[5]);
        buf_putc(out, '}');
    }
    put_cursor(out, db_next(transactions) ? last : 0);
    db_results_free(&results);
    buf_putc(out, '}');
    return 0;
}

static int run_task(struct db *db, const struct read_job *job, struct buf *out,
                    enum read_outcome *outcome, struct err *err)
{
    static const enum read_outcome outcomes[] = {
        [WEBHOOK_ANSWERED] = READ_OK, [WEBHOOK_ABSENT] = READ_ABSENT, [WEBHOOK_FULL] = READ_FULL};
    enum webhook_answer answer;

    if (webhook_task_run(db, job->task, out, &answer, err))
        return -1;
    *outcome = outcomes[answer];
    return 0;
}

/* db is acquired. */
static int run_kind(struct db *db, const struct read_job *job, struct buf *out,
                    enum read_outcome *outcome, struct err *err)
{
    bool found = true;
    int rc;

    if (job->kind == READ_WEBHOOK)
        return run_task(db, job, out, outcome, err);
    if (job->kind == READ_BALANCE)
        rc = balance(db, job, out, err);
    else if (job->kind == READ_MESSAGE)
        rc = message(db, job, out, &found, err);
    else
        rc = history(db, job, out, &found, err);
    *outcome = found ? READ_OK : READ_ABSENT;
    return rc;
}

/* Who names a message wants to know what has become of it, and the primary finds it at once. False:
 * it has to be asked. */
static bool answered_by_copy(struct reader *r, const struct read_job *job, struct buf *out)
{
    bool may = r->copy && job->kind == READ_HISTORY && !*job->message_id;
    struct db *db = may ? read_copy_acquire(r->copy) : NULL;
    enum read_outcome outcome = READ_OK;
    struct err ignored;
    bool answered;

    if (!db)
        return false;
    answered = !run_kind(db, job, out, &outcome, &ignored) && !out->failed;
    read_copy_release(r->copy, answered);
    return answered;
}

static enum read_outcome run_job(struct reader *r, const struct read_job *job, struct buf *out)
{
    enum read_outcome outcome = READ_OK;
    struct err err;
    int rc;

    if (job->kind == READ_WEBHOOK && webhook_task_changes(job->task) && !r->parent->begin(job))
        return READ_TOO_LATE;
    buf_reset(out);
    if (answered_by_copy(r, job, out))
        return READ_OK;

    /* One more try on a new connection: the first may have found a pooled one dead. */
    for (int tries = 0; tries < 2; tries++) {
        buf_reset(out);
        rc = db_acquire(r->db, &err);
        if (!rc)
            rc = run_kind(r->db, job, out, &outcome, &err);
        db_release(r->db);
        if (!rc && outcome != READ_OK)
            return outcome;
        if (!rc)
            return out->failed ? READ_UNAVAILABLE : READ_OK;
        if (err.kind != ERR_RETRY || clock_mono_ms() + RETRY_PAUSE_MS > job->deadline_ms)
            break;
        pause_for(&r->pause, RETRY_PAUSE_MS);
        daemon_beat(r->beat);
    }
    if (err.kind == ERR_RETRY)
        return READ_UNAVAILABLE;
    if (err.kind == ERR_UNKNOWN)
        return READ_UNKNOWN;
    log_error("read.failed", L_ERR(&err));
    return READ_INTERNAL;
}

static void *reader_main(void *arg)
{
    struct reader *r = arg;
    struct reads *all = r->parent;
    struct buf out = {0};

    pthread_mutex_lock(&all->lock);
    for (;;) {
        struct read_job *job = read_queue_take(all->queue);
        struct timespec until;

        daemon_beat(r->beat);
        if (!job && all->closed && read_queue_is_empty(all->queue))
            break;
        if (!job) {
            until = pause_until(BEAT_MS);
            pause_cond_wait(&all->wake, &all->lock, &until);
            continue;
        }
        pthread_mutex_unlock(&all->lock);
        if (clock_mono_ms() >= job->deadline_ms)
            all->answer(job, READ_TOO_LATE, &out);
        else
            all->answer(job, run_job(r, job, &out), &out);
        pthread_mutex_lock(&all->lock);
        read_queue_done(all->queue, job->user_id);
        free(job->task);
        free(job);
    }
    pthread_cond_broadcast(&all->wake); /* who waited for a customer's turn to end */
    pthread_mutex_unlock(&all->lock);
    buf_free(&out);
    return NULL;
}

struct reads *reads_start(read_answer_fn *answer, read_begin_fn *begin)
{
    size_t count = (size_t)api_settings.readers;
    const struct read_queue_limits limits = {
        .waiting = api_settings.read_queue_max,
        .waiting_each = api_settings.read_queue_user_max,
        .at_work_each = (int64_t)(count + 1) / 2,
    };
    struct reads *r = must_alloc(1, sizeof(*r) + count * sizeof(r->readers[0]));

    db_label_register(&bottom_label);
    db_label_register(&history_label);
    db_label_register(&balance_label);
    webhook_task_register();
    r->answer = answer;
    r->begin = begin;
    r->queue = read_queue_new(&limits);
    r->count = count;
    pthread_mutex_init(&r->lock, NULL);
    pause_cond_init(&r->wake);
    for (size_t i = 0; i < count; i++) {
        struct reader *reader = &r->readers[i];

        reader->parent = r;
        reader->db = db_new_reader(&api_settings.db);
        reader->copy = read_copy_new(&api_settings);
        reader->beat = daemon_beat_new("reader");
        pause_init(&reader->pause);
        MUST(pthread_create(&reader->thread, NULL, reader_main, reader) == 0);
    }
    return r;
}

bool reads_submit(struct reads *r, const struct read_job *job)
{
    struct read_job *copy = malloc(sizeof(*copy));
    bool fits;

    if (!copy)
        return false;
    *copy = *job;
    pthread_mutex_lock(&r->lock);
    fits = !r->closed && read_queue_put(r->queue, copy);
    if (fits && read_queue_may_take(r->queue))
        pthread_cond_signal(&r->wake);
    pthread_mutex_unlock(&r->lock);
    if (!fits)
        free(copy);
    return fits;
}

void reads_stop(struct reads *r)
{
    pthread_mutex_lock(&r->lock);
    r->closed = true;
    pthread_cond_broadcast(&r->wake);
    pthread_mutex_unlock(&r->lock);
    for (size_t i = 0; i < r->count; i++)
        pause_stop(&r->readers[i].pause);
    for (size_t i = 0; i < r->count; i++) {
        pthread_join(r->readers[i].thread, NULL);
        pause_destroy(&r->readers[i].pause);
        db_free(r->readers[i].db);
        read_copy_free(r->readers[i].copy);
    }
    read_queue_free(r->queue);
    pthread_cond_destroy(&r->wake);
    pthread_mutex_destroy(&r->lock);
    free(r);
}
