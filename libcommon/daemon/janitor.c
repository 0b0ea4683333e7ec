#include "libcommon/daemon/janitor.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/base/pause.h"
#include "libcommon/db/leader.h"
#include "libcommon/db/schema.h"
#include "libcommon/telemetry/log.h"
#include "libcommon/telemetry/metrics.h"

#define RETRY_MS 1000 /* for the database or its schema to be there */

struct chore {
    const struct janitor_row *row;
    int64_t due_ms;
    bool failing;
    struct db_label label;
    struct metric *cleaned;
};

struct janitor {
    pthread_t thread;
    struct pause pause;
    struct db *db;
    bool schema_seen;
    size_t n;
    struct chore chores[];
};

static int run_statement(struct janitor *j, struct chore *c, uint64_t *deleted, struct err *err)
{
    struct db_results results;
    struct buf sql = {0};
    int rc;

    buf_printf(&sql, "%s LIMIT %lld", c->row->sql, (long long)c->row->limit);
    rc = db_run_buf(j->db, &c->label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    *deleted = db_only(&results)->affected;
    db_results_free(&results);
    metrics_add(c->cleaned, *deleted);
    return 0;
}

static int clean(struct janitor *j, struct chore *c, struct err *err)
{
    bool full = true;
    bool leads;
    int rc = leader_try(j->db, c->row->name, 0, &leads, err);

    if (rc || !leads)
        return rc;
    for (int i = 0; !rc && full && i < JANITOR_REPEATS; i++) {
        int64_t start_us = clock_mono_us();
        uint64_t deleted = 0;

        rc = run_statement(j, c, &deleted, err);
        full = deleted >= (uint64_t)c->row->limit &&
               !pause_for_us(&j->pause, clock_mono_us() - start_us);
    }
    leader_resign(j->db, c->row->name);
    return rc;
}

/* db is acquired. */
static void take_turn(struct janitor *j, struct chore *c)
{
    struct err err;
    int rc = clean(j, c, &err);

    if (rc && !c->failing)
        log_warn("janitor.failed", L_STR("task", c->row->name), L_ERR(&err));
    c->failing = rc != 0;
    c->due_ms = clock_mono_ms() + c->row->every_ms;
}

static bool is_due(const struct chore *c)
{
    return c->due_ms <= clock_mono_ms();
}

/* Whoever is due; returns how long nobody will be. A database that is away is the probe's to tell.
 */
static int64_t take_turns(struct janitor *j)
{
    int64_t next_ms = INT64_MAX;
    struct err err;
    bool ready;

    ready = !db_acquire(j->db, &err) && schema_look(j->db, &j->schema_seen, &err) == SCHEMA_READY;
    for (size_t i = 0; ready && i < j->n && !pause_stopping(&j->pause); i++)
        if (is_due(&j->chores[i]))
            take_turn(j, &j->chores[i]);
    db_release(j->db);
    if (!ready)
        return RETRY_MS;
    for (size_t i = 0; i < j->n; i++)
        if (j->chores[i].due_ms < next_ms)
            next_ms = j->chores[i].due_ms;
    return next_ms - clock_mono_ms();
}

static void *janitor_main(void *arg)
{
    struct janitor *j = arg;

    while (!pause_for(&j->pause, take_turns(j)))
        ;
    return NULL;
}

static void chore_init(struct chore *c, const struct janitor_row *row)
{
    struct buf labels = {0};

    c->row = row;
    c->due_ms = clock_mono_ms();
    c->label.query = row->name;
    db_label_register(&c->label);
    buf_printf(&labels, "task=\"%s\"", row->name);
    c->cleaned = metrics_counter("msg_cleaned_rows_total",
                                 "Rows that nobody needs any more, deleted.", labels.data);
    buf_free(&labels);
}

struct janitor *janitor_start(const struct db_settings *settings, const struct janitor_row *rows,
                              size_t n)
{
    struct janitor *j = must_alloc(1, sizeof(*j) + n * sizeof(j->chores[0]));

    j->n = n;
    for (size_t i = 0; i < n; i++)
        chore_init(&j->chores[i], &rows[i]);
    j->db = db_new(settings);
    pause_init(&j->pause);
    MUST(pthread_create(&j->thread, NULL, janitor_main, j) == 0);
    pthread_setname_np(j->thread, "janitor");
    return j;
}

void janitor_begin_stop(struct janitor *j)
{
    pause_stop(&j->pause);
}

void janitor_stop(struct janitor *j)
{
    if (!j)
        return;
    pause_stop(&j->pause);
    pthread_join(j->thread, NULL);
    db_free(j->db);
    pause_destroy(&j->pause);
    free(j);
}
