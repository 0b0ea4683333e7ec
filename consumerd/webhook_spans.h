#ifndef CONSUMERD_WEBHOOK_SPANS_H
#define CONSUMERD_WEBHOOK_SPANS_H

/*
 * A call of an endpoint as spans: one for each message that it told of, in that message's trace and
 * sampled as it was, a child of the context that is stored with the message. What is told of no
 * message, and messages that are not traced, cost a branch. Never blocks; of the endpoint's URL the
 * host alone, never a recipient or a text.
 */

#include "consumerd/webhook_post.h"

/* When the call is over. */
void webhook_spans_called(const struct webhook_posted *posted);

#endif
