#include "libcommon/daemon/probe.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base/backoff.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/base/pause.h"
#include "libcommon/base/random.h"
#include "libcommon/db/restore_mode.h"
#include "libcommon/db/schema.h"
#include "libcommon/telemetry/log.h"
#include "libcommon/telemetry/metrics.h"

#define CHECK_EVERY_MS 1000
#define RESTORE_MODE_EVERY 2 /* checks: it is only shown */
#define BACKOFF_MAX_MS 2000
#define STALE_MS 2000
#define NEVER_MS (-1)
/* The longest that one check, and so the end of the thread, may take. */
#define CHECK_TIMEOUT_MS 2000

struct probe {
    const char *name;
    int (*check)(struct probe *p, struct err *err); /* blocks, bounded */
    struct db_settings db_settings;
    struct broker_settings broker_settings;
    struct db *db;
    struct broker *broker;
    bool schema_seen;
    unsigned checks; /* that went well */
    struct metric *up;
    _Atomic int64_t ok_at_ms; /* NEVER_MS: the last check failed, or there was none */
    _Atomic bool read_only;   /* that is why it failed */
    pthread_t thread;
    struct pause pause;
};

static struct db_label probe_label = {.query = "probe"};

static int64_t lower(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int check_db(struct probe *p, struct err *err)
{
    int rc = db_acquire(p->db, err);

    if (!rc && p->schema_seen)
        rc = db_ask_writable(p->db, &probe_label, err);
    else if (!rc && schema_look(p->db, &p->schema_seen, err) != SCHEMA_READY)
        rc = -1;
    if (!rc && p->checks++ % RESTORE_MODE_EVERY == 0)
        restore_mode_look(p->db);
    atomic_store(&p->read_only, rc && db_is_read_only(err));
    db_release(p->db);
    return rc;
}

static int check_broker(struct probe *p, struct err *err)
{
    if (!broker_is_open(p->broker) && broker_open(p->broker, err))
        return -1;
    return broker_ping(p->broker, err);
}

static void *probe_main(void *arg)
{
    struct probe *p = arg;
    unsigned failures = 0;
    bool told = false; /* whether the present state has been logged */
    int64_t wait_ms;

    do {
        struct err err = {0};

        if (!p->check(p, &err)) {
            atomic_store(&p->ok_at_ms, clock_mono_ms());
            if (failures || !told)
                log_info("dependency.up", L_STR("dependency", p->name));
            failures = 0;
            wait_ms = CHECK_EVERY_MS;
        } else {
            atomic_store(&p->ok_at_ms, NEVER_MS);
            if (!failures++)
                log_warn("dependency.down", L_STR("dependency", p->name), L_ERR(&err));
            wait_ms = backoff_ms(failures, CHECK_EVERY_MS, BACKOFF_MAX_MS, random_u64());
        }
        told = true;
        probe_ok(p);
    } while (!pause_for(&p->pause, wait_ms));
    return NULL;
}

static struct probe *start(struct probe *p)
{
    char labels[64] = "dependency=\"";
    size_t at = strlen(labels);
    sigset_t all;
    sigset_t before;

    for (const char *c = p->name; *c && at < sizeof(labels) - 2; c++)
        labels[at++] = *c;
    labels[at] = '"';
    labels[at + 1] = '\0';
    p->up =
        metrics_gauge("msg_dependency_up", "1: the last check of it succeeded, lately.", labels);
    atomic_init(&p->ok_at_ms, NEVER_MS);
    atomic_init(&p->read_only, false);
    pause_init(&p->pause);
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    MUST(pthread_create(&p->thread, NULL, probe_main, p) == 0);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_setname_np(p->thread, p->name);
    return p;
}

struct probe *probe_db(const struct db_settings *settings)
{
    struct probe *p = must_alloc(1, sizeof(*p));

    db_label_register(&probe_label);
    restore_mode_register();
    p->name = "mysql";
    p->check = check_db;
    p->db_settings = *settings;
    p->db_settings.connect_timeout_ms = lower(settings->connect_timeout_ms, CHECK_TIMEOUT_MS);
    p->db_settings.statement_timeout_ms = lower(settings->statement_timeout_ms, CHECK_TIMEOUT_MS);
    p->db = db_new(&p->db_settings);
    return start(p);
}

struct probe *probe_broker(const struct broker_settings *settings)
{
    struct probe *p = must_alloc(1, sizeof(*p));

    p->name = "rabbitmq";
    p->check = check_broker;
    p->broker_settings = *settings;
    p->broker_settings.connect_timeout_ms = lower(settings->connect_timeout_ms, CHECK_TIMEOUT_MS);
    p->broker_settings.rpc_timeout_ms = lower(settings->rpc_timeout_ms, CHECK_TIMEOUT_MS);
    p->broker = broker_new(&p->broker_settings, 0, "probe");
    return start(p);
}

/* The gauge is set here too, so that a check that hangs does not leave it at 1. */
bool probe_ok(const struct probe *p)
{
    int64_t at_ms = atomic_load(&p->ok_at_ms);
    bool ok = at_ms != NEVER_MS && clock_mono_ms() - at_ms <= STALE_MS;

    metrics_set(p->up, ok);
    return ok;
}

const char *probe_state(const struct probe *p)
{
    if (probe_ok(p))
        return "ok";
    return atomic_load(&p->read_only) ? "read-only" : "unavailable";
}

const char *probe_name(const struct probe *p)
{
    return p->name;
}

void probe_free(struct probe *p)
{
    if (!p)
        return;
    pause_stop(&p->pause);
    pthread_join(p->thread, NULL);
    db_free(p->db);
    broker_free(p->broker);
    pause_destroy(&p->pause);
    free(p);
}
