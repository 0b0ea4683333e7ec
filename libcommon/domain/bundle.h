#ifndef LIBCOMMON_DOMAIN_BUNDLE_H
#define LIBCOMMON_DOMAIN_BUNDLE_H

/*
 * Several messages of one lane in one AMQP message, which costs the broker little more than one of
 * them alone. Pure. Contract: content type BROKER_BUNDLE_TYPE, header bundle=1, body
 * {"messages":[{…a message's body…,"traceparent","tracestate","accepted_us"},…]}; what travels in
 * headers with a message alone (trace, accepted time) is the member's own here. The property
 * message_id is the first member's.
 *
 * A reader takes a member alone for what it is: one that is no message of ours spoils nothing for
 * its neighbours.
 */

#include "libcommon/domain/message.h"

#define BUNDLE_VERSION 1
#define BUNDLE_BYTES_MAX                                                     \
    (256u << 10) /* of a body that is written; a message alone may have more \
                  */

#define BUNDLE_MESSAGES_MAX 500 /* the highest RABBIT_BUNDLE_MAX */

/* What is written. */
struct bundle_entry {
    const char *body; /* the message's JSON object, as it is published alone */
    size_t body_len;
    const char *traceparent, *tracestate; /* "": none */
    int64_t accepted_us;                  /* 0: unknown */
};

/* Whether it can be a member at all: a body with something in it, within the bound. */
bool bundle_takes(const struct bundle_entry *e);
/* Empties out and begins; then the members, of which each has to fit; then the end. */
void bundle_begin(struct buf *out);
/* Bytes that the body would have with this member and the end. */
size_t bundle_size_with(const struct buf *out, const struct bundle_entry *e);
void bundle_add(struct buf *out, const struct bundle_entry *e);
void bundle_end(struct buf *out);

/* What is read; all of it is valid until the function that is given it returns. */
struct bundle_member {
    const struct message *message;        /* NULL: it is none of ours */
    const char *id;                       /* that it names, "": none */
    const char *traceparent, *tracestate; /* "": none */
    int64_t accepted_us;
    const char *json; /* its text */
    size_t json_len;
    const char *why; /* where it is none of ours, without content; NULL: it is */
};

/* False: the reader cannot go on; bundle_read ends with ERR_RETRY. */
typedef bool bundle_member_fn(const struct bundle_member *m, void *arg);

/* Gives every member in turn. ERR_PERMANENT: not a bundle of a version that is known here, or of
 * more members than any has, and nothing was given; ERR_RETRY: memory, perhaps in the middle. */
int bundle_read(unsigned version, const char *json, size_t n, bundle_member_fn *fn, void *arg,
                struct err *err);

/* A member's text as it is published alone: without what travels in headers then. What is no JSON
 * object stays as it is. False: memory. */
bool bundle_put_alone(struct buf *out, const char *json, size_t n);

#endif
