#ifndef OPERATOR_SIM_RECEIPTS_H
#define OPERATOR_SIM_RECEIPTS_H

/*
 * Sends receipts over HTTP, from a thread of its own: what is due, so many at a time. One that is
 * not answered with 2xx is sent again, at growing intervals, and given up after some; a forged one
 * is sent once. Receipts wait in memory and are gone with the process. Bounded: one that finds no
 * room is dropped and counted.
 *
 * Signed with HMAC-SHA256 in hexadecimal where there is a key: the body, or for a GET the address
 * with its query. Any thread may call, but for new, stop and free; nothing blocks but
 * these.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "operator-sim/receipt_plan.h"

struct receipts_config {
    const char *name; /* the operator's */
    const char *key;  /* "": nothing is signed */
    uint64_t seed;
    size_t max;       /* receipts at a time, waiting or under way */
    size_t in_flight; /* requests at a time */
    /* A final receipt has been taken (2xx). On the receipts' thread; no lock is held. */
    void (*taken)(void *arg, const char *reference, bool delivered);
    void *arg;
};

struct receipts_counts {
    uint64_t waiting, in_flight;
    uint64_t taken, given_up, again; /* true ones; again: tries after the first */
    uint64_t forged_taken, forged_refused;
    uint64_t dropped;
};

struct receipts;

/* config's texts outlive it. Never NULL. */
struct receipts *receipts_new(const struct receipts_config *config,
                              const struct receipt_plan *plan);
/* How they are sent changes at once; which a message gets, for those to come. */
void receipts_set(struct receipts *r, const struct receipt_plan *plan);
void receipts_get(struct receipts *r, struct receipt_plan *plan);
struct receipts_counts receipts_counts(struct receipts *r);
/* What answers have of the plan; takes no lock. */
struct receipts_answer {
    enum receipt_id id;
    unsigned parts;
};
struct receipts_answer receipts_answer(const struct receipts *r);
/* A message that was taken. */
struct receipts_message {
    const char *reference;
    const char *echo; /* what receipts say in the reference's place; NULL: the reference */
    const char *url;  /* where it wants them; NULL: where the plan says */
    uint64_t number;  /* the one in its id */
};
/* How much later than otherwise the message is to be answered, so that they come first, in µs. */
int64_t receipts_add(struct receipts *r, const struct receipts_message *m);
void receipts_stop(struct receipts *r); /* ends the thread; what waits is never sent */
void receipts_free(struct receipts *r); /* NULL is fine */

#endif
