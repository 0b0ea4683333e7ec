#ifndef LIBCOMMON_DB_DB_CONNECT_H
#define LIBCOMMON_DB_DB_CONNECT_H

/*
 * One connection of the client's library, with nothing set in its session yet, and the question
 * whether its server takes writes. For the files of libcommon/db alone. Blocks, up to the seconds
 * that are given.
 */

#include <mysql.h>

#include "libcommon/db/db.h"
#include "libcommon/db/db_servers.h"

struct db_patience {
    unsigned connect_sec, answer_sec;
};

void db_library_use(void); /* before anything else of it */
/* Verified TLS where the settings say so. NULL: ERR_RETRY and why. */
MYSQL *db_connect(const struct db_settings *settings, const struct db_server *server,
                  struct db_patience patience, struct err *err);

/* Not by writing: that would be four statements a second into the binary log, for every process. */
void db_put_ask_writable(MYSQL *mysql, struct buf *sql);
bool db_row_is_writable(MYSQL_ROW row); /* its answer; NULL: no */

/* What the library says went wrong, without values and statements. Returns -1. */
int db_fail(MYSQL *mysql, const char *what, struct err *err);
int db_fail_with(unsigned code, const char *text, const char *sqlstate, const char *what,
                 struct err *err);

#endif
