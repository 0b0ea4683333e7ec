#ifndef LIBCOMMON_DB_DB_INTERNAL_H
#define LIBCOMMON_DB_DB_INTERNAL_H

/* What a number of the server (below 2000, or 3000 and more) or of the client's library means. */

#include <stdbool.h>

#include "libcommon/base/err.h"

enum {
    DB_E_CONFLICT_READ = 1020, /* the row has changed since it was read */
    DB_E_DUPLICATE = 1062,
    DB_E_NO_SUCH_THREAD = 1094,
    DB_E_NOT_OWN_THREAD = 1095,
    DB_E_PACKET_TOO_LARGE = 1153,
    DB_E_LOCK_WAIT = 1205,
    DB_E_DEADLOCK = 1213,
    DB_E_UNKNOWN_STATEMENT = 1243, /* not prepared here: a proxy has another server behind it now */
    DB_E_READ_ONLY = 1290,         /* an option, as read_only, prevents the statement */
    DB_E_NOT_PREPARED = 1295,      /* what is of no kind that can be */
    DB_E_PREPARE_AGAIN = 1615,
    DB_E_GONE = 2006,
    DB_E_LOST = 2013,
};

enum err_kind db_error_kind(unsigned code);
/* The connection broke, or the statement was: what was on its way may or may not have been done. */
bool db_error_is_lost(unsigned code);
/* This server does no work now, and another one may: it is read-only, or no part of its cluster. */
bool db_error_is_refusal(unsigned code);
/* Nothing was done, and the session is good for nothing more. */
bool db_error_ends_session(unsigned code);
/* The prepared statement is good for nothing more, whatever the session is. */
bool db_error_ends_prepared(unsigned code);
/* The server's own words about it may be shown: they hold neither values nor statements. */
bool db_error_text_is_plain(unsigned code);

#endif
