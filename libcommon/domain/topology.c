#include "libcommon/domain/topology.h"

#include <string.h>

#define NAME(env, field, initial_value, longest, text)                                            \
    {                                                                                             \
        .name = (env), .type = SETTING_STRING, .offset = offsetof(struct broker_settings, field), \
        .initial = (initial_value), .min = 1, .max = (longest), .help = (text)                    \
    }

_Static_assert(BROKER_QUEUES == MESSAGE_LANES, "a queue for each lane");

const struct setting topology_settings_rows[] = {
    NAME("RABBIT_MESSAGE_EXCHANGE", exchange, "message_exchange", 200,
         "Exchange that messages are published to; dead letters go to one with .dead added."),
    NAME("EXPRESS_QUEUE", queues[MESSAGE_EXPRESS], "message_express", 255,
         "Queue (and routing key) of express messages."),
    NAME("NORMAL_QUEUE", queues[MESSAGE_NORMAL], "message_normal", 255,
         "Queue (and routing key) of normal messages."),
    {.name = "RABBIT_QUEUE_TYPE",
     .type = SETTING_CHOICE,
     .offset = offsetof(struct broker_settings, queue_type),
     .initial = "quorum",
     .choices = "quorum classic",
     .help = "Type of the queues that are declared."},
    {.name = "RABBIT_DELIVERY_LIMIT",
     .type = SETTING_INT,
     .offset = offsetof(struct broker_settings, delivery_limit),
     .initial = "1000000000",
     .min = 20,
     .max = INT32_MAX,
     .help = "x-delivery-limit of quorum queues; large, because RabbitMQ 4 counts healthy messages "
             "of a consumer that was killed."},
    SETTINGS_END,
};

const char *topology_queue(const struct broker_settings *settings, enum message_type type)
{
    return settings->queues[type];
}

/* Settings that have been refused already are NULL. */
size_t topology_check(const struct broker_settings *settings, struct buf *errors)
{
    const char *express = settings->queues[MESSAGE_EXPRESS];
    const char *normal = settings->queues[MESSAGE_NORMAL];

    if (!express || !normal || strcmp(express, normal) != 0)
        return 0;
    buf_puts(errors, "EXPRESS_QUEUE and NORMAL_QUEUE must differ\n");
    return 1;
}
