#include "libcommon/db/db.h"
#include "libcommon/db/db_internal.h"

#define CLIENT_MIN 2000 /* CR_MIN_ERROR of errmsg.h */
#define CLIENT_MAX 2999

/* Numbers that nobody else asks for. */
enum {
    E_DISK_FULL = 1021,
    E_STORAGE_ENGINE = 1030, /* disk full among others */
    E_CON_COUNT = 1040,
    E_UNKNOWN_COM = 1047, /* what a Galera node says that is apart from the others */
    E_SERVER_SHUTDOWN = 1053,
    E_FILE_FULL = 1114,
    E_TABLE_DENIED = 1142,
    E_COLUMN_DENIED = 1143,
    E_NO_SUCH_TABLE = 1146,
    E_COMMIT = 1180,
    E_TOO_MANY_USER_CONNECTIONS = 1203,
    E_QUERY_INTERRUPTED = 1317,
    E_READ_ONLY_TRANSACTION = 1792,
    E_READ_ONLY_MODE = 1836,
    E_CONNECTION_KILLED = 1927,
    E_STATEMENT_TIMEOUT = 1969,
    E_CLIENT_PACKET_TOO_LARGE = 2020,
    E_STATEMENT_TIMEOUT_MYSQL = 3024,
    E_IDLE_TRANSACTION = 4031,
};

enum err_kind db_error_kind(unsigned code)
{
    switch (code) {
    case DB_E_CONFLICT_READ:
    case E_DISK_FULL:
    case E_STORAGE_ENGINE:
    case E_CON_COUNT:
    case 1044: /* access denied, unknown database: somebody may mend it while we wait */
    case 1045:
    case 1049:
    case E_UNKNOWN_COM:
    case E_SERVER_SHUTDOWN:
    case E_FILE_FULL:
    case E_NO_SUCH_TABLE: /* migrations have not run yet */
    case 1129:            /* host blocked */
    case 1130:            /* host not allowed */
    case E_COMMIT:
    case DB_E_LOCK_WAIT:
    case E_TOO_MANY_USER_CONNECTIONS:
    case DB_E_DEADLOCK:
    case DB_E_READ_ONLY:
    case E_READ_ONLY_TRANSACTION:
    case E_READ_ONLY_MODE:
    case E_QUERY_INTERRUPTED:
    case E_CONNECTION_KILLED:
    case E_STATEMENT_TIMEOUT:
    case E_STATEMENT_TIMEOUT_MYSQL:
    case E_IDLE_TRANSACTION:
        return ERR_RETRY;
    case DB_E_PACKET_TOO_LARGE: /* as long as it is not cut smaller */
    case E_CLIENT_PACKET_TOO_LARGE:
    case DB_E_DUPLICATE:
    case 1048: /* column cannot be NULL */
    case 1264: /* out of range */
    case 1265: /* data truncated */
    case 1267: /* texts that cannot be compared: two, three, many */
    case 1270:
    case 1271:
    case 1292: /* no value of that type */
    case 1300: /* no text of that charset */
    case 1366: /* wrong string value */
    case 1367: /* no value of that type, in the statement itself */
    case 1406: /* data too long */
    case 1411: /* no time of that form */
    case 1525: /* wrong value */
    case 1690: /* number out of range */
    case 1977: /* a character that the charset lacks, MariaDB */
    case 3140: /* invalid JSON, MySQL */
    case 3141:
    case 3156: /* a JSON value of another type, MySQL */
    case 3819: /* CHECK constraint, MySQL */
    case 3854: /* a character that the charset lacks, MySQL */
    case 3988:
    case 4025: /* CHECK constraint, MariaDB */
    case 4038: /* invalid JSON, MariaDB */
        return ERR_PERMANENT;
    case 1052: /* ambiguous column */
    case 1054: /* unknown column */
    case 1064: /* syntax */
    case 1065: /* empty statement */
    case 1066: /* a table's name twice */
    case 1109: /* unknown table in a list of columns */
    case 1111: /* a sum where none can be */
    case 1115: /* unknown charset */
    case 1136: /* column count */
    case 1193: /* unknown variable */
    case 1210: /* arguments */
    case 1222: /* column count of a union */
    case 1231: /* variable's value */
    case 1241: /* one column is wanted */
    case 1242: /* one row is wanted */
    case 1253: /* a collation of another charset */
    case 1273: /* unknown collation */
    case 1305: /* no such function */
    case 1582: /* its arguments */
    case 4078: /* types that an operation does not take, MariaDB */
    case 4079:
        return ERR_BUG;
    default:
        /* An error that nobody thought of is the server's trouble, not the message's: whoever takes
         * it for the message's own fault gives up healthy messages one after another. */
        return ERR_RETRY;
    }
}

static bool is_too_large(unsigned code)
{
    return code == DB_E_PACKET_TOO_LARGE || code == E_CLIENT_PACKET_TOO_LARGE;
}

/* An interruption that comes while a statement ends is told in place of what the statement did,
 * even of a COMMIT that has been done. */
static bool is_interrupted(unsigned code)
{
    return code == E_QUERY_INTERRUPTED || code == E_STATEMENT_TIMEOUT;
}

bool db_error_is_lost(unsigned code)
{
    if (is_too_large(code))
        return false;
    return (code >= CLIENT_MIN && code <= CLIENT_MAX) || code == E_SERVER_SHUTDOWN ||
           code == E_CONNECTION_KILLED || code == E_IDLE_TRANSACTION || is_interrupted(code);
}

static bool is_read_only(unsigned code)
{
    return code == DB_E_READ_ONLY || code == E_READ_ONLY_TRANSACTION || code == E_READ_ONLY_MODE;
}

bool db_error_is_refusal(unsigned code)
{
    return is_read_only(code) || code == E_UNKNOWN_COM;
}

/* The server hangs up on a packet that it will not read. */
bool db_error_ends_session(unsigned code)
{
    return is_too_large(code) || db_error_is_refusal(code);
}

bool db_error_ends_prepared(unsigned code)
{
    return code == DB_E_UNKNOWN_STATEMENT || code == DB_E_NOT_PREPARED ||
           code == DB_E_PREPARE_AGAIN;
}

/* Duplicate-key texts hold the value, and syntax errors hold the statement. */
bool db_error_text_is_plain(unsigned code)
{
    return db_error_kind(code) == ERR_RETRY || is_too_large(code);
}

bool db_outcome_unknown(const struct err *err)
{
    return db_error_is_lost(err->code);
}

bool db_is_conflict(const struct err *err)
{
    return err->code == DB_E_DEADLOCK || err->code == DB_E_LOCK_WAIT ||
           err->code == DB_E_CONFLICT_READ;
}

bool db_is_duplicate(const struct err *err)
{
    return err->code == DB_E_DUPLICATE;
}

bool db_is_too_large(const struct err *err)
{
    return is_too_large(err->code);
}

bool db_is_read_only(const struct err *err)
{
    return is_read_only(err->code);
}

bool db_is_forbidden(const struct err *err)
{
    return err->code == E_TABLE_DENIED || err->code == E_COLUMN_DENIED;
}
