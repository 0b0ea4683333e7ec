#ifndef API_RECEIPT_ROW_H
#define API_RECEIPT_ROW_H

/*
 * A receipt that waits in a table, and the columns that receipts_early and receipts_moved share for
 * it. Pure, but that texts are quoted for db's connection. Nothing blocks.
 */

#include "libcommon/domain/recipient_receipt.h"

#define RECEIPT_ROW_COLUMNS \
    "operator,message_identifier,position,match_id,is_delivered,part,parts_rule,code,words,reason"

/* Its values, in that order. db is acquired. */
void receipt_row_put(struct db *db, struct buf *sql, const struct recipient_receipt *r);
/* From those columns, all of them text and none NULL. What else a receipt has is zero. */
void receipt_row_read(char **columns, struct recipient_receipt *r);

#endif
