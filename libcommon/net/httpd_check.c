#include <event2/http.h>
#include <event2/http_struct.h>
#include <event2/keyvalq_struct.h>
#include <stdio.h>
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

/* Some who stand before us take what follows a '#' for no part of the target, and a byte beyond
 * ASCII for whatever their table says. */
static bool is_clean(const char *target)
{
    for (; *target; target++)
        if (*target == '#' || (unsigned char)*target <= ' ' || (unsigned char)*target >= 0x7f)
            return false;
    return true;
}

static const char *check_target(const struct evhttp_request *ev)
{
    const char *uri = evhttp_request_get_uri(ev);
    const struct evhttp_uri *parts = evhttp_request_get_evhttp_uri(ev);
    const char *nul;

    if (!uri || uri[0] != '/' || !parts || evhttp_uri_get_host(parts) ||
        evhttp_uri_get_scheme(parts))
        return "The request target must be a path.";
    if (!is_clean(uri))
        return "The request target holds a character that it must not.";
    /* A decoded string would end there. The query is looked at when it is known who reads it. */
    nul = strstr(uri, "%00");
    return nul && nul < uri + strcspn(uri, "?") ? HTTP_NUL_IN_TARGET : NULL;
}

/* The name or address in front of a port: "[" ... "]", or what names are made of in practice. 0:
 * neither. */
static size_t host_len(const char *s)
{
    size_t n;

    if (*s != '[')
        return strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~");
    n = 1 + strspn(s + 1, "0123456789abcdefABCDEF:.");
    return n > 1 && s[n] == ']' ? n + 1 : 0;
}

/* RFC 9112 section 3.2: it may be empty, for a target that has no name. */
bool http_check_authority(const char *s)
{
    size_t n = host_len(s);

    if (!s[n])
        return true;
    if (!n || s[n] != ':')
        return false;
    s += n + 1;
    n = strspn(s, "0123456789");
    return n <= 5 && !s[n];
}

/* Whoever reads one of these reads the first, and a proxy perhaps the last. Those that say how a
 * body ends are the wire's. */
static const struct {
    const char *name;
    size_t len;
} once[] = {
    [HTTP_ONCE_HOST] = {"Host", 4},
    [HTTP_ONCE_EXPECT] = {"Expect", 6},
    [HTTP_ONCE_ORIGIN] = {"Origin", 6},
    [HTTP_ONCE_TYPE] = {"Content-Type", 12},
    [HTTP_ONCE_AUTHORIZATION] = {"Authorization", 13},
    [HTTP_ONCE_API_KEY] = {"X-Api-Key", 9},
    [HTTP_ONCE_KEY] = {"Idempotency-Key", 15},
};

/* Whether the header is a second one of its kind. */
static bool is_repeated(const struct evkeyval *h, size_t n, struct http_facts *facts)
{
    for (size_t i = 0; i < HTTP_ONCES; i++) {
        if (once[i].len != n || strcasecmp(once[i].name, h->key) != 0)
            continue;
        facts->field = facts->once[i] ? once[i].name : NULL;
        facts->once[i] = h->value;
        return facts->field;
    }
    return false;
}

static void take_header(const struct evkeyval *h, size_t n, unsigned *parents,
                        struct http_facts *facts)
{
    if (n > 10 && !strncasecmp(h->key, "Sec-Fetch-", 10))
        facts->fetched = true;
    else if (n == 10 && !strcasecmp(h->key, "Connection") && has_close(h->value))
        facts->close = true;
    else if (n == 12 && !strcasecmp(h->key, "X-Request-Id"))
        facts->request_id = h->value;
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

    *facts = (struct http_facts){0};
    if (wrong) {
        ev->flags &= ~EVHTTP_PROXY_REQUEST; /* else the answer's Connection header is dropped */
        return wrong;
    }
    for (const struct evkeyval *h = headers->tqh_first; h; h = h->next.tqe_next) {
        size_t n = strlen(h->key);

        if (is_repeated(h, n, facts))
            return "This header is given twice.";
        take_header(h, n, &parents, facts);
    }
    if (!facts->once[HTTP_ONCE_HOST])
        return ev->minor == 0 ? NULL : "Host is missing.";
    return http_check_authority(facts->once[HTTP_ONCE_HOST]) ? NULL
                                                             : "Host is not a name with a port.";
}

/* The media type without its parameters, "" for none at all. */
static const char *essence(const char *type, size_t *n)
{
    type = type ? type : "";
    *n = strcspn(type, ";");
    while (*n && (type[*n - 1] == ' ' || type[*n - 1] == '\t'))
        (*n)--;
    return type;
}

static bool is_type(const char *s, size_t n, const char *wanted)
{
    return n == strlen(wanted) && !strncasecmp(s, wanted, n);
}

/* A page of another site may send what a form can, and nothing else before its browser has asked us
 * whether it may. So what a form can say counts only from those who are no page. */
bool http_check_type(const struct http_facts *facts)
{
    size_t n;
    const char *type = essence(facts->once[HTTP_ONCE_TYPE], &n);

    if (is_type(type, n, "application/json"))
        return true;
    if (n > 5 && !strncasecmp(type + n - 5, "+json", 5))
        return strcspn(type, " \t,") >= n && memchr(type, '/', n);
    if (facts->fetched || facts->once[HTTP_ONCE_ORIGIN])
        return false;
    return !n || is_type(type, n, "application/x-www-form-urlencoded");
}

bool http_check_host(const char *hosts, const struct http_facts *facts)
{
    const char *host = facts->once[HTTP_ONCE_HOST];
    size_t n = host ? host_len(host) : 0;

    n -= n && host[n - 1] == '.'; /* the same name, from the root */
    while (*hosts) {
        size_t len = strcspn(hosts, ",");

        if (n && n == len && !strncasecmp(hosts, host, n))
            return true;
        hosts += len + (hosts[len] == ',');
    }
    return false;
}

bool http_check_hosts_setting(const char *value, char *why, size_t size)
{
    for (;;) {
        size_t len = host_len(value);

        if (!len || value[len - 1] == '.' || (value[len] && value[len] != ',')) {
            snprintf(why, size, "must be names or addresses without port, comma-separated");
            return false;
        }
        if (!value[len])
            return true;
        value += len + 1;
    }
}
