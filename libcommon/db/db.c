#include "libcommon/db/db.h"

#include <errmsg.h>
#include <errno.h>
#include <mysql.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/telemetry/metrics.h"

#define PING_AFTER_MS 5000       /* well inside the session's wait_timeout */
#define SESSION_IDLE_SEC 20      /* a stopped process keeps its locks no longer than this */
#define CONNECTION_LOST_MIN 2000 /* client-side errors: CR_MIN_ERROR of errmsg.h */

/* Server error numbers that mariadb's headers for clients do not name portably. */
enum {
    E_CHECKREAD = 1020,
    E_DISK_FULL = 1021,
    E_CON_COUNT = 1040,
    E_UNKNOWN_COM = 1047,
    E_SERVER_SHUTDOWN = 1053,
    E_DUP_ENTRY = 1062,
    E_FILE_FULL = 1114,
    E_NO_SUCH_TABLE = 1146,
    E_LOCK_WAIT_TIMEOUT = 1205,
    E_TOO_MANY_USER_CONNECTIONS = 1203,
    E_DEADLOCK = 1213,
    E_OPTION_PREVENTS = 1290,
    E_READ_ONLY_TRANSACTION = 1792,
    E_QUERY_INTERRUPTED = 1317,
    E_CONNECTION_KILLED = 1927,
    E_STATEMENT_TIMEOUT = 1969,
    E_IDLE_TRANSACTION = 4031,
};

struct db {
    const struct db_settings *settings;
    MYSQL *mysql; /* NULL: closed */
    uint64_t session_id;
    uint64_t lost_session_id; /* dropped, not known to have ended; 0: none */
    int64_t lost_opened_ms;
    int64_t opened_ms;
    int64_t used_ms;
    bool held;
    bool begins; /* the next packet begins with START TRANSACTION */
    struct buf with_begin;
};

const struct setting db_settings_rows[] = {
    SETTING_TEXT_ROW(db_settings, host, SETTING_STRING, "DB_HOST", "127.0.0.1", 255, NULL,
                     "Database host; always reached over TCP."),
    SETTING_INT_ROW(db_settings, port, "DB_PORT", "3306", 1, 65535, "Database port."),
    SETTING_TEXT_ROW(db_settings, name, SETTING_STRING, "DB_NAME", "messaging_platform", 64, NULL,
                     "Database name."),
    SETTING_TEXT_ROW(db_settings, user, SETTING_STRING, "DB_USER_NAME", "message_user", 128, NULL,
                     "Database user."),
    SETTING_TEXT_ROW(db_settings, password, SETTING_SECRET, "DB_PASSWORD", NULL, 0, NULL,
                     "Database password."),
    SETTING_TEXT_ROW(db_settings, tls_ca, SETTING_STRING, "DB_TLS_CA", "", 4096, NULL,
                     "PEM file of the authority that signed the database's certificate; set: TLS, "
                     "verified, or no connection."),
    SETTING_INT_ROW(db_settings, max_open, "DB_MAX_OPEN_CONNS", "50", 3, 1000,
                    "Most database connections this process holds."),
    SETTING_INT_ROW(db_settings, max_idle, "DB_MAX_IDLE_CONNS", "25", 0, 1000,
                    "Connections kept open while nobody uses them."),
    SETTING_INT_ROW(db_settings, lifetime_sec, "DB_CONN_MAX_LIFETIME_SEC", "300", 1, 86400,
                    "Age in seconds at which a connection is replaced."),
    SETTING_INT_ROW(db_settings, connect_timeout_ms, "DB_CONNECT_TIMEOUT_MS", "2000", 1000, 60000,
                    "Longest wait for a connection."),
    SETTING_INT_ROW(db_settings, statement_timeout_ms, "DB_STATEMENT_TIMEOUT_MS", "8000", 1000,
                    600000,
                    "Longest wait for a statement's answer; beyond it the connection is given up."),
    SETTING_INT_ROW(
        db_settings, lock_wait_sec, "DB_LOCK_WAIT_SEC", "1", 1, 60,
        "innodb_lock_wait_timeout of each session; keep below DB_STATEMENT_TIMEOUT_MS."),
    SETTINGS_END,
};

static pthread_once_t library_once = PTHREAD_ONCE_INIT;
static _Atomic int64_t idle_connections;

static void library_init(void)
{
    MUST(mysql_library_init(0, NULL, NULL) == 0);
}

void db_label_register(struct db_label *label)
{
    struct buf labels = {0};

    if (label->ok)
        return;
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

static enum err_kind kind_of(unsigned code)
{
    switch (code) {
    case E_CHECKREAD:
    case E_DISK_FULL:
    case E_CON_COUNT:
    case 1030: /* storage engine: disk full among others */
    case 1044: /* access denied, unknown database: somebody may mend it while we wait */
    case 1045:
    case 1049:
    case E_UNKNOWN_COM:
    case E_SERVER_SHUTDOWN:
    case E_FILE_FULL:
    case E_NO_SUCH_TABLE: /* migrations have not run yet */
    case 1129:            /* host blocked */
    case 1130:            /* host not allowed */
    case 1180:            /* error during COMMIT */
    case E_LOCK_WAIT_TIMEOUT:
    case E_TOO_MANY_USER_CONNECTIONS:
    case E_DEADLOCK:
    case E_OPTION_PREVENTS:
    case E_READ_ONLY_TRANSACTION:
    case E_QUERY_INTERRUPTED:
    case E_CONNECTION_KILLED:
    case E_STATEMENT_TIMEOUT:
    case 3024: /* MySQL's statement timeout */
    case E_IDLE_TRANSACTION:
        return ERR_RETRY;
    case E_DUP_ENTRY:
    case 1048: /* column cannot be NULL */
    case 1264: /* out of range */
    case 1366: /* wrong string value */
    case 1406: /* data too long */
    case 1690: /* number out of range */
    case 3140: /* invalid JSON, MySQL */
    case 3819: /* CHECK constraint, MySQL */
    case 4025: /* CHECK constraint, MariaDB */
        return ERR_PERMANENT;
    case 1052: /* ambiguous column */
    case 1054: /* unknown column */
    case 1064: /* syntax */
    case 1065: /* empty statement */
    case 1136: /* column count */
    case 1193: /* unknown variable */
    case 1231: /* variable's value */
    case 1305: /* no such function */
        return ERR_BUG;
    default:
        /* An error that nobody thought of is the server's trouble, not the message's: whoever takes
         * it for the message's own fault gives up healthy messages one after another. */
        return ERR_RETRY;
    }
}

static bool is_lost(unsigned code)
{
    return (code >= CONNECTION_LOST_MIN && code < 3000) || code == E_SERVER_SHUTDOWN ||
           code == E_CONNECTION_KILLED || code == E_IDLE_TRANSACTION;
}

/* Duplicate-key texts hold the value, and syntax errors hold the statement: neither may reach a
 * log. */
static int fail(MYSQL *mysql, const char *what, struct err *err)
{
    unsigned code = mysql_errno(mysql);
    const char *text = mysql_error(mysql);

    if (code == E_DUP_ENTRY)
        text = "duplicate key";
    else if (kind_of(code) == ERR_BUG || kind_of(code) == ERR_PERMANENT)
        text = mysql_sqlstate(mysql);
    return err_set(err, kind_of(code), code, "%s: %s", what, text);
}

struct db *db_new(const struct db_settings *settings)
{
    struct db *db = must_alloc(1, sizeof(*db));

    pthread_once(&library_once, library_init);
    db->settings = settings;
    return db;
}

void db_drop(struct db *db)
{
    if (!db->mysql)
        return;
    if (!db->held)
        atomic_fetch_sub(&idle_connections, 1);
    db->lost_session_id = db->session_id;
    db->lost_opened_ms = db->opened_ms;
    /* A broken or busy session is not asked to say goodbye: mysql_close would write to it. */
    shutdown((int)mysql_get_socket(db->mysql), SHUT_RDWR);
    mysql_close(db->mysql);
    db->mysql = NULL;
}

static void close_politely(struct db *db)
{
    if (db->mysql)
        mysql_close(db->mysql);
    db->mysql = NULL;
}

void db_free(struct db *db)
{
    if (!db)
        return;
    if (db->mysql && !db->held)
        atomic_fetch_sub(&idle_connections, 1);
    close_politely(db);
    buf_free(&db->with_begin);
    free(db);
}

static void set_socket(const struct db *db)
{
    int fd = (int)mysql_get_socket(db->mysql);
    int yes = 1;
    unsigned timeout_ms = (unsigned)db->settings->statement_timeout_ms;

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &yes, sizeof(yes));
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms, sizeof(timeout_ms));
}

static int run_plain(struct db *db, const char *sql, struct err *err)
{
    if (mysql_real_query(db->mysql, sql, strlen(sql)))
        return fail(db->mysql, "session setup", err);
    return 0;
}

/* Each of these has a reason in design terms: UTC and microseconds for leases, strict mode so that
 * nothing is silently cut, READ COMMITTED against gap locks, short waits so that a stopped peer's
 * locks do not become ours. */
static int set_session(struct db *db, struct err *err)
{
    struct buf sql = {0};
    int rc;

    buf_printf(&sql,
               "SET SESSION time_zone='+00:00',"
               "sql_mode='STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION,ERROR_FOR_DIVISION_BY_ZERO',"
               "innodb_lock_wait_timeout=%lld,lock_wait_timeout=10,wait_timeout=%d,autocommit=1",
               (long long)db->settings->lock_wait_sec, SESSION_IDLE_SEC);
    if (mariadb_connection(db->mysql))
        buf_printf(&sql, ",idle_transaction_timeout=%d", SESSION_IDLE_SEC);
    rc = sql.failed ? err_set(err, ERR_RETRY, 0, "out of memory") : run_plain(db, sql.data, err);
    buf_free(&sql);
    if (!rc)
        rc = run_plain(db, "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED", err);
    return rc;
}

static unsigned round_up_sec(int64_t ms)
{
    return (unsigned)((ms + 999) / 1000);
}

static int connect_now(struct db *db, struct err *err)
{
    const struct db_settings *s = db->settings;
    unsigned connect_sec = round_up_sec(s->connect_timeout_ms);
    unsigned answer_sec = round_up_sec(s->statement_timeout_ms);
    unsigned protocol = MYSQL_PROTOCOL_TCP; /* "localhost" would mean a socket */
    my_bool yes = 1;

    db->mysql = mysql_init(NULL);
    if (!db->mysql)
        return err_set(err, ERR_RETRY, 0, "out of memory");
    mysql_optionsv(db->mysql, MYSQL_OPT_PROTOCOL, &protocol);
    mysql_optionsv(db->mysql, MYSQL_OPT_CONNECT_TIMEOUT, &connect_sec);
    mysql_optionsv(db->mysql, MYSQL_OPT_READ_TIMEOUT, &answer_sec);
    mysql_optionsv(db->mysql, MYSQL_OPT_WRITE_TIMEOUT, &answer_sec);
    mysql_optionsv(db->mysql, MYSQL_SET_CHARSET_NAME, "utf8mb4");
    if (*s->tls_ca) {
        mysql_optionsv(db->mysql, MYSQL_OPT_SSL_CA, s->tls_ca);
        mysql_optionsv(db->mysql, MYSQL_OPT_SSL_ENFORCE, &yes);
        mysql_optionsv(db->mysql, MYSQL_OPT_SSL_VERIFY_SERVER_CERT, &yes);
    }
    if (!mysql_real_connect(db->mysql, s->host, s->user, s->password, s->name, (unsigned)s->port,
                            NULL, CLIENT_MULTI_STATEMENTS | CLIENT_FOUND_ROWS)) {
        fail(db->mysql, "connect", err);
        err->kind = ERR_RETRY;
        close_politely(db);
        return -1;
    }
    set_socket(db);
    if (set_session(db, err)) {
        err->kind = ERR_RETRY;
        db_drop(db);
        return -1;
    }
    db->session_id = mysql_thread_id(db->mysql);
    db->opened_ms = db->used_ms = clock_mono_ms();
    return 0;
}

int db_acquire(struct db *db, struct err *err)
{
    int64_t now_ms = clock_mono_ms();

    if (db->mysql && !db->held)
        atomic_fetch_sub(&idle_connections, 1);
    db->held = true;
    if (db->mysql && now_ms - db->opened_ms > db->settings->lifetime_sec * 1000)
        close_politely(db);
    if (db->mysql && now_ms - db->used_ms > PING_AFTER_MS && mysql_ping(db->mysql))
        db_drop(db);
    if (!db->mysql && connect_now(db, err)) {
        db->held = false;
        return -1;
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

int db_end_lost_session(struct db *db, struct err *err)
{
    uint64_t session_id = db->lost_session_id;
    int64_t up_sec;
    char sql[64];

    if (!session_id)
        return 0;
    if (server_uptime_sec(db, &up_sec, err))
        return -1;
    if (up_sec * 1000 > clock_mono_ms() - db->lost_opened_ms) {
        db_label_register(&kill_label);
        snprintf(sql, sizeof(sql), "KILL %llu", (unsigned long long)session_id);
        if (db_run(db, &kill_label, sql, strlen(sql), NULL, err) && err->code != 1094)
            return -1; /* 1094: no such thread, it has ended */
    }
    db->lost_session_id = 0;
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

/* ---- packets ---- */

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
            return fail(db->mysql, "read result", err);
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
        return fail(db->mysql, "statement", err);
    return r->seen == r->wanted ? 0
                                : err_set(err, ERR_RETRY, CR_SERVER_LOST, "an answer is missing");
}

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
        return err_set(err, ERR_RETRY, 2006, "%s: not connected", label->query);
    if (begins && !put_begin(db, &sql, &n))
        return err_set(err, ERR_RETRY, 0, "%s: out of memory", label->query);
    if (mysql_real_query(db->mysql, sql, n))
        rc = fail(db->mysql, label->query, err);
    else
        rc = read_answers(db, r, begins, err);
    metrics_observe(label->seconds, clock_mono_us() - start_us);
    metrics_add(rc ? label->failed : label->ok, 1);
    if (rc) {
        if (r->to)
            db_results_free(r->to);
        if (is_lost(err->code))
            db_drop(db);
    }
    return rc;
}

int db_run(struct db *db, struct db_label *label, const char *sql, size_t n,
           struct db_results *results, struct err *err)
{
    struct reading r = {.to = results, .wanted = 1};

    return run_sql(db, label, sql, n, &r, err);
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

bool db_outcome_unknown(const struct err *err)
{
    return is_lost(err->code);
}

bool db_is_conflict(const struct err *err)
{
    return err->code == E_DEADLOCK || err->code == E_LOCK_WAIT_TIMEOUT || err->code == E_CHECKREAD;
}

bool db_is_duplicate(const struct err *err)
{
    return err->code == E_DUP_ENTRY;
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
