#include <check.h>
#include <mysql.h>
#include <stdio.h>
#include <string.h>

#include "libcommon/db/db.h"
#include "test/unit/suite.h"

/*
 * Sessions, at a client library that is played: its functions stand below, in front of the real
 * ones. It records what is asked of it (asked), and answers from script.
 */

#define LOST 2013
#define NO_SUCH_THREAD 1094
#define NOT_OWN_THREAD 1095
#define COLUMNS 3
#define ALWAYS 1000

static struct {
    unsigned long thread_id;
    unsigned query_error, execute_error, kill_error;
    unsigned kills_before; /* KILLs that succeed before they fail with kill_error */
    unsigned busy;         /* looks at the lost session that find it at work */
    char uptime[8];
    bool is_mysql;
} script;

static struct buf asked;
static MYSQL handle;
static unsigned last_error;
static size_t answers_left; /* with the one that is to be stored */
static struct {
    char *row[COLUMNS];
} result;
static MYSQL_RES *const some_rows = (MYSQL_RES *)&result;
static MYSQL_STMT *const some_stmt = (MYSQL_STMT *)&script;

static int fails(unsigned code)
{
    last_error = code;
    return code != 0;
}

static void note(const char *what)
{
    buf_puts(&asked, what);
    buf_putc(&asked, ';');
}

MYSQL *mysql_init(MYSQL *mysql)
{
    (void)mysql;
    handle = (MYSQL){0};
    return &handle;
}

MYSQL *mysql_real_connect(MYSQL *mysql, const char *host, const char *user, const char *passwd,
                          const char *db, unsigned port, const char *unix_socket,
                          unsigned long clientflag)
{
    (void)host, (void)user, (void)passwd, (void)db, (void)port, (void)unix_socket, (void)clientflag;
    script.thread_id++;
    return mysql;
}

int mysql_optionsv(MYSQL *mysql, enum mysql_option option, ...)
{
    (void)mysql, (void)option;
    return 0;
}

my_socket mysql_get_socket(MYSQL *mysql)
{
    (void)mysql;
    return -1;
}

void mysql_close(MYSQL *mysql)
{
    (void)mysql;
}

my_bool mariadb_connection(MYSQL *mysql)
{
    (void)mysql;
    return !script.is_mysql;
}

unsigned long mysql_thread_id(MYSQL *mysql)
{
    (void)mysql;
    return script.thread_id;
}

unsigned mysql_errno(MYSQL *mysql)
{
    (void)mysql;
    return last_error;
}

const char *mysql_error(MYSQL *mysql)
{
    (void)mysql;
    return "as scripted";
}

const char *mysql_sqlstate(MYSQL *mysql)
{
    (void)mysql;
    return "HY000";
}

int mysql_real_query(MYSQL *mysql, const char *sql, unsigned long n)
{
    static char off[] = "0"; /* whether it is read-only, or at work */
    static char one[] = "1";
    struct buf text = {0};

    (void)mysql;
    for (size_t i = 0; i < COLUMNS; i++)
        result.row[i] = off;
    buf_put(&text, sql, n);
    buf_putc(&text, '\0');
    answers_left = 1;
    if (!strncmp(text.data, "SET SESSION", 11)) {
        answers_left = 4;
    } else if (!strncmp(text.data, "SHOW", 4)) {
        result.row[1] = script.uptime;
    } else if (strstr(text.data, "processlist")) {
        result.row[0] = script.busy ? one : off;
        script.busy -= script.busy > 0;
    } else {
        note(text.data);
    }
    last_error = 0;
    if (!strncmp(text.data, "KILL", 4)) {
        last_error = script.kills_before ? 0 : script.kill_error;
        script.kills_before -= script.kills_before > 0;
    }
    if (!strcmp(text.data, "SELECT 1"))
        last_error = script.query_error;
    buf_free(&text);
    return last_error != 0;
}

MYSQL_RES *mysql_store_result(MYSQL *mysql)
{
    (void)mysql;
    return some_rows;
}

int mysql_next_result(MYSQL *mysql)
{
    (void)mysql;
    return --answers_left ? 0 : -1;
}

unsigned mysql_field_count(MYSQL *mysql)
{
    (void)mysql;
    return 1;
}

my_ulonglong mysql_num_rows(MYSQL_RES *rows)
{
    (void)rows;
    return 1;
}

MYSQL_ROW mysql_fetch_row(MYSQL_RES *rows)
{
    (void)rows;
    return result.row;
}

unsigned long *mysql_fetch_lengths(MYSQL_RES *rows)
{
    (void)rows;
    return NULL;
}

void mysql_free_result(MYSQL_RES *rows)
{
    (void)rows;
}

MYSQL_STMT *mysql_stmt_init(MYSQL *mysql)
{
    (void)mysql;
    return some_stmt;
}

int mysql_stmt_prepare(MYSQL_STMT *stmt, const char *sql, unsigned long n)
{
    (void)stmt, (void)sql, (void)n;
    note("prepare");
    return 0;
}

unsigned long mysql_stmt_param_count(MYSQL_STMT *stmt)
{
    (void)stmt;
    return 1;
}

my_bool mysql_stmt_bind_param(MYSQL_STMT *stmt, MYSQL_BIND *bind)
{
    (void)stmt, (void)bind;
    return 0;
}

int mysql_stmt_execute(MYSQL_STMT *stmt)
{
    (void)stmt;
    note("execute");
    return fails(script.execute_error);
}

unsigned mysql_stmt_errno(MYSQL_STMT *stmt)
{
    (void)stmt;
    return last_error;
}

const char *mysql_stmt_error(MYSQL_STMT *stmt)
{
    (void)stmt;
    return "as scripted";
}

const char *mysql_stmt_sqlstate(MYSQL_STMT *stmt)
{
    (void)stmt;
    return "HY000";
}

my_bool mysql_stmt_close(MYSQL_STMT *stmt)
{
    (void)stmt;
    return 0;
}

/* ---- tests ---- */

static char nothing[] = "", somewhere[] = "db";
static const struct db_settings settings = {.host = somewhere,
                                            .name = nothing,
                                            .user = nothing,
                                            .password = nothing,
                                            .tls_ca = nothing,
                                            .max_idle = 1,
                                            .lifetime_sec = 3600,
                                            .connect_timeout_ms = 1000,
                                            .statement_timeout_ms = 1000,
                                            .lock_wait_sec = 1};
static struct db_label label = {.query = "test"};
static struct db *db;
static struct db_lost_session lost;

static void set_uptime(const char *seconds)
{
    snprintf(script.uptime, sizeof(script.uptime), "%s", seconds);
}

static void setup(void)
{
    struct err err;

    memset(&script, 0, sizeof(script));
    set_uptime("100");
    script.thread_id = 6;
    script.kill_error = NO_SUCH_THREAD;
    db_label_register(&label);
    db = db_new(&settings);
    ck_assert_msg(db_acquire(db, &err) == 0, "%s", err.msg);
    buf_reset(&asked);
}

static void teardown(void)
{
    db_free(db);
    buf_free(&asked);
}

static const char *all_asked(void)
{
    buf_putc(&asked, '\0');
    return asked.data;
}

/* Session 7; the next one is connected. */
static void lose_session(void)
{
    struct err err;

    script.query_error = LOST;
    ck_assert_int_eq(db_run(db, &label, "SELECT 1", 8, NULL, &err), -1);
    lost = db_lost_session(db);
    ck_assert_uint_eq(lost.id, 7);
    ck_assert_int_eq(db_acquire(db, &err), 0);
    ck_assert_uint_eq(db_lost_session(db).id, 0);
}

static int end_it(void)
{
    struct err err;

    return db_end_lost_session(db, &lost, &err);
}

/* The same, with what was asked on the way forgotten. */
static void begin_anew(void)
{
    lose_session();
    buf_reset(&asked);
}

/* What it was sent may begin as long as it is there. */
START_TEST(a_session_has_ended_when_the_server_knows_it_no_more)
{
    begin_anew();
    script.kills_before = 2;
    ck_assert_int_eq(end_it(), 0);
    ck_assert_int_eq(end_it(), 0);
    ck_assert_str_eq(all_asked(), "KILL 7;KILL 7;KILL 7;");
}
END_TEST

START_TEST(one_that_does_not_end_is_still_to_be_ended)
{
    begin_anew();
    script.kills_before = ALWAYS;
    ck_assert_int_eq(end_it(), -1);
    ck_assert_uint_eq(lost.id, 7);
    script.kills_before = 0;
    ck_assert_int_eq(end_it(), 0);
}
END_TEST

/* It may be a commit that waits for a replica. */
START_TEST(one_at_work_is_not_killed)
{
    begin_anew();
    script.busy = ALWAYS;
    ck_assert_int_eq(end_it(), -1);
    ck_assert_uint_eq(lost.id, 7);
    ck_assert_str_eq(all_asked(), "");
    buf_reset(&asked);
    script.busy = 3;
    ck_assert_int_eq(end_it(), 0);
    ck_assert_str_eq(all_asked(), "KILL 7;");
}
END_TEST

START_TEST(one_of_the_servers_first_second_is_not_spared)
{
    begin_anew();
    set_uptime("0");
    ck_assert_int_eq(end_it(), 0);
    ck_assert_str_eq(all_asked(), "KILL 7;");
}
END_TEST

START_TEST(nobody_of_another_life_of_the_server_is_killed)
{
    begin_anew();
    set_uptime("3");
    lost.opened_ms -= 4500;
    ck_assert_int_eq(end_it(), 0);
    ck_assert_str_eq(all_asked(), "");
    set_uptime("100");
    lost.id = 8; /* our own */
    ck_assert_int_eq(end_it(), 0);
    ck_assert_str_eq(all_asked(), "");
    lost.id = 7; /* somebody else's */
    script.kill_error = NOT_OWN_THREAD;
    ck_assert_int_eq(end_it(), 0);
    ck_assert_uint_eq(lost.id, 0);
}
END_TEST

START_TEST(what_is_lost_meanwhile_takes_no_ones_place)
{
    struct err err;

    begin_anew();
    script.kill_error = LOST;
    ck_assert_int_eq(end_it(), -1);
    ck_assert_uint_eq(db_lost_session(db).id, 8);
    script.kill_error = NO_SUCH_THREAD;
    ck_assert_int_eq(db_acquire(db, &err), 0);
    buf_reset(&asked);
    ck_assert_int_eq(end_it(), 0);
    ck_assert_str_eq(all_asked(), "KILL 7;");
}
END_TEST

/* MySQL does not end by itself what nobody waits for. */
START_TEST(what_was_given_up_is_ended_on_mysql)
{
    script.is_mysql = true;
    lose_session();
    ck_assert_str_eq(all_asked(), "SELECT 1;KILL 7;");
    ck_assert_int_eq(end_it(), 0); /* who has to know that it has ended may still ask */
}
END_TEST

START_TEST(and_by_mariadb_itself)
{
    lose_session();
    ck_assert_str_eq(all_asked(), "SELECT 1;");
}
END_TEST

/* Behind a proxy there may be another server than the one that prepared it. */
START_TEST(what_was_prepared_and_is_not_known_is_run_as_it_is)
{
    static const unsigned codes[] = {1243, 1295, 1615};
    uint64_t rows;
    struct err err;
    struct buf sql = {0};

    script.execute_error = codes[_i];
    buf_puts(&sql, "SELECT 1");
    ck_assert_int_eq(db_run_prepared(db, &label, &sql, &rows, &err), 0);
    ck_assert_int_eq(db_run_prepared(db, &label, &sql, &rows, &err), -1);
    ck_assert_int_eq(err.kind, ERR_RETRY);
    ck_assert_int_eq(db_run_prepared(db, &label, &sql, &rows, &err), 0);
    ck_assert_int_eq(db_run_prepared(db, &label, &sql, &rows, &err), 0);
    ck_assert_str_eq(all_asked(), "SELECT 1;prepare;execute;SELECT 1;SELECT 1;");
    buf_free(&sql);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("db_session");
    TCase *t = tcase_create("sessions");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, a_session_has_ended_when_the_server_knows_it_no_more);
    tcase_add_test(t, one_that_does_not_end_is_still_to_be_ended);
    tcase_add_test(t, one_at_work_is_not_killed);
    tcase_add_test(t, one_of_the_servers_first_second_is_not_spared);
    tcase_add_test(t, nobody_of_another_life_of_the_server_is_killed);
    tcase_add_test(t, what_is_lost_meanwhile_takes_no_ones_place);
    tcase_add_test(t, what_was_given_up_is_ended_on_mysql);
    tcase_add_test(t, and_by_mariadb_itself);
    tcase_add_loop_test(t, what_was_prepared_and_is_not_known_is_run_as_it_is, 0, 3);
    suite_add_tcase(s, t);
    return suite_run(s);
}
