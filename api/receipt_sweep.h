#ifndef API_RECEIPT_SWEEP_H
#define API_RECEIPT_SWEEP_H

/*
 * The thread behind receipts.h: looks at receipts that were early and at recipients that nobody
 * tells of, and counts how many early ones there are. Of many replicas one looks (db/leader.h), all
 * count.
 */

#include <stdbool.h>

#include "libcommon/domain/recipient_receipt.h"

struct receipt_sweep;

struct receipt_sweep *receipt_sweep_start(const struct recipient_hearing *how); /* outlives it */
void receipt_sweep_stop(struct receipt_sweep *s);

/* Whether there is no room for more that are early; any thread. */
bool receipt_sweep_is_full(const struct receipt_sweep *s);

/* Says in the log that a message was delivered after its price had gone back. */
void receipt_sweep_tell_late(const struct recipient_receipt *r);

#endif
