#include "api/key_ring.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "api/key_store.h"
#include "api/key_table.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/base/pause.h"
#include "libcommon/daemon/daemon.h"
#include "libcommon/db/schema.h"
#include "libcommon/telemetry/log.h"
#include "libcommon/telemetry/metrics.h"

#define NEVER INT64_MIN

struct key_ring {
    pthread_t thread;
    struct pause pause;
    struct db *db;
    struct daemon_beat *beat;
    int64_t refresh_ms;
    bool failing, schema_seen;
    struct key_store_state state; /* that table is of */

    _Atomic bool tried;           /* one turn is over */
    _Atomic int64_t confirmed_ms; /* monotonic; NEVER */
    _Atomic int64_t ahead_us;     /* the database's clock, of our monotonic one */

    /* Held by who asks, for the search alone, and by who swaps, for as long as that takes. */
    pthread_rwlock_t lock;
    struct key_table *table;
};

static struct {
    struct metric *keys, *confirmed;
} metrics;

static void register_metrics(void)
{
    metrics.keys = metrics_gauge(
        "msg_api_keys", "API keys in memory, with those that have died in the last 30 days.", "");
    metrics.confirmed =
        metrics_gauge("msg_api_keys_confirmed_timestamp_seconds",
                      "When the database last said that the API keys in memory are all.", "");
    metrics_set(metrics.keys, METRICS_ABSENT);
    metrics_set(metrics.confirmed, METRICS_ABSENT);
}

void key_ring_register(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, register_metrics);
}

static bool has_changed(const struct key_ring *r, const struct key_store_state *now)
{
    return atomic_load(&r->confirmed_ms) == NEVER || now->changes != r->state.changes ||
           now->changed_us != r->state.changed_us;
}

static bool add_row(const struct key_row *row, void *arg)
{
    return key_table_add(arg, row);
}

static void swap(struct key_ring *r, struct key_table *table)
{
    struct key_table *old;

    pthread_rwlock_wrlock(&r->lock);
    old = r->table;
    r->table = table;
    pthread_rwlock_unlock(&r->lock);
    key_table_free(old);
}

static int load(struct key_ring *r, struct err *err)
{
    struct key_table *table = key_table_new();

    if (key_store_each(r->db, true, add_row, table, err)) {
        key_table_free(table);
        return -1;
    }
    key_table_seal(table);
    metrics_set(metrics.keys, (int64_t)key_table_count(table));
    swap(r, table);
    return 0;
}

/* The counter is read before the keys: a change in between is seen the next time. What the
 * database's clock shows is taken for a little early, so that a key expires that little early, and
 * never late. */
static int refresh(struct key_ring *r, struct err *err)
{
    struct key_store_state state;
    int64_t began_us = clock_mono_us();

    if (key_store_look(r->db, &state, err))
        return -1;
    atomic_store(&r->ahead_us, state.now_us - began_us);
    if (has_changed(r, &state)) {
        if (load(r, err))
            return -1;
        r->state = state;
    }
    atomic_store(&r->confirmed_ms, began_us / 1000);
    metrics_set(metrics.confirmed, clock_wall_us() / 1000000);
    return 0;
}

static void turn(struct key_ring *r)
{
    enum schema schema = SCHEMA_UNKNOWN;
    struct err err;
    int rc = db_acquire(r->db, &err);

    if (!rc) {
        schema = schema_look(r->db, &r->schema_seen, &err);
        rc = schema == SCHEMA_UNKNOWN ? -1 : 0;
    }
    if (schema == SCHEMA_READY)
        rc = refresh(r, &err);
    db_release(r->db);
    if (rc && !r->failing)
        log_warn("keys.refresh_failed", L_ERR(&err));
    r->failing = rc != 0;
}

static void *ring_main(void *arg)
{
    struct key_ring *r = arg;

    do {
        daemon_beat(r->beat);
        turn(r);
        if (!atomic_exchange(&r->tried, true))
            pause_poke(&r->pause);
        daemon_beat_rest(r->beat, r->refresh_ms);
    } while (!pause_for(&r->pause, r->refresh_ms));
    return NULL;
}

/* Those who ask never queue up so that nobody can swap. */
static void init_lock(pthread_rwlock_t *lock)
{
    pthread_rwlockattr_t kind;

    pthread_rwlockattr_init(&kind);
    pthread_rwlockattr_setkind_np(&kind, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(lock, &kind);
    pthread_rwlockattr_destroy(&kind);
}

struct key_ring *key_ring_start(const struct db_settings *settings, int64_t refresh_ms)
{
    struct key_ring *r = must_alloc(1, sizeof(*r));

    key_store_register();
    key_ring_register();
    metrics_set(metrics.keys, 0);
    metrics_set(metrics.confirmed, 0);
    r->refresh_ms = refresh_ms;
    atomic_init(&r->tried, false);
    atomic_init(&r->confirmed_ms, NEVER);
    init_lock(&r->lock);
    r->table = key_table_new();
    r->db = db_new_reader(settings);
    r->beat = daemon_beat_new("keys");
    pause_init(&r->pause);
    MUST(pthread_create(&r->thread, NULL, ring_main, r) == 0);
    pthread_setname_np(r->thread, "keys");
    return r;
}

static bool has_tried(void *arg)
{
    const struct key_ring *r = arg;

    return atomic_load(&r->tried);
}

void key_ring_await(struct key_ring *r, int64_t ms)
{
    pause_for_or(&r->pause, ms, has_tried, r);
}

void key_ring_free(struct key_ring *r)
{
    if (!r)
        return;
    pause_stop(&r->pause);
    pthread_join(r->thread, NULL);
    db_free(r->db);
    key_table_free(r->table);
    pthread_rwlock_destroy(&r->lock);
    pause_destroy(&r->pause);
    free(r);
}

enum key_answer key_ring_ask(struct key_ring *r, const uint8_t hash[KEY_HASH_LEN], const char *peer,
                             struct key_grant *grant)
{
    int64_t now_us = clock_mono_us() + atomic_load_explicit(&r->ahead_us, memory_order_relaxed);
    enum key_answer answer;

    pthread_rwlock_rdlock(&r->lock);
    answer = key_table_ask(r->table, hash, peer, now_us, grant);
    pthread_rwlock_unlock(&r->lock);
    return answer;
}

int64_t key_ring_age_ms(struct key_ring *r)
{
    int64_t confirmed_ms = atomic_load_explicit(&r->confirmed_ms, memory_order_relaxed);

    return confirmed_ms == NEVER ? INT64_MAX : clock_mono_ms() - confirmed_ms;
}
