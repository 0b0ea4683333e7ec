#ifndef API_AUTH_H
#define API_AUTH_H

/*
 * Whether a request brings a key that its route takes. A key comes as "Authorization: Bearer" or as
 * X-Api-Key; the ring knows it (key_ring.h). What is refused is answered and counted here and, at a
 * rate that each address has of its own, logged; beyond that rate the address hears 429.
 *
 * How long a ring that hears nothing from the database is believed hangs on the route's scope: what
 * moves money, governs or says where to call, AUTH_MONEY_STALE_MS, so that a revoked key is dead by
 * then; reads as long as configured. Figures are shown for as long as the process lives: who
 * watches an outage shall not go blind in it.
 *
 * Any thread; nothing blocks.
 */

#include <stdbool.h>
#include <stdint.h>

#include "api/key_ring.h"

#define AUTH_MONEY_STALE_MS 3000

struct httpd_request;
struct auth;

enum auth_verdict {
    AUTH_OK,
    AUTH_MISSING,     /* no key */
    AUTH_CONFLICTING, /* two */
    AUTH_MALFORMED,   /* not one of ours by its shape or checksum */
    AUTH_UNKNOWN,
    AUTH_EXPIRED,
    AUTH_REVOKED,
    AUTH_ELSEWHERE, /* not from this address */
    AUTH_SCOPE,     /* it lacks the route's */
    AUTH_CUSTOMER,  /* it is bound to another one than the request names */
    AUTH_STALE,     /* nobody knows: the ring is too old */
    AUTH_VERDICTS
};

struct auth_config {
    struct key_ring *ring; /* outlives it */
    int64_t stale_ms;      /* for reads */
    int64_t failure_rps, failure_burst;
};

struct auth *auth_new(const struct auth_config *config);
void auth_free(struct auth *a); /* NULL is fine */

/* The judgement alone. The headers' values, NULL: absent; scope: of enum key_scope, 0 if any key
 * will do. *grant counts only with AUTH_OK. */
enum auth_verdict auth_judge(struct auth *a, const char *authorization, const char *x_api_key,
                             const char *peer, unsigned scope, struct key_grant *grant);

/* Fills *grant, all 0 before, with what the request's key may do. False: answered. */
bool auth_identify(struct auth *a, struct httpd_request *req, unsigned scope,
                   struct key_grant *grant);
/* Answers that there is no such customer, as for one that there is. */
void auth_refuse_customer(struct auth *a, struct httpd_request *req, uint64_t key_id);
/* The same, of something that no customer is named for. */
void auth_reply_absent(struct httpd_request *req);

#endif
