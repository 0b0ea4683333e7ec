#ifndef API_RECEIPT_SPANS_H
#define API_RECEIPT_SPANS_H

/*
 * Stored receipts as spans: each is one of its message's trace, sampled as that was, a child of the
 * context that is stored with the message. Contexts are asked for with one statement, and only
 * while tracing is on. Blocks; a failure costs the spans.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/db/db.h"
#include "libcommon/domain/recipient_receipt.h"

void receipt_spans_register(void); /* at start */

/* After COMMIT and the answers, on an acquired connection. n receipts that share a transaction
 * since start_us (wall clock); those that match nothing are left out. early: they have waited. */
void receipt_spans(struct db *db, const struct recipient_receipt *receipts, size_t n, bool early,
                   int64_t start_us);

#endif
