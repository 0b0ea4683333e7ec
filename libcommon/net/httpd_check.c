#include <event2/http.h>
#include <event2/http_struct.h>
#include <event2/keyvalq_struct.h>
#include <string.h>
#include <strings.h>

#include "libcommon/net/httpd_internal.h"

static bool has_close(const char *value)
{
    while (*value) {
        size_t n;

        value += strspn(value, " \t,");
        n = strcspn(value, " \t,");
        if (n == 5 && !strncasecmp(value, "close", 5))
            return true;
        value += n;
    }
    return false;
}

static const char *check_target(const struct evhttp_request *ev)
{
    const char *uri = evhttp_request_get_uri(ev);
    const struct evhttp_uri *parts = evhttp_request_get_evhttp_uri(ev);

    if (!uri || uri[0] != '/' || !parts || evhttp_uri_get_host(parts) ||
        evhttp_uri_get_scheme(parts))
        return "The request target must be a path.";
    /* A decoded string would end there. */
    return strstr(uri, "%00") ? "The request target must not hold %00." : NULL;
}

/* Whoever reads one of these reads the first, and a proxy perhaps the last. Those that say how a
 * body ends are the wire's. */
static const struct {
    const char *name;
    size_t len;
} once[] = {{"Host", 4},          {"Expect", 6},         {"Origin", 6},
            {"Content-Type", 12}, {"Authorization", 13}, {"Idempotency-Key", 15}};

#define HOST_SEEN 1U

/* Whether the header is a second one of its kind. */
static bool is_repeated(const char *key, size_t n, unsigned *seen, struct http_facts *facts)
{
    for (size_t i = 0; i < sizeof(once) / sizeof(once[0]); i++) {
        if (once[i].len != n || strcasecmp(once[i].name, key) != 0)
            continue;
        facts->field = *seen & 1U << i ? once[i].name : NULL;
        *seen |= 1U << i;
        return facts->field;
    }
    return false;
}

static void take_header(const struct evkeyval *h, size_t n, unsigned *parents,
                        struct http_facts *facts)
{
    if (n == 10 && !strcasecmp(h->key, "Connection") && has_close(h->value))
        facts->close = true;
    else if (n == 10 && !strcasecmp(h->key, "tracestate") && !facts->tracestates++)
        facts->tracestate = h;
    else if (n == 11 && !strcasecmp(h->key, "traceparent"))
        facts->traceparent = (*parents)++ ? NULL : h->value;
}

const char *http_check(struct evhttp_request *ev, struct http_facts *facts)
{
    const struct evkeyvalq *headers = evhttp_request_get_input_headers(ev);
    const char *wrong = check_target(ev);
    unsigned parents = 0;
    unsigned seen = 0;

    *facts = (struct http_facts){0};
    if (wrong) {
        ev->flags &= ~EVHTTP_PROXY_REQUEST; /* else the answer's Connection header is dropped */
        return wrong;
    }
    for (const struct evkeyval *h = headers->tqh_first; h; h = h->next.tqe_next) {
        size_t n = strlen(h->key);

        if (is_repeated(h->key, n, &seen, facts))
            return "This header is given twice.";
        take_header(h, n, &parents, facts);
    }
    return seen & HOST_SEEN || ev->minor == 0 ? NULL : "Host is missing.";
}
