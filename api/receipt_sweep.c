#include "api/receipt_sweep.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "api/receipt_early.h"
#include "api/receipt_moved.h"
#include "api/receipt_spans.h"
#include "api/receipt_stats.h"
#include "api/settings.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/base/pause.h"
#include "libcommon/daemon/daemon.h"
#include "libcommon/db/leader.h"
#include "libcommon/db/schema.h"
#include "libcommon/telemetry/log.h"
#include "libcommon/telemetry/metrics.h"

#define LEADER "receipts"
#define TURN_MS 1000
#define REPEATS 20 /* transactions of each kind in a turn */
#define LOOK_BACK_ROWS 500
#define TELL_EVERY_MS 10000
#define COUNT_EVERY_MS 5000 /* all of them are walked for it */

struct receipt_sweep {
    const struct recipient_hearing *how;
    pthread_t thread;
    struct pause pause;
    struct db *db;
    struct daemon_beat *beat;
    bool failing, schema_seen;
    int64_t count_at_ms;
    struct receipt_early early;
    _Atomic bool full;
    struct metric *waiting, *unmatched, *unreported;
};

bool receipt_sweep_is_full(const struct receipt_sweep *s)
{
    return atomic_load_explicit(&s->full, memory_order_relaxed);
}

/* A person has to know: the customer has both, the message and its price. The audit has them all.
 */
void receipt_sweep_tell_late(const struct recipient_receipt *r)
{
    static _Atomic int64_t told_ms;
    int64_t now_ms = clock_mono_ms();
    int64_t last_ms = atomic_load(&told_ms);

    if ((last_ms && now_ms - last_ms < TELL_EVERY_MS) ||
        !atomic_compare_exchange_strong(&told_ms, &last_ms, now_ms))
        return;
    log_warn("receipt.after_refund", L_STR("operator", r->operator_name),
             L_INT("status_id", r->status_id), L_INT("customer_id", r->user_id),
             L_MSG("delivered, but its price has gone back; msg-api audit lists it"));
}

static void note_matched(const struct receipt_early *early)
{
    for (size_t i = 0; i < early->n; i++) {
        const struct recipient_receipt *r = &early->receipts[i];

        if (r->result == RECEIPT_EARLY)
            continue;
        receipt_stats_matched(r);
        if (r->result == RECEIPT_AFTER_REFUND)
            receipt_sweep_tell_late(r);
    }
}

/* *more: it was as many as go into a transaction. */
static int look_at_early(struct receipt_sweep *s, bool *more, struct err *err)
{
    int64_t start_us = clock_wall_us();
    uint64_t dropped = 0;
    int rc;

    if (receipt_early_take(s->db, s->how->wait_hours, &s->early, err))
        return -1;
    *more = s->early.n == RECEIPT_BATCH_MAX;
    if (!s->early.n)
        return 0;
    db_begin(s->db);
    rc = recipient_hear(s->db, s->how, s->early.receipts, s->early.n, err);
    if (!rc)
        rc = receipt_moved_put(s->db, s->early.receipts, s->early.n, err);
    if (!rc)
        rc = receipt_early_done(s->db, &s->early, &dropped, err);
    if (!rc)
        rc = db_commit(s->db, err);
    if (rc) {
        db_rollback(s->db);
        return -1;
    }
    note_matched(&s->early);
    receipt_spans(s->db, s->early.receipts, s->early.n, true, start_us);
    metrics_add(s->unmatched, dropped);
    if (dropped)
        log_warn("receipts.unmatched", L_INT("receipts", dropped),
                 L_MSG("nothing was sent that they are about; deleted"));
    return 0;
}

static int look_back(struct receipt_sweep *s, bool *more, struct err *err)
{
    uint64_t looked = 0;
    uint64_t unreported = 0;

    if (recipient_look_back(s->db, api_settings.receipt_keep_days, LOOK_BACK_ROWS, &looked,
                            &unreported, err))
        return -1;
    metrics_add(s->unreported, unreported);
    *more = looked >= LOOK_BACK_ROWS;
    return 0;
}

typedef int look_fn(struct receipt_sweep *s, bool *more, struct err *err);

static int repeat(struct receipt_sweep *s, look_fn *look, struct err *err)
{
    bool more = true;

    for (int i = 0; more && i < REPEATS && !pause_stopping(&s->pause); i++) {
        daemon_beat(s->beat);
        if (look(s, &more, err))
            return -1;
    }
    return 0;
}

static int count(struct receipt_sweep *s, struct err *err)
{
    int64_t most = api_settings.receipt_early_max;
    int64_t n = 0;

    if (clock_mono_ms() < s->count_at_ms)
        return 0;
    if (receipt_early_count(s->db, most, &n, err))
        return -1;
    s->count_at_ms = clock_mono_ms() + COUNT_EVERY_MS;
    metrics_set(s->waiting, n);
    if (n >= most && !receipt_sweep_is_full(s))
        log_error("receipts.early_full", L_INT("receipts", n),
                  L_MSG("too many match nothing; more are refused with 503"));
    atomic_store(&s->full, n >= most);
    return 0;
}

static int lead(struct receipt_sweep *s, struct err *err)
{
    bool leads = false;
    int rc = leader_try(s->db, LEADER, 0, &leads, err);

    if (rc || !leads)
        return rc;
    rc = repeat(s, look_at_early, err);
    if (!rc)
        rc = repeat(s, look_back, err);
    leader_resign(s->db, LEADER);
    return rc;
}

static void turn(struct receipt_sweep *s)
{
    struct err err;
    int rc = db_acquire(s->db, &err);

    if (!rc && schema_look(s->db, &s->schema_seen, &err) == SCHEMA_READY) {
        rc = lead(s, &err);
        if (!rc)
            rc = count(s, &err);
    }
    db_release(s->db);
    if (rc && !s->failing)
        log_warn("receipts.sweep_failed", L_ERR(&err));
    s->failing = rc != 0;
}

static void *sweep_main(void *arg)
{
    struct receipt_sweep *s = arg;

    while (!pause_for(&s->pause, TURN_MS)) {
        daemon_beat(s->beat);
        turn(s);
    }
    return NULL;
}

struct receipt_sweep *receipt_sweep_start(const struct recipient_hearing *how)
{
    struct receipt_sweep *s = must_alloc(1, sizeof(*s));

    s->how = how;
    s->waiting = metrics_gauge("msg_receipts_early",
                               "Receipts that wait for what they are about, counted up to "
                               "RECEIPT_EARLY_MAX.",
                               "");
    s->unmatched = metrics_counter("msg_receipts_unmatched_total",
                                   "Receipts that matched nothing in time, and were deleted.", "");
    s->unreported = metrics_counter("msg_recipients_unreported_total",
                                    "Recipients whose receipts did not come in time.", "");
    s->db = db_new(&api_settings.db);
    s->beat = daemon_beat_new("receipt sweep");
    pause_init(&s->pause);
    MUST(pthread_create(&s->thread, NULL, sweep_main, s) == 0);
    return s;
}

void receipt_sweep_stop(struct receipt_sweep *s)
{
    pause_stop(&s->pause);
    pthread_join(s->thread, NULL);
    db_free(s->db);
    pause_destroy(&s->pause);
    free(s);
}
