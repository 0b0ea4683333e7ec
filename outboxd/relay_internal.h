#ifndef OUTBOXD_RELAY_INTERNAL_H
#define OUTBOXD_RELAY_INTERNAL_H

/* What relay.c (the threads' life) and relay_thread.c (their work) share; nobody else includes
 * this. */

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "libcommon/base/pause.h"
#include "libcommon/daemon/readiness.h"
#include "outboxd/bell.h"
#include "outboxd/claim.h"
#include "outboxd/publish.h"
#include "outboxd/relay.h"
#include "outboxd/settings.h"

/* The threads of a lane, and where they look. */
struct pool {
    struct relay *relay;
    enum message_type type;
    pthread_mutex_t lock;
    pthread_cond_t nobody_looks;
    pthread_cond_t sooner;   /* the poller may have something to look for before it said */
    bool looking;            /* one of them; the others wait or publish */
    _Atomic int broker_kind; /* err_kind of the trouble last logged; ERR_NONE: fine */
    struct readiness_lane *readiness;
    struct poller poller;
    struct metric *published, *batch_size;
};

struct relay_thread {
    struct pool *pool;
    pthread_t thread;
    struct broker *broker;
    struct claim claim;
    struct publisher publisher;
    struct daemon_beat *beat;
    unsigned db_failures, broker_failures;
    int64_t attended_ms; /* the broker connection was last read */
    int64_t limit;       /* rows; less after a batch that was not confirmed in time */
    bool blocked, opened_before;
    bool stray_close; /* the channel was closed while nothing was under way */
    int64_t pause_ms; /* before anything else: set by what failed, never waited for while
                         looking */
};

struct relay {
    struct pause pause;  /* of all its threads, and the bell's */
    _Atomic int db_kind; /* as a pool's broker_kind */
    _Atomic int blocked; /* connections */
    _Atomic bool waiting_for_schema;
    struct metric *blocked_gauge, *reconnects, *failed[CAUSES], *parked;
    struct bell *bell;
    struct pool pools[MESSAGE_LANES];
    size_t n;
    struct relay_thread *threads;
};

void *relay_thread_main(void *thread);
/* Of struct bell_ear; arg is the relay. */
void relay_heard(void *relay, unsigned what);
void relay_hears(void *relay, bool yes);

#endif
