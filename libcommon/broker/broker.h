#ifndef LIBCOMMON_BROKER_BROKER_H
#define LIBCOMMON_BROKER_BROKER_H

/*
 * One AMQP 0-9-1 connection with one channel (librabbitmq), to one node of those that RABBIT_URI
 * names, and the exchange and queues that it declares. Belongs to one thread. broker_open blocks up
 * to the connect timeout, and once more for the node that it has begun with; the other calls
 * are bounded by the timeouts of the settings. A call that fails has closed the connection: open
 * again with backoff. Publishing and consuming use connections of their own: a broker in alarm
 * blocks all of a publishing connection.
 *
 * What is published, acked or dead-lettered is gathered and leaves in few writes: with the next
 * broker_pump or broker_flush, or when much has gathered. A channel that the broker closed
 * (BROKER_CHANNEL_CLOSED) takes no more: acks for it are dropped, anything else fails, until
 * broker_reopen_channel.
 *
 * Topology: exchange (direct, durable) -> queues (durable; quorum by default), dead letters to
 * <exchange>.dead (exchange and queue). Whoever comes first declares it. Dead letters' exchange and
 * queue are used as they are when others have declared them in another way (broker_warning). What
 * the queues are for is the domain's matter (domain/topology.h).
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/base/err.h"
#include "libcommon/base/settings.h"

#define BROKER_QUEUES 2
#define BROKER_BUNDLE_TYPE "application/vnd.messaging.bundle+json" /* content type */
#define BROKER_BUNDLE_VERSION "bundle"                             /* header */
#define BROKER_DEAD ".dead" /* after the exchange's name: exchange and queue of dead letters */

struct broker_settings {
    char *uri, *tls_ca;
    int64_t heartbeat_sec, connect_timeout_ms, rpc_timeout_ms, rebalance_sec;
    /* What is declared. A queue's name is its routing key too. */
    char *exchange, *queues[BROKER_QUEUES], *queue_type;
    int64_t delivery_limit, group_size;
    int64_t bundle_max; /* messages of one AMQP message (domain/topology.h) */
};

extern const struct setting broker_settings_rows[]; /* the first line; the rest: topology.h */

/* The vhost of the URI. False: it is malformed, or the vhost too long. */
bool broker_vhost(const struct broker_settings *settings, char *out, size_t size);

#define BROKER_QUEUE(i) (1u << (i))
#define BROKER_ALL_QUEUES (BROKER_QUEUE(BROKER_QUEUES) - 1)

struct broker;
/* queues: which of them it declares, and so cannot do without. Whoever works for one queue names
 * that one, so that a clash with another is not its trouble; 0: it declares nothing at all. */
struct broker *broker_new(const struct broker_settings *settings, unsigned queues,
                          const char *purpose);
void broker_free(struct broker *b); /* NULL is fine; closes */

/* Connects, logs in, opens the channel, declares the topology: at its own node, or where that fails
 * at the next. ERR_PERMANENT: refused for a reason
 * that a person must mend (credentials, a clash with an existing declaration), in words that say
 * what to do; still worth retrying slowly. */
int broker_open(struct broker *b, struct err *err);
void broker_close(struct broker *b); /* says goodbye, bounded; what is unconfirmed is unknown */
void broker_drop(struct broker *b);  /* closes the socket at once; the next node is tried next */
/* Away from its own node for long, and that takes connections again: it is next. The caller closes,
 * at a moment that suits it, and opens. Blocks for a quarter of a second at most, seldom. */
bool broker_may_go_home(struct broker *b);
/* After BROKER_UNREADABLE: what has gathered goes out, and whatever the broker still says is thrown
 * away until it has heard us, at most for the rpc timeout. Closed in any case; -1: it may not have
 * heard all of it, and what was settled comes again. */
int broker_leave(struct broker *b, struct err *err);
bool broker_is_open(const struct broker *b);
const char *broker_warning(const struct broker *b); /* of the last declaration; "": none */
bool broker_is_blocked(const struct broker *b); /* connection.blocked was said: publish nothing */
/* Grows with every open and every new channel: a tag belongs to one generation. */
uint64_t broker_generation(const struct broker *b);
int broker_fd(const struct broker *b); /* for poll; -1 when closed */
/* Something has been read from the socket but not handed on (broker_pump stopped at max): pump
 * again before waiting for broker_fd. */
bool broker_has_more(const struct broker *b);

/* After a channel error (the connection lives on): a new channel, without consumers and confirms.
 */
int broker_reopen_channel(struct broker *b, struct err *err);
/* Closes the channel and opens a new one, likewise: what was delivered and not acknowledged comes
 * again, what was published and not confirmed is unknown. */
int broker_renew_channel(struct broker *b, struct err *err);
bool broker_was_late(const struct broker *b); /* when it was called last, with a delivery */
/* Declares exchange, queues and bindings again (a missing queue comes back). */
int broker_declare(struct broker *b, struct err *err);
/* A round trip that shows the broker alive (readiness). On a connection of its own. */
int broker_ping(struct broker *b, struct err *err);

/* Messages ready in a queue, and, unless it is NULL, who reads there (a passive declare); one that
 * does not exist holds none. In a quorum queue whoever still has messages in hand is a reader, and
 * has them until their acks have been applied, which a channel that ends cuts off. */
int broker_depth(struct broker *b, const char *queue, uint32_t *ready, uint32_t *readers,
                 struct err *err);

struct broker_message {
    const char *exchange, *routing_key;
    const char *message_id;
    unsigned
        bundle; /* the version of the bundle that the body is (domain/bundle.h); 0: it is not */
    const void *body;
    size_t body_len;
    const char *traceparent, *tracestate; /* headers; NULL or "": left out */
    int64_t accepted_us;                  /* header; 0: left out */
    const char *death_reason,
        *death_queue; /* headers of a dead letter that is put back; as above */
    bool transient;   /* a body that may be lost: nothing above but exchange and key is sent */
};

/* Confirm mode; delivery tags count from 1 afterwards. */
int broker_confirm(struct broker *b, struct err *err);
/* Persistent, mandatory, type message.send, unless it is transient. *tag: the confirm to wait for.
 */
int broker_publish(struct broker *b, const struct broker_message *m, uint64_t *tag,
                   struct err *err);

/* Starts consuming with manual acks. One consumer a connection at a time; after broker_cancel
 * another may begin, whose prefetch does not count what is still unacknowledged of the last. */
int broker_consume(struct broker *b, const char *queue, uint16_t prefetch, struct err *err);
/* Ack in any order: neighbours leave as one frame. A tag that is not outstanding is ignored. */
int broker_ack(struct broker *b, uint64_t tag, bool multiple, struct err *err);
int broker_dead_letter(struct broker *b, uint64_t tag,
                       struct err *err); /* reject without requeue */
/* After all that is acked: everything else that was delivered goes back to its queue. */
int broker_requeue(struct broker *b, struct err *err);
int broker_cancel(struct broker *b,
                  struct err *err); /* no new deliveries; unacked ones stay ours */

/* In place of broker_pump, and as often, while nothing may be read: keeps heartbeats going. After
 * BROKER_UNREADABLE what comes is thrown away: the broker gives up a connection that takes nothing.
 */
int broker_beat(struct broker *b, struct err *err);

/* What may be lost (transient) goes to whoever listens, through a fanout exchange. Declares it. */
int broker_fanout(struct broker *b, const char *exchange, struct err *err);
/* Hears from there what is said from now on, without acks, in a queue of that name that is this
 * connection's own, keeps the last message alone and goes with it. Called again it makes sure that
 * the queue is still bound. */
int broker_listen(struct broker *b, const char *exchange, const char *queue, struct err *err);

/* Hands what has gathered to the kernel. */
int broker_flush(struct broker *b, struct err *err);

/* A longer body is handed on as an empty one. It follows from the largest message and the largest
 * bundle (domain/topology.c holds it to that). */
#define BROKER_BODY_MAX (272 << 10)

enum broker_event_type {
    BROKER_CONFIRMED,  /* tag; multiple: all up to tag */
    BROKER_NACKED,     /* tag; multiple: the broker could not take it */
    BROKER_RETURNED,   /* message_id, code, text: unroutable; its confirm follows */
    BROKER_DELIVERED,  /* delivery: valid until the callback returns */
    BROKER_UNREADABLE, /* tag: a delivery whose properties cannot be taken in (more of them than a
                          frame may hold). The connection reads no more: settle it, broker_leave */
    BROKER_CANCELLED,  /* the queue is gone or its leader moved: declare and consume again */
    BROKER_CHANNEL_CLOSED, /* code, text: unconfirmed tags are unknown; broker_reopen_channel */
    BROKER_BLOCKED,        /* text */
    BROKER_UNBLOCKED,
};

struct broker_event {
    enum broker_event_type type;
    uint64_t tag;
    bool multiple;
    bool redelivered;
    unsigned code;
    const char *text;                     /* NUL-terminated */
    const char *message_id;               /* NUL-terminated, "" when absent */
    const char *traceparent, *tracestate; /* NUL-terminated, "" when absent */
    int64_t accepted_us;
    bool is_bundle;  /* by its content type */
    unsigned bundle; /* its version; 0: none is named */
    /* Of a dead letter: "rejected", "expired", "maxlen", "delivery_limit", and out of which queue.
     */
    const char *death_reason, *death_queue;
    int64_t delivery_count; /* how often it was delivered before and came back (quorum queues) */
    const void *body;
    size_t body_len;
};

typedef void broker_event_fn(const struct broker_event *event, void *arg);

/* Waits up to timeout_ms for something to come (0: looks only), then hands on all that has come, at
 * most max events (0: no limit). Keeps heartbeats going: call it at least every heartbeat / 2.
 * The callback must not call into the broker other than ack and dead_letter. */
int broker_pump(struct broker *b, int timeout_ms, size_t max, broker_event_fn *fn, void *arg,
                struct err *err);

#endif
