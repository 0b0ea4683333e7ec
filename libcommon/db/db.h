#ifndef LIBCOMMON_DB_DB_H
#define LIBCOMMON_DB_DB_H

/*
 * One MariaDB or MySQL connection, to the server of DB_HOST that takes writes (db_servers.h), with
 * the session every daemon needs: TCP, utf8mb4, UTC, strict
 * mode, READ COMMITTED, short lock waits, bounded idleness, bounded reads and writes, statements
 * bounded in the server too. Blocks: never call it from an event loop. A struct db belongs to one
 * thread at a time.
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

#define DB_NAMED_MAX 8

struct db_settings {
    char *host, *name, *user, *password, *tls_ca;
    int64_t port, max_open, max_idle, lifetime_sec;
    int64_t connect_timeout_ms, statement_timeout_ms, lock_wait_sec;
};

extern const struct setting db_settings_rows[];
/* A check of settings.h: whether it is a list as DB_HOST's, or empty. */
bool db_hosts_check(const char *list, char *why, size_t size);
/* Of combinations: appends a line for each that cannot work; returns their number. */
size_t db_settings_check(const struct db_settings *s, struct buf *errors);

/* A statement's name in db_queries_total{query,result} and db_query_duration_seconds{query}. Define
 * static, register at start or, where several threads share it, before each use. */
struct db_label {
    const char *query;
    struct metric *ok, *failed, *seconds;
};
void db_label_register(struct db_label *label);

struct db;
struct db *
db_new(const struct db_settings *settings); /* does not connect; settings must outlive it */
/* For those who read, and for verbs: also to a server that is read-only. */
struct db *db_new_reader(const struct db_settings *settings);
/* For those who may be told what was true a while ago: to any server of the list. */
struct db *db_new_copy_reader(const struct db_settings *settings);
void db_free(struct db *db); /* NULL is fine */

/* Connected and answering: reopens what is broken, older than its lifetime or was idle too long. A
 * server that is read-only is ERR_RETRY with db_is_read_only, at once; so is a write that it
 * refuses. Either closes all connections of the process at their next use, because another server
 * may have taken its place. A list of which no server, or more than one, takes writes is the same.
 */
int db_acquire(struct db *db, struct err *err);
/* Whether the server takes writes; no: as if it had refused one. db is acquired. */
int db_ask_writable(struct db *db, struct db_label *label, struct err *err);
/* Ends the use. A transaction still open is rolled back; surplus idle connections are closed. */
void db_release(struct db *db);
/* Closes at once (a session whose fate is unknown, a process that must let go of its locks). */
void db_drop(struct db *db);

/* A session whose connection broke. */
struct db_lost_session {
    uint64_t id; /* 0: none, or it has ended */
    int64_t opened_ms;
    size_t server;
};
/* Before the next db_acquire, whose session may be lost as well: the one that was lost last. */
struct db_lost_session db_lost_session(const struct db *db);
/* After a new db_acquire: ends it, which may still hold locks, be about to commit, or not even have
 * read what it was sent. 0: it is gone from the server, with all that it did or did not do (it may
 * have been gone already, with the server that it was of). -1: not known to be gone yet; ask
 * again. */
int db_end_lost_session(struct db *db, struct db_lost_session *lost, struct err *err);

/* What a statement gave. */
struct db_set {
    struct st_mysql_res *rows; /* NULL for statements without rows */
    uint64_t affected;         /* rows matched by an UPDATE, deleted, inserted; rows of a SELECT */
    const unsigned long *lengths; /* of the row db_next gave last */
};

/* The answers to what was run: the only one, or those of a packet's named statements. */
struct db_results {
    size_t n;
    const char *names[DB_NAMED_MAX];
    struct db_set set[DB_NAMED_MAX];
};

/* Statements that leave together and are answered together. All zero: empty; it keeps its memory
 * when it is reset. */
struct db_packet {
    struct buf sql;
    size_t statements, named;
    struct {
        const char *name;
        size_t at; /* which statement */
    } names[DB_NAMED_MAX];
};

/* Begins another statement of the packet; its text, without a semicolon, is appended to what is
 * returned. name: a literal that finds its answer (db_result); NULL when nobody reads it. */
struct buf *db_statement(struct db_packet *p, const char *name);
void db_packet_reset(struct db_packet *p);
void db_packet_free(struct db_packet *p);

/* Whether the server takes BEGIN NOT ATOMIC … END, a block of statements with one answer, as
 * MariaDB does and MySQL does not; known once db_acquire has succeeded. */
bool db_takes_blocks(const struct db *db);

/* Most bytes of SQL that a packet may have here; known exactly once db_acquire has succeeded. A
 * larger one is not sent: ERR_PERMANENT and db_is_too_large, the session and an open transaction
 * stay as they are. */
size_t db_packet_max(const struct db *db);

/* Runs all statements up to the first that fails: what the earlier ones did stays done inside an
 * open transaction, so roll back. On failure *results is empty; it may be NULL when nothing is
 * read. An answer that does not come is ERR_RETRY. */
int db_run_packet(struct db *db, struct db_label *label, const struct db_packet *p,
                  struct db_results *results, struct err *err);
/* One statement. */
int db_run(struct db *db, struct db_label *label, const char *sql, size_t n,
           struct db_results *results, struct err *err);
int db_run_buf(struct db *db, struct db_label *label, const struct buf *sql,
               struct db_results *results, struct err *err); /* ERR_RETRY when the buf has failed */

/* One statement that comes again and again with other values, and whose literals may all be
 * parameters: the session keeps it prepared where the server prepares such statements. *rows: how
 * many its first answer had; they are not read. */
int db_run_prepared(struct db *db, struct db_label *label, const struct buf *sql, uint64_t *rows,
                    struct err *err);

struct db_set *db_result(struct db_results *results, const char *name); /* of that statement */
struct db_set *db_only(struct db_results *results);                     /* of db_run */
char **db_next(struct db_set *set);    /* the next row (columns as text, NULL for NULL), or NULL */
int64_t db_number(struct db_set *set); /* the next row's first column; 0: no row, or NULL */
void db_results_free(struct db_results *results);

/* Nothing is sent yet: the transaction begins with the next statement, in the same packet. */
void db_begin(struct db *db);
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
/* The server takes no writes; nothing was done, and trying again at once is of no use. */
bool db_is_read_only(const struct err *err);
/* The account may not do that; nothing was done, and it is no use to try again. */
bool db_is_forbidden(const struct err *err);
/* The packet must be cut smaller; nothing of it was done. */
bool db_is_too_large(const struct err *err);

#endif
