#ifndef LIBCOMMON_DB_DB_H
#define LIBCOMMON_DB_DB_H

/*
 * One MariaDB or MySQL connection with the session every daemon needs: TCP, utf8mb4, UTC, strict
 * mode, READ COMMITTED, short lock waits, bounded idleness, bounded reads and writes. Blocks: never
 * call it from an event loop. A struct db belongs to one thread at a time.
 *
 * Use: db_acquire (connects or checks), statements, db_release. After ERR_RETRY the transaction is
 * gone: roll back, acquire again, do all of it again. db_commit alone may answer ERR_UNKNOWN: the
 * connection broke while COMMIT was on its way; read the outcome back before deciding.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/base/buf.h"
#include "libcommon/base/err.h"
#include "libcommon/base/settings.h"

#define DB_SETS_MAX 12

struct db_settings {
    char *host, *name, *user, *password, *tls_ca;
    int64_t port, max_open, max_idle, lifetime_sec;
    int64_t connect_timeout_ms, statement_timeout_ms, lock_wait_sec;
};

extern const struct setting db_settings_rows[];

/* A statement's name in db_queries_total{query,result} and db_query_duration_seconds{query}. Define
 * static, register at start. */
struct db_label {
    const char *query;
    struct metric *ok, *failed, *seconds;
};
void db_label_register(struct db_label *label);

struct db;
struct db *
db_new(const struct db_settings *settings); /* does not connect; settings must outlive it */
void db_free(struct db *db);                /* NULL is fine */

/* Connected and answering: reopens what is broken, older than its lifetime or was idle too long. */
int db_acquire(struct db *db, struct err *err);
/* Ends the use. A transaction still open is rolled back; surplus idle connections are closed. */
void db_release(struct db *db);
/* Closes at once (a session whose fate is unknown, a process that must let go of its locks). */
void db_drop(struct db *db);
/* After a broken connection and a new db_acquire: ends the session that was lost, which may still
 * hold locks or be about to commit. Fine when it is gone already, or when the server has restarted
 * since. */
int db_end_lost_session(struct db *db, struct err *err);

/* What a statement, or each statement of a packet separated by ";", gave. */
struct db_set {
    struct st_mysql_res *rows; /* NULL for statements without rows */
    uint64_t affected;         /* rows matched by an UPDATE, deleted, inserted; rows of a SELECT */
    const unsigned long *lengths; /* of the row db_next gave last */
};
struct db_results {
    size_t n;
    struct db_set set[DB_SETS_MAX];
};

/* Runs one packet. On failure *results is empty. results may be NULL when nothing is read. An error
 * in a later statement leaves the earlier ones done inside the open transaction: roll back. */
int db_run(struct db *db, struct db_label *label, const char *sql, size_t n,
           struct db_results *results, struct err *err);
int db_run_buf(struct db *db, struct db_label *label, const struct buf *sql,
               struct db_results *results, struct err *err); /* ERR_RETRY when the buf has failed */
char **db_next(struct db_set *set); /* the next row (columns as text, NULL for NULL), or NULL */
void db_results_free(struct db_results *results);

int db_begin(struct db *db, struct err *err);
int db_commit(struct db *db, struct err *err);
void db_rollback(
    struct db *db); /* always leaves the session without a transaction; drops it if it must */
/* A packet that ends in COMMIT failed with a broken connection: was it the commit that was lost? */
bool db_outcome_unknown(const struct err *err);

/* 'text', quoted and escaped for this connection's charset; db must have been connected. */
void db_put_quoted(struct db *db, struct buf *sql, const char *s, size_t n);
/* x'0011': bytes that are not text. */
void db_put_bytes(struct buf *sql, const void *p, size_t n);

/* Deadlock or lock wait timeout: the transaction may be tried again at once. */
bool db_is_conflict(const struct err *err);
bool db_is_duplicate(const struct err *err);

#endif
