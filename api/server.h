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

/* Starts committers, readers, sampler and the HTTP server. NULL when the address cannot be bound.
 */
struct server *server_start(struct err *err);
/* Within the drain's time: no new connections, every accepted request answered, then the threads
 * behind the server end. */
void server_drain(struct server *s);
void server_free(struct server *s); /* after that; NULL is fine */

#endif
