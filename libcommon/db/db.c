#include "libcommon/db/db.h"

#include <mysql.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/base/pause.h"
#include "libcommon/db/db_connect.h"
#include "libcommon/db/db_internal.h"
#include "libcommon/db/db_prepared.h"
#include "libcommon/db/db_servers.h"
#include "libcommon/telemetry/metrics.h"

#define PING_AFTER_MS 5000  /* well inside the session's wait_timeout */
#define SESSION_IDLE_SEC 20 /* a stopped process keeps its locks no longer than this */
#define SERVER_MARGIN_SEC 1
#define KILL_TRIES 50 /* a killed session ends when it looks up from its work */
#define KILL_PAUSE_MS 10
/* The command's byte, a transaction's beginning, and what a proxy in between may add. */
#define PACKET_MARGIN 1024
#define PACKET_MAX_UNKNOWN (1u << 20) /* before the server has told */

struct db {
    const struct db_settings *settings;
    enum db_use use;
    struct db_servers *servers;
    struct db_servers_link link; /* its server stays known when it is closed */
    MYSQL *mysql;                /* NULL: closed */
    uint64_t session_id;
    struct db_lost_session lost; /* dropped last */
    int64_t opened_ms;
    int64_t used_ms;
    bool held;
    unsigned generation; /* of the servers, when it was opened */
    bool begins;         /* the next packet begins with START TRANSACTION */
    size_t packet_max;
    struct buf with_begin;
    struct db_prepared *prepared; /* NULL: nothing was, yet */
};

static _Atomic int64_t idle_connections;

static void register_label(struct db_label *label)
{
    struct buf labels = {0};

    buf_printf(&labels, "query=\"%s\"", label->query);
    label->seconds =
        metrics_latency("db_query_duration_seconds", "Time a database packet took.", labels.data);
    buf_puts(&labels, ",result=\"error\"");
    label->failed = metrics_counter("db_queries_total", "Database packets.", labels.data);
    buf_reset(&labels);
    buf_printf(&labels, "query=\"%s\",result=\"ok\"", label->query);
    label->ok = metrics_counter("db_queries_total", "Database packets.", labels.data);
    buf_free(&labels);
}

/* Threads of several parts share the labels of what those parts share. */
void db_label_register(struct db_label *label)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

    pthread_mutex_lock(&lock);
    if (!label->ok)
        register_label(label);
    pthread_mutex_unlock(&lock);
}

static int fail_prepared(MYSQL_STMT *stmt, const char *what, struct err *err)
{
    return db_fail_with(mysql_stmt_errno(stmt), mysql_stmt_error(stmt), mysql_stmt_sqlstate(stmt),
                        what, err);
}

size_t db_packet_max(const struct db *db)
{
    return db->packet_max;
}

bool db_takes_blocks(const struct db *db)
{
    return db->mysql && mariadb_connection(db->mysql);
}

static struct db *new_for(const struct db_settings *settings, enum db_use use)
{
    struct db *db = must_alloc(1, sizeof(*db));

    db_library_use();
    db->settings = settings;
    db->use = use;
    db->servers = db_servers_join(settings);
    db->packet_max = PACKET_MAX_UNKNOWN;
    return db;
}

struct db *db_new(const struct db_settings *settings)
{
    return new_for(settings, DB_USE_WRITES);
}

struct db *db_new_reader(const struct db_settings *settings)
{
    return new_for(settings, DB_USE_READS);
}

struct db *db_new_copy_reader(const struct db_settings *settings)
{
    return new_for(settings, DB_USE_COPY);
}

static void close_politely(struct db *db)
{
    db_servers_remove(db->servers, &db->link);
    if (db->mysql)
        mysql_close(db->mysql);
    db->mysql = NULL;
    if (db->prepared)
        db_prepared_forget(db->prepared);
}

/* A broken or busy session is not asked to say goodbye: mysql_close would write to it. */
static void hang_up(struct db *db)
{
    if (!db->held)
        atomic_fetch_sub(&idle_connections, 1);
    shutdown((int)mysql_get_socket(db->mysql), SHUT_RDWR);
    close_politely(db);
}

void db_drop(struct db *db)
{
    if (!db->mysql)
        return;
    db->lost = (struct db_lost_session){
        .id = db->session_id, .opened_ms = db->opened_ms, .server = db->link.server};
    hang_up(db);
}

void db_free(struct db *db)
{
    if (!db)
        return;
    if (db->mysql && !db->held)
        atomic_fetch_sub(&idle_connections, 1);
    close_politely(db);
    if (db->prepared)
        db_prepared_free(db->prepared);
    buf_free(&db->with_begin);
    db_servers_leave(db->servers);
    free(db);
}

/* ---- answers ---- */

/* What is read of the answers: to, which of them have a name, how many there must be. */
struct reading {
    struct db_results *to; /* NULL: nothing */
    const struct db_packet *packet;
    size_t seen, wanted;
};

static void keep_answer(struct db *db, struct reading *r, MYSQL_RES *rows)
{
    struct db_results *to = r->to;
    const struct db_packet *p = r->packet;
    size_t at = to ? to->n : 0;

    if (!to || (p && (at == p->named || p->names[at].at != r->seen))) {
        if (rows)
            mysql_free_result(rows);
        return;
    }
    to->names[at] = p ? p->names[at].name : NULL;
    to->set[at] = (struct db_set){
        .rows = rows,
        .affected = rows ? mysql_num_rows(rows) : mysql_affected_rows(db->mysql),
    };
    to->n++;
}

/* All answers of a packet are read, wanted or not: the connection is useless otherwise. INVARIANT:
 * an answer that breaks off is a failure. The library calls it "no rows" or "no more results" when
 * the connection dies between two packets, and only mysql_errno tells. */
static int read_answers(struct db *db, struct reading *r, bool begun, struct err *err)
{
    int more;

    do {
        MYSQL_RES *rows = mysql_store_result(db->mysql);

        if (!rows && (mysql_field_count(db->mysql) || mysql_errno(db->mysql)))
            return db_fail(db->mysql, "read result", err);
        if (begun) {
            begun = false;
        } else if (r->seen < r->wanted) {
            keep_answer(db, r, rows);
            r->seen++;
        } else if (rows) {
            mysql_free_result(rows);
        }
        more = mysql_next_result(db->mysql);
    } while (more == 0);
    if (more > 0 || mysql_errno(db->mysql))
        return db_fail(db->mysql, "statement", err);
    return r->seen == r->wanted ? 0 : err_set(err, ERR_RETRY, DB_E_LOST, "an answer is missing");
}

/* The same of a prepared statement, whose rows are counted and not kept. */
static int read_prepared(MYSQL_STMT *stmt, uint64_t *rows, struct err *err)
{
    int more;

    *rows = 0;
    for (bool first = true;; first = false) {
        if (mysql_stmt_field_count(stmt) && mysql_stmt_store_result(stmt))
            return fail_prepared(stmt, "read result", err);
        if (first)
            *rows = mysql_stmt_num_rows(stmt);
        mysql_stmt_free_result(stmt);
        more = mysql_stmt_next_result(stmt);
        if (more)
            break;
    }
    if (more > 0 || mysql_stmt_errno(stmt))
        return fail_prepared(stmt, "statement", err);
    return 0;
}

void db_results_free(struct db_results *results)
{
    for (size_t i = 0; i < results->n; i++)
        if (results->set[i].rows)
            mysql_free_result(results->set[i].rows);
    results->n = 0;
}

char **db_next(struct db_set *set)
{
    char **row = set->rows ? mysql_fetch_row(set->rows) : NULL;

    set->lengths = row ? mysql_fetch_lengths(set->rows) : NULL;
    return row;
}

/* ---- sessions ---- */

static unsigned round_up_sec(int64_t ms)
{
    return (unsigned)((ms + 999) / 1000);
}

static int check_writable(struct db *db, struct db_set *set, struct err *err)
{
    if (db_row_is_writable(db_next(set))) {
        db_servers_took_writes(db->servers);
        return 0;
    }
    db_servers_refused(db->servers, db->link.server, db->generation);
    return err_set(err, ERR_RETRY, DB_E_READ_ONLY, "the database is read-only");
}

/* Each of these has a reason in design terms: UTC and microseconds for leases, strict mode so that
 * nothing is silently cut, READ COMMITTED against gap locks, short waits so that a stopped peer's
 * locks do not become ours; and the server stops working for somebody who has given up, a little
 * later than he has, so that it is not the server's limit that cuts what we still wait for. */
static void put_session(const struct db *db, struct db_packet *p)
{
    unsigned limit_sec = round_up_sec(db->settings->statement_timeout_ms) + SERVER_MARGIN_SEC;
    struct buf *sql = db_statement(p, NULL);

    buf_printf(sql,
               "SET SESSION time_zone='+00:00',"
               "sql_mode='STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION,ERROR_FOR_DIVISION_BY_ZERO',"
               "innodb_lock_wait_timeout=%lld,lock_wait_timeout=10,wait_timeout=%d,autocommit=1",
               (long long)db->settings->lock_wait_sec, SESSION_IDLE_SEC);
    if (mariadb_connection(db->mysql))
        buf_printf(sql, ",idle_transaction_timeout=%d,max_statement_time=%u", SESSION_IDLE_SEC,
                   limit_sec);
    else
        buf_printf(sql, ",max_execution_time=%u", limit_sec * 1000);
    buf_puts(db_statement(p, NULL), "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED");
    buf_puts(db_statement(p, "packet"), "SELECT @@max_allowed_packet");
    db_put_ask_writable(db->mysql, db_statement(p, "writable"));
}

static size_t usable(int64_t packet_max)
{
    return packet_max > 2 * PACKET_MARGIN ? (size_t)packet_max - PACKET_MARGIN : PACKET_MARGIN;
}

static int set_session(struct db *db, struct err *err)
{
    struct db_packet packet = {0};
    struct db_results results = {0};
    struct reading r = {.to = &results, .packet = &packet};
    int rc;

    put_session(db, &packet);
    r.wanted = packet.statements;
    if (packet.sql.failed)
        rc = err_set(err, ERR_RETRY, 0, "out of memory");
    else if (mysql_real_query(db->mysql, packet.sql.data, packet.sql.len))
        rc = db_fail(db->mysql, "session setup", err);
    else
        rc = read_answers(db, &r, false, err);
    if (!rc)
        db->packet_max = usable(db_number(db_result(&results, "packet")));
    if (!rc && db->use == DB_USE_WRITES)
        rc = check_writable(db, db_result(&results, "writable"), err);
    db_results_free(&results);
    db_packet_free(&packet);
    return rc;
}

static int connect_now(struct db *db, struct err *err)
{
    const struct db_settings *s = db->settings;
    const struct db_patience patience = {round_up_sec(s->connect_timeout_ms),
                                         round_up_sec(s->statement_timeout_ms)};
    size_t server;

    if (db_servers_pick(db->servers, db->use, &server, err))
        return -1;
    db->mysql = db_connect(s, db_servers_at(db->servers, server), patience, err);
    if (!db->mysql) {
        db_servers_doubt(db->servers);
        return -1;
    }
    db->link = (struct db_servers_link){.server = server, .fd = (int)mysql_get_socket(db->mysql)};
    db_servers_add(db->servers, &db->link);
    db->generation = db_servers_generation(db->servers);
    if (set_session(db, err)) {
        err->kind = ERR_RETRY;
        hang_up(db);
        return -1;
    }
    db->generation = db_servers_generation(db->servers);
    db->session_id = mysql_thread_id(db->mysql);
    db->opened_ms = db->used_ms = clock_mono_ms();
    return 0;
}

static void end_abandoned(struct db *db);

int db_acquire(struct db *db, struct err *err)
{
    int64_t now_ms = clock_mono_ms();

    if (db->mysql && !db->held)
        atomic_fetch_sub(&idle_connections, 1);
    db->held = true;
    if (db->mysql && (now_ms - db->opened_ms > db->settings->lifetime_sec * 1000 ||
                      db->generation != db_servers_generation(db->servers)))
        close_politely(db);
    if (db->mysql && now_ms - db->used_ms > PING_AFTER_MS && mysql_ping(db->mysql))
        db_drop(db);
    if (!db->mysql) {
        if (connect_now(db, err)) {
            db->held = false;
            return -1;
        }
        end_abandoned(db);
    }
    db->used_ms = now_ms;
    return 0;
}

void db_release(struct db *db)
{
    if (!db->held)
        return;
    db->held = db->begins = false;
    if (db->mysql && (db->mysql->server_status & SERVER_STATUS_IN_TRANS))
        db_rollback(db);
    if (!db->mysql)
        return;
    db->used_ms = clock_mono_ms();
    if (atomic_fetch_add(&idle_connections, 1) >= db->settings->max_idle) {
        atomic_fetch_sub(&idle_connections, 1);
        close_politely(db);
    }
}

static struct db_label uptime_label = {.query = "server_uptime"};
static struct db_label spared_label = {.query = "session_spared"};
static struct db_label kill_label = {.query = "kill_session"};

/* Session ids start again when the server does: one of another life must not be killed. */
static int server_uptime_sec(struct db *db, int64_t *seconds, struct err *err)
{
    static const char sql[] = "SHOW GLOBAL STATUS LIKE 'Uptime'";
    struct db_results results;
    char **row;

    db_label_register(&uptime_label);
    if (db_run(db, &uptime_label, sql, sizeof(sql) - 1, &results, err))
        return -1;
    row = db_next(&results.set[0]);
    *seconds = row && row[1] ? atoll(row[1]) : 0;
    db_results_free(&results);
    return 0;
}

/* Whether it may be one of this server's: the uptime is in whole seconds, of a clock with whole
 * seconds. */
static int may_live(struct db *db, const struct db_lost_session *lost, bool *yes, struct err *err)
{
    int64_t up_sec;

    *yes = false;
    if (lost->id == db->session_id) /* the server counts anew */
        return 0;
    /* INVARIANT: one that has taken another's place takes nothing more from it. */
    if (lost->server != db->link.server)
        return 0;
    if (server_uptime_sec(db, &up_sec, err))
        return -1;
    *yes = (up_sec + 1) * 1000 > clock_mono_ms() - lost->opened_ms;
    return 0;
}

/* No such thread, or it is another user's: ours has ended. */
static bool has_ended(const struct err *err)
{
    return err->code == DB_E_NO_SUCH_THREAD || err->code == DB_E_NOT_OWN_THREAD;
}

/* A commit that waits for a replica would stop waiting if it were killed, and show to all, on the
 * primary alone, what is lost with it. MariaDB ends whatever is at work at its limit (but for that
 * wait, beyond which it is "Killed" by name): there all that is at work is left alone, because the
 * wait may begin between a look and the KILL. MySQL ends nothing that writes. */
static int is_spared(struct db *db, uint64_t session_id, bool *yes, struct err *err)
{
    struct db_results results;
    char sql[192];

    db_label_register(&spared_label);
    snprintf(sql, sizeof(sql),
             "SELECT COUNT(*) FROM information_schema.processlist WHERE id=%llu AND %s",
             (unsigned long long)session_id,
             db_takes_blocks(db) ? "command<>'Sleep'" : "state LIKE 'Waiting for semi-sync%'");
    if (db_run(db, &spared_label, sql, strlen(sql), &results, err))
        return -1;
    *yes = db_number(db_only(&results)) != 0;
    db_results_free(&results);
    return 0;
}

/* 0 too when it is spared. */
static int kill_session(struct db *db, uint64_t session_id, struct err *err)
{
    char sql[64];
    bool spared;

    if (is_spared(db, session_id, &spared, err))
        return -1;
    if (spared)
        return 0;
    db_label_register(&kill_label);
    snprintf(sql, sizeof(sql), "KILL %llu", (unsigned long long)session_id);
    return db_run(db, &kill_label, sql, strlen(sql), NULL, err);
}

/* INVARIANT: until there is no such thread, what it was sent may still begin, or end. A KILL is
 * only a word to it. */
static int kill_until_gone(struct db *db, uint64_t session_id, struct err *err)
{
    for (int i = 0; i < KILL_TRIES; i++) {
        if (kill_session(db, session_id, err))
            return has_ended(err) ? 0 : -1;
        pause_sleep(KILL_PAUSE_MS);
    }
    return err_set(err, ERR_RETRY, 0, "the lost session %llu has not ended yet",
                   (unsigned long long)session_id);
}

struct db_lost_session db_lost_session(const struct db *db)
{
    struct db_lost_session none = {0};

    return db->mysql ? none : db->lost;
}

int db_end_lost_session(struct db *db, struct db_lost_session *lost, struct err *err)
{
    bool lives;

    if (!lost->id)
        return 0;
    if (may_live(db, lost, &lives, err) || (lives && kill_until_gone(db, lost->id, err)))
        return -1;
    lost->id = 0;
    return 0;
}

/* MariaDB ends a statement at its limit; MySQL only one that reads. What else was given up works on
 * there, with its locks, until it is told. */
static void end_abandoned(struct db *db)
{
    struct db_lost_session lost = db->lost;
    struct err err;
    bool lives;

    db->lost.id = 0;
    if (lost.id && !db_takes_blocks(db) && !may_live(db, &lost, &lives, &err) && lives)
        kill_session(db, lost.id, &err);
}

/* ---- statements ---- */

/* Sends the transaction's beginning along with its first statement. */
static bool put_begin(struct db *db, const char **sql, size_t *n)
{
    buf_reset(&db->with_begin);
    buf_puts(&db->with_begin, "START TRANSACTION;");
    buf_put(&db->with_begin, *sql, *n);
    *sql = db->with_begin.data;
    *n = db->with_begin.len;
    return !db->with_begin.failed;
}

/* Sent, it would break the connection off, and look like an answer that was lost. */
static int refuse_packet(const struct db *db, const struct db_label *label, size_t n,
                         struct err *err)
{
    return err_set(err, ERR_PERMANENT, DB_E_PACKET_TOO_LARGE,
                   "%s: a packet of %zu bytes; the server's max_allowed_packet lets through %zu",
                   label->query, n, db_packet_max(db));
}

/* Counts what was run since start_us, and ends a session that is good for nothing more. */
static int ran(struct db *db, struct db_label *label, int64_t start_us, int rc,
               const struct err *err)
{
    metrics_observe(label->seconds, clock_mono_us() - start_us);
    metrics_add(rc ? label->failed : label->ok, 1);
    if (!rc)
        return 0;
    if (db_error_is_lost(err->code)) {
        db_drop(db);
        db_servers_doubt(db->servers);
    } else if (db_error_ends_session(err->code)) {
        hang_up(db);
    }
    if (db_error_is_refusal(err->code))
        db_servers_refused(db->servers, db->link.server, db->generation);
    return rc;
}

static int run_sql(struct db *db, struct db_label *label, const char *sql, size_t n,
                   struct reading *r, struct err *err)
{
    int64_t start_us = clock_mono_us();
    bool begins = db->begins;
    int rc;

    MUST(label->ok);
    if (r->to)
        *r->to = (struct db_results){0};
    db->begins = false;
    if (!db->mysql)
        return err_set(err, ERR_RETRY, DB_E_GONE, "%s: not connected", label->query);
    if (n > db_packet_max(db)) {
        db->begins = begins;
        metrics_add(label->failed, 1);
        return refuse_packet(db, label, n, err);
    }
    if (begins && !put_begin(db, &sql, &n))
        return err_set(err, ERR_RETRY, 0, "%s: out of memory", label->query);
    if (mysql_real_query(db->mysql, sql, n))
        rc = db_fail(db->mysql, label->query, err);
    else
        rc = read_answers(db, r, begins, err);
    if (rc && r->to)
        db_results_free(r->to);
    return ran(db, label, start_us, rc, err);
}

int db_run(struct db *db, struct db_label *label, const char *sql, size_t n,
           struct db_results *results, struct err *err)
{
    struct reading r = {.to = results, .wanted = 1};

    return run_sql(db, label, sql, n, &r, err);
}

int db_ask_writable(struct db *db, struct db_label *label, struct err *err)
{
    struct db_results results;
    struct buf sql = {0};
    int rc;

    if (!db->mysql)
        return err_set(err, ERR_RETRY, DB_E_GONE, "%s: not connected", label->query);
    db_put_ask_writable(db->mysql, &sql);
    rc = db_run_buf(db, label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    rc = check_writable(db, db_only(&results), err);
    db_results_free(&results);
    if (rc)
        hang_up(db);
    return rc;
}

static int out_of_memory(const struct db_label *label, struct db_results *results, struct err *err)
{
    if (results)
        *results = (struct db_results){0};
    return err_set(err, ERR_RETRY, 0, "%s: out of memory", label->query);
}

int db_run_buf(struct db *db, struct db_label *label, const struct buf *sql,
               struct db_results *results, struct err *err)
{
    if (sql->failed)
        return out_of_memory(label, results, err);
    return db_run(db, label, sql->data, sql->len, results, err);
}

int db_run_packet(struct db *db, struct db_label *label, const struct db_packet *p,
                  struct db_results *results, struct err *err)
{
    struct reading r = {.to = results, .packet = p, .wanted = p->statements};

    if (p->sql.failed)
        return out_of_memory(label, results, err);
    return run_sql(db, label, p->sql.data, p->sql.len, &r, err);
}

/* As it is: its shape is new, or the server does not prepare it. */
static int run_counting(struct db *db, struct db_label *label, const struct buf *sql,
                        uint64_t *rows, struct err *err)
{
    struct db_results results;
    int rc = db_run_buf(db, label, sql, &results, err);

    *rows = !rc && db_only(&results)->rows ? db_only(&results)->affected : 0;
    db_results_free(&results);
    return rc;
}

int db_run_prepared(struct db *db, struct db_label *label, const struct buf *sql, uint64_t *rows,
                    struct err *err)
{
    int64_t start_us = clock_mono_us();
    MYSQL_STMT *stmt = NULL;
    int rc;

    if (!db->prepared)
        db->prepared = db_prepared_new();
    if (db->mysql && !db->begins && !sql->failed && sql->len <= db_packet_max(db))
        stmt = db_prepared_find(db->prepared, db->mysql, sql->data, sql->len);
    if (!stmt)
        return run_counting(db, label, sql, rows, err);
    MUST(label->ok);
    rc = mysql_stmt_execute(stmt) ? fail_prepared(stmt, label->query, err)
                                  : read_prepared(stmt, rows, err);
    if (rc && db_error_ends_prepared(err->code))
        db_prepared_refuse(db->prepared); /* the next try is run as it is */
    return ran(db, label, start_us, rc, err);
}

static struct db_label commit_label = {.query = "commit"};
static pthread_once_t commit_once = PTHREAD_ONCE_INIT;

static void register_commit(void)
{
    db_label_register(&commit_label);
}

void db_begin(struct db *db)
{
    db->begins = true;
}

int db_commit(struct db *db, struct err *err)
{
    int rc;

    if (db->begins) { /* nothing was done in it */
        db->begins = false;
        return 0;
    }
    pthread_once(&commit_once, register_commit);
    rc = db_run(db, &commit_label, "COMMIT", 6, NULL, err);
    if (rc && db_outcome_unknown(err))
        err->kind = ERR_UNKNOWN;
    return rc;
}

void db_rollback(struct db *db)
{
    db->begins = false;
    if (!db->mysql)
        return;
    /* A server that does not answer rolls back when it sees the connection go. */
    if (mysql_rollback(db->mysql) || (db->mysql->server_status & SERVER_STATUS_IN_TRANS))
        db_drop(db);
}

void db_put_quoted(struct db *db, struct buf *sql, const char *s, size_t n)
{
    buf_putc(sql, '\'');
    if (!buf_reserve(sql, n * 2 + 2))
        return;
    if (db->mysql)
        sql->len += mysql_real_escape_string(db->mysql, sql->data + sql->len, s, n);
    else
        sql->failed = true; /* the charset is not known yet: db_run would refuse anyway */
    buf_putc(sql, '\'');
}

void db_put_bytes(struct buf *sql, const void *p, size_t n)
{
    buf_puts(sql, "x'");
    buf_put_hex(sql, p, n);
    buf_putc(sql, '\'');
}
