#include "libcommon/domain/webhook_watch.h"

#include <pthread.h>
#include <stdlib.h>

#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/base/pause.h"
#include "libcommon/daemon/daemon.h"
#include "libcommon/db/schema.h"
#include "libcommon/domain/webhook_set.h"
#include "libcommon/domain/webhook_store.h"
#include "libcommon/telemetry/log.h"
#include "libcommon/telemetry/metrics.h"

#define REFRESH_MS 1000

static struct {
    pthread_t thread;
    struct pause pause;
    struct db *db;
    struct daemon_beat *beat;
    bool started, failing, schema_seen, loaded;
    struct webhook_store_state state; /* that the customers are of */
    struct metric *known;
} watch;

static bool has_changed(const struct webhook_store_state *now)
{
    return !watch.loaded || now->changes != watch.state.changes ||
           now->changed_us != watch.state.changed_us;
}

/* The counter is read before the customers: a change in between is seen the next time. */
static int refresh(struct err *err)
{
    struct webhook_store_state state;
    int64_t began_ms = clock_mono_ms();
    int64_t *customers;
    size_t n;

    if (webhook_store_look(watch.db, &state, err))
        return -1;
    if (!has_changed(&state)) {
        webhook_set_believe(began_ms + WEBHOOK_WATCH_BELIEVED_MS);
        return 0;
    }
    if (webhook_store_customers(watch.db, &customers, &n, err))
        return -1;
    webhook_set_know(customers, n, began_ms + WEBHOOK_WATCH_BELIEVED_MS);
    free(customers);
    metrics_set(watch.known, (int64_t)n);
    watch.state = state;
    watch.loaded = true;
    return 0;
}

static void turn(void)
{
    enum schema schema = SCHEMA_UNKNOWN;
    struct err err;
    int rc = db_acquire(watch.db, &err);

    if (!rc) {
        schema = schema_look(watch.db, &watch.schema_seen, &err);
        rc = schema == SCHEMA_UNKNOWN ? -1 : 0;
    }
    if (schema == SCHEMA_READY)
        rc = refresh(&err);
    db_release(watch.db);
    if (rc && !watch.failing)
        log_warn("webhooks.refresh_failed", L_ERR(&err));
    watch.failing = rc != 0;
}

static void *watch_main(void *arg)
{
    (void)arg;
    do {
        daemon_beat(watch.beat);
        turn();
        daemon_beat_rest(watch.beat, REFRESH_MS);
    } while (!pause_for(&watch.pause, REFRESH_MS));
    return NULL;
}

void webhook_watch_start(const struct db_settings *settings)
{
    webhook_store_register();
    watch.known = metrics_gauge("msg_webhook_customers",
                                "Customers with an endpoint, as far as this process knows.", "");
    metrics_set(watch.known, METRICS_ABSENT);
    watch.db = db_new_reader(settings);
    watch.beat = daemon_beat_new("webhook set");
    pause_init(&watch.pause);
    watch.started = true;
    MUST(pthread_create(&watch.thread, NULL, watch_main, NULL) == 0);
    pthread_setname_np(watch.thread, "webhook set");
}

void webhook_watch_begin_stop(void)
{
    if (watch.started)
        pause_stop(&watch.pause);
}

void webhook_watch_stop(void)
{
    if (!watch.started)
        return;
    pause_stop(&watch.pause);
    pthread_join(watch.thread, NULL);
    db_free(watch.db);
    pause_destroy(&watch.pause);
    watch.started = false;
    webhook_set_forget();
}
