#include <stdio.h>
#include <string.h>

#include "libcommon/net/httpd_internal.h"

/* Pages of listed origins may call us from a browser: with the headers of our clients, without
 * cookies, which we have none of. Of any other origin a browser hears nothing that lets it. */

#define ASKED_FOR_SEC "600" /* how long a browser need not ask again */
#define REQUEST_HEADERS                                                                    \
    "Authorization, Content-Type, Idempotency-Key, X-Api-Key, X-Request-Id, traceparent, " \
    "tracestate"
#define ANSWER_HEADERS "Idempotency-Replayed, Retry-After, X-Request-Id"

static bool is_listed(const char *origins, const char *origin)
{
    size_t n = strlen(origin);

    while (*origins) {
        size_t len = strcspn(origins, ",");

        if (len == n && !memcmp(origins, origin, n))
            return true;
        origins += len + (origins[len] == ',');
    }
    return false;
}

bool http_cors(struct httpd_request *req, const struct http_path *path,
               const struct http_facts *facts)
{
    const char *origins = req->thread->server->settings.cors_origins;
    const char *origin = facts->once[HTTP_ONCE_ORIGIN];

    if (!origins || !*origins)
        return false;
    httpd_set_header(req, "Vary", "Origin");
    if (!origin || !is_listed(origins, origin))
        return false;
    httpd_set_header(req, "Access-Control-Allow-Origin", origin);
    httpd_set_header(req, "Access-Control-Expose-Headers", ANSWER_HEADERS);
    if (req->method != HTTP_OPTIONS || !path || !httpd_header(req, "Access-Control-Request-Method"))
        return false;
    httpd_set_header(req, "Access-Control-Allow-Methods", path->allow);
    httpd_set_header(req, "Access-Control-Allow-Headers", REQUEST_HEADERS);
    httpd_set_header(req, "Access-Control-Max-Age", ASKED_FOR_SEC);
    httpd_reply(req, 204, "", 0);
    return true;
}

/* As browsers write them: the scheme, the name in small letters, the port unless it is the scheme's
 * own. */
static bool is_origin(const char *s, size_t n)
{
    char text[300];
    const char *name;

    if (n >= sizeof(text))
        return false;
    memcpy(text, s, n);
    text[n] = '\0';
    name = strstr(text, "://");
    if (!name || (name - text != 4 && name - text != 5) ||
        memcmp(text, "https", (size_t)(name - text)) != 0)
        return false;
    return name[3] && http_check_authority(name + 3) &&
           !strpbrk(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZ");
}

bool http_cors_check(const char *value, char *why, size_t size)
{
    for (;;) {
        size_t n = strcspn(value, ",");

        if (!is_origin(value, n)) {
            snprintf(why, size, "must be origins (https://app.example), comma-separated");
            return false;
        }
        if (!value[n])
            return true;
        value += n + 1;
    }
}
