#include "api/query.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool query_number(struct httpd_request *req, const char *name, int64_t min, int64_t max,
                  int64_t initial, int64_t *out)
{
    const char *text = httpd_query(req, name);
    char message[96];
    char *end;
    long long v;

    *out = initial;
    if (!text && initial >= min)
        return true;
    if (text && *text >= '0' && *text <= '9') {
        errno = 0;
        v = strtoll(text, &end, 10);
        if (!errno && !*end && v >= min && v <= max) {
            *out = v;
            return true;
        }
    }
    if (!text)
        snprintf(message, sizeof(message), "This parameter is required.");
    else if (max == INT64_MAX)
        snprintf(message, sizeof(message), "Must be a positive whole number.");
    else
        snprintf(message, sizeof(message), "Must be a whole number from %lld to %lld.",
                 (long long)min, (long long)max);
    httpd_reply_error(req, 400, "invalid_input", message, name);
    return false;
}

static bool is_printable(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (s[i] < 0x20 || s[i] > 0x7e)
            return false;
    return true;
}

bool query_ascii(struct httpd_request *req, const char *name, char *out, size_t size)
{
    const char *text = httpd_query(req, name);
    size_t n = text ? strlen(text) : 0;
    char message[96];

    if (n < size && is_printable(text, n)) {
        memcpy(out, n ? text : "", n + 1);
        return true;
    }
    snprintf(message, sizeof(message), "Must be at most %zu printable ASCII characters.", size - 1);
    httpd_reply_error(req, 400, "invalid_input", message, name);
    return false;
}
