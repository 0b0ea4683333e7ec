#include "test/loadtest/response.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* The value when the line's name is this one, else NULL. */
static const char *value_of(const char *line, const char *end, const char *name)
{
    size_t n = strlen(name);

    if ((size_t)(end - line) <= n || line[n] != ':' || strncasecmp(line, name, n) != 0)
        return NULL;
    line += n + 1;
    while (line < end && *line == ' ')
        line++;
    return line;
}

int response_parse(const char *data, size_t n, struct response *r)
{
    const char *head_end = memmem(data, n, "\r\n\r\n", 4);
    const char *line;
    int64_t length = -1;

    *r = (struct response){0};
    if (n >= 9 && memcmp(data, "HTTP/1.1 ", 9) != 0)
        return -1;
    if (!head_end)
        return n > 65536 ? -1 : 0;
    r->status = atoi(data + 9);
    line = memmem(data, n, "\r\n", 2);
    while (line < head_end) {
        const char *start = line + 2;
        const char *value;

        line = memmem(start, (size_t)(head_end + 2 - start), "\r\n", 2);
        if ((value = value_of(start, line, "Content-Length")))
            length = atoll(value);
        else if ((value = value_of(start, line, "Retry-After")))
            r->retry_after_sec = atoll(value);
        else if ((value = value_of(start, line, "Connection")))
            r->close = !strncasecmp(value, "close", 5);
    }
    if (length < 0 || r->status < 100)
        return -1;
    r->body = head_end + 4;
    r->body_len = (size_t)length;
    r->total = (size_t)(r->body - data) + r->body_len;
    return n >= r->total;
}
