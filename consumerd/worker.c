#include "consumerd/worker.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "consumerd/published.h"
#include "libcommon/base/must.h"
#include "libcommon/base/pause.h"
#include "libcommon/db/restore_mode.h"
#include "libcommon/db/schema.h"
#include "libcommon/telemetry/log.h"

#define RETRY_MS 500

struct worker {
    const struct settings *settings;
    int64_t stop_after_ms;
    struct db *db;
    struct daemon_beat *beat;
    pthread_t thread;
    struct pause pause;
    bool remove_row; /* read after the stop */
    pthread_mutex_t lock;
    uint64_t last_era;          /* the thread's own */
    uint64_t id;                /* under lock */
    _Atomic uint64_t era;       /* of the present incarnation, 0: none */
    _Atomic uint64_t renounced; /* eras up to it are over */
    _Atomic int64_t trusted_until_ms;
    _Atomic size_t waiting[MESSAGE_LANES];
    _Atomic bool restoring; /* known before the first era begins */
};

static struct db_label register_label = {.query = "worker_register"};
static struct db_label beat_label = {.query = "worker_heartbeat"};
static struct db_label remove_label = {.query = "worker_remove"};
static struct db_label lives_label = {.query = "worker_lives"};

/* Goes on while the machine is suspended, as the database's clock does. */
static int64_t boot_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_BOOTTIME, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

void worker_put_lives(struct buf *sql, const struct consumer_settings *settings, const char *column)
{
    buf_printf(sql,
               "EXISTS (SELECT 1 FROM workers w WHERE w.id=%s AND "
               "w.heartbeat_at>NOW(6)-INTERVAL %lld SECOND)",
               column, (long long)settings->dead_sec);
}

void worker_register(void)
{
    db_label_register(&lives_label);
}

int worker_lives(struct db *db, const struct consumer_settings *settings, uint64_t owner,
                 bool *lives, struct err *err)
{
    struct db_results results;
    struct buf sql = {0};
    char number[24];
    int rc;

    *lives = false;
    if (!owner)
        return 0;
    snprintf(number, sizeof(number), "%llu", (unsigned long long)owner);
    buf_puts(&sql, "SELECT ");
    worker_put_lives(&sql, settings, number);
    rc = db_run_buf(db, &lives_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    *lives = db_number(db_only(&results)) == 1;
    db_results_free(&results);
    return 0;
}

bool worker_holds(struct worker *w, uint64_t era)
{
    if (atomic_load(&w->era) != era || atomic_load(&w->renounced) >= era)
        return false;
    if (boot_ms() < atomic_load(&w->trusted_until_ms))
        return true;
    worker_renounce(w, era);
    return false;
}

void worker_renounce(struct worker *w, uint64_t era)
{
    uint64_t seen = atomic_load(&w->renounced);

    while (seen < era) {
        if (atomic_compare_exchange_weak(&w->renounced, &seen, era)) {
            log_warn("worker.stale", L_INT("era", era),
                     L_MSG("no heartbeat in time: what is in hand is given up"));
            pause_poke(&w->pause);
            return;
        }
    }
}

void worker_waiting(struct worker *w, enum message_type type, size_t messages)
{
    atomic_store(&w->waiting[type], messages);
}

bool worker_may_claim(const struct worker *w)
{
    return !atomic_load_explicit(&w->restoring, memory_order_relaxed);
}

bool worker_lease(struct worker *w, struct worker_lease *lease)
{
    pthread_mutex_lock(&w->lock);
    lease->era = atomic_load(&w->era);
    lease->id = w->id;
    pthread_mutex_unlock(&w->lock);
    return lease->era && worker_holds(w, lease->era);
}

/* A new incarnation is wanted at once. */
static bool is_over(void *worker)
{
    struct worker *w = worker;
    uint64_t era = atomic_load(&w->era);

    return era && atomic_load(&w->renounced) >= era;
}

static int look_for_schema(struct worker *w, bool *seen, struct err *err)
{
    int rc = db_acquire(w->db, err);

    if (!rc && schema_look(w->db, seen, err) != SCHEMA_READY)
        rc = -1;
    db_release(w->db);
    return rc;
}

static void note_mode(struct worker *w, struct db_results *results)
{
    atomic_store(&w->restoring, db_number(db_result(results, "mode")) == 1);
}

static int insert_row(struct worker *w, uint64_t *id, struct err *err)
{
    struct db_packet packet = {0};
    struct db_results results;
    struct buf *sql;
    char host[128] = "";
    int rc;

    gethostname(host, sizeof(host) - 1);
    rc = db_acquire(w->db, err);
    if (rc)
        return rc;
    sql = db_statement(&packet, NULL);
    buf_puts(sql, "INSERT INTO workers(name) VALUES (CONCAT(");
    db_put_quoted(w->db, sql, host, strlen(host));
    buf_printf(sql, ",':',%ld))", (long)getpid());
    buf_puts(db_statement(&packet, "id"), "SELECT LAST_INSERT_ID()");
    restore_mode_put(db_statement(&packet, "mode"));
    rc = db_run_packet(w->db, &register_label, &packet, &results, err);
    db_packet_free(&packet);
    if (!rc) {
        *id = (uint64_t)db_number(db_result(&results, "id"));
        note_mode(w, &results);
        db_results_free(&results);
        if (!*id)
            rc = err_set(err, ERR_BUG, 0, "no id for the new row of workers");
    }
    db_release(w->db);
    return rc;
}

static int take_incarnation(struct worker *w, struct err *err)
{
    int64_t before_ms = boot_ms();
    uint64_t id = 0;

    if (insert_row(w, &id, err))
        return -1;
    atomic_store(&w->trusted_until_ms, before_ms + w->stop_after_ms);
    pthread_mutex_lock(&w->lock);
    w->id = id;
    atomic_store(&w->era, ++w->last_era);
    pthread_mutex_unlock(&w->lock);
    log_info("worker.started", L_INT("worker_id", id), L_INT("era", w->last_era));
    return 0;
}

/* A heartbeat from the future was written before the database's clock was set back. As it stands it
 * would keep a dead worker alive until the clock is there again; from now on it is dead after the
 * usual time, and a living one writes its next. */
static void put_pull_back(struct buf *sql)
{
    buf_puts(sql, "UPDATE workers SET heartbeat_at=NOW(6) "
                  "WHERE heartbeat_at>NOW(6)+INTERVAL 1 SECOND");
}

/* The mode is read after the write: whoever sees a heartbeat that is younger than a switch knows
 * that we obey it. */
static int write_beat(struct worker *w, bool *gone, struct err *err)
{
    struct db_packet packet = {0};
    struct db_results results;
    int rc;

    buf_printf(db_statement(&packet, "beat"),
               "UPDATE workers SET heartbeat_at=NOW(6),waiting_normal=%zu,waiting_express=%zu "
               "WHERE id=%llu",
               atomic_load(&w->waiting[MESSAGE_NORMAL]), atomic_load(&w->waiting[MESSAGE_EXPRESS]),
               (unsigned long long)w->id);
    restore_mode_put(db_statement(&packet, "mode"));
    put_pull_back(db_statement(&packet, NULL));
    rc = db_run_packet(w->db, &beat_label, &packet, &results, err);
    db_packet_free(&packet);
    if (rc)
        return -1;
    *gone = db_result(&results, "beat")->affected != 1;
    note_mode(w, &results);
    db_results_free(&results);
    return 0;
}

static int beat(struct worker *w, struct err *err)
{
    int64_t before_ms = boot_ms();
    bool gone = false;
    int rc;

    if (db_acquire(w->db, err))
        return -1;
    rc = write_beat(w, &gone, err);
    if (rc) {
        db_release(w->db);
        return -1;
    }
    if (gone)
        worker_renounce(w, w->last_era); /* the others see us as dead already */
    /* What was over in the meantime stays over: somebody may have acted on it. */
    else if (worker_holds(w, w->last_era))
        atomic_store(&w->trusted_until_ms, before_ms + w->stop_after_ms);
    published_read(w->db); /* last: nothing of it may touch what others trust */
    db_release(w->db);
    return 0;
}

static void remove_row(struct worker *w)
{
    struct err err;
    char sql[64];

    if (!w->id || !w->remove_row || db_acquire(w->db, &err))
        return;
    snprintf(sql, sizeof(sql), "DELETE FROM workers WHERE id=%llu", (unsigned long long)w->id);
    if (db_run(w->db, &remove_label, sql, strlen(sql), NULL, &err))
        log_warn("worker.remove_failed", L_ERR(&err));
    db_release(w->db);
}

static bool have_incarnation(struct worker *w)
{
    if (w->last_era && worker_holds(w, w->last_era))
        return true;
    atomic_store(&w->era, 0);
    return false;
}

/* One turn: whatever the state asks for. Returns how long to wait for the next. */
static int64_t turn(struct worker *w, bool *schema_seen, bool *complained)
{
    struct err err = {0};
    int rc;

    if (!*schema_seen) {
        rc = look_for_schema(w, schema_seen, &err);
    } else if (!have_incarnation(w)) {
        rc = take_incarnation(w, &err);
    } else {
        rc = beat(w, &err);
    }
    if (rc) {
        if (!*complained)
            log_warn("worker.waiting", L_ERR(&err));
        *complained = true;
        published_forget();
        return RETRY_MS;
    }
    *complained = false;
    return have_incarnation(w) ? w->settings->consumer.heartbeat_ms : 0;
}

static void *run(void *arg)
{
    struct worker *w = arg;
    bool schema_seen = false;
    bool complained = false;
    int64_t wait_ms = 0;

    do {
        daemon_beat(w->beat);
        wait_ms = turn(w, &schema_seen, &complained);
        daemon_beat_rest(w->beat, wait_ms);
    } while (!pause_for_or(&w->pause, wait_ms, is_over, w));
    remove_row(w);
    return NULL;
}

struct worker *worker_start(const struct settings *settings)
{
    struct worker *w = must_alloc(1, sizeof(*w));

    published_register();
    db_label_register(&register_label);
    db_label_register(&beat_label);
    db_label_register(&remove_label);
    w->settings = settings;
    w->stop_after_ms = settings_stop_after_ms(&settings->consumer);
    w->db = db_new(&settings->db);
    w->beat = daemon_beat_new("worker");
    pthread_mutex_init(&w->lock, NULL);
    pause_init(&w->pause);
    MUST(pthread_create(&w->thread, NULL, run, w) == 0);
    return w;
}

void worker_stop(struct worker *w, bool remove)
{
    if (!w)
        return;
    w->remove_row = remove;
    pause_stop(&w->pause);
    pthread_join(w->thread, NULL);
    db_free(w->db);
    pause_destroy(&w->pause);
    pthread_mutex_destroy(&w->lock);
    free(w);
}
