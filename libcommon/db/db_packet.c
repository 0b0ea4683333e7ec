/* A packet's statements and their names; no connection is needed for it. */

#include <stdlib.h>
#include <string.h>

#include "libcommon/base/must.h"
#include "libcommon/db/db.h"

struct buf *db_statement(struct db_packet *p, const char *name)
{
    if (p->statements)
        buf_putc(&p->sql, ';');
    if (name) {
        MUST(p->named < DB_NAMED_MAX);
        p->names[p->named].name = name;
        p->names[p->named++].at = p->statements;
    }
    p->statements++;
    return &p->sql;
}

void db_packet_reset(struct db_packet *p)
{
    buf_reset(&p->sql);
    p->statements = p->named = 0;
}

void db_packet_free(struct db_packet *p)
{
    buf_free(&p->sql);
    *p = (struct db_packet){0};
}

struct db_set *db_result(struct db_results *results, const char *name)
{
    for (size_t i = 0; i < results->n; i++)
        if (results->names[i] && !strcmp(results->names[i], name))
            return &results->set[i];
    must_fail(name, __FILE__, __LINE__);
}

struct db_set *db_only(struct db_results *results)
{
    MUST(results->n == 1);
    return &results->set[0];
}

int64_t db_number(struct db_set *set)
{
    char **row = db_next(set);

    return row && row[0] ? strtoll(row[0], NULL, 10) : 0;
}
