#include "api/auth.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "api/key_text.h"
#include "api/limiter.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/net/address.h"
#include "libcommon/net/httpd.h"
#include "libcommon/telemetry/log.h"
#include "libcommon/telemetry/metrics.h"

#define REALM "Bearer realm=\"messaging-platform\""
#define INVALID REALM ", error=\"invalid_token\""
/* One sentence for all of them: whoever tries keys learns nothing but that none fits. */
#define NOT_VALID \
    "The API key is not valid here: unknown, expired, revoked, or not for this address."

/* How each verdict is answered and counted. */
static const struct {
    const char *reason; /* for the metric and the log */
    int status;
    const char *challenge; /* WWW-Authenticate */
    const char *message;
} refusals[AUTH_VERDICTS] = {
    [AUTH_MISSING] = {"missing", 401, REALM,
                      "An API key is needed, as Authorization: Bearer or as X-Api-Key."},
    [AUTH_CONFLICTING] = {"conflicting", 401, REALM ", error=\"invalid_request\"",
                          "Authorization and X-Api-Key hold different keys."},
    [AUTH_MALFORMED] = {"malformed", 401, INVALID, NOT_VALID},
    [AUTH_UNKNOWN] = {"unknown", 401, INVALID, NOT_VALID},
    [AUTH_EXPIRED] = {"expired", 401, INVALID, NOT_VALID},
    [AUTH_REVOKED] = {"revoked", 401, INVALID, NOT_VALID},
    [AUTH_ELSEWHERE] = {"address", 401, INVALID, NOT_VALID},
    [AUTH_SCOPE] = {"scope", 403, NULL, NULL},
    [AUTH_CUSTOMER] = {"customer", 404, NULL, NULL},
    [AUTH_STALE] = {"stale", 503, NULL,
                    "Keys cannot be checked: the database is not available. Please retry later."},
};

struct auth {
    struct auth_config config;
    struct limiter *failures; /* by address */
    struct metric *limited, *refused[AUTH_VERDICTS];
};

struct auth *auth_new(const struct auth_config *config)
{
    struct auth *a = must_alloc(1, sizeof(*a));
    char labels[32];

    a->config = *config;
    a->failures = limiter_new(config->failure_rps, config->failure_burst);
    a->limited = metrics_counter("rate_limited_requests_total", "Requests refused by a rate limit.",
                                 "scope=\"address\"");
    for (int v = AUTH_OK + 1; v < AUTH_VERDICTS; v++) {
        snprintf(labels, sizeof(labels), "reason=\"%s\"", refusals[v].reason);
        a->refused[v] =
            metrics_counter("msg_auth_failures_total",
                            "Requests refused for their key, or for want of one.", labels);
    }
    return a;
}

void auth_free(struct auth *a)
{
    if (!a)
        return;
    limiter_free(a->failures);
    free(a);
}

/* ---- judging ---- */

/* The key of an Authorization header, whose end blanks are cut off already; NULL: it is of another
 * scheme. */
static const char *bearer(const char *authorization)
{
    static const char scheme[] = "Bearer";
    size_t n = sizeof(scheme) - 1;

    if (!authorization || strncasecmp(authorization, scheme, n) != 0)
        return NULL;
    if (authorization[n] && authorization[n] != ' ')
        return NULL;
    return authorization + n + strspn(authorization + n, " ");
}

static int64_t patience_ms(const struct auth *a, unsigned scope)
{
    if (scope & (KEY_SEND | KEY_TOPUP | KEY_ADMIN | KEY_WEBHOOKS))
        return AUTH_MONEY_STALE_MS;
    return scope & KEY_READ ? a->config.stale_ms : INT64_MAX - 1; /* INT64_MAX: never heard */
}

static enum auth_verdict verdict_of(enum key_answer answer)
{
    switch (answer) {
    case KEY_OK:
        return AUTH_OK;
    case KEY_EXPIRED:
        return AUTH_EXPIRED;
    case KEY_REVOKED:
        return AUTH_REVOKED;
    case KEY_ELSEWHERE:
        return AUTH_ELSEWHERE;
    default:
        return AUTH_UNKNOWN;
    }
}

enum auth_verdict auth_judge(struct auth *a, const char *authorization, const char *x_api_key,
                             const char *peer, unsigned scope, struct key_grant *grant)
{
    const char *key = bearer(authorization);
    uint8_t hash[KEY_HASH_LEN];
    enum auth_verdict verdict;

    if (key && x_api_key && strcmp(key, x_api_key) != 0)
        return AUTH_CONFLICTING;
    if (!key)
        key = x_api_key;
    if (!key)
        return AUTH_MISSING;
    if (!key_text_read(key, strlen(key), hash))
        return AUTH_MALFORMED;
    if (key_ring_age_ms(a->config.ring) > patience_ms(a, scope))
        return AUTH_STALE;
    verdict = verdict_of(key_ring_ask(a->config.ring, hash, peer, grant));
    if (!verdict && (grant->scopes & scope) != scope)
        verdict = AUTH_SCOPE;
    return verdict;
}

/* ---- refusing ---- */

/* What shares a bucket: an IPv4 address, and of IPv6 the network that one neighbour has whole. */
static int64_t address_key(const char *peer)
{
    struct address address = {{0}};
    int64_t key = 0;

    address_parse(peer, strlen(peer), &address);
    if (address_is_v4(&address))
        memcpy(&key, address.b + 12, 4);
    else
        memcpy(&key, address.b, sizeof(key));
    return key;
}

void auth_reply_absent(struct httpd_request *req)
{
    httpd_reply_error(req, 404, "not_found", "There is no such customer or message.", NULL);
}

static void reply_scope(struct httpd_request *req, unsigned scope)
{
    const char *name = key_scope_name((enum key_scope)scope);
    char text[96];

    snprintf(text, sizeof(text), REALM ", error=\"insufficient_scope\", scope=\"%s\"", name);
    httpd_set_header(req, "WWW-Authenticate", text);
    snprintf(text, sizeof(text), "The API key lacks the scope %s.", name);
    httpd_reply_error(req, 403, "forbidden", text, NULL);
}

static void reply(struct httpd_request *req, enum auth_verdict verdict, unsigned scope)
{
    if (verdict == AUTH_SCOPE) {
        reply_scope(req, scope);
    } else if (verdict == AUTH_CUSTOMER) {
        auth_reply_absent(req);
    } else if (verdict == AUTH_STALE) {
        httpd_reply_retry(req, 503, "unavailable", refusals[verdict].message, 1);
    } else {
        httpd_set_header(req, "WWW-Authenticate", refusals[verdict].challenge);
        httpd_reply_error(req, 401, "unauthorized", refusals[verdict].message, NULL);
    }
}

/* key_id: 0 where the key is not known. */
static void refuse(struct auth *a, struct httpd_request *req, enum auth_verdict verdict,
                   unsigned scope, uint64_t key_id)
{
    const char *peer = httpd_peer(req);
    int64_t wait_sec;

    metrics_add(a->refused[verdict], 1);
    if (verdict == AUTH_STALE) { /* no fault of theirs */
        reply(req, verdict, scope);
        return;
    }
    wait_sec = limiter_take(a->failures, address_key(peer), clock_mono_us());
    if (wait_sec) {
        metrics_add(a->limited, 1);
        httpd_reply_retry(req, 429, LIMITER_CODE, LIMITER_MESSAGE, wait_sec);
        return;
    }
    log_info("auth.refused", L_STR("reason", refusals[verdict].reason), L_STR("peer", peer),
             L_INT("key_id", key_id));
    reply(req, verdict, scope);
}

bool auth_identify(struct auth *a, struct httpd_request *req, unsigned scope,
                   struct key_grant *grant)
{
    enum auth_verdict verdict =
        auth_judge(a, httpd_header(req, "Authorization"), httpd_header(req, "X-Api-Key"),
                   httpd_peer(req), scope, grant);

    if (verdict != AUTH_OK)
        refuse(a, req, verdict, scope, grant->key_id);
    return verdict == AUTH_OK;
}

void auth_refuse_customer(struct auth *a, struct httpd_request *req, uint64_t key_id)
{
    refuse(a, req, AUTH_CUSTOMER, 0, key_id);
}
