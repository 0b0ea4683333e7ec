#ifndef CONSUMERD_REPAIR_INTERNAL_H
#define CONSUMERD_REPAIR_INTERNAL_H

/*
 * What repair.c (the thread, its turns, what it decides), repair_walk.c (the search),
 * repair_enqueue.c (the way back into the outbox) and repair_count.c (how many are published)
 * share; nobody else includes this. All of it belongs to the repair's thread, but for the pause.
 */

#include <pthread.h>

#include "consumerd/repair.h"
#include "libcommon/base/pause.h"
#include "libcommon/broker/broker.h"
#include "libcommon/db/db.h"
#include "libcommon/domain/doorbell.h"
#include "libcommon/domain/message.h"

#define REPAIR_RANGES_MAX 5000 /* stretches with open messages that are counted: the youngest */
#define REPAIR_NAMED_MAX 10    /* hopeless messages whose ids are logged */

struct candidate {
    char id[MESSAGE_ID_MAX + 1];
    int64_t published; /* not later than that, if nothing kept the publisher; in seconds */
};

struct candidates {
    struct candidate *list; /* at most repair_max_batch: the oldest */
    size_t n;
    uint64_t count;    /* all of them */
    uint64_t hopeless; /* repaired REPAIR_MAX times already */
    int64_t claimed;   /* when the youngest that a consumer has had was accepted; in seconds */
};

/* What a walk has found. */
struct repair_found {
    struct candidates lanes[MESSAGE_LANES];
    char named[REPAIR_NAMED_MAX][MESSAGE_ID_MAX + 1]; /* the oldest hopeless ones */
    size_t named_count;
    int64_t oldest; /* since when the oldest open recipient waits, in seconds; 0: none is open */
};

/* Rows of message_status, some of them open. */
struct repair_range {
    int64_t after, last; /* ids */
    int64_t rows, open[MESSAGE_LANES];
};

struct repair {
    const struct settings *settings;
    pthread_t thread;
    struct pause pause;
    struct db *db;
    struct broker *broker;
    struct doorbell *doorbell;
    int64_t low; /* every recipient up to this id is final */
    int64_t turn_started_ms, last_wait_ms;
    bool failing, schema_seen;
    struct repair_found found;
    struct repair_range *ranges; /* beyond low, with open messages; the others are final */
    size_t range_count;
    int64_t counted; /* the last id that was looked at */
    struct db_packet packet;
    struct metric *candidates[MESSAGE_LANES], *repaired[MESSAGE_LANES], *hopeless, *oldest;
};

void repair_walk_register(void);
/* Looks at every recipient from the lowest open one to those that are too young, into r->found.
 * -1, or 1 when the thread is to stop. */
int repair_walk(struct repair *r, struct err *err);

void repair_count_register(void);
/* Counts the messages that are published and not final. Looks at what is new, and again at the
 * stretches that had open ones: an old straggler costs its own stretch, not all that came after.
 * -1, or 1 when the thread is to stop. */
int repair_count(struct repair *r, int64_t open[MESSAGE_LANES], struct err *err);

void repair_enqueue_register(void);
/* Puts those messages into the outbox once more, by one transaction: their open recipients that are
 * in nobody's hands. *done: how many messages that were. */
int repair_enqueue(struct repair *r, const struct candidate *list, size_t n, size_t *done,
                   struct err *err);

#endif
