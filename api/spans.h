#ifndef API_SPANS_H
#define API_SPANS_H

/* What a batch has committed, as spans: one for each send that is traced. Never blocks. */

#include "api/operation.h"

/* After COMMIT, before the answers. start_us: when the batch was begun, wall clock. */
void spans_commit(struct operation *const *ops, size_t n, int64_t start_us);

#endif
