#ifndef OUTBOXD_RELAY_H
#define OUTBOXD_RELAY_H

/*
 * The worker threads, each with a database and a broker connection of its own. One batch:
 *
 *   take the lane's turn -> look until there are rows (claim.c; lane.c says where) -> give the turn
 * on
 *   -> publish and wait for confirms (publish.c) -> delete, burn, commit -> tell the lane what is
 * free again
 *
 * Only the holder of the turn looks, so that workers of a process never walk each other's rows;
 * while it publishes, the next one claims beyond. A worker without a broker that takes messages
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
