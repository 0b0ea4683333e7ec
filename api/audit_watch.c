#include "api/audit_watch.h"

#include <pthread.h>
#include <stdlib.h>

#include "api/audit_internal.h"
#include "api/settings.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/base/pause.h"
#include "libcommon/db/leader.h"
#include "libcommon/db/schema.h"
#include "libcommon/telemetry/log.h"
#include "libcommon/telemetry/metrics.h"

#define LEADER "audit"
#define RANGE 1000         /* rows a step looks at */
#define PAUSE_MIN_MS 1000  /* small tables need no haste */
#define PAUSE_MAX_MS 60000 /* nor may one slow statement end the walk */

struct audit_watch {
    pthread_t thread;
    struct pause pause;
    struct db *db;
    bool failing, schema_seen;
    int64_t range; /* at most RANGE; less after what took too long */
    size_t check;  /* of the round's, where the walk is */
    int64_t after; /* the id it has come to */
    struct audit_balances *balances;
    struct audit_events events;
    struct audit_report round;   /* what this round has found so far */
    uint64_t last_round, logged; /* violations */
    struct metric *mismatch, *rounds;
};

/* Places of the walks behind the ranges. */
#define BALANCES AUDIT_RANGE_CHECKS
#define EVENTS (BALANCES + 1)

/* An open recipient is not wrong, and a full outbox neither. */
static bool is_walked(const struct audit_range_check *c)
{
    return !c->quiesced_only && !c->by_age;
}

static void begin_round(struct audit_watch *w)
{
    audit_report_free(&w->round);
    for (size_t i = 0; i < AUDIT_RANGE_CHECKS; i++)
        audit_add_check(&w->round, audit_range_checks[i].name);
    audit_add_check(&w->round, AUDIT_BALANCES);
    audit_add_check(&w->round, AUDIT_EVENTS);
    audit_balances_rewind(w->balances);
    w->events = (struct audit_events){0};
    w->check = 0;
    w->after = 0;
}

/* A mismatch that stays is not told again every round. */
static void tell(struct audit_watch *w)
{
    if (w->round.violations == w->logged)
        return;
    for (size_t i = 0; i < w->round.check_count; i++) {
        const struct audit_check *c = &w->round.checks[i];

        for (size_t k = 0; k < AUDIT_EXAMPLES && c->examples[k]; k++)
            log_error("audit.mismatch", L_STR("check", c->name), L_MSG(c->examples[k]));
    }
    w->logged = w->round.violations;
}

static void end_round(struct audit_watch *w)
{
    tell(w);
    w->last_round = w->round.violations;
    metrics_add(w->rounds, 1);
    begin_round(w);
}

/* Until the round has come to what the last one found, that stands. */
static void show(const struct audit_watch *w)
{
    uint64_t found = w->round.violations;

    metrics_set(w->mismatch, (int64_t)(found > w->last_round ? found : w->last_round));
}

static int step_in_range(struct audit_watch *w, bool *end, struct err *err)
{
    const struct audit_range_check *c = &audit_range_checks[w->check];
    int64_t values[3] = {w->after + 1, 0, 0};
    int64_t rows = 0;

    if (is_walked(c)) {
        if (audit_next_range(w->db, c->table, c->key, w->after, w->range, &values[1], &rows, err))
            return -1;
        if (rows && audit_run_range(w->db, c, values, &w->round, &w->round.checks[w->check], err))
            return -1;
    }
    w->after = values[1];
    *end = rows < w->range;
    return 0;
}

static int step(struct audit_watch *w, struct err *err)
{
    bool end = false;
    int rc;

    if (w->check == BALANCES)
        rc = audit_balances_step(w->balances, w->db, w->range, &w->round,
                                 &w->round.checks[BALANCES], &end, err);
    else if (w->check == EVENTS)
        rc = audit_events_step(&w->events, w->db, w->range, &w->round, &w->round.checks[EVENTS],
                               &end, err);
    else
        rc = step_in_range(w, &end, err);
    if (rc || !end)
        return rc;
    w->after = 0;
    if (w->check++ == EVENTS)
        end_round(w);
    return 0;
}

/* What was cut off for taking too long is taken up again in smaller pieces, so that no row keeps
 * the walk from the others. */
static void adapt(struct audit_watch *w, bool failed)
{
    w->range = failed ? (w->range + 3) / 4 : w->range * 2;
    if (w->range > RANGE)
        w->range = RANGE;
}

/* One statement's worth of the walk, when it is this process's turn. */
static void turn(struct audit_watch *w)
{
    struct err err = {0};
    enum schema schema = SCHEMA_UNKNOWN;
    bool mine = false;
    int rc = db_acquire(w->db, &err);

    if (!rc) {
        schema = schema_look(w->db, &w->schema_seen, &err);
        rc = schema == SCHEMA_UNKNOWN ? -1 : 0;
    }
    if (schema == SCHEMA_READY)
        rc = leader_try(w->db, LEADER, 0, &mine, &err);
    if (!rc && mine) {
        rc = step(w, &err);
        adapt(w, rc != 0);
        leader_resign(w->db, LEADER);
        show(w);
    }
    db_release(w->db);
    if (rc && !w->failing)
        log_warn("audit.failed", L_ERR(&err));
    w->failing = rc != 0;
}

static void *watch_main(void *arg)
{
    struct audit_watch *w = arg;
    int64_t pct = api_settings.audit_load_pct;
    int64_t pause_ms = PAUSE_MIN_MS;

    while (!pause_for(&w->pause, pause_ms)) {
        int64_t start_us = clock_mono_us();

        turn(w);
        pause_ms = (clock_mono_us() - start_us) * (100 - pct) / pct / 1000;
        if (pause_ms < PAUSE_MIN_MS)
            pause_ms = PAUSE_MIN_MS;
        if (pause_ms > PAUSE_MAX_MS)
            pause_ms = PAUSE_MAX_MS;
    }
    return NULL;
}

struct audit_watch *audit_watch_start(void)
{
    struct audit_watch *w;

    if (!api_settings.audit_load_pct)
        return NULL;
    w = must_alloc(1, sizeof(*w));
    db_label_register(&audit_label);
    w->mismatch = metrics_gauge("msg_ledger_mismatch",
                                "Rows of balances, ledger, recipients, receipts and webhooks that "
                                "do not fit together, as the running audit found them; must be 0.",
                                "");
    w->rounds = metrics_counter("msg_audit_rounds_total",
                                "Times the running audit has seen every row.", "");
    w->balances = audit_balances_new();
    w->range = RANGE;
    begin_round(w);
    w->db = db_new_reader(&api_settings.db);
    pause_init(&w->pause);
    MUST(pthread_create(&w->thread, NULL, watch_main, w) == 0);
    pthread_setname_np(w->thread, "audit");
    return w;
}

void audit_watch_begin_stop(struct audit_watch *w)
{
    if (w)
        pause_stop(&w->pause);
}

void audit_watch_stop(struct audit_watch *w)
{
    if (!w)
        return;
    pause_stop(&w->pause);
    pthread_join(w->thread, NULL);
    audit_report_free(&w->round);
    audit_balances_free(w->balances);
    db_free(w->db);
    pause_destroy(&w->pause);
    free(w);
}
