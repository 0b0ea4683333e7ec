#ifndef CONSUMERD_TRANSPORT_HTTP_READ_H
#define CONSUMERD_TRANSPORT_HTTP_READ_H

/*
 * One answer of HTTP/1.1, read as its bytes come: what its status is, where it ends, and whether
 * its connection may be used again. Part of transport_http.c; nobody else includes this. Pure.
 *
 * Where the end is said in two ways that differ, or in one that we do not know, the answer is
 * broken: its status counts, its body does not. Interim answers (1xx) are passed over.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/base/buf.h"

#define HTTP_READ_LINE_MAX 256 /* what is kept of a line: the ones that we know are short */

enum http_read_state {
    READ_STATUS,
    READ_HEADER,
    READ_BODY,   /* of a known length */
    READ_TO_END, /* of the connection */
    READ_CHUNK_SIZE,
    READ_CHUNK,
    READ_CHUNK_END,
    READ_TRAILER,
    READ_DONE,
    READ_BROKEN,
};

struct http_read {
    enum http_read_state state;
    int status;    /* 0: none yet */
    bool reusable; /* once it is done: the connection */
    bool has_length, chunked, close, odd;
    uint64_t left;     /* of the body or chunk */
    size_t head_bytes; /* of status lines, headers, chunk sizes and trailers */
    size_t line_len;
    bool line_cut;
    char line[HTTP_READ_LINE_MAX];
    char retry_after[64];
};

void http_read_begin(struct http_read *r);
/* Takes the next n bytes and returns how many belong to the answer: fewer than n only when it is
 * done or broken. The body is appended to the buf up to max bytes; beyond, the answer is broken. */
size_t http_read_take(struct http_read *r, const char *data, size_t n, struct buf *body,
                      size_t max);
/* The connection has ended; in order: not by a failure. */
void http_read_end(struct http_read *r, bool in_order);

static inline bool http_read_over(const struct http_read *r)
{
    return r->state == READ_DONE || r->state == READ_BROKEN;
}

#endif
