#ifndef LIBCOMMON_DOMAIN_WEBHOOK_SET_H
#define LIBCOMMON_DOMAIN_WEBHOOK_SET_H

/*
 * Which customers have an endpoint that is called, in memory, so that whoever changes a recipient
 * or a balance of all the others has nothing to ask and nothing to write. One set a process, which
 * webhook_watch.h keeps up to date.
 *
 * A process that keeps none, and one that has heard nothing from the database for a while, does not
 * know: everybody may have one then. What follows is a statement that finds nothing. Any thread;
 * never waits for the database.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* False only if it is known that the customer has none. */
bool webhook_set_may_have(int64_t customer_id);
/* False only if it is known that nobody has one. */
bool webhook_set_any(void);

#define WEBHOOK_SET_FOR_GOOD INT64_MAX

/* From now on these n, sorted, are all; believed until then (monotonic). Copies them. */
void webhook_set_know(const int64_t *customers, size_t n, int64_t until_ms);
/* They still are. */
void webhook_set_believe(int64_t until_ms);
/* From now on nothing is known, as at first. */
void webhook_set_forget(void);

#endif
