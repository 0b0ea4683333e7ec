#include "libcommon/base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base/utf8.h"

void buf_free(struct buf *b)
{
    if (!b)
        return;
    free(b->data);
    *b = (struct buf){0};
}

void buf_reset(struct buf *b)
{
    b->len = 0;
    b->failed = false;
    if (b->data)
        b->data[0] = '\0';
}

bool buf_reserve(struct buf *b, size_t more)
{
    size_t need = b->len + more + 1;
    size_t cap = b->cap ? b->cap : 256;
    char *grown;

    if (b->failed || need < more)
        return false;
    if (need <= b->cap)
        return true;
    while (cap < need)
        cap *= 2;
    grown = realloc(b->data, cap);
    if (!grown) {
        b->failed = true;
        return false;
    }
    b->data = grown;
    b->cap = cap;
    return true;
}

void buf_put(struct buf *b, const void *p, size_t n)
{
    if (!buf_reserve(b, n))
        return;
    if (n)
        memcpy(b->data + b->len, p, n);
    b->len += n;
    b->data[b->len] = '\0';
}

void buf_puts(struct buf *b, const char *s)
{
    buf_put(b, s, strlen(s));
}

void buf_putc(struct buf *b, char c)
{
    buf_put(b, &c, 1);
}

void buf_put_uint(struct buf *b, uint64_t v)
{
    char digits[20];
    size_t at = sizeof(digits);

    do {
        digits[--at] = (char)('0' + v % 10);
        v /= 10;
    } while (v);
    buf_put(b, digits + at, sizeof(digits) - at);
}

void buf_put_int(struct buf *b, int64_t v)
{
    if (v < 0) {
        buf_putc(b, '-');
        buf_put_uint(b, 0 - (uint64_t)v);
    } else {
        buf_put_uint(b, (uint64_t)v);
    }
}

static void __attribute__((format(printf, 2, 0)))
put_formatted(struct buf *b, const char *fmt, va_list ap)
{
    va_list again;
    int n;

    va_copy(again, ap);
    n = vsnprintf(NULL, 0, fmt, again);
    va_end(again);
    if (n < 0 || !buf_reserve(b, (size_t)n))
        return;
    vsnprintf(b->data + b->len, (size_t)n + 1, fmt, ap);
    b->len += (size_t)n;
}

void buf_printf(struct buf *b, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    put_formatted(b, fmt, ap);
    va_end(ap);
}

void buf_put_hex(struct buf *b, const void *p, size_t n)
{
    static const char digits[] = "0123456789abcdef";
    const unsigned char *bytes = p;

    if (!buf_reserve(b, n * 2))
        return;
    for (size_t i = 0; i < n; i++) {
        b->data[b->len++] = digits[bytes[i] >> 4];
        b->data[b->len++] = digits[bytes[i] & 15];
    }
    b->data[b->len] = '\0';
}

static void put_escaped(struct buf *b, unsigned char c)
{
    switch (c) {
    case '"':
        buf_puts(b, "\\\"");
        break;
    case '\\':
        buf_puts(b, "\\\\");
        break;
    case '\n':
        buf_puts(b, "\\n");
        break;
    case '\r':
        buf_puts(b, "\\r");
        break;
    case '\t':
        buf_puts(b, "\\t");
        break;
    default:
        if (c < 0x20)
            buf_printf(b, "\\u%04x", c);
        else
            buf_puts(b, "\xef\xbf\xbd");
    }
}

/* How many bytes from there on may stand as they are, with the character that they begin. */
static size_t plain_bytes(const char *s, size_t n)
{
    unsigned char c = (unsigned char)*s;

    if (c >= 0x80)
        return utf8_character(s, n);
    return c >= 0x20 && c != '"' && c != '\\';
}

void buf_put_json(struct buf *b, const char *s, size_t n)
{
    size_t from = 0;

    buf_putc(b, '"');
    for (size_t i = 0; i < n;) {
        size_t plain = plain_bytes(s + i, n - i);

        if (plain) {
            i += plain;
            continue;
        }
        buf_put(b, s + from, i - from);
        put_escaped(b, (unsigned char)s[i]);
        from = ++i;
    }
    buf_put(b, s + from, n - from);
    buf_putc(b, '"');
}

char *buf_take(struct buf *b, size_t *len)
{
    char *data = b->failed ? NULL : b->data;

    if (len)
        *len = data ? b->len : 0;
    if (!data)
        free(b->data);
    *b = (struct buf){0};
    return data;
}
