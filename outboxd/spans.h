#ifndef OUTBOXD_SPANS_H
#define OUTBOXD_SPANS_H

/* What the broker has confirmed of a batch, as spans: one for each message that is traced. Never
 * blocks. */

#include "outboxd/claim.h"

/* start_us: when publishing began, wall clock. */
void spans_publish(const struct claim *c, int64_t start_us);

#endif
