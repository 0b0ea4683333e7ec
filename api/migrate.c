#include "api/migrate.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base/must.h"
#include "libcommon/base/pause.h"
#include "libcommon/db/leader.h"
#include "libcommon/telemetry/log.h"

#define LEADER "migrate"
#define LOCK_WAIT_SEC 5 /* a retry follows */
#define RETRY_MS 500
#define STATEMENT_TIMEOUT_MS 3600000
#define NO_SUCH_TABLE 1146

static struct db_label migrate_label = {.query = "migrate"};

struct db_settings migrate_settings(const struct db_settings *settings)
{
    struct db_settings patient = *settings;

    patient.statement_timeout_ms = STATEMENT_TIMEOUT_MS;
    return patient;
}

static int run(struct db *db, const char *sql, struct db_results *results, struct err *err)
{
    return db_run(db, &migrate_label, sql, strlen(sql), results, err);
}

static int take_lock(struct db *db, struct err *err)
{
    bool leads;

    if (leader_try(db, LEADER, LOCK_WAIT_SEC, &leads, err))
        return -1;
    return leads ? 0 : err_set(err, ERR_RETRY, 0, "another process is migrating");
}

static int create_record(struct db *db, struct err *err)
{
    return run(db,
               "CREATE TABLE IF NOT EXISTS schema_migrations ("
               "version INT NOT NULL PRIMARY KEY,"
               "name VARCHAR(255) NOT NULL,"
               "checksum CHAR(64) CHARACTER SET ascii NOT NULL,"
               "started_at DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),"
               "finished_at DATETIME(6) NULL"
               ") ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
               NULL, err);
}

enum progress { NEW, STARTED, FINISHED };

static int find(struct db *db, const struct migration *m, enum progress *progress, struct err *err)
{
    struct db_results results;
    struct buf sql = {0};
    char **row;
    int rc;

    buf_printf(&sql, "SELECT checksum,finished_at FROM schema_migrations WHERE version=%d",
               m->version);
    rc = db_run_buf(db, &migrate_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    row = db_next(db_only(&results));
    *progress = !row ? NEW : row[1] ? FINISHED : STARTED;
    if (row && row[1] && strcmp(row[0], m->checksum) != 0)
        rc =
            err_set(err, ERR_PERMANENT, 0, "migration %s was applied with other contents", m->name);
    db_results_free(&results);
    return rc;
}

static int apply(struct db *db, const struct migration *m, enum progress progress, struct err *err)
{
    struct buf sql = {0};
    int rc;

    buf_printf(&sql, "REPLACE INTO schema_migrations(version,name,checksum) VALUES (%d,'%s','%s')",
               m->version, m->name, m->checksum);
    rc = db_run_buf(db, &migrate_label, &sql, NULL, err);
    if (!rc)
        rc = run(db, m->sql, NULL, err);
    buf_reset(&sql);
    buf_printf(&sql, "UPDATE schema_migrations SET finished_at=NOW(6) WHERE version=%d",
               m->version);
    if (!rc)
        rc = db_run_buf(db, &migrate_label, &sql, NULL, err);
    buf_free(&sql);
    if (!rc)
        log_info("migrate.applied", L_STR("migration", m->name),
                 L_INT("resumed", progress == STARTED));
    return rc;
}

/* Whether any is to be applied, as far as one sees without the lock. */
static int look(struct db *db, bool *pending, struct err *err)
{
    enum progress progress = FINISHED;

    for (size_t i = 0; i < migration_count && progress == FINISHED; i++) {
        if (!find(db, &migrations[i], &progress, err))
            continue;
        if (err->code != NO_SUCH_TABLE)
            return -1;
        progress = NEW;
    }
    *pending = progress != FINISHED;
    return 0;
}

int migrate_run(struct db *db, int *applied, struct err *err)
{
    enum progress progress;
    int rc;

    *applied = 0;
    db_label_register(&migrate_label);
    if (take_lock(db, err))
        return -1;
    rc = create_record(db, err);
    for (size_t i = 0; i < migration_count && !rc; i++) {
        rc = find(db, &migrations[i], &progress, err);
        if (rc || progress == FINISHED)
            continue;
        rc = apply(db, &migrations[i], progress, err);
        if (!rc)
            (*applied)++;
    }
    leader_resign(db, LEADER);
    return rc;
}

struct migrator {
    const struct db_settings *settings;
    struct pause pause;
    pthread_t thread;
};

static int look_once(struct migrator *m, bool *pending, struct err *err)
{
    struct db *db = db_new(m->settings);
    int rc = db_acquire(db, err);

    if (!rc)
        rc = look(db, pending, err);
    db_release(db);
    db_free(db);
    return rc;
}

static int run_once(struct migrator *m, struct err *err)
{
    struct db_settings patient = migrate_settings(m->settings);
    struct db *db = db_new(&patient);
    int rc = db_acquire(db, err);
    int applied;

    if (!rc)
        rc = migrate_run(db, &applied, err);
    db_release(db);
    db_free(db);
    return rc;
}

/* With the patience that a large table may need only where there is something to be done: a stop
 * waits for the statement under way, and a database may fall silent in the midst of any. */
static void *migrator_main(void *arg)
{
    struct migrator *m = arg;
    bool failing = false;
    struct err err;
    int rc;

    db_label_register(&migrate_label);
    do {
        bool pending;

        rc = look_once(m, &pending, &err);
        if (!rc && pending)
            rc = run_once(m, &err);
        if (rc && !failing)
            log_warn("migrate.failed", L_ERR(&err));
        failing = rc != 0;
    } while (rc && !pause_for(&m->pause, RETRY_MS));
    return NULL;
}

struct migrator *migrator_start(const struct db_settings *settings)
{
    struct migrator *m = must_alloc(1, sizeof(*m));

    m->settings = settings;
    pause_init(&m->pause);
    MUST(pthread_create(&m->thread, NULL, migrator_main, m) == 0);
    pthread_setname_np(m->thread, "migrate");
    return m;
}

void migrator_begin_stop(struct migrator *m)
{
    if (m)
        pause_stop(&m->pause);
}

void migrator_stop(struct migrator *m)
{
    if (!m)
        return;
    pause_stop(&m->pause);
    pthread_join(m->thread, NULL);
    pause_destroy(&m->pause);
    free(m);
}
