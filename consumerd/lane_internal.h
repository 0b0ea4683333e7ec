#ifndef CONSUMERD_LANE_INTERNAL_H
#define CONSUMERD_LANE_INTERNAL_H

/*
 * What lane.c (thread, connections, consuming, draining), lane_turn.c (claiming), lane_settle.c
 * (settling) and lane_letters.c (members of bundles that a person is to look at) share; nobody else
 * includes this. All of it belongs to the lane's thread, but for what is marked.
 */

#include <pthread.h>
#include <stdatomic.h>

#include "consumerd/claim.h"
#include "consumerd/lane.h"
#include "consumerd/pace.h"
#include "consumerd/results.h"
#include "consumerd/stats.h"
#include "libcommon/base/pause.h"
#include "libcommon/daemon/readiness.h"
#include "libcommon/domain/doorbell.h"

/* Jobs that are to be settled; grows up to what may be in hand. */
struct job_array {
    struct job **jobs;
    size_t n, cap;
};

struct lane {
    struct lane_config config;
    const char *name; /* of the type */
    struct dispatch *dispatch;
    struct db *db;
    struct broker *broker;
    struct daemon_beat *beat;
    struct readiness_lane *readiness;
    pthread_t thread;
    struct pause pause; /* the wait for its end alone */
    bool started;
    _Atomic bool draining, aborting; /* any thread */

    struct worker_lease lease;
    bool leased;
    bool abandoned; /* the dispatch has given up a job: the incarnation is over */

    bool consuming;
    bool probing;         /* takes deliveries one at a time: the next one may be unreadable */
    bool heard_good;      /* while probing: the next one was not */
    bool unreadable;      /* the connection has met one: it is to be left */
    bool acked;           /* in this turn */
    bool connection_lost; /* noticed in the middle of something: lane_exchange sees to it */
    bool drain_begun;
    unsigned broker_failures;
    int64_t broker_retry_at_ms;
    bool heard;    /* a delivery or a subscription since renew_at_ms was set */
    bool doubtful; /* the broker has ended a subscription: the next one is not believed unheard */
    bool renewed;  /* nothing has been delivered since the subscription was renewed for silence */
    int64_t renew_at_ms, renew_after_ms;
    unsigned renewals; /* for silence */

    size_t prefetch, recipients_max;
    size_t deliveries_max;  /* unacknowledged, as the broker is told */
    size_t messages, bytes; /* in memory, whatever their state; a body until its last one is over */
    struct inflight_table hand;
    struct inflight_list arrived; /* delivered, not claimed */
    size_t arrived_count;
    struct inflight_list suspects; /* wait to be alone */
    size_t suspect_count;
    int64_t stale_at_ms; /* what waits of a begun bundle is not stale until then */
    size_t out;          /* jobs that the dispatch has */

    struct inflight_list letters; /* dead members; published, or to be */
    struct broker *letter_broker; /* open while there are any, and a little longer */
    unsigned letter_failures;
    int64_t letter_retry_at_ms;
    int64_t letter_limit_ms; /* for a confirm; with none to come, of the connection */
    struct job_array done, not_done;

    struct pace pace;
    size_t turn_work;        /* messages claimed and recipients settled by this turn */
    int64_t next_turn_at_us; /* by that; on clock_mono_us */
    size_t wake_count;       /* when so much has come, or come back, a turn begins early */
    unsigned db_failures;
    int64_t db_retry_at_ms;
    size_t claim_limit, settle_limit; /* shrink around a message that cannot be written */
};

static inline const struct consumer_settings *lane_limits(const struct lane *l)
{
    return &l->config.settings->consumer;
}

/* lane_settle.c: from an operator's answer to the end of a message. */

/* Takes what the dispatch has finished. */
void lane_settle_collect(struct lane *l);
/* Settles the first of done or not_done, as many as go into a transaction. Blocks. False: the rest
 * has to wait. */
bool lane_settle_some(struct lane *l, struct job_array *a, bool done);
/* The first n of the array are settled, in a transaction that began at start_us, or, if err is
 * given, cannot be. */
void lane_settle_took(struct lane *l, struct job_array *a, size_t n, int64_t start_us,
                      const struct err *err);
int lane_settle_fail_if_asked(struct err *err); /* a failpoint, behind a COMMIT */
void lane_count_event(const struct lane *l, const struct inflight *m, enum stats_event event);
/* The database is left alone for a while. */
void lane_db_failed(struct lane *l, const char *what, const struct err *err);

/* lane_turn.c: claims what has arrived; one turn of both. */

/* Settles what is finished and claims what has arrived, as far as the database answers. */
void lane_turn_work(struct lane *l);
/* Whether lane_turn_work has anything to do now. */
bool lane_turn_has_work(const struct lane *l);
/* When a suspect that waits may have its turn, if it is for the time alone. */
int64_t lane_turn_opens_ms(const struct lane *l);
/* Forgets every message in hand; the dispatch has none of them. */
void lane_turn_forget(struct lane *l);

/* lane.c */

/* A message goes, over or not. */
void lane_let_go(struct lane *l, struct inflight *m);
/* Takes what the broker has delivered; a lost connection is seen to here. */
void lane_exchange(struct lane *l);
/* Until there is something to do, and the pause between turns is over or filled. */
void lane_wait_for_something(struct lane *l);
/* The message is over, and freed. With the last of its arrival that is acknowledged, if its
 * connection is still the same. */
void lane_over(struct lane *l, struct inflight *m);
/* Likewise; a person is to look at it. One of a bundle is over when its letter is with the broker.
 * detail: says more; or NULL. */
void lane_dead_letter(struct lane *l, struct inflight *m, enum stats_dead reason,
                      const char *detail);
/* What is not claimed, and what waits to be a letter, comes again. */
void lane_drop_arrived(struct lane *l);

/* lane_letters.c: a member of a bundle cannot be rejected alone. It is published to the dead-letter
 * exchange, as the broker would have it there of a message alone, on a connection of its own (an
 * alarm blocks all of one that publishes), and is over with the confirm. A crash in between makes
 * a second letter. Nothing here waits, but for the connection.
 *
 * A letter that is refused is published anew, later, and it alone. The lane goes on meanwhile:
 * after a minute, or when many wait for what the broker does not take, all of the bundle is
 * rejected in the letter's place. The broker keeps it as it would a message alone (at-least-once),
 * and a replay brings every member back. */

void lane_letters_add(struct lane *l, struct inflight *m);
/* Publishes, and takes what has been confirmed. */
void lane_letters_turn(struct lane *l);
/* When lane_letters_turn wants to be called though nothing comes. */
int64_t lane_letters_due_ms(const struct lane *l);
void lane_letters_drop(struct lane *l);

#endif
