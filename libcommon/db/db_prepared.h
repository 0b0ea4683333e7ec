#ifndef LIBCOMMON_DB_DB_PREPARED_H
#define LIBCOMMON_DB_DB_PREPARED_H

/*
 * Statements that a connection keeps prepared, found by their text without its literals: whoever
 * runs them writes SQL as always. A shape that comes for the second time is prepared; the one that
 * was not used for longest makes room for it. Of libcommon/db alone; one thread at a time.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/base/buf.h"

struct st_mysql;
struct st_mysql_stmt;
struct db_prepared;

enum db_literal_kind { DB_LITERAL_NUMBER, DB_LITERAL_TEXT, DB_LITERAL_BYTES };

struct db_literal {
    enum db_literal_kind kind;
    int64_t number;
    size_t at, len; /* in db_shape.values */
};

/* A statement without its literals, and the literals. All zero: empty; keeps its memory. */
struct db_shape {
    struct buf text, values;
    struct db_literal *literals;
    size_t n, room;
};

/* Takes 'texts', x'bytes' and whole numbers out of sql; minus signs stay. False: memory is out. */
bool db_shape_take(struct db_shape *shape, const char *sql, size_t n);
void db_shape_free(struct db_shape *shape);

struct db_prepared *db_prepared_new(void); /* never NULL */
void db_prepared_free(struct db_prepared *p);

/* The connection was closed: its statements are gone. */
void db_prepared_forget(struct db_prepared *p);
/* What was prepared does not run: until the connection is closed nothing more is prepared. */
void db_prepared_refuse(struct db_prepared *p);

/* The statement for sql, its values bound until the next call; NULL: it is to be run as it is,
 * because it is new, or the server prepares nothing of the kind. */
struct st_mysql_stmt *db_prepared_find(struct db_prepared *p, struct st_mysql *mysql,
                                       const char *sql, size_t n);

#endif
