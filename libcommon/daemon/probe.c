#include "libcommon/daemon/probe.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "libcommon/base/backoff.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/base/random.h"
#include "libcommon/db/schema.h"
#include "libcommon/telemetry/log.h"
#include "libcommon/telemetry/metrics.h"

#define CHECK_EVERY_MS 500
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
    struct metric *up;
    _Atomic int64_t ok_at_ms; /* NEVER_MS: the last check failed, or there was none */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool stopping;
};

static struct db_label probe_label = {.query = "probe"};

static int64_t lower(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Once there, the schema does not go away; until then nobody may be sent here. */
static int check_schema(struct probe *p, struct err *err)
{
    int version;

    if (schema_version(p->db, &version, err))
        return -1;
    p->schema_seen = version >= SCHEMA_VERSION;
    if (p->schema_seen)
        return 0;
    return err_set(err, ERR_RETRY, 0, "schema: version %d, needed is %d", version, SCHEMA_VERSION);
}

static int check_db(struct probe *p, struct err *err)
{
    int rc = db_acquire(p->db, err);

    if (!rc && p->schema_seen)
        rc = db_run(p->db, &probe_label, "SELECT 1", 8, NULL, err);
    else if (!rc)
        rc = check_schema(p, err);
    db_release(p->db);
    return rc;
}

static int check_broker(struct probe *p, struct err *err)
{
    if (!broker_is_open(p->broker) && broker_open(p->broker, err))
        return -1;
    return broker_ping(p->broker, err);
}

/* False: the probe is to end. */
static bool wait_ms(struct probe *p, int64_t ms)
{
    struct timespec until;
    bool stopping;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += ms / 1000;
    until.tv_nsec += (long)(ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&p->lock);
    while (!p->stopping)
        if (pthread_cond_timedwait(&p->wake, &p->lock, &until))
            break;
    stopping = p->stopping;
    pthread_mutex_unlock(&p->lock);
    return !stopping;
}

static void *probe_main(void *arg)
{
    struct probe *p = arg;
    unsigned failures = 0;
    bool told = false; /* whether the present state has been logged */
    int64_t pause_ms;

    do {
        struct err err = {0};

        if (!p->check(p, &err)) {
            atomic_store(&p->ok_at_ms, clock_mono_ms());
            if (failures || !told)
                log_info("dependency.up", L_STR("dependency", p->name));
            failures = 0;
            pause_ms = CHECK_EVERY_MS;
        } else {
            atomic_store(&p->ok_at_ms, NEVER_MS);
            if (!failures++)
                log_warn("dependency.down", L_STR("dependency", p->name), L_ERR(&err));
            pause_ms = backoff_ms(failures, CHECK_EVERY_MS, BACKOFF_MAX_MS, random_u64());
        }
        told = true;
        probe_ok(p);
    } while (wait_ms(p, pause_ms));
    return NULL;
}

static struct probe *start(struct probe *p)
{
    char labels[64] = "dependency=\"";
    size_t at = strlen(labels);
    pthread_condattr_t attr;
    sigset_t all;
    sigset_t before;

    for (const char *c = p->name; *c && at < sizeof(labels) - 2; c++)
        labels[at++] = *c;
    labels[at] = '"';
    labels[at + 1] = '\0';
    p->up =
        metrics_gauge("msg_dependency_up", "1: the last check of it succeeded, lately.", labels);
    atomic_init(&p->ok_at_ms, NEVER_MS);
    pthread_mutex_init(&p->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&p->wake, &attr);
    pthread_condattr_destroy(&attr);
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
    p->broker = broker_new(&p->broker_settings, "probe");
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

const char *probe_name(const struct probe *p)
{
    return p->name;
}

void probe_free(struct probe *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    p->stopping = true;
    pthread_cond_signal(&p->wake);
    pthread_mutex_unlock(&p->lock);
    pthread_join(p->thread, NULL);
    db_free(p->db);
    broker_free(p->broker);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
    free(p);
}
