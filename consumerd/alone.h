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
 *             express lane neither, whose hand is soon empty
 *   alone     one lane has one suspect after the other in hand, for ALONE_MS at most, and as long
 *             as the last one takes; then it is open for as long as that was
 *
 * Bounded, as what is in hand is: by the operators' timeouts. Lanes whose turn it may be are poked.
 * Any thread; never blocks.
 */

#include "consumerd/job_queue.h"
#include "libcommon/domain/message.h"

struct alone;

struct alone *alone_new(struct job_queue *const queues[MESSAGE_LANES]);
void alone_free(struct alone *a); /* NULL is fine */

/* Whether the lane may claim what is no suspect. True from alone_join: it counts as having
 * something in hand until alone_tell says otherwise. */
bool alone_may_join(struct alone *a, enum message_type lane);
bool alone_join(struct alone *a, enum message_type lane);

/* Whether the lane, with nothing in hand, may claim a suspect. True from alone_begin: it is alone
 * until alone_tell. */
bool alone_may_begin(struct alone *a, enum message_type lane);
bool alone_begin(struct alone *a, enum message_type lane);
/* Before that, alone_may_begin is false; on clock_mono_ms. */
int64_t alone_due_ms(struct alone *a);

/* What the lane has now: something in hand, suspects that wait. */
void alone_tell(struct alone *a, enum message_type lane, bool in_hand, bool suspects);

#endif
