#include "consumerd/held_watch.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/base/pause.h"
#include "libcommon/db/schema.h"
#include "libcommon/domain/outbox.h"
#include "libcommon/domain/recipient.h"
#include "libcommon/telemetry/log.h"
#include "libcommon/telemetry/metrics.h"

#define LOOK_EVERY_MS 5000
#define RETRY_MS 500   /* until the first look has succeeded */
#define COST_FACTOR 50 /* the looks may cost this part of the time */

#define LOOK_MAX 5000    /* messages of a lane and kind */
#define COUNT_MAX 100000 /* recipients: beyond it the gauges stand still */
#define CHECK_MS 1000    /* --check waits no longer for the database */

static struct db_label look_label = {.query = "held_look"};

/* ---- the look ---- */

static void put_messages(struct buf *sql, enum message_type lane, enum outbox_kind kind)
{
    buf_printf(
        sql, "(SELECT %d kind,aggregate_id FROM outbox_events FORCE INDEX(idx_outbox_poll) WHERE ",
        (int)kind);
    outbox_put_part(sql, lane, kind);
    buf_printf(sql, " AND next_run_at>'1000-01-01' LIMIT %d)", LOOK_MAX);
}

static void put_look(struct buf *sql)
{
    const char *between = "";

    buf_puts(sql, "SELECT t.kind,t.unknown_operators,COUNT(*) FROM (SELECT o.kind,"
                  "s.unknown_operators FROM (");
    for (int lane = 0; lane < MESSAGE_LANES; lane++)
        for (int kind = OUTBOX_DELIVER; kind <= OUTBOX_ASK; kind++) {
            buf_puts(sql, between);
            put_messages(sql, (enum message_type)lane, (enum outbox_kind)kind);
            between = " UNION ALL ";
        }
    buf_puts(sql, ") o STRAIGHT_JOIN message_status s "
                  "FORCE INDEX(uq_message_status_identifier_recipient) "
                  "ON s.message_identifier=o.aggregate_id WHERE s.unknown_operators<>'' "
                  "AND s.status IN (");
    recipient_put_states(sql, RECIPIENT_OPEN);
    buf_printf(sql, ") LIMIT %d) t GROUP BY t.kind,t.unknown_operators", COUNT_MAX);
}

/* names: a list that is added to; what does not fit leaves a sign. */
static void add_names(char names[RECIPIENT_UNKNOWN_MAX + 1], const char *more)
{
    struct operators_noted known;
    struct buf both = {0};
    struct buf out = {0};

    buf_printf(&both, "%s,%s", names, more);
    settings_read_noted(NULL, 0, both.failed ? more : both.data, &known);
    for (const char *at = known.gone; *at;) {
        size_t len = strcspn(at, ",");
        const char *earlier = known.gone;

        while (earlier < at && !(strcspn(earlier, ",") == len && !memcmp(earlier, at, len)))
            earlier += strcspn(earlier, ",") + 1;
        if (earlier == at) {
            buf_puts(&out, out.len ? "," : "");
            buf_put(&out, at, len);
        }
        at += len + (at[len] == ',');
    }
    if (out.len && !out.failed)
        snprintf(names, RECIPIENT_UNKNOWN_MAX + 1, "%s", out.data);
    buf_free(&both);
    buf_free(&out);
}

static int ask(struct db *db, const struct operator_address *operators, size_t n,
               struct held_counts *out, struct err *err)
{
    struct db_results results;
    struct buf sql = {0};
    char **row;
    int rc;

    *out = (struct held_counts){0};
    put_look(&sql);
    rc = db_run_buf(db, &look_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    while ((row = db_next(db_only(&results)))) {
        int64_t count = strtoll(row[2], NULL, 10);
        struct operators_noted noted;

        settings_read_noted(operators, n, row[1], &noted);
        if (strtol(row[0], NULL, 10) == OUTBOX_ASK)
            out->held += count;
        if (*noted.gone) {
            out->gone += count;
            add_names(out->names, noted.gone);
        }
    }
    db_results_free(&results);
    return 0;
}

void held_check(const struct settings *settings)
{
    struct db_settings quick = settings->db;
    struct operator_address operators[OPERATORS_MAX];
    struct held_counts counts;
    struct err ignored;
    struct db *db;
    size_t n;

    if (!settings->operators)
        return;
    n = settings_addresses(settings->operators, operators);
    if (quick.connect_timeout_ms > CHECK_MS)
        quick.connect_timeout_ms = CHECK_MS;
    if (quick.statement_timeout_ms > CHECK_MS)
        quick.statement_timeout_ms = CHECK_MS;
    db_label_register(&look_label);
    db = db_new_reader(&quick);
    if (!db_acquire(db, &ignored) && !ask(db, operators, n, &counts, &ignored) && counts.gone)
        printf("warning: %lld recipients wait for operators that are not in OPERATORS: %s\n",
               (long long)counts.gone, counts.names);
    db_release(db);
    db_free(db);
}

/* ---- the thread ---- */

struct held_watch {
    pthread_t thread;
    struct pause pause;
    struct db *db;
    struct operator_address operators[OPERATORS_MAX];
    size_t operator_count;
    bool schema_seen, looked, failing;
    char told[RECIPIENT_UNKNOWN_MAX + 1]; /* names last logged */
    struct metric *held, *gone;
};

static void tell_gone(struct held_watch *w, const struct held_counts *counts)
{
    if (!strcmp(w->told, counts->names))
        return;
    memcpy(w->told, counts->names, sizeof(w->told));
    if (*w->told)
        log_warn("held.operators_gone", L_INT("recipients", counts->gone),
                 L_STR("operators", w->told),
                 L_MSG("recipients wait for operators that are not in OPERATORS"));
}

/* That the database is away is for lanes and probe to say; that this look alone fails, for us. */
static void look(struct held_watch *w)
{
    struct held_counts counts;
    struct err err;

    if (db_acquire(w->db, &err) || schema_look(w->db, &w->schema_seen, &err) != SCHEMA_READY) {
        db_release(w->db);
        return;
    }
    if (!ask(w->db, w->operators, w->operator_count, &counts, &err)) {
        metrics_set(w->held, counts.held);
        metrics_set(w->gone, counts.gone);
        tell_gone(w, &counts);
        w->looked = true;
        w->failing = false;
    } else if (!w->failing) {
        log_warn("held.not_counted", L_ERR(&err));
        w->failing = true;
    }
    db_release(w->db);
}

static void *watch_main(void *arg)
{
    struct held_watch *w = arg;
    int64_t wait_ms = 0;

    while (!pause_for(&w->pause, wait_ms)) {
        int64_t start_ms = clock_mono_ms();

        look(w);
        wait_ms = (clock_mono_ms() - start_ms) * COST_FACTOR;
        if (wait_ms < LOOK_EVERY_MS)
            wait_ms = w->looked ? LOOK_EVERY_MS : RETRY_MS;
    }
    return NULL;
}

struct held_watch *held_watch_start(const struct settings *settings)
{
    struct held_watch *w = must_alloc(1, sizeof(*w));

    db_label_register(&look_label);
    w->operator_count = settings_addresses(settings->operators, w->operators);
    w->held = metrics_gauge("msg_held_recipients",
                            "Recipients that are held: an operator may have them and does not "
                            "answer; those that are being asked about are not counted.",
                            "");
    w->gone =
        metrics_gauge("msg_gone_operator_recipients",
                      "Open recipients that an operator may have which is not in OPERATORS.", "");
    w->db = db_new_reader(&settings->db);
    pause_init(&w->pause);
    MUST(pthread_create(&w->thread, NULL, watch_main, w) == 0);
    pthread_setname_np(w->thread, "held");
    return w;
}

void held_watch_begin_stop(struct held_watch *w)
{
    if (w)
        pause_stop(&w->pause);
}

void held_watch_stop(struct held_watch *w)
{
    if (!w)
        return;
    pause_stop(&w->pause);
    pthread_join(w->thread, NULL);
    db_free(w->db);
    pause_destroy(&w->pause);
    free(w);
}
