#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base/must.h"
#include "libcommon/broker/broker_internal.h"
#include "libcommon/broker/broker_nodes.h"

const struct setting broker_settings_rows[] = {
    SETTING_TEXT_ROW(broker_settings, uri, SETTING_URI, "RABBIT_URI", NULL, 0, broker_nodes_check,
                     "Where RabbitMQ is: amqp://user:password@host:5672/vhost, or amqps:// (5671) "
                     "for TLS. No vhost means /. Of a cluster all nodes, with commas between "
                     "them."),
    SETTING_TEXT_ROW(
        broker_settings, tls_ca, SETTING_STRING, "RABBIT_TLS_CA",
        "/etc/ssl/certs/ca-certificates.crt", 4096, NULL,
        "PEM file of the authorities that amqps:// certificates are verified against."),
    SETTING_INT_ROW(
        broker_settings, heartbeat_sec, "RABBIT_HEARTBEAT_SEC", "5", 2, 600,
        "AMQP heartbeat in seconds; a peer that is silent for two to three of them is given up."),
    SETTING_INT_ROW(broker_settings, connect_timeout_ms, "RABBIT_CONNECT_TIMEOUT_MS", "5000", 100,
                    60000, "Longest wait for a connection and its login, each."),
    SETTING_INT_ROW(broker_settings, rpc_timeout_ms, "RABBIT_RPC_TIMEOUT_MS", "5000", 100, 60000,
                    "Longest wait for the broker's answer, or for it to take what is written."),
    SETTING_INT_ROW(broker_settings, rebalance_sec, "RABBIT_REBALANCE_SEC", "300", 0, 86400,
                    "About how many seconds after its node failed a connection goes back to it, "
                    "once it answers again; 0: never."),
    SETTINGS_END,
};

#define ARGUMENTS_MAX 6

struct arguments {
    amqp_table_entry_t entries[ARGUMENTS_MAX];
    int n;
};

static void put_text(struct arguments *a, const char *key, const char *value)
{
    MUST(a->n < ARGUMENTS_MAX);
    a->entries[a->n++] = (amqp_table_entry_t){
        .key = amqp_cstring_bytes(key),
        .value = {.kind = AMQP_FIELD_KIND_UTF8, .value.bytes = amqp_cstring_bytes(value)}};
}

static void put_number(struct arguments *a, const char *key, int32_t value)
{
    MUST(a->n < ARGUMENTS_MAX);
    a->entries[a->n++] = (amqp_table_entry_t){
        .key = amqp_cstring_bytes(key), .value = {.kind = AMQP_FIELD_KIND_I32, .value.i32 = value}};
}

/* Without reject-publish the broker refuses at-least-once dead-lettering: a queue that may drop
 * cannot promise to hand over. A queue without a limit of its own never has to. */
static void queue_arguments(const struct broker *b, const char *dead_exchange, struct arguments *a)
{
    bool quorum = strcmp(b->settings->queue_type, "quorum") == 0;

    *a = (struct arguments){0};
    put_text(a, "x-queue-type", b->settings->queue_type);
    if (quorum)
        put_number(a, "x-delivery-limit", (int32_t)b->settings->delivery_limit);
    if (quorum && b->settings->group_size)
        put_number(a, "x-quorum-initial-group-size", (int32_t)b->settings->group_size);
    if (!dead_exchange)
        return;
    put_text(a, "x-dead-letter-exchange", dead_exchange);
    if (quorum) {
        put_text(a, "x-dead-letter-strategy", "at-least-once");
        put_text(a, "x-overflow", "reject-publish");
    }
}

static void ask_exchange(struct broker *b, amqp_channel_t channel, const char *name,
                         const char *type)
{
    amqp_exchange_declare(b->conn, channel, amqp_cstring_bytes(name), amqp_cstring_bytes(type), 0,
                          1, 0, 0, amqp_empty_table);
}

static void ask_queue(struct broker *b, amqp_channel_t channel, const char *name,
                      const char *dead_exchange)
{
    struct arguments a;

    queue_arguments(b, dead_exchange, &a);
    amqp_queue_declare(b->conn, channel, amqp_cstring_bytes(name), 0, 1, 0, 0,
                       (amqp_table_t){.num_entries = a.n, .entries = a.entries});
}

int broker_reply_to(struct broker *b, const char *kind, const char *name, struct err *err)
{
    char what[320];

    snprintf(what, sizeof(what), "%s %s", kind, name);
    return broker_check_reply(b, amqp_get_rpc_reply(b->conn), what, err);
}

static int bind(struct broker *b, const char *queue, const char *exchange, struct err *err)
{
    amqp_queue_bind(b->conn, BROKER_CHANNEL, amqp_cstring_bytes(queue),
                    amqp_cstring_bytes(exchange), amqp_cstring_bytes(queue), amqp_empty_table);
    return broker_reply_to(b, "queue", queue, err);
}

static int declare_queue(struct broker *b, const char *name, const char *dead, struct err *err)
{
    ask_queue(b, BROKER_CHANNEL, name, dead);
    return broker_reply_to(b, "queue", name, err) || bind(b, name, b->settings->exchange, err) ? -1
                                                                                               : 0;
}

/* Of dead letters: where they go must exist, whatever else it is. queue: else the exchange. */
static int declare_dead(struct broker *b, const char *dead, bool queue, struct err *err)
{
    char what[320];
    bool gone;

    snprintf(what, sizeof(what), "%s %s", queue ? "queue" : "exchange", dead);
    if (broker_aside_open(b, what, err))
        return -1;
    if (queue)
        ask_queue(b, BROKER_ASIDE_CHANNEL, dead, NULL);
    else
        ask_exchange(b, BROKER_ASIDE_CHANNEL, dead, "fanout");
    if (!broker_aside_reply(b, amqp_get_rpc_reply(b->conn), what, &gone, err))
        return broker_aside_close(b, what, err);
    if (!gone || !b->conn)
        return -1;
    if (err->code != AMQP_PRECONDITION_FAILED) {
        broker_drop(b);
        return -1;
    }
    snprintf(b->warning, sizeof(b->warning), "%s", err->msg);
    return 0;
}

int broker_topology_declare(struct broker *b, struct err *err)
{
    const struct broker_settings *s = b->settings;
    char dead[256];

    b->warning[0] = '\0';
    if (!b->queues)
        return 0;
    snprintf(dead, sizeof(dead), "%s" BROKER_DEAD, s->exchange);
    /* A fanout: dead letters keep their routing key, and all of them go to one queue. The way out
     * exists before the way in. */
    if (declare_dead(b, dead, false, err) || declare_dead(b, dead, true, err) ||
        bind(b, dead, dead, err))
        return -1;
    ask_exchange(b, BROKER_CHANNEL, s->exchange, "direct");
    if (broker_reply_to(b, "exchange", s->exchange, err))
        return -1;
    for (size_t i = 0; i < BROKER_QUEUES; i++)
        if (b->queues & BROKER_QUEUE(i) && declare_queue(b, s->queues[i], dead, err))
            return -1;
    amqp_maybe_release_buffers(b->conn);
    return 0;
}
