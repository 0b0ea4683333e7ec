#ifndef CONSUMERD_WEBHOOK_DESK_H
#define CONSUMERD_WEBHOOK_DESK_H

/*
 * Delivers events to customers' endpoints: one thread with a database connection. It takes leases
 * on endpoints with something due (webhook_queue.h), reads a page of each one's events, has them
 * sent (webhook_post.h), and writes down what came of it, many calls in one transaction, while
 * others are out. An endpoint whose page is over gets the next one at once, until nothing is due.
 *
 * An event goes out again on a schedule of its own until it is delivered or the schedule is over.
 * Beside that an endpoint rests after WEBHOOK_PAUSE_AFTER failures in a row: for the schedule's
 * first wait, then twice as long each time, up to its second. It is called no more when it answers
 * 410, or when everything has failed for WEBHOOK_DISABLE_AFTER_SEC.
 *
 * Database away: what is out ends, and is written down later or delivered again. Killed: what was
 * not written down is delivered again when the lease has run out.
 */

#include "consumerd/settings.h"

struct webhook_desk;

/* Most file descriptors that it needs beside the database's; 0: it does not run here. */
int64_t webhook_desk_descriptors(const struct settings *settings);

struct webhook_desk *webhook_desk_start(const struct settings *settings);
void webhook_desk_begin_stop(struct webhook_desk *d); /* nothing new goes out; NULL is fine */
/* Waits for what is out within the drain's time, writes it down, and frees it. NULL is fine. */
void webhook_desk_stop(struct webhook_desk *d);

#endif
