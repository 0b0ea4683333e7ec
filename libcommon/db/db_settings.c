#include <stdio.h>

#include "libcommon/db/db.h"
#include "libcommon/db/db_servers.h"

bool db_hosts_check(const char *list, char *why, size_t size)
{
    struct db_server servers[DB_SERVERS_MAX];

    if (!*list || db_servers_parse(list, 1, servers))
        return true;
    snprintf(why, size,
             "must be host or host:port, of several with commas between them, at most %d",
             DB_SERVERS_MAX);
    return false;
}

const struct setting db_settings_rows[] = {
    SETTING_TEXT_ROW(db_settings, host, SETTING_STRING, "DB_HOST", "127.0.0.1", 2047,
                     db_hosts_check,
                     "Database host, or host:port; always reached over TCP. Of a primary and its "
                     "replicas all, with commas between them: the one that takes writes is used."),
    SETTING_INT_ROW(db_settings, port, "DB_PORT", "3306", 1, 65535,
                    "Database port, where DB_HOST and DB_READ_HOST name none."),
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
    SETTING_INT_ROW(db_settings, statement_timeout_ms, "DB_STATEMENT_TIMEOUT_MS", "4000", 1000,
                    600000,
                    "Longest wait for a statement's answer; beyond it the connection is given up."),
    SETTING_INT_ROW(
        db_settings, lock_wait_sec, "DB_LOCK_WAIT_SEC", "1", 1, 60,
        "innodb_lock_wait_timeout of each session; shorter than DB_STATEMENT_TIMEOUT_MS."),
    SETTINGS_END,
};

size_t db_settings_check(const struct db_settings *s, struct buf *errors)
{
    if (s->lock_wait_sec * 1000 < s->statement_timeout_ms)
        return 0;
    buf_printf(
        errors,
        "DB_LOCK_WAIT_SEC=%lld must be shorter than DB_STATEMENT_TIMEOUT_MS=%lld: a wait for "
        "a lock would count as a lost connection\n",
        (long long)s->lock_wait_sec, (long long)s->statement_timeout_ms);
    return 1;
}
