#ifndef LIBCOMMON_BROKER_BROKER_INTERNAL_H
#define LIBCOMMON_BROKER_BROKER_INTERNAL_H

/*
 * What the files of the broker share; nobody else includes this. broker.c: connection, channel and
 * calls that wait for an answer. broker_topology.c: settings and declarations. broker_fanout.c: the
 * fanout of what may be lost. broker_out.c: what leaves without an answer. broker_in.c: what comes
 * in by itself. broker_leave.c: the end of a connection that cannot be read any more.
 * broker_nodes.h: which node of a cluster.
 *
 * On plain TCP, frames of broker_out.c are written to librabbitmq's socket here, many at once and
 * with a deadline: the library would make three writes a message and wait for ever. It keeps no
 * unsent bytes of its own, so the two may alternate on one thread. TLS goes through the library.
 */

#include <amqp.h>
#include <amqp_framing.h>

#include "libcommon/base/buf.h"
#include "libcommon/base/trace.h"
#include "libcommon/broker/broker.h"
#include "libcommon/broker/broker_acks.h"

#define DEATH_REASON "x-first-death-reason"
#define DEATH_QUEUE "x-first-death-queue"

#define BROKER_CHANNEL 1
#define BROKER_ASIDE_CHANNEL 2 /* for questions whose answer may close their channel */

/* The frame that is being put together: method, header, bodies; keeps its state between pumps. */
struct broker_incoming {
    enum { INCOMING_METHOD, INCOMING_HEADER, INCOMING_BODY } expects;
    enum broker_event_type type;
    uint64_t tag;
    bool redelivered;
    unsigned code;
    int64_t accepted_us, delivery_count;
    bool is_bundle;
    unsigned bundle;
    uint64_t body_size, body_seen;
    char text[256], message_id[256], death_reason[32], death_queue[256];
    char traceparent[TRACE_PARENT_SIZE], tracestate[TRACE_STATE_MAX + 1];
    struct buf body; /* only for bodies of several frames */
};

struct broker {
    const struct broker_settings *settings;
    unsigned queues;
    char purpose[64];
    char warning[sizeof(((struct err *)0)->msg)];
    amqp_connection_state_t conn; /* NULL: closed */
    size_t nodes, home, at;       /* which node: the connection's, or the next one's */
    int64_t home_at_ms;
    bool tls, channel_open, blocked, consuming;
    bool established;     /* all of broker_open was done */
    bool listening;       /* its deliveries want no acks */
    bool late;            /* a delivery came for a channel that was gone */
    bool deaf;            /* what comes in makes no sense any more */
    const char *distrust; /* why the broker's certificate was refused; NULL: it was not */
    const char *alert;    /* what else ended a handshake; NULL: nothing that was said */
    uint64_t generation, next_tag;
    char consumer[96];  /* the tag of the present one, or the last */
    unsigned consumers; /* so far: each has a tag of its own */
    size_t frame_max;
    int64_t beat_at_ms;
    struct buf out;
    struct broker_acks acks;
    struct broker_incoming in;
};

/* For amqps://: to host, and to nobody else. NULL on failure; it belongs to b->conn. */
amqp_socket_t *broker_tls_socket(struct broker *b, const char *host, struct err *err);
/* Throws away what has come on a deaf connection. Does not block. */
void broker_ignore(struct broker *b);
/* Closes the connection and says why. Returns -1. */
int broker_fail(struct broker *b, int status, const char *what, struct err *err);
/* 0, or -1 with the connection closed. */
int broker_check_reply(struct broker *b, amqp_rpc_reply_t reply, const char *what, struct err *err);
/* The same of what was asked last, about the queue or exchange (kind) of that name. */
int broker_reply_to(struct broker *b, const char *kind, const char *name, struct err *err);
int broker_aside_open(struct broker *b, const char *what, struct err *err);
int broker_aside_close(struct broker *b, const char *what, struct err *err);
/* Like broker_check_reply, for what was asked on the channel aside: gone: the broker has closed
 * that channel alone, and err says why. */
int broker_aside_reply(struct broker *b, amqp_rpc_reply_t reply, const char *what, bool *gone,
                       struct err *err);
/* The broker has closed the channel: confirm that, and forget what belonged to it. */
int broker_channel_gone(struct broker *b, struct err *err);
void broker_copy_text(char *to, size_t size, amqp_bytes_t from);
/* What a message says of itself, of its properties' fields and headers. Pure. */
void broker_read_properties(struct broker_incoming *in, const amqp_basic_properties_t *properties);
/* The channel is open and what had gathered is out; else -1 and the connection is closed. */
int broker_need_channel(struct broker *b, const char *what, struct err *err);
int broker_topology_declare(struct broker *b, struct err *err);

#endif
