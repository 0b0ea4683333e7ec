#ifndef CONSUMERD_HELD_WATCH_H
#define CONSUMERD_HELD_WATCH_H

/*
 * How much is held (held.h), and what waits for operators that are not configured any more. A
 * thread looks now and then, for the metrics, and says which operators those are, at start and
 * whenever it changes.
 */

#include <stdint.h>

#include "consumerd/settings.h"

/* What waits in the outbox, up to some thousand messages of a lane and kind. */
struct held_counts {
    int64_t held; /* recipients of messages that are held */
    int64_t gone; /* open recipients that an operator may have which is not configured any more */
    char names[RECIPIENT_UNKNOWN_MAX + 1]; /* of those operators, each once */
};

/* For --check: warns on stdout of what waits for operators that are gone, if the database answers
 * within a second or two. Blocks. */
void held_check(const struct settings *settings);

struct held_watch;

struct held_watch *held_watch_start(const struct settings *settings);
void held_watch_begin_stop(struct held_watch *w); /* so that it ends while other parts drain */
void held_watch_stop(struct held_watch *w);       /* bounded by the database's timeouts */

#endif
