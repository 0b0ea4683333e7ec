#ifndef CONSUMERD_WEBHOOK_POST_H
#define CONSUMERD_WEBHOOK_POST_H

/*
 * Calls customers' endpoints: one thread with an event loop, which never waits for the database
 * (webhook_desk.h does). It is given rounds, an endpoint and a page of its events each, and gives
 * back every call that is over, and at last the round. An endpoint begins with one call out at a
 * time and has one more with each that succeeds; a failure takes it back to one. Those with one
 * have half of all together at most, and a round that sees WEBHOOK_PAUSE_AFTER failures in a row,
 * or is asked to wait, ends early. So nobody waits for one that is slow or dead but itself.
 *
 * curl opens no connection by itself: each address is judged (webhook_guard.h) where its socket is
 * opened, so what is judged is what is connected to. Connections are kept by endpoint, no proxy is
 * used, redirects are not followed, and of an answer the status and Retry-After are read.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "consumerd/webhook_guard.h"
#include "libcommon/domain/webhook_queue.h"

#define WEBHOOK_PAUSE_AFTER 3 /* failures in a row */

enum webhook_result {
    WEBHOOK_OK,        /* 2xx */
    WEBHOOK_GONE,      /* 410 */
    WEBHOOK_THROTTLED, /* 429 */
    WEBHOOK_REDIRECT,  /* 3xx */
    WEBHOOK_REFUSED,   /* other 4xx */
    WEBHOOK_ERROR,     /* 5xx, and what is no status */
    WEBHOOK_TIMEOUT,
    WEBHOOK_UNREACHABLE, /* no connection, or no usable answer */
    WEBHOOK_BLOCKED,     /* an address inside */
    WEBHOOK_RESULTS,
};

const char *webhook_result_name(enum webhook_result result);
enum webhook_result webhook_result_of(long status); /* of an answer */

struct webhook_round {
    TAILQ_ENTRY(webhook_round) link;
    struct webhook_page page;
    void *owner; /* whoever gave it */

    /* Of the loop. */
    struct webhook_target *target;
    size_t next; /* event */
    unsigned active, failures;
    bool stopped;
};
TAILQ_HEAD(webhook_rounds, webhook_round);

/* A call that is over; n 0: the round is. */
struct webhook_posted {
    TAILQ_ENTRY(webhook_posted) link;
    struct webhook_round *round;
    size_t first, n; /* events of its page */
    enum webhook_result result;
    unsigned status;
    int64_t ended_ms, took_us, rest_ms; /* asked for by Retry-After; 0: nothing was */
    uint64_t call_no;                   /* for whoever takes it */
};
TAILQ_HEAD(webhook_posted_list, webhook_posted);

struct webhook_post_config {
    struct webhook_guard guard;
    const char *tls_ca; /* "": the system's */
    int64_t timeout_ms, in_flight, in_flight_each;
    void (*poke)(void *arg); /* something is over; any thread's work, called on the loop's */
    void *arg;
};

struct webhook_post;

struct webhook_post *webhook_post_start(const struct webhook_post_config *config);
/* No call begins after that time (monotonic). */
void webhook_post_allow_until(struct webhook_post *p, int64_t until_ms);
void webhook_post_give(struct webhook_post *p, struct webhook_round *round);
/* Moves what is over to list, in its order. */
void webhook_post_take(struct webhook_post *p, struct webhook_posted_list *list);
/* Nothing begins any more; rounds end with the calls that are out. */
void webhook_post_drain(struct webhook_post *p);
/* Ends the thread, and the calls that are out. Rounds that were not given back are the caller's. */
void webhook_post_stop(struct webhook_post *p);

#endif
