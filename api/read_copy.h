#ifndef API_READ_COPY_H
#define API_READ_COPY_H

/*
 * A reader's connection to a replica (DB_READ_HOST), for what may be told as it was a while ago: a
 * customer's history, never what decides about money. How old the replica is, is asked before each
 * use: since the newest heartbeat of a msg-consumerd that has reached it, by its own clock. Too
 * old, away, or nobody beats: the primary answers. Belongs to one thread; blocks.
 */

#include <stdbool.h>

#include "api/settings.h"

struct read_copy;
struct read_copy *read_copy_new(const struct api_settings *settings); /* NULL: no DB_READ_HOST */
void read_copy_free(struct read_copy *c);                             /* NULL is fine */

/* Its connection, young enough; read_copy_release ends the use. NULL: ask the primary. */
struct db *read_copy_acquire(struct read_copy *c);
void read_copy_release(struct read_copy *c, bool answered);

#endif
