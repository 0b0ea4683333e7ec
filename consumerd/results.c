#include "consumerd/results.h"

#include <stdlib.h>
#include <string.h>

#include "consumerd/retry.h"
#include "libcommon/base/clock.h"
#include "libcommon/domain/settle.h"

#define CHUNK 500

static struct db_label done_label = {.query = "settle_done"};
static struct db_label verify_label = {.query = "settle_verify"};
static struct db_label lock_label = {.query = "settle_lock"};
static struct db_label later_label = {.query = "settle_later"};

void results_register(void)
{
    db_label_register(&done_label);
    db_label_register(&verify_label);
    db_label_register(&lock_label);
    db_label_register(&later_label);
    retry_register();
    settle_register();
}

static int by_status_id(const void *a, const void *b)
{
    uint64_t x = (*(struct job *const *)a)->status_id;
    uint64_t y = (*(struct job *const *)b)->status_id;

    return x < y ? -1 : x > y;
}

static struct job *find_job(struct job **jobs, size_t n, uint64_t status_id)
{
    size_t low = 0;

    while (low < n) {
        size_t middle = low + (n - low) / 2;

        if (jobs[middle]->status_id == status_id)
            return jobs[middle];
        if (jobs[middle]->status_id < status_id)
            low = middle + 1;
        else
            n = middle;
    }
    return NULL;
}

static void put_ids(struct buf *sql, struct job *const *jobs, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (i)
            buf_putc(sql, ',');
        buf_put_uint(sql, jobs[i]->status_id);
    }
}

/* ---- done ---- */

static void put_done_json(struct buf *json, const struct results *r, struct job *const *jobs,
                          size_t n)
{
    buf_putc(json, '[');
    for (size_t i = 0; i < n; i++) {
        const struct job *job = jobs[i];

        buf_puts(json, i ? ",[" : "[");
        buf_put_uint(json, job->status_id);
        buf_putc(json, ',');
        buf_put_uint(json, job->attempt);
        buf_puts(json, ",\"");
        buf_puts(json, r->operators[job->op].name);
        buf_puts(json, "\",");
        buf_put_json(json, job->provider_id, strlen(job->provider_id));
        buf_puts(json, ",\"");
        settings_put_operators(json, r->operators, job->unknown);
        buf_puts(json, "\"]");
    }
    buf_putc(json, ']');
}

/* The join, in the order of the ids given, makes this as cheap on a table of ten rows as on one of
 * ten million: a long IN list is planned as a scan of a small table. */
static void put_done(struct buf *sql, struct buf *json, const struct results *r, uint64_t me,
                     struct job *const *jobs, size_t n)
{
    buf_reset(json);
    put_done_json(json, r, jobs, n);
    buf_puts(sql, "START TRANSACTION;UPDATE JSON_TABLE(");
    if (json->failed)
        sql->failed = true;
    else
        db_put_quoted(r->db, sql, json->data, json->len);
    buf_printf(sql,
               ",'$[*]' COLUMNS(id BIGINT PATH '$[0]',attempt INT UNSIGNED PATH '$[1]',"
               "provider VARCHAR(50) PATH '$[2]',provider_id VARCHAR(128) PATH '$[3]',"
               "unknown_operators VARCHAR(255) PATH '$[4]')) j "
               "STRAIGHT_JOIN message_status m FORCE INDEX(PRIMARY) ON m.id=j.id "
               "SET m.status='done',m.provider=j.provider,m.provider_message_id=j.provider_id,"
               "m.unknown_operators=j.unknown_operators,m.last_error='' "
               "WHERE m.status='sending' AND m.owner=%llu AND m.attempt=j.attempt;COMMIT",
               (unsigned long long)me);
}

/* Some rows were not ours any more, or an earlier try had done them and its answer was lost. */
static int verify_done(const struct results *r, uint64_t me, struct job **jobs, size_t n,
                       struct err *err)
{
    struct buf sql = {0};
    struct db_results results;
    char **row;

    for (size_t i = 0; i < n; i++)
        jobs[i]->ours = false;
    buf_puts(&sql, "SELECT id,attempt FROM message_status FORCE INDEX(PRIMARY) WHERE id IN (");
    put_ids(&sql, jobs, n);
    buf_printf(&sql, ") AND status='done' AND owner=%llu", (unsigned long long)me);
    if (db_run_buf(r->db, &verify_label, &sql, &results, err)) {
        buf_free(&sql);
        return -1;
    }
    buf_free(&sql);
    while ((row = db_next(&results.set[0]))) {
        struct job *job = find_job(jobs, n, strtoull(row[0], NULL, 10));

        if (job && job->attempt == strtoul(row[1], NULL, 10))
            job->ours = true;
    }
    db_results_free(&results);
    return 0;
}

int results_done(const struct results *r, uint64_t me, struct job **jobs, size_t n, struct err *err)
{
    struct buf sql = {0};
    struct buf json = {0};
    struct db_results results;
    uint64_t written = 0;
    int rc;

    qsort(jobs, n, sizeof(struct job *), by_status_id);
    put_done(&sql, &json, r, me, jobs, n);
    rc = db_run_buf(r->db, &done_label, &sql, &results, err);
    buf_free(&sql);
    buf_free(&json);
    if (rc) {
        if (db_outcome_unknown(err))
            err->kind = ERR_UNKNOWN;
        db_rollback(r->db);
        return -1;
    }
    if (results.n == 3)
        written = results.set[1].affected;
    db_results_free(&results);
    for (size_t i = 0; i < n; i++)
        jobs[i]->ours = true;
    return written == n ? 0 : verify_done(r, me, jobs, n, err);
}

/* ---- failed and later ---- */

enum held {
    HELD_OURS,    /* to be written */
    HELD_WRITTEN, /* by an earlier try whose answer was lost */
    HELD_LOST,
};

static enum held held(const struct job *job, uint64_t me, char **row)
{
    enum message_state state;

    if (!message_state_parse(row[1], &state) || strtoul(row[3], NULL, 10) != job->attempt)
        return HELD_LOST;
    if (state == MESSAGE_SENDING && strtoull(row[2], NULL, 10) == me)
        return HELD_OURS;
    if (state == (job->outcome == JOB_FAILED ? MESSAGE_FAILED : MESSAGE_PENDING))
        return HELD_WRITTEN;
    return HELD_LOST;
}

/* Locks the rows; keep[0..*kept-1] are those to be written. */
static int lock_rows(const struct results *r, uint64_t me, struct job **jobs, size_t n,
                     struct job **keep, size_t *kept, struct err *err)
{
    struct buf sql = {0};
    struct db_results results;
    char **row;
    int rc;

    buf_puts(&sql, "SELECT id,status,owner,attempt FROM message_status FORCE INDEX(PRIMARY) "
                   "WHERE id IN (");
    put_ids(&sql, jobs, n);
    buf_puts(&sql, ") ORDER BY id FOR UPDATE");
    rc = db_run_buf(r->db, &lock_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    while ((row = db_next(&results.set[0]))) {
        struct job *job = find_job(jobs, n, strtoull(row[0], NULL, 10));
        enum held state = job ? held(job, me, row) : HELD_LOST;

        if (state == HELD_LOST)
            continue;
        job->ours = true;
        if (state == HELD_OURS)
            keep[(*kept)++] = job;
    }
    db_results_free(&results);
    return 0;
}

static void put_later_json(struct buf *json, const struct results *r, struct job *const *jobs,
                           size_t n)
{
    bool any = false;

    buf_putc(json, '[');
    for (size_t i = 0; i < n; i++) {
        const struct job *job = jobs[i];

        if (job->outcome != JOB_LATER)
            continue;
        buf_puts(json, any ? ",[" : "[");
        any = true;
        buf_put_uint(json, job->status_id);
        buf_puts(json, ",\"");
        settings_put_operators(json, r->operators, job->unknown);
        buf_puts(json, "\",");
        buf_put_json(json, job->error, strlen(job->error));
        buf_putc(json, ']');
    }
    buf_putc(json, ']');
}

/* The rows are locked and known to be ours. */
static int write_later(const struct results *r, struct job *const *jobs, size_t n, struct err *err)
{
    struct buf sql = {0};
    struct buf json = {0};
    int rc;

    put_later_json(&json, r, jobs, n);
    buf_puts(&sql, "UPDATE JSON_TABLE(");
    if (json.failed)
        sql.failed = true;
    else
        db_put_quoted(r->db, &sql, json.data, json.len);
    buf_puts(&sql, ",'$[*]' COLUMNS(id BIGINT PATH '$[0]',"
                   "unknown_operators VARCHAR(255) PATH '$[1]',last_error VARCHAR(255) PATH '$[2]'"
                   ")) j STRAIGHT_JOIN message_status m FORCE INDEX(PRIMARY) ON m.id=j.id "
                   "SET m.status='pending',m.owner=0,m.takeovers=0,"
                   "m.unknown_operators=j.unknown_operators,m.last_error=j.last_error");
    rc = db_run_buf(r->db, &later_label, &sql, NULL, err);
    buf_free(&sql);
    buf_free(&json);
    return rc;
}

static int by_message(const void *a, const void *b)
{
    const struct job *x = *(struct job *const *)a;
    const struct job *y = *(struct job *const *)b;
    int order = strcmp(x->message->id, y->message->id);

    return order ? order : by_status_id(a, b);
}

/* One retry for each message of the jobs, which are in the order of their messages. */
static size_t collect_retries(const struct results *r, struct job *const *jobs, size_t n,
                              bool at_once, struct retry *retries, const char **names)
{
    int64_t now_ms = clock_mono_ms();
    size_t count = 0;

    for (size_t i = 0; i < n; i++) {
        int64_t left_ms = jobs[i]->give_up_at_ms - now_ms;
        struct retry *at;

        if (!i || jobs[i]->message != jobs[i - 1]->message)
            retries[count++] = (struct retry){.message = jobs[i]->message,
                                              .recipients = names + i,
                                              .delay_ms = at_once ? 0 : RETRY_BACKOFF,
                                              .window_left_ms = left_ms};
        at = &retries[count - 1];
        /* A call that was given up may still reach its operator: it is asked when that is over. */
        if (at_once && jobs[i]->unknown)
            at->delay_ms = r->settings->consumer.timeout_ms;
        if (left_ms > at->window_left_ms)
            at->window_left_ms = left_ms;
        names[i] = jobs[i]->recipient;
        at->count++;
    }
    return count;
}

static void mark_unwritable(const struct retry *retries, size_t count, struct job *const *jobs,
                            size_t n)
{
    for (size_t k = 0; k < count; k++)
        for (size_t i = 0; retries[k].missing && i < n; i++)
            if (jobs[i]->message == retries[k].message)
                jobs[i]->message->unwritable = true;
}

/* jobs: JOB_LATER only. One outbox row a message. */
static int put_off(const struct results *r, struct job **jobs, size_t n, bool at_once,
                   struct err *err)
{
    struct retry *retries = calloc(n, sizeof(*retries));
    const char **names = calloc(n, sizeof(*names));
    size_t count;
    int rc;

    if (!retries || !names) {
        rc = err_set(err, ERR_RETRY, 0, "out of memory");
    } else {
        qsort(jobs, n, sizeof(struct job *), by_message);
        count = collect_retries(r, jobs, n, at_once, retries, names);
        rc = retry_write(r->db, r->settings, retries, count, err);
        if (!rc)
            mark_unwritable(retries, count, jobs, n);
    }
    free(names);
    free(retries);
    return rc;
}

static int fail_all(const struct results *r, struct job *const *jobs, size_t n, struct err *err)
{
    struct settle_failure *rows = calloc(n, sizeof(*rows));
    struct buf *unknown = calloc(n, sizeof(*unknown));
    size_t count = 0;
    int rc = 0;

    if (!rows || !unknown) {
        free(rows);
        free(unknown);
        return err_set(err, ERR_RETRY, 0, "out of memory");
    }
    for (size_t i = 0; i < n && !rc; i++) {
        const struct job *job = jobs[i];

        if (job->outcome != JOB_FAILED)
            continue;
        settings_put_operators(&unknown[count], r->operators, job->unknown);
        rows[count] = (struct settle_failure){
            .status_id = job->status_id,
            .user_id = job->user_id,
            .price = job->price,
            .message_id = job->message->id,
            .position = job->position,
            .reason = job->error,
            .unknown = unknown[count].len ? unknown[count].data : "",
        };
        if (unknown[count++].failed)
            rc = err_set(err, ERR_RETRY, 0, "out of memory");
    }
    if (!rc)
        rc = settle_fail(r->db, rows, count, err);
    for (size_t i = 0; i < count; i++)
        buf_free(&unknown[i]);
    free(unknown);
    free(rows);
    return rc;
}

/* Lock order: recipients, then messages, then balances. */
static int write_rest(const struct results *r, struct job **keep, size_t kept, bool at_once,
                      struct err *err)
{
    struct job **later = calloc(kept, sizeof(struct job *));
    size_t n = 0;
    int rc = 0;

    if (!later)
        return err_set(err, ERR_RETRY, 0, "out of memory");
    for (size_t i = 0; i < kept; i++)
        if (keep[i]->outcome == JOB_LATER)
            later[n++] = keep[i];
    if (n)
        rc = write_later(r, later, n, err);
    if (n && !rc)
        rc = put_off(r, later, n, at_once, err);
    if (!rc && n < kept)
        rc = fail_all(r, keep, kept, err);
    free(later);
    return rc;
}

int results_rest(const struct results *r, uint64_t me, struct job **jobs, size_t n, bool at_once,
                 struct err *err)
{
    struct job **keep = calloc(n, sizeof(struct job *));
    size_t kept = 0;
    int rc;

    if (!keep)
        return err_set(err, ERR_RETRY, 0, "out of memory");
    for (size_t i = 0; i < n; i++)
        jobs[i]->ours = false;
    qsort(jobs, n, sizeof(struct job *), by_status_id);
    rc = db_begin(r->db, err);
    for (size_t i = 0; i < n && !rc; i += CHUNK)
        rc = lock_rows(r, me, jobs + i, n - i < CHUNK ? n - i : CHUNK, keep, &kept, err);
    if (!rc && kept)
        rc = write_rest(r, keep, kept, at_once, err);
    if (!rc)
        rc = db_commit(r->db, err);
    if (rc)
        db_rollback(r->db);
    free(keep);
    return rc;
}
