#include "api/receipt_forward.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "api/cell_peer.h"
#include "api/receipt_moved.h"
#include "api/settings.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/base/pause.h"
#include "libcommon/daemon/daemon.h"
#include "libcommon/db/leader.h"
#include "libcommon/db/schema.h"
#include "libcommon/telemetry/log.h"
#include "libcommon/telemetry/metrics.h"

#define LEADER "receipts_moved"
#define TURN_MS 1000
#define REPEATS 20 /* batches for a cell in a turn */
#define CELLS_MAX 64
#define REST_MS 10000 /* of a cell that could not be reached */

/* A cell that something was handed to, or is to be. */
struct target {
    char cell[CELL_NAME_MAX + 1];
    struct cell_peer *peer; /* NULL: nothing is known of it yet */
    struct db *db;
    int64_t rests_until_ms;
    bool failing;
};

struct receipt_forward {
    pthread_t thread;
    struct pause pause;
    struct db *db;
    struct daemon_beat *beat;
    bool failing, schema_seen;
    struct target targets[CELLS_MAX];
    size_t target_count;
    struct receipt_early batch;
    _Atomic bool full;
    struct metric *waiting, *handed_on, *failed;
};

bool receipt_forward_is_full(const struct receipt_forward *f)
{
    return atomic_load_explicit(&f->full, memory_order_relaxed);
}

/* NULL: there are more than there is room for. */
static struct target *target_of(struct receipt_forward *f, const char cell[CELL_NAME_MAX + 1])
{
    struct target *t = f->targets;

    while (t < f->targets + f->target_count && strcmp(t->cell, cell) != 0)
        t++;
    if (t == f->targets + CELLS_MAX)
        return NULL;
    if (t == f->targets + f->target_count) {
        f->target_count++;
        memcpy(t->cell, cell, sizeof(t->cell));
    }
    return t;
}

static void forget(struct target *t)
{
    db_free(t->db);
    cell_peer_free(t->peer);
    t->db = NULL;
    t->peer = NULL;
}

static int reach(struct target *t, struct err *err)
{
    if (!t->peer) {
        t->peer = cell_peer_load(t->cell, err);
        if (!t->peer)
            return -1;
        t->db = db_new(&t->peer->db);
    }
    return db_acquire(t->db, err);
}

/* There first, then gone here. */
static int hand_on(struct receipt_forward *f, struct db *there, const char *cell, struct err *err)
{
    for (int i = 0; i < REPEATS && !pause_stopping(&f->pause); i++) {
        daemon_beat(f->beat);
        if (receipt_moved_take(f->db, cell, &f->batch, err))
            return -1;
        if (!f->batch.n)
            return 0;
        if (receipt_early_put(there, f->batch.receipts, f->batch.n, err) ||
            receipt_moved_done(f->db, &f->batch, err))
            return -1;
        metrics_add(f->handed_on, f->batch.n);
    }
    return 0;
}

/* Its file may be mended meanwhile: it is read anew after the rest. */
static void serve(struct receipt_forward *f, const char cell[CELL_NAME_MAX + 1])
{
    struct target *t = target_of(f, cell);
    struct err err;

    if (!t || clock_mono_ms() < t->rests_until_ms)
        return;
    if (reach(t, &err) == 0 && hand_on(f, t->db, cell, &err) == 0) {
        db_release(t->db);
        t->failing = false;
        return;
    }
    metrics_add(f->failed, 1);
    if (!t->failing)
        log_warn("receipts.not_handed_on", L_STR("cell", cell), L_ERR(&err));
    t->failing = true;
    t->rests_until_ms = clock_mono_ms() + REST_MS;
    forget(t);
}

static int count(struct receipt_forward *f, struct err *err)
{
    int64_t most = api_settings.receipt_early_max;
    int64_t n = 0;

    if (receipt_moved_count(f->db, most, &n, err))
        return -1;
    metrics_set(f->waiting, n);
    atomic_store(&f->full, n >= most);
    return 0;
}

static int lead(struct receipt_forward *f, struct err *err)
{
    char cells[CELLS_MAX][CELL_NAME_MAX + 1];
    bool leads = false;
    size_t n = 0;
    int rc = leader_try(f->db, LEADER, 0, &leads, err);

    if (rc || !leads)
        return rc;
    rc = receipt_moved_cells(f->db, cells, CELLS_MAX, &n, err);
    for (size_t i = 0; i < n && !rc; i++) {
        if (*cells[i])
            serve(f, cells[i]);
        else
            rc = hand_on(f, f->db, "", err);
    }
    leader_resign(f->db, LEADER);
    return rc;
}

static void turn(struct receipt_forward *f)
{
    struct err err;
    int rc = db_acquire(f->db, &err);

    if (!rc && schema_look(f->db, &f->schema_seen, &err) == SCHEMA_READY) {
        rc = lead(f, &err);
        if (!rc)
            rc = count(f, &err);
    }
    db_release(f->db);
    if (rc && !f->failing)
        log_warn("receipts.forward_failed", L_ERR(&err));
    f->failing = rc != 0;
}

static void *forward_main(void *arg)
{
    struct receipt_forward *f = arg;

    while (!pause_for(&f->pause, TURN_MS)) {
        daemon_beat(f->beat);
        turn(f);
    }
    return NULL;
}

struct receipt_forward *receipt_forward_start(void)
{
    struct receipt_forward *f = must_alloc(1, sizeof(*f));

    receipt_moved_register();
    f->waiting = metrics_gauge("msg_receipts_moved",
                               "Receipts about messages of customers who have moved to another "
                               "cell that wait to be handed on, counted up to RECEIPT_EARLY_MAX.",
                               "");
    f->handed_on = metrics_counter("msg_receipts_handed_on_total",
                                   "Receipts that were handed on to another cell.", "");
    f->failed = metrics_counter("msg_receipts_hand_on_failures_total",
                                "Times that receipts could not be handed on to another cell.", "");
    f->db = db_new(&api_settings.db);
    f->beat = daemon_beat_new("receipt forward");
    pause_init(&f->pause);
    MUST(pthread_create(&f->thread, NULL, forward_main, f) == 0);
    pthread_setname_np(f->thread, "forward");
    return f;
}

void receipt_forward_stop(struct receipt_forward *f)
{
    if (!f)
        return;
    pause_stop(&f->pause);
    pthread_join(f->thread, NULL);
    for (size_t i = 0; i < f->target_count; i++)
        forget(&f->targets[i]);
    db_free(f->db);
    pause_destroy(&f->pause);
    free(f);
}
