#ifndef API_SERVER_H
#define API_SERVER_H

/*
 * The HTTP face of msg-api: from a request to a committer or a reader, and from their outcome to an
 * answer. Handlers run on the HTTP threads and never block; answers come from the threads that did
 * the work. Order of a send: JSON and fields, per-customer limit, idempotency replay, backpressure,
 * charge.
 */

#include "libcommon/base/err.h"

struct server;

/* Starts committers, readers, sampler, probes and the HTTP server. NULL when the address cannot be
 * bound. */
struct server *server_start(struct err *err);
/* Drains within timeout: no new connections, every accepted request answered, then everything ends.
 */
void server_stop(struct server *s);

#endif
