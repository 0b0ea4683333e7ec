#ifndef OUTBOXD_BELL_H
#define OUTBOXD_BELL_H

/*
 * Hears the doorbell (libcommon/domain/doorbell.h): a thread with a connection and a queue of its
 * own, which is declared again after every reconnect and bound again every few seconds, for an
 * exchange that was deleted takes the binding with it and nobody says so.
 */

#include <stdbool.h>

#include "libcommon/base/pause.h"
#include "libcommon/broker/broker.h"

struct bell_ear {
    void *arg;
    void (*heard)(void *arg, unsigned what); /* DOORBELL_FRESH, DOORBELL_LATER; on its thread */
    void (*hears)(void *arg, bool yes);      /* from now on rings can arrive, or none */
};

struct bell;

/* settings stay the caller's, and in place; the thread is one of pause's. */
struct bell *bell_start(const struct broker_settings *settings, const struct bell_ear *ear,
                        struct pause *pause);
void bell_wake(struct bell *b); /* after pause_stop: it is to end */
void bell_free(struct bell *b); /* after pause_ended */

#endif
