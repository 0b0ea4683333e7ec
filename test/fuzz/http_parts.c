#include "test/fuzz/http_parts.h"

#include <event2/buffer.h>
#include <stdlib.h>
#include <strings.h>

#include "libcommon/net/httpd_internal.h"

/* Up to CR LF, which is stepped over; p NULL when there is none. */
static struct fuzz_text take_line(struct fuzz_text *in)
{
    const char *end = in->n ? memmem(in->p, in->n, "\r\n", 2) : NULL;
    struct fuzz_text line = {end ? in->p : NULL, end ? (size_t)(end - in->p) : 0};

    if (end) {
        in->n -= line.n + 2;
        in->p = end + 2;
    }
    return line;
}

static struct fuzz_text cut(struct fuzz_text *line, char at)
{
    const char *end = memchr(line->p, at, line->n);
    struct fuzz_text part = {line->p, 0};

    MUST(end != NULL);
    part.n = (size_t)(end - line->p);
    line->n -= part.n + 1;
    line->p = end + 1;
    return part;
}

static void take_first(struct http_parts *r, struct fuzz_text line)
{
    r->method = cut(&line, ' ');
    r->target = cut(&line, ' ');
    MUST(r->method.n && r->target.n);
    MUST(line.n == 8 && !memcmp(line.p, "HTTP/1.", 7) && (line.p[7] == '0' || line.p[7] == '1'));
    r->minor = line.p[7] - '0';
}

static void take_header(struct http_parts *r, struct fuzz_text line)
{
    struct fuzz_text name = cut(&line, ':');

    while (line.n && strchr(" \t", *line.p))
        line.p++, line.n--;
    while (line.n && strchr(" \t", line.p[line.n - 1]))
        line.n--;
    MUST(name.n && r->header_count < PARTS_HEADERS_MAX);
    r->headers[r->header_count].name = name;
    r->headers[r->header_count++].value = line;
}

const struct fuzz_text *http_parts_header(const struct http_parts *r, const char *name)
{
    for (size_t i = 0; i < r->header_count; i++)
        if (r->headers[i].name.n == strlen(name) &&
            !strncasecmp(r->headers[i].name.p, name, strlen(name)))
            return &r->headers[i].value;
    return NULL;
}

static bool take_bytes(struct http_parts *r, struct fuzz_text *in, uint64_t n)
{
    if (n > in->n)
        return false;
    buf_put(&r->body, in->p, (size_t)n);
    in->p += n;
    in->n -= (size_t)n;
    return true;
}

static uint64_t read_number(struct fuzz_text text, int base)
{
    char digits[32] = "";
    char *end;
    unsigned long long v;

    MUST(text.n && text.n < sizeof(digits));
    memcpy(digits, text.p, text.n);
    v = strtoull(digits, &end, base);
    MUST(!*end && digits[0] != '+' && digits[0] != '-' && digits[0] != ' ');
    return v;
}

static bool take_chunks(struct http_parts *r, struct fuzz_text *in)
{
    for (;;) {
        struct fuzz_text line = take_line(in);
        uint64_t size;

        while (line.n && line.p[line.n - 1] == ' ') /* an extension stood there */
            line.n--;
        if (!line.p)
            return false;
        size = read_number(line, 16);
        if (size && !take_bytes(r, in, size))
            return false;
        line = take_line(in);
        MUST(!line.p || !line.n); /* the end of a chunk, or of no trailers */
        if (!line.p)
            return false;
        if (!size)
            return true;
    }
}

size_t http_parts_read(struct http_parts *r, const char *p, size_t n)
{
    struct fuzz_text in = {p, n};
    struct fuzz_text line = take_line(&in);
    const struct fuzz_text *length;

    r->header_count = 0;
    r->body = (struct buf){0};
    if (!line.p)
        return 0;
    take_first(r, line);
    for (line = take_line(&in); line.p && line.n; line = take_line(&in))
        take_header(r, line);
    MUST(line.p != NULL); /* heads are let through whole */
    length = http_parts_header(r, "content-length");
    MUST(!length || !http_parts_header(r, "transfer-encoding"));
    if (http_parts_header(r, "transfer-encoding")
            ? !take_chunks(r, &in)
            : length && !take_bytes(r, &in, read_number(*length, 10)))
        return 0;
    MUST(!r->body.failed);
    return n - in.n;
}

void http_parts_free(struct http_parts *r)
{
    buf_free(&r->body);
}

char *http_parts_filter(const uint8_t *data, size_t size, size_t max_head, size_t *n,
                        const char **wrong)
{
    struct http_wire wire = {.max_head = max_head};
    struct evbuffer *in = evbuffer_new();
    char *text;

    MUST(in && !evbuffer_add(in, data, size));
    http_wire_take(&wire, in, size);
    *n = evbuffer_get_length(in);
    *wrong = wire.wrong;
    text = malloc(*n + 1);
    MUST(text && evbuffer_remove(in, text, *n) == (int)*n);
    buf_free(&wire.held);
    evbuffer_free(in);
    return text;
}
