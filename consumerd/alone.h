#ifndef CONSUMERD_ALONE_H
#define CONSUMERD_ALONE_H

/*
 * Which lane of this process may claim what. A suspect may kill us, and everything in hand dies
 * with it; so it is claimed when no lane has anything in hand, and until it is over nobody claims.
 * What died in company becomes a suspect before it is over, and from then on dies only by itself:
 * however many killers there are, nobody else's count comes to DELIVERY_TAKEOVERS_MAX.
 *
 *   open      everybody claims
 *   closing   a suspect waits: the normal lane claims no more; when it has nothing in hand, the
 *             express lane neither, whose hand is soon empty. If the suspect is not begun by then,
 *             it is open for ALONE_CLOSED_MS_MAX after as long, and so on in turn
 *   alone     one lane has one suspect after the other in hand, and begins none after ALONE_MS or
 *             when the other lane has one that waits; then it is open for as long as that was
 *
 * So each lane claims something again and again, whatever the other cannot do, but for as long as
 * one suspect is in hand: until the operators' timeouts, and until the database takes its result.
 * Lanes whose turn it may be are poked, unless it is for the time alone. Any thread; never blocks.
 */

#include <stdint.h>

#include "consumerd/job_queue.h"
#include "libcommon/domain/message.h"

#define ALONE_CLOSED_MS_MAX                                               \
    30000 /* an operator's usual timeouts, and a database that fails over \
           */

struct alone;

struct alone *alone_new(struct job_queue *const queues[MESSAGE_LANES], int64_t closed_ms_max);
void alone_free(struct alone *a); /* NULL is fine */

/* Whether the lane may claim what is no suspect. True from alone_join: it counts as having
 * something in hand until alone_tell says otherwise. */
bool alone_may_join(struct alone *a, enum message_type lane);
bool alone_join(struct alone *a, enum message_type lane);

/* Whether the lane, with nothing in hand, may claim a suspect, or, if it is alone, has to say that
 * it does not (alone_tell). True from alone_begin: it claims, and is alone until alone_tell. */
bool alone_may_begin(struct alone *a, enum message_type lane);
bool alone_begin(struct alone *a, enum message_type lane);
/* Before that, alone_may_begin is false; on clock_mono_ms. */
int64_t alone_due_ms(struct alone *a);

/* What the lane has now: something in hand, suspects that wait for nothing but their turn. */
void alone_tell(struct alone *a, enum message_type lane, bool in_hand, bool suspects);

#endif
