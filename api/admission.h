#ifndef API_ADMISSION_H
#define API_ADMISSION_H

/*
 * Who asks, and whether they may: identity, then limits, then the handler. A route's row says what
 * it needs. Before a body is looked at, admission_enter finds the request's identity and takes from
 * the limit that all requests share; a route whose query names a customer has that one named as
 * well. A handler that learns the customer from the body says so with admission_name. Every limit
 * is asked here and nowhere else, and each refusal is answered and counted here.
 *
 * For now nobody proves who they are: a request's identity is the customer that it names. Keys,
 * their scopes and the refusal of what they do not cover belong into admission_enter (who the
 * request comes from) and admission_name (whether that one may name this customer).
 *
 * Any thread; nothing blocks.
 */

#include <stdbool.h>
#include <stdint.h>

#include "libcommon/net/httpd.h"

/* Where a request says whom it is about. */
enum admission_subject {
    SUBJECT_NOBODY,
    SUBJECT_IN_QUERY, /* user_id */
    SUBJECT_IN_BODY,  /* the handler calls admission_name */
};

/* What a route needs: the needs of its row in the table of routes. */
struct admission_needs {
    enum admission_subject subject;
    bool customer_limit; /* a request takes from its customer's limit too */
    bool read_limit;     /* or from its customer's limit for reads */
};

struct identity {
    int64_t customer_id; /* 0: nobody is named, or not yet */
};

struct admission;

struct admission_config {
    int64_t global_rps, global_burst;     /* all routes with needs; 0 a second: no limit */
    int64_t customer_rps, customer_burst; /* each customer, where the route says so */
    int64_t reads_rps, reads_burst;
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
