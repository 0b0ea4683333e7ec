#include "libcommon/domain/outbox.h"

#include <string.h>

void outbox_put_row(struct db *db, struct buf *sql, const char *message_id, unsigned n,
                    enum message_type type, const struct buf *payload, int64_t delay_ms)
{
    buf_puts(sql, "('message',");
    db_put_quoted(db, sql, message_id, strlen(message_id));
    if (n)
        buf_printf(sql, ",'message.retry.%u',", n);
    else
        buf_puts(sql, ",'message.send',");
    if (payload->failed)
        sql->failed = true;
    else
        db_put_quoted(db, sql, payload->data, payload->len);
    buf_printf(sql, ",%d,", message_priority(type));
    if (delay_ms > 0)
        buf_printf(sql, "NOW(6)+INTERVAL %lld MICROSECOND)", (long long)delay_ms * 1000);
    else
        buf_puts(sql, "NULL)");
}
