#ifndef CONSUMERD_SPANS_H
#define CONSUMERD_SPANS_H

/*
 * A delivery as spans: "process" from its arrival to its ack, a child of the message's stored
 * context, and below it one for each operator call and for each recipient's share of a settle.
 * Messages that are not traced cost a branch. Never blocks; never a recipient or a text.
 */

#include "consumerd/transport.h"

/* At arrival: makes the process span's context. */
void spans_arrived(struct inflight *m);
/* When a call is begun: the context that goes to the operator with it. */
void spans_call_begins(struct transport_call *call);
void spans_call_ends(const struct transport_call *call, const struct transport_result *r,
                     const struct operator_address *operator);
/* After COMMIT; start_us: of the transaction, wall clock. */
void spans_settled(struct job *const *jobs, size_t n, int64_t start_us);
/* Its last recipient is settled. destination: exchange and queue. */
void spans_processed(const struct inflight *m, const char *exchange, const char *queue);

#endif
