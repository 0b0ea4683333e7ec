#include "libcommon/db/db_connect.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "libcommon/base/must.h"
#include "libcommon/db/db_internal.h"

static pthread_once_t library_once = PTHREAD_ONCE_INIT;

static void library_init(void)
{
    MUST(mysql_library_init(0, NULL, NULL) == 0);
}

void db_library_use(void)
{
    pthread_once(&library_once, library_init);
}

int db_fail_with(unsigned code, const char *text, const char *sqlstate, const char *what,
                 struct err *err)
{
    if (code == DB_E_DUPLICATE)
        text = "duplicate key";
    else if (!db_error_text_is_plain(code))
        text = sqlstate;
    return err_set(err, db_error_kind(code), code, "%s: %s", what, text);
}

int db_fail(MYSQL *mysql, const char *what, struct err *err)
{
    return db_fail_with(mysql_errno(mysql), mysql_error(mysql), mysql_sqlstate(mysql), what, err);
}

static void set_socket(MYSQL *mysql, unsigned answer_sec)
{
    int fd = (int)mysql_get_socket(mysql);
    int yes = 1;
    unsigned timeout_ms = answer_sec * 1000;

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &yes, sizeof(yes));
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms, sizeof(timeout_ms));
}

/* Of a certificate for another host the library does not say what is wrong with it. */
static void fail_to_connect(MYSQL *mysql, const char *host, struct err *err)
{
    const char *text = mysql_error(mysql);

    if (strstr(text, "Validation of SSL server certificate failed"))
        err_set(err, ERR_RETRY, mysql_errno(mysql),
                "connect: TLS/SSL error: the certificate is for another host than DB_HOST %s",
                host);
    else
        db_fail(mysql, "connect", err);
    err->kind = ERR_RETRY;
}

static void set_options(MYSQL *mysql, const struct db_settings *s, struct db_patience patience)
{
    unsigned protocol = MYSQL_PROTOCOL_TCP; /* "localhost" would mean a socket */
    my_bool yes = 1;

    mysql_optionsv(mysql, MYSQL_OPT_PROTOCOL, &protocol);
    mysql_optionsv(mysql, MYSQL_OPT_CONNECT_TIMEOUT, &patience.connect_sec);
    mysql_optionsv(mysql, MYSQL_OPT_READ_TIMEOUT, &patience.answer_sec);
    mysql_optionsv(mysql, MYSQL_OPT_WRITE_TIMEOUT, &patience.answer_sec);
    mysql_optionsv(mysql, MYSQL_SET_CHARSET_NAME, "utf8mb4");
    if (!*s->tls_ca)
        return;
    mysql_optionsv(mysql, MARIADB_OPT_TLS_VERSION, "TLSv1.2,TLSv1.3");
    mysql_optionsv(mysql, MYSQL_OPT_SSL_CA, s->tls_ca);
    mysql_optionsv(mysql, MYSQL_OPT_SSL_ENFORCE, &yes);
    mysql_optionsv(mysql, MYSQL_OPT_SSL_VERIFY_SERVER_CERT, &yes);
}

MYSQL *db_connect(const struct db_settings *s, const struct db_server *server,
                  struct db_patience patience, struct err *err)
{
    MYSQL *mysql;

    if (*s->tls_ca && access(s->tls_ca, R_OK)) { /* the library names no file */
        err_set(err, ERR_RETRY, 0, "connect: cannot read DB_TLS_CA %s", s->tls_ca);
        return NULL;
    }
    mysql = mysql_init(NULL);
    if (!mysql) {
        err_set(err, ERR_RETRY, 0, "out of memory");
        return NULL;
    }
    set_options(mysql, s, patience);
    if (!mysql_real_connect(mysql, server->host, s->user, s->password, s->name, server->port, NULL,
                            CLIENT_MULTI_STATEMENTS | CLIENT_FOUND_ROWS)) {
        fail_to_connect(mysql, server->host, err);
        mysql_close(mysql);
        return NULL;
    }
    set_socket(mysql, patience.answer_sec);
    return mysql;
}

void db_put_ask_writable(MYSQL *mysql, struct buf *sql)
{
    buf_printf(sql, "SELECT @@read_only,@@innodb_read_only,@@%s",
               mariadb_connection(mysql) ? "tx_read_only" : "transaction_read_only");
}

/* The values are 0 and 1, or OFF and words for more than one kind of ON. */
bool db_row_is_writable(MYSQL_ROW row)
{
    for (size_t i = 0; row && i < 3; i++)
        if (!row[i] || (strcmp(row[i], "0") != 0 && strcmp(row[i], "OFF") != 0))
            return false;
    return row;
}
