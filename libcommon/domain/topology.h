#ifndef LIBCOMMON_DOMAIN_TOPOLOGY_H
#define LIBCOMMON_DOMAIN_TOPOLOGY_H

/*
 * What every daemon agrees on at the broker: the exchange, and a queue for each lane. The rows fill
 * the second half of struct broker_settings. Pure.
 */

#include "libcommon/broker/broker.h"
#include "libcommon/domain/message.h"

extern const struct setting topology_settings_rows[];

/* What no single row can tell: appends a line to errors for each fault, returns their number. */
size_t topology_check(const struct broker_settings *settings, struct buf *errors);

/* The queue (and routing key) of a lane. */
const char *topology_queue(const struct broker_settings *settings, enum message_type type);

/* Most messages of that lane in one AMQP message (bundle.h), at least 1. Express ones are few, so
 * that one is not sent late for its neighbours. */
size_t topology_bundle_max(const struct broker_settings *settings, enum message_type type);

#endif
