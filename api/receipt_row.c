#include "api/receipt_row.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void put_text(struct db *db, struct buf *sql, const char *text)
{
    buf_putc(sql, ',');
    db_put_quoted(db, sql, text, strlen(text));
}

void receipt_row_put(struct db *db, struct buf *sql, const struct recipient_receipt *r)
{
    db_put_quoted(db, sql, r->operator_name, strlen(r->operator_name));
    put_text(db, sql, r->message_id);
    buf_printf(sql, ",%u", r->position);
    put_text(db, sql, r->match_id);
    buf_printf(sql, ",%d", r->delivered);
    put_text(db, sql, r->part);
    buf_printf(sql, ",%d", r->rule);
    put_text(db, sql, r->code);
    put_text(db, sql, r->words);
    put_text(db, sql, r->reason);
}

static void copy(char *to, size_t size, const char *from)
{
    snprintf(to, size, "%s", from);
}

void receipt_row_read(char **columns, struct recipient_receipt *r)
{
    *r = (struct recipient_receipt){0};
    copy(r->operator_name, sizeof(r->operator_name), columns[0]);
    copy(r->message_id, sizeof(r->message_id), columns[1]);
    r->position = (unsigned)strtoul(columns[2], NULL, 10);
    copy(r->match_id, sizeof(r->match_id), columns[3]);
    r->delivered = columns[4][0] == '1';
    copy(r->part, sizeof(r->part), columns[5]);
    r->rule = (enum receipt_parts)strtol(columns[6], NULL, 10);
    copy(r->code, sizeof(r->code), columns[7]);
    copy(r->words, sizeof(r->words), columns[8]);
    copy(r->reason, sizeof(r->reason), columns[9]);
}
