#ifndef CONSUMERD_TRANSPORT_HTTP_H
#define CONSUMERD_TRANSPORT_HTTP_H

/*
 * The exchange over HTTP/1.1, for transports that differ in what they say (a speech): requests go
 * out over connections that are kept, answers are read, and each call ends with a result. A
 * submission goes out once a call; a lookup does so once more when a connection that was kept ends
 * before its answer. One thread; nothing blocks. Of transport_native.c and transport_carrier.c
 * alone.
 */

#include "consumerd/transport.h"
#include "libcommon/base/buf.h"

/* What is to be said. */
struct http_said {
    const struct transport_call *call;
    const struct operator_config *op;
    const struct transport_config *config;
    bool lookup;
    bool shown;          /* for people: secrets as *** */
    struct buf *scratch; /* empty; its memory is kept */
};

/* What came of it: of a submission that may have gone out, or of a lookup. */
struct http_heard {
    const struct operator_config *op;
    int status; /* 0: no answer */
    const char *body;
    size_t len;
    bool whole; /* the answer has come to its end */
};

struct http_speech {
    /* Appends the whole request; body: empty. False: there is nothing to be said. */
    bool (*put)(const struct http_said *said, struct buf *out, struct buf *body);
    /* Into a result that says unknown and unreachable so far. */
    void (*judge)(const struct http_heard *heard, struct transport_result *result);
};

/* The functions of a struct transport. */
struct transport_link *http_open(const struct transport_config *config,
                                 const struct transport *transport,
                                 const struct http_speech *speech);
void http_close(struct transport_link *link);
bool http_submit(struct transport_link *link, struct transport_call *call);
bool http_lookup(struct transport_link *link, struct transport_call *call);
void http_abort(struct transport_link *link, struct transport_call *call);
void http_reloaded(struct transport_link *link, size_t calls_max);

#endif
