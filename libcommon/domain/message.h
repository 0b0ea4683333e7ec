#ifndef LIBCOMMON_DOMAIN_MESSAGE_H
#define LIBCOMMON_DOMAIN_MESSAGE_H

/*
 * A message as the processes hand it on: the JSON body on the broker, the outbox payload that
 * carries it there, and the names of types. Pure. Contract: the broker's body is
 * {customer_id, text, recipients, type, transaction_id, message_identifier}.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/base/buf.h"
#include "libcommon/base/err.h"
#include "libcommon/base/random.h"
#include "libcommon/base/trace.h"

#define MESSAGE_TEXT_MAX 4096 /* bytes */
#define MESSAGE_RECIPIENT_MAX 20
#define MESSAGE_ID_MAX 50            /* the column's width; ours are 36 */
#define MESSAGE_RECIPIENTS_MAX 10000 /* the highest MAX_RECIPIENTS */
/* Bytes of the largest message that can be accepted, as it is published: every character of its
 * text escaped, and the blanks with which MySQL gives back what it has stored. */
#define MESSAGE_JSON_MAX \
    (512 + 6 * MESSAGE_TEXT_MAX + MESSAGE_RECIPIENTS_MAX * (MESSAGE_RECIPIENT_MAX + 4))
#define MESSAGE_PAYLOAD_MAX (MESSAGE_JSON_MAX + 8192) /* the same in an outbox row */
#define MESSAGE_LANES 2

enum message_type { MESSAGE_NORMAL = 0, MESSAGE_EXPRESS = 1 };
/* A lane is a message type: queue, workers, connections and slots of its own. */

const char *message_type_name(enum message_type type);
bool message_type_parse(const char *name, enum message_type *type);

/* Priority of an outbox row: express 10, normal 0; 5 and above are the high lane. */
int message_priority(enum message_type type);

/* 1 to MESSAGE_TEXT_MAX bytes of UTF-8 without NUL; + optional, digits, at most 20 characters. */
bool message_text_ok(const char *s, size_t n);
bool message_recipient_ok(const char *s, size_t n);

struct message {
    int64_t customer_id;
    enum message_type type;
    char id[MESSAGE_ID_MAX + 1];
    char transaction_id[MESSAGE_ID_MAX + 3];
    const char *text; /* borrowed when encoding; owned by json after message_decode */
    size_t text_len;
    const char *const *recipients;
    size_t recipient_count;
    void *owned; /* what message_free releases */
};

void message_put_json(struct buf *out, const struct message *m);
/* ERR_PERMANENT with a reason (never the content) when the body is not a message of ours. */
int message_decode(const char *json, size_t n, struct message *out, struct err *err);
void message_free(struct message *m);

/* The payload of an outbox row:
 * {"exchange","routing_key","message":{...},"transaction_id","traceparent","tracestate","accepted_us"}.
 * traceparent and tracestate may be "". */
void message_put_payload(struct buf *out, const struct message *m, const char *exchange,
                         const char *routing_key, const char *traceparent, const char *tracestate,
                         int64_t accepted_us);

#endif
