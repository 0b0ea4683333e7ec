#include <event2/http.h>
#include <event2/http_struct.h>
#include <event2/keyvalq_struct.h>
#include <string.h>
#include <strings.h>

#include "libcommon/net/httpd_internal.h"

/* tchar of RFC 9110 section 5.6.2 */
static bool is_token(const char *s)
{
    static const char extra[] = "!#$%&'*+-.^_`|~";

    if (!*s)
        return false;
    for (; *s; s++)
        if (!((*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z') || (*s >= '0' && *s <= '9') ||
              strchr(extra, *s)))
            return false;
    return true;
}

static bool is_digits(const char *s)
{
    size_t n = strspn(s, "0123456789");

    return n > 0 && n < 19 && !s[n];
}

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

/* "%00" would end a decoded string early. */
static bool target_ok(const struct evhttp_request *ev)
{
    const char *uri = evhttp_request_get_uri(ev);
    const struct evhttp_uri *parts = evhttp_request_get_evhttp_uri(ev);

    return uri && uri[0] == '/' && parts && !evhttp_uri_get_host(parts) &&
           !evhttp_uri_get_scheme(parts) && !strstr(uri, "%00");
}

struct seen {
    unsigned lengths, encodings, hosts, parents;
};

static const char *check_header(const struct evkeyval *h, struct seen *seen,
                                struct http_facts *facts)
{
    const char *value = h->value;

    if (!is_token(h->key))
        return "A header name holds a character that it must not.";
    switch (strlen(h->key)) {
    case 4:
        if (!strcasecmp(h->key, "Host") && seen->hosts++)
            return "Host is given twice.";
        break;
    case 10:
        if (!strcasecmp(h->key, "Connection") && has_close(value))
            facts->close = true;
        else if (!strcasecmp(h->key, "tracestate") && !facts->tracestates++)
            facts->tracestate = h;
        break;
    case 11:
        if (!strcasecmp(h->key, "traceparent"))
            facts->traceparent = seen->parents++ ? NULL : value;
        break;
    case 14:
        if (!strcasecmp(h->key, "Content-Length") && (seen->lengths++ || !is_digits(value)))
            return "Content-Length must be given once, in digits.";
        break;
    case 17:
        if (!strcasecmp(h->key, "Transfer-Encoding") &&
            (seen->encodings++ || strcasecmp(value, "chunked") != 0))
            return "Transfer-Encoding may only be chunked.";
        break;
    default:
        break;
    }
    return NULL;
}

const char *http_check(struct evhttp_request *ev, enum http_method method, struct http_facts *facts)
{
    const struct evkeyvalq *headers = evhttp_request_get_input_headers(ev);
    const struct evkeyval *h;
    struct seen seen = {0};

    *facts = (struct http_facts){0};
    if (ev->major != 1 || ev->minor < 0 || ev->minor > 1) {
        ev->major = ev->minor = 1; /* the version of the answer */
        return "The server speaks HTTP/1.1.";
    }
    if (!target_ok(ev)) {
        ev->flags &= ~EVHTTP_PROXY_REQUEST; /* else the answer's Connection header is dropped */
        return "The request target must be a path.";
    }
    for (h = headers->tqh_first; h; h = h->next.tqe_next) {
        const char *wrong = check_header(h, &seen, facts);

        if (wrong)
            return wrong;
    }
    if (seen.lengths && seen.encodings)
        return "Content-Length and Transfer-Encoding exclude each other.";
    if (!seen.hosts && ev->minor == 1)
        return "Host is missing.";
    /* evhttp leaves such a body in the stream, where it would be read as the next request. */
    if ((seen.lengths || seen.encodings) &&
        (method == HTTP_HEAD || method == HTTP_TRACE || method == HTTP_OTHER))
        return "This method takes no body.";
    return NULL;
}
