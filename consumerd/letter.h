#ifndef CONSUMERD_LETTER_H
#define CONSUMERD_LETTER_H

/*
 * What lies in the dead-letter queue: a message, or a bundle of them that went there whole (a
 * consumer that does not know bundles, one that cannot be read). Pure; owned by whoever took it.
 */

#include "libcommon/broker/broker.h"
#include "libcommon/domain/bundle.h"
#include "libcommon/domain/recipient.h"

/* A message of the letter, as far as it can be read. */
struct letter_member {
    char id[MESSAGE_ID_MAX + 1];     /* "": it names none */
    bool copy;                       /* a letter before this one has it too */
    size_t counts[RECIPIENT_STATES]; /* of its recipients, as they are now */
};

struct letter {
    struct broker *in;           /* the connection that it came on, */
    uint64_t tag;                /* and its delivery tag there */
    char id[MESSAGE_ID_MAX + 1]; /* of the AMQP message; "#<place>" when it has none */
    char traceparent[TRACE_PARENT_SIZE];
    char *message_id, *tracestate, *body, *death_reason, *death_queue;
    size_t body_len;
    int64_t accepted_us, delivery_count;
    bool is_bundle;
    unsigned bundle; /* its version */
    struct letter_member *members;
    size_t member_count;
    bool settled; /* acknowledged: it has left the queue */
};

/* From a delivery, as the place-th of the queue. False: not enough memory for it. */
bool letter_take(struct letter *l, const struct broker_event *event, size_t place);
void letter_free(struct letter *l);
/* About what it takes of our memory. */
size_t letter_bytes(const struct letter *l);

/* Gives every member, in the order of members; ERR_PERMANENT: a bundle that cannot be read. */
int letter_read(const struct letter *l, bundle_member_fn *fn, void *arg, struct err *err);

/* Of all of them, in their order: notes which messages an earlier one has too. */
void letters_mark_copies(struct letter *letters, size_t n);

/* Whether it is named by that id: its own, or a member's. */
bool letter_is(const struct letter *l, const char *id);

/* What it carries, to be published; where to is added. */
struct broker_message letter_message(const struct letter *l);

/* A line, and of a bundle one more for each member. */
void letter_print(const struct letter *l);
void letter_show(const struct letter *l); /* with its body */

#endif
