#ifndef TEST_FUZZ_HTTP_PARTS_H
#define TEST_FUZZ_HTTP_PARTS_H

/*
 * Requests as httpd_wire.c lets them through, read apart by the shortest code that can: what evhttp
 * and the server make of the same bytes is held against it. Pure.
 */

#include "libcommon/base/buf.h"
#include "test/fuzz/fuzz.h"

#define PARTS_HEADERS_MAX 1024

struct http_parts {
    struct fuzz_text method, target;
    int minor; /* of the version: 0 or 1 */
    struct {
        struct fuzz_text name, value; /* without the blanks around it */
    } headers[PARTS_HEADERS_MAX];
    size_t header_count;
    struct buf body;
};

/* How many bytes the request takes that they begin with; 0: it is not whole. What is no request
 * fails a MUST: such bytes are not let through. */
size_t http_parts_read(struct http_parts *r, const char *p, size_t n);
void http_parts_free(struct http_parts *r);
/* NULL: there is none. The first one of that name, which is written in small letters. */
const struct fuzz_text *http_parts_header(const struct http_parts *r, const char *name);

/* What the wire lets through of a whole stream, as one text; in out the sentence, NULL: none. */
char *http_parts_filter(const uint8_t *data, size_t size, size_t max_head, size_t *n,
                        const char **wrong);

#endif
