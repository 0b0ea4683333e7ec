#ifndef CONSUMERD_REPAIR_H
#define CONSUMERD_REPAIR_H

/*
 * Brings messages back that nobody works on any more: the broker lost its data, a queue was purged.
 * A candidate has a recipient that is not final and has not moved for a while, no outbox row, no
 * parked row and no living owner (WORKER_DEAD_SEC), and is not one that was given up on for killing
 * consumers (DELIVERY_TAKEOVERS_MAX). It may still wait in a queue: so nothing is done while the
 * lane's queue, each AMQP message taken for a full bundle, with what the consumers hold unclaimed,
 * is at least as long as the list of candidates; but for those, 100 a search, that the queue's
 * order shows to be lost: messages of the lane that were accepted REPAIR_AFTER_SEC after the
 * candidate must have been published are with consumers already. So repairs come to an end on a
 * lane that is never empty, and what is repaired without need is little. A repaired message goes
 * into the outbox once more under an event type of its own; a late original is harmless, because
 * recipients are claimed by owner and attempt. Each further repair of a message waits twice as
 * long; after REPAIR_MAX of them an alert stands in its place.
 *
 * One process at a time, by a named lock. A thread with connections of its own. The same process
 * counts what is published and not final (consumerd/published.h), and the age of the oldest
 * recipient that is not final.
 */

#include "consumerd/settings.h"

struct repair;
struct doorbell;

/* NULL: switched off, which is fine for the others. */
struct repair *repair_start(const struct settings *settings, struct doorbell *doorbell);
void repair_begin_stop(struct repair *r); /* so that it ends while other parts drain */
void repair_stop(struct repair *r);       /* bounded by the database's and the broker's timeouts */

#endif
