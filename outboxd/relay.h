#ifndef OUTBOXD_RELAY_H
#define OUTBOXD_RELAY_H

/*
 * The relay threads (relay_thread.c), each with a database and a broker connection of its own. One
 * batch:
 *
 *   wait until nobody else looks -> look until there are rows (claim.c; poller.c says where) -> let
 *   the next one look -> publish and wait for confirms (publish.c) -> delete, burn, commit -> tell
 *   the poller what is free again
 *
 * One thread of a lane looks at a time, so that those of a process never walk each other's rows;
 * while it publishes, the next one claims beyond. A thread without a broker that takes messages
 * claims nothing. Dead at any point: the row locks go with the connection, rows that were published
 * but not deleted are published again, and the consumer knows them.
 */

#include <stdbool.h>

struct relay;

struct relay *relay_start(void);
/* Ends the threads after the batch in hand. False when some are still busy after timeout_ms: they,
 * and what they use, are left alone then. */
bool relay_stop(struct relay *r, int timeout_ms);

#endif
