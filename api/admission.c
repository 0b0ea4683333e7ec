#include "api/admission.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/auth.h"
#include "api/limiter.h"
#include "api/moves.h"
#include "api/query.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/telemetry/metrics.h"

struct limit {
    struct limiter *buckets;
    struct metric *refused;
};

struct admission {
    struct limit global, customer, reads;
    enum admission_access access[ADMISSION_GROUPS];
    struct auth *auth; /* NULL: no group asks for keys */
    struct moves *moves;
};

_Static_assert(sizeof(struct identity) <= HTTPD_ROOM, "an identity stays with its request");

static void open_limit(struct limit *limit, int64_t rps, int64_t burst, const char *labels)
{
    limit->buckets = limiter_new(rps, burst);
    limit->refused =
        metrics_counter("rate_limited_requests_total", "Requests refused by a rate limit.", labels);
}

struct admission *admission_new(const struct admission_config *config)
{
    const struct auth_config auth = {.ring = config->ring,
                                     .stale_ms = config->stale_ms,
                                     .failure_rps = config->failure_rps,
                                     .failure_burst = config->failure_burst};
    struct admission *a = must_alloc(1, sizeof(*a));

    open_limit(&a->global, config->global_rps, config->global_burst, "scope=\"global\"");
    open_limit(&a->customer, config->customer_rps, config->customer_burst, "scope=\"user\"");
    open_limit(&a->reads, config->reads_rps, config->reads_burst, "scope=\"user\"");
    memcpy(a->access, config->access, sizeof(a->access));
    a->auth = config->ring ? auth_new(&auth) : NULL;
    a->moves = config->moves;
    return a;
}

void admission_free(struct admission *a)
{
    if (!a)
        return;
    limiter_free(a->global.buckets);
    limiter_free(a->customer.buckets);
    limiter_free(a->reads.buckets);
    auth_free(a->auth);
    free(a);
}

static int64_t take(struct limit *limit, int64_t key, int64_t now_us)
{
    int64_t wait_sec = limiter_take(limit->buckets, key, now_us);

    if (wait_sec)
        metrics_add(limit->refused, 1);
    return wait_sec;
}

/* One bucket, whoever asks. */
int64_t admission_take_global(struct admission *a, const struct identity *who, int64_t now_us)
{
    (void)who;
    return take(&a->global, 0, now_us);
}

/* A customer's keys do not take from each other: one that runs wild leaves the others theirs. Keys
 * are few, and limiters bear with two that share a bucket. */
static int64_t reader_of(const struct identity *who)
{
    return (int64_t)((uint64_t)who->customer_id ^ who->key.key_id << 40);
}

int64_t admission_take_customer(struct admission *a, const struct admission_needs *needs,
                                const struct identity *who, int64_t now_us)
{
    if (needs->customer_limit)
        return take(&a->customer, who->customer_id, now_us);
    return needs->read_limit ? take(&a->reads, reader_of(who), now_us) : 0;
}

/* Whether the request may go on; answers when it must wait. */
static bool pass(struct httpd_request *req, int64_t wait_sec)
{
    if (!wait_sec)
        return true;
    httpd_reply_retry(req, 429, LIMITER_CODE, LIMITER_MESSAGE, wait_sec);
    return false;
}

static struct identity *identity_of(struct httpd_request *req)
{
    return httpd_room(req);
}

const struct identity *admission_identity(struct httpd_request *req)
{
    return identity_of(req);
}

/* What the request may do, for all that its route's group asks. False: answered. */
static bool identify(struct admission *a, struct httpd_request *req,
                     const struct admission_needs *needs, struct identity *who)
{
    switch (a->access[needs->group]) {
    case ACCESS_OPEN:
        return true;
    case ACCESS_KEY:
        MUST(a->auth != NULL);
        return auth_identify(a->auth, req, needs->scope, &who->key);
    default:
        httpd_reply_error(req, 404, "not_found", "There is nothing at this path.", NULL);
        return false;
    }
}

/* Keys come before the limit that all share: who has none takes nothing from those who do. */
bool admission_enter(struct admission *a, struct httpd_request *req)
{
    const struct admission_needs *needs = httpd_needs(req);
    struct identity *who = identity_of(req);
    int64_t customer_id;

    MUST(needs != NULL); /* a route that states nothing goes without admission */
    if (!identify(a, req, needs, who))
        return false;
    if (!needs->no_limit && !pass(req, admission_take_global(a, who, clock_mono_us())))
        return false;
    if (needs->subject != SUBJECT_IN_QUERY)
        return true;
    return query_number(req, "user_id", 1, INT64_MAX, who->key.customer_id, &customer_id) &&
           admission_name(a, req, customer_id);
}

bool admission_name(struct admission *a, struct httpd_request *req, int64_t customer_id)
{
    const struct admission_needs *needs = httpd_needs(req);
    struct identity *who = identity_of(req);

    MUST(needs->subject != SUBJECT_NOBODY);
    if (who->key.customer_id && who->key.customer_id != customer_id) {
        auth_refuse_customer(a->auth, req, who->key.key_id);
        return false;
    }
    who->customer_id = customer_id;
    httpd_set_user(req, customer_id);
    if (moves_refuse(a->moves, req, customer_id, needs->scope != KEY_READ))
        return false;
    return pass(req, admission_take_customer(a, needs, who, clock_mono_us()));
}
