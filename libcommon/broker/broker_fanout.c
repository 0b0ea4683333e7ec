#include "libcommon/broker/broker_internal.h"

int broker_fanout(struct broker *b, const char *exchange, struct err *err)
{
    if (broker_need_channel(b, "fanout", err))
        return -1;
    amqp_exchange_declare(b->conn, BROKER_CHANNEL, amqp_cstring_bytes(exchange),
                          amqp_cstring_bytes("fanout"), 0, 1, 0, 0, amqp_empty_table);
    if (broker_reply_to(b, "exchange", exchange, err))
        return -1;
    amqp_maybe_release_buffers(b->conn);
    return 0;
}

static int declare_own(struct broker *b, const char *queue, struct err *err)
{
    amqp_table_entry_t arguments[] = {
        {.key = amqp_cstring_bytes("x-queue-type"),
         .value = {.kind = AMQP_FIELD_KIND_UTF8, .value.bytes = amqp_cstring_bytes("classic")}},
        {.key = amqp_cstring_bytes("x-max-length"),
         .value = {.kind = AMQP_FIELD_KIND_I32, .value.i32 = 1}},
    };

    amqp_queue_declare(b->conn, BROKER_CHANNEL, amqp_cstring_bytes(queue), 0, 0, 1, 1,
                       (amqp_table_t){.num_entries = 2, .entries = arguments});
    return broker_reply_to(b, "queue", queue, err);
}

static int bind_own(struct broker *b, const char *exchange, const char *queue, struct err *err)
{
    amqp_queue_bind(b->conn, BROKER_CHANNEL, amqp_cstring_bytes(queue),
                    amqp_cstring_bytes(exchange), amqp_empty_bytes, amqp_empty_table);
    return broker_reply_to(b, "queue", queue, err);
}

static int consume_own(struct broker *b, const char *queue, struct err *err)
{
    amqp_basic_consume(b->conn, BROKER_CHANNEL, amqp_cstring_bytes(queue), amqp_empty_bytes, 0, 1,
                       1, amqp_empty_table);
    if (broker_reply_to(b, "queue", queue, err))
        return -1;
    b->consuming = b->listening = true;
    return 0;
}

int broker_listen(struct broker *b, const char *exchange, const char *queue, struct err *err)
{
    bool again = b->listening;

    if (broker_fanout(b, exchange, err) || (!again && declare_own(b, queue, err)) ||
        bind_own(b, exchange, queue, err) || (!again && consume_own(b, queue, err)))
        return -1;
    amqp_maybe_release_buffers(b->conn);
    return 0;
}
