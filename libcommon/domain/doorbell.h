#ifndef LIBCOMMON_DOMAIN_DOORBELL_H
#define LIBCOMMON_DOMAIN_DOORBELL_H

/*
 * Whoever has committed outbox rows rings, and every msg-outboxd that hears it (outboxd/bell.h)
 * looks at once. Nothing but latency depends on it: a ring may be lost.
 *
 * A ring is a transient, unconfirmed message on the fanout exchange <exchange>.doorbell that says
 * what there is. It leaves from a thread and a connection of its own, and rings are gathered: after
 * one, the next ones wait some milliseconds and leave as one; longer while they come in numbers.
 * While the broker is away, slow or blocks the connection, rings are dropped and counted.
 */

#include <stddef.h>
#include <stdint.h>

#include "libcommon/base/buf.h"
#include "libcommon/broker/broker.h"
#include "libcommon/domain/message.h"

#define DOORBELL_NAME_SIZE 256 /* an exchange's name has 200 bytes at most */

/* What there is in a lane, as a set. */
#define DOORBELL_FRESH(lane) (1u << (lane))                   /* rows to be published at once */
#define DOORBELL_LATER(lane) (1u << ((lane) + MESSAGE_LANES)) /* rows that are put off */

struct doorbell;

/* settings stay the caller's, and in place. */
struct doorbell *doorbell_start(const struct broker_settings *settings);
/* The last ring leaves, for what has been rung for until now; does not wait. */
void doorbell_begin_stop(struct doorbell *d); /* NULL is fine */
/* Waits for the thread's end, which may be in a call to the broker: last of all. */
void doorbell_stop(struct doorbell *d); /* NULL is fine; bounded */
/* After the commit. Any thread; takes no lock and waits for nothing. NULL is fine. */
void doorbell_ring(struct doorbell *d, unsigned what);
/* For a verb that is about to end: rings once, within a second or two, if that is possible. */
void doorbell_ring_once(const struct broker_settings *settings, unsigned what);

/* The time from a ring to the next, after one in which it was asked for so often; 0: the first. */
int64_t doorbell_gap_ms(int64_t gap_ms, unsigned asked);

/* What a ring carries, and the other way round: what is not known is left out. */
void doorbell_put(struct buf *out, unsigned what);
unsigned doorbell_parse(const void *text, size_t n);
/* The settings of a connection for rings: nobody waits long for it. */
struct broker_settings doorbell_settings(const struct broker_settings *settings);
/* "<exchange>.doorbell" */
void doorbell_exchange(const struct broker_settings *settings, char out[DOORBELL_NAME_SIZE]);
/* That there can be no ring, and a person must mend it (NULL: there can): a warning, logged once.
 */
void doorbell_warn(const struct err *err);

#endif
