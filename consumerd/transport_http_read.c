#include "consumerd/transport_http_read.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#define HEAD_MAX (64 * 1024)
#define DIGITS_MAX 15 /* of a length: fits 63 bits in either base */

void http_read_begin(struct http_read *r)
{
    memset(r, 0, offsetof(struct http_read, line));
    r->retry_after[0] = '\0';
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

static bool take_status(struct http_read *r)
{
    const char *s = r->line;

    if (r->line_len < 12 || memcmp(s, "HTTP/1.", 7) != 0 || s[8] != ' ' ||
        strspn(s + 9, "0123456789") != 3 || (s[7] != '0' && s[7] != '1') || s[9] == '0')
        return false;
    r->status = (s[9] - '0') * 100 + (s[10] - '0') * 10 + (s[11] - '0');
    r->close = s[7] == '0';
    r->has_length = r->chunked = r->odd = false;
    r->left = 0;
    r->retry_after[0] = '\0';
    r->state = READ_HEADER;
    return true;
}

/* -1: no number that we take. */
static int64_t number(const char *s, size_t n, unsigned base)
{
    uint64_t value = 0;

    if (!n || n > DIGITS_MAX)
        return -1;
    for (size_t i = 0; i < n; i++) {
        unsigned digit = (unsigned)(s[i] - '0');

        if (digit > 9)
            digit = base == 16 ? ((unsigned)s[i] | 0x20u) - 'a' + 10 : base;
        if (digit >= base)
            return -1;
        value = value * base + digit;
    }
    return (int64_t)value;
}

static bool take_length(struct http_read *r, const char *s, size_t n)
{
    int64_t length = number(s, n, 10);

    if (length < 0 || (r->has_length && (uint64_t)length != r->left))
        return false;
    r->has_length = true;
    r->left = (uint64_t)length;
    return true;
}

/* Whether one of the words of a list is this one. */
static bool lists(const char *value, const char *word)
{
    size_t n = strlen(word);

    while (*value) {
        value += strspn(value, ", \t");
        if (!strncasecmp(value, word, n) && strchr(", \t", value[n]))
            return true;
        value += strcspn(value, ",");
    }
    return false;
}

/* False: the answer's end cannot be told from it. */
static bool take_header(struct http_read *r)
{
    char *colon = memchr(r->line, ':', r->line_len);
    size_t name_len = colon ? (size_t)(colon - r->line) : 0;
    char *value = colon ? colon + 1 : r->line;
    char *end = r->line + r->line_len;
    bool of_length = name_len == 14 && !strncasecmp(r->line, "Content-Length", 14);
    bool of_encoding = name_len == 17 && !strncasecmp(r->line, "Transfer-Encoding", 17);

    if (!colon || is_blank(*r->line))
        r->odd = true;
    while (value < end && is_blank(*value))
        value++;
    while (end > value && is_blank(end[-1]))
        end--;
    *end = '\0';
    if ((of_length || of_encoding) && r->line_cut)
        return false;
    if (of_length)
        return take_length(r, value, (size_t)(end - value));
    if (of_encoding) {
        if (r->chunked || strcasecmp(value, "chunked") != 0)
            return false;
        r->chunked = true;
    } else if (name_len == 10 && !strncasecmp(r->line, "Connection", 10)) {
        r->close |= lists(value, "close") || r->line_cut;
    } else if (name_len == 11 && !strncasecmp(r->line, "Retry-After", 11)) {
        snprintf(r->retry_after, sizeof(r->retry_after), "%.63s", value);
    }
    return true;
}

static void finish(struct http_read *r)
{
    r->state = READ_DONE;
    r->reusable = !r->close && !r->odd;
}

static void end_head(struct http_read *r)
{
    if (r->status == 101) { /* nobody has asked for another protocol */
        r->state = READ_BROKEN;
    } else if (r->status < 200) {
        r->state = READ_STATUS;
        r->status = 0;
    } else if (r->status == 204 || r->status == 304) { /* no body, whatever it says */
        r->odd |= r->chunked;
        finish(r);
    } else if (r->chunked) {
        r->odd |= r->has_length;
        r->state = READ_CHUNK_SIZE;
    } else if (r->has_length && !r->left) {
        finish(r);
    } else {
        r->close |= !r->has_length;
        r->state = r->has_length ? READ_BODY : READ_TO_END;
    }
}

static bool take_chunk_size(struct http_read *r)
{
    size_t digits = strspn(r->line, "0123456789abcdefABCDEF");
    size_t blanks = strspn(r->line + digits, " \t");
    int64_t size = number(r->line, digits, 16);

    if (size < 0 || (digits + blanks < r->line_len && r->line[digits + blanks] != ';'))
        return false;
    r->left = (uint64_t)size;
    r->state = size ? READ_CHUNK : READ_TRAILER;
    return true;
}

static bool take_line(struct http_read *r)
{
    r->line[r->line_len] = '\0';
    switch (r->state) {
    case READ_STATUS:
        return take_status(r);
    case READ_HEADER:
        if (r->line_len)
            return take_header(r);
        end_head(r);
        return true;
    case READ_CHUNK_SIZE:
        return take_chunk_size(r);
    case READ_CHUNK_END:
        r->state = READ_CHUNK_SIZE;
        return !r->line_len;
    default: /* a trailer */
        if (!r->line_len)
            finish(r);
        return true;
    }
}

/* Up to the end of the line that has begun. Ends in LF alone are read, as by curl. */
static size_t line(struct http_read *r, const char *data, size_t n)
{
    const char *lf = memchr(data, '\n', n);
    size_t len = lf ? (size_t)(lf - data) : n;
    size_t room = sizeof(r->line) - 1 - r->line_len;
    size_t kept = len < room ? len : room;

    memcpy(r->line + r->line_len, data, kept);
    r->line_len += kept;
    r->line_cut |= kept < len;
    r->head_bytes += len + 1;
    if (r->head_bytes > HEAD_MAX) {
        r->state = READ_BROKEN;
    } else if (lf) {
        if (r->line_len && r->line[r->line_len - 1] == '\r')
            r->line_len--;
        if (!take_line(r))
            r->state = READ_BROKEN;
        r->line_len = 0;
        r->line_cut = false;
    }
    return lf ? len + 1 : len;
}

static size_t bytes(struct http_read *r, const char *data, size_t n, struct buf *body, size_t max)
{
    size_t len = r->state != READ_TO_END && r->left < n ? (size_t)r->left : n;

    if (body->len + len > max) {
        r->state = READ_BROKEN;
        return len;
    }
    buf_put(body, data, len);
    if (body->failed)
        r->state = READ_BROKEN;
    if (r->state == READ_TO_END || r->state == READ_BROKEN)
        return len;
    r->left -= len;
    if (!r->left && r->state == READ_BODY)
        finish(r);
    else if (!r->left)
        r->state = READ_CHUNK_END;
    return len;
}

size_t http_read_take(struct http_read *r, const char *data, size_t n, struct buf *body, size_t max)
{
    size_t at = 0;

    while (at < n && !http_read_over(r)) {
        bool of_body = r->state == READ_BODY || r->state == READ_TO_END || r->state == READ_CHUNK;

        at += of_body ? bytes(r, data + at, n - at, body, max) : line(r, data + at, n - at);
    }
    return at;
}

void http_read_end(struct http_read *r, bool in_order)
{
    if (r->state == READ_TO_END && in_order)
        finish(r);
    else if (r->state != READ_DONE)
        r->state = READ_BROKEN;
}
