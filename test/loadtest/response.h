#ifndef LOADTEST_RESPONSE_H
#define LOADTEST_RESPONSE_H

/*
 * An HTTP/1.1 response with a Content-Length, read from the bytes that have come so far. Chunked
 * bodies are refused: the platform's servers send none. Pure.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct response {
    int status;
    int64_t retry_after_sec; /* 0: not given */
    bool close;              /* the server ends the connection after it */
    const char *body;        /* inside the bytes given */
    size_t body_len;
    size_t total; /* bytes of the whole response */
};

/* 1: whole, 0: more has to come (total is what is needed, 0 while unknown), -1: no response. */
int response_parse(const char *data, size_t n, struct response *r);

#endif
