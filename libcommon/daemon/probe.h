#ifndef LIBCOMMON_DAEMON_PROBE_H
#define LIBCOMMON_DAEMON_PROBE_H

/*
 * Watches one dependency from a thread and a connection of its own, so that readiness can be
 * answered at once, whatever hangs: a check that has not come back for a while counts as failed.
 */

#include <stdbool.h>

#include "libcommon/broker/broker.h"
#include "libcommon/db/db.h"

struct probe;

/* "mysql"; down until the schema that this build needs is there, and while it takes no writes */
struct probe *probe_db(const struct db_settings *settings);
struct probe *probe_broker(const struct broker_settings *settings); /* "rabbitmq" */
bool probe_ok(const struct probe *p); /* the last check succeeded, at most 2 s ago; any thread */
/* For people: "ok", "read-only" or "unavailable". */
const char *probe_state(const struct probe *p);
const char *probe_name(const struct probe *p);
void probe_free(struct probe *p); /* ends the thread; NULL is fine; bounded */

#endif
