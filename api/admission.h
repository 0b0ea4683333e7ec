#ifndef API_ADMISSION_H
#define API_ADMISSION_H

/*
 * Who asks, and whether they may: identity, then limits, then the handler. A route's row says what
 * it needs. Before a body is looked at, admission_enter finds the request's identity and takes from
 * the limit that all requests share; a route whose query names a customer has that one named as
 * well. A handler that learns the customer from the body says so with admission_name. Every limit
 * is asked here and nowhere else, and each refusal is answered and counted here.
 *
 * Where keys are asked for, identity is what the request's key may do (auth.h). One that is bound
 * to a customer stands for that one where none is named, and any other customer is as if there were
 * none. Where nobody is asked for a key, a request's identity is the customer that it names.
 *
 * A customer who has moved to another cell, or is on the way, is answered here too (moves.h).
 *
 * Any thread; nothing blocks.
 */

#include <stdbool.h>
#include <stdint.h>

#include "api/key_ring.h"
#include "libcommon/net/httpd.h"

/* Where a request says whom it is about. */
enum admission_subject {
    SUBJECT_NOBODY,
    SUBJECT_IN_QUERY, /* user_id */
    SUBJECT_IN_BODY,  /* the handler calls admission_name */
};

/* Routes that are opened, closed and kept for keys together. */
enum admission_group { GROUP_API, GROUP_METRICS, GROUP_STATUS, GROUP_SWAGGER, ADMISSION_GROUPS };

enum admission_access {
    ACCESS_OPEN, /* nobody is asked for a key */
    ACCESS_KEY,
    ACCESS_OFF, /* as if there were no such path */
};

/* What a route needs: the needs of its row in the table of routes. */
struct admission_needs {
    enum admission_group group;
    unsigned scope; /* what a key must have, of enum key_scope; 0: any key will do */
    enum admission_subject subject;
    bool customer_limit; /* a request takes from its customer's limit too */
    bool read_limit;     /* or from its customer's limit for reads, of which each key has one */
    bool no_limit;       /* ... and not from the one that all share */
};

struct identity {
    int64_t customer_id;  /* 0: nobody is named, or not yet */
    struct key_grant key; /* all 0: nobody was asked for one */
};

struct admission;
struct moves;

struct admission_config {
    int64_t global_rps, global_burst;     /* all routes with needs; 0 a second: no limit */
    int64_t customer_rps, customer_burst; /* each customer, where the route says so */
    int64_t reads_rps, reads_burst;
    enum admission_access access[ADMISSION_GROUPS];
    struct key_ring *ring;              /* outlives it; NULL if no group asks for keys */
    struct moves *moves;                /* outlives it; NULL: nobody moves */
    int64_t stale_ms;                   /* how old the ring may be for a read */
    int64_t failure_rps, failure_burst; /* refused keys of one address; 0 a second: no limit */
};

struct admission *admission_new(const struct admission_config *config);
void admission_free(struct admission *a); /* NULL is fine */

/* For httpd's admit. False: answered. */
bool admission_enter(struct admission *a, struct httpd_request *req);
/* The request is about this customer. False: answered. */
bool admission_name(struct admission *a, struct httpd_request *req, int64_t customer_id);
/* As known so far; valid until the answer. */
const struct identity *admission_identity(struct httpd_request *req);

/* The decisions alone, for both of the above: 0, or the seconds to wait. Refusals are counted. */
int64_t admission_take_global(struct admission *a, const struct identity *who, int64_t now_us);
int64_t admission_take_customer(struct admission *a, const struct admission_needs *needs,
                                const struct identity *who, int64_t now_us);

#endif
