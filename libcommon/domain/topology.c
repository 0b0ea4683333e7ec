#include "libcommon/domain/topology.h"

#include <stdio.h>
#include <string.h>

#include "libcommon/base/utf8.h"
#include "libcommon/domain/bundle.h"

#define EXPRESS_BUNDLE_MAX 10

_Static_assert(BROKER_QUEUES == MESSAGE_LANES, "a queue for each lane");
_Static_assert(MESSAGE_PAYLOAD_MAX <= BROKER_BODY_MAX && BUNDLE_BYTES_MAX <= BROKER_BODY_MAX,
               "whatever is published is taken");

/* Such a name is a label of metrics too, and a word of the log. */
static bool check_name(const char *value, char *why, size_t size)
{
    for (size_t n = strlen(value); n;) {
        size_t len = utf8_character(value, n);

        if (!len || utf8_is_control(value, len)) {
            snprintf(why, size, "must be UTF-8 without control characters");
            return false;
        }
        value += len;
        n -= len;
    }
    return true;
}

const struct setting topology_settings_rows[] = {
    SETTING_TEXT_ROW(
        broker_settings, exchange, SETTING_STRING, "RABBIT_MESSAGE_EXCHANGE", "message_exchange",
        200, check_name,
        "Exchange that messages are published to; dead letters go to one with .dead added."),
    SETTING_TEXT_ROW(broker_settings, queues[MESSAGE_EXPRESS], SETTING_STRING, "EXPRESS_QUEUE",
                     "message_express", 255, check_name,
                     "Queue (and routing key) of express messages."),
    SETTING_TEXT_ROW(broker_settings, queues[MESSAGE_NORMAL], SETTING_STRING, "NORMAL_QUEUE",
                     "message_normal", 255, check_name,
                     "Queue (and routing key) of normal messages."),
    SETTING_CHOICE_ROW(broker_settings, queue_type, "RABBIT_QUEUE_TYPE", "quorum", "quorum classic",
                       "Type of the queues that are declared."),
    SETTING_INT_ROW(broker_settings, group_size, "RABBIT_QUEUE_GROUP_SIZE", "0", 0, 15,
                    "x-quorum-initial-group-size of quorum queues: on how many nodes a new one has "
                    "members; 0: as many as the broker's own setting says."),
    SETTING_INT_ROW(broker_settings, delivery_limit, "RABBIT_DELIVERY_LIMIT", "1000000000", 20,
                    INT32_MAX,
                    "x-delivery-limit of quorum queues; large, because RabbitMQ 4 counts healthy "
                    "messages of a consumer that was killed."),
    SETTING_INT_ROW(
        broker_settings, bundle_max, "RABBIT_BUNDLE_MAX", "50", 1, BUNDLE_MESSAGES_MAX,
        "Most messages that travel in one AMQP message, of express ones at most 10; the "
        "same everywhere. 1 while a msg-consumerd runs that does not know bundles."),
    SETTINGS_END,
};

const char *topology_queue(const struct broker_settings *settings, enum message_type type)
{
    return settings->queues[type];
}

size_t topology_bundle_max(const struct broker_settings *settings, enum message_type type)
{
    bool fewer = type == MESSAGE_EXPRESS && settings->bundle_max > EXPRESS_BUNDLE_MAX;

    return fewer ? EXPRESS_BUNDLE_MAX : (size_t)settings->bundle_max;
}

/* The broker keeps such names for itself. */
static bool is_reserved(const char *name)
{
    return !strncmp(name, "amq.", 4);
}

static size_t check_queue(const struct broker_settings *settings, const char *setting,
                          const char *queue, struct buf *errors)
{
    size_t n = strlen(settings->exchange);

    if (is_reserved(queue)) {
        buf_printf(errors, "%s=%s: names that begin with amq. are the broker's own\n", setting,
                   queue);
        return 1;
    }
    if (strncmp(queue, settings->exchange, n) != 0 || strcmp(queue + n, BROKER_DEAD) != 0)
        return 0;
    buf_printf(errors, "%s=%s is the name of the dead-letter queue of RABBIT_MESSAGE_EXCHANGE\n",
               setting, queue);
    return 1;
}

size_t topology_check(const struct broker_settings *settings, struct buf *errors)
{
    const char *express = settings->queues[MESSAGE_EXPRESS];
    const char *normal = settings->queues[MESSAGE_NORMAL];
    size_t faults = check_queue(settings, "EXPRESS_QUEUE", express, errors) +
                    check_queue(settings, "NORMAL_QUEUE", normal, errors);

    if (is_reserved(settings->exchange)) {
        buf_printf(errors,
                   "RABBIT_MESSAGE_EXCHANGE=%s: names that begin with amq. are the broker's own\n",
                   settings->exchange);
        faults++;
    }
    if (!strcmp(express, normal)) {
        buf_puts(errors, "EXPRESS_QUEUE and NORMAL_QUEUE must differ\n");
        faults++;
    }
    return faults;
}
