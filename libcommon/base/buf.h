#ifndef LIBCOMMON_BASE_BUF_H
#define LIBCOMMON_BASE_BUF_H

/*
 * A growing byte string, always NUL-terminated when non-empty. When memory runs out it sets failed
 * and ignores further writes, so that a builder checks once, at its end.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buf {
    char *data;
    size_t len;
    size_t cap;
    bool failed;
};

void buf_free(struct buf *b);                 /* NULL is fine; leaves an empty buf */
void buf_reset(struct buf *b);                /* empties, keeps the memory, clears failed */
bool buf_reserve(struct buf *b, size_t more); /* room for more bytes and a NUL */
void buf_put(struct buf *b, const void *p, size_t n);
void buf_puts(struct buf *b, const char *s);
void buf_putc(struct buf *b, char c);
void buf_put_int(struct buf *b, int64_t v);
void buf_put_uint(struct buf *b, uint64_t v);
void buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void buf_put_hex(struct buf *b, const void *p, size_t n);
/* A JSON string with its quotes (RFC 8259 section 7). Each byte that is not UTF-8 becomes U+FFFD:
 * what is put is always text. */
void buf_put_json(struct buf *b, const char *s, size_t n);
/* Gives the bytes away: the caller frees. NULL when the buf failed or is empty. */
char *buf_take(struct buf *b, size_t *len);

#endif
