#include "libcommon/broker/broker_refusal.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define VALUE_MAX 64

/* Reply codes of AMQP 0-9-1. */
enum { REFUSED_ACCESS = 403, REFUSED_LOCKED = 405, REFUSED_CLASH = 406, REFUSED_NOT_ALLOWED = 530 };

/* What an existing declaration has, where ours has something else. */
struct clash {
    char argument[VALUE_MAX], ours[VALUE_MAX], theirs[VALUE_MAX];
};

/* What stands between the next two quotes, or the word itself ("none"). */
static bool take_value(const char *at, char out[VALUE_MAX])
{
    static const char value[] = "the value ";
    size_t n;

    if (!strncmp(at, value, sizeof(value) - 1))
        at += sizeof(value) - 1;
    if (*at == '\'')
        n = strcspn(++at, "'");
    else
        n = strcspn(at, " ,");
    if (!n || n >= VALUE_MAX)
        return false;
    memcpy(out, at, n);
    out[n] = '\0';
    return true;
}

static bool take_after(const char *text, const char *words, char out[VALUE_MAX])
{
    const char *at = strstr(text, words);

    return at && take_value(at + strlen(words), out);
}

static bool parse_clash(const char *text, struct clash *c)
{
    return take_after(text, "inequivalent arg ", c->argument) &&
           take_after(text, "received ", c->ours) && take_after(text, "but current is ", c->theirs);
}

/* What we give to quorum queues alone: with and without it are queues of two types. */
static bool tells_type(const struct clash *c)
{
    bool quorum = !strcmp(c->argument, "x-overflow") ||
                  !strcmp(c->argument, "x-dead-letter-strategy") ||
                  !strcmp(c->argument, "x-delivery-limit");

    return quorum && (!strcmp(c->theirs, "none") || !strcmp(c->ours, "none"));
}

static const char *advice(const struct clash *c)
{
    static const struct {
        const char *argument, *advice;
    } all[] = {
        {"x-queue-type", "set RABBIT_QUEUE_TYPE to its type, use another name, or delete it once "
                         "it is empty"},
        {"x-delivery-limit", "set RABBIT_DELIVERY_LIMIT to its limit, use another name, or delete "
                             "it once it is empty"},
        {"x-quorum-initial-group-size",
         "set RABBIT_QUEUE_GROUP_SIZE to its size; its members can be changed while it is used "
         "(rabbitmq-queues grow)"},
        {"x-dead-letter-exchange", "it belongs to another RABBIT_MESSAGE_EXCHANGE: use another "
                                   "name, or delete it once it is empty"},
        {"durable", "it would not outlive a restart of the broker: use another name, or delete it "
                    "once it is empty"},
        {"type", "it routes in another way: use another name, or delete it"},
    };

    const char *argument = tells_type(c) ? "x-queue-type" : c->argument;

    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        if (!strcmp(all[i].argument, argument))
            return all[i].advice;
    return "it was declared by somebody else: use another name, or delete it once it is empty";
}

static int clashes(unsigned code, const char *what, const char *text, struct err *err)
{
    struct clash c;

    if (!parse_clash(text, &c))
        return err_set(err, ERR_PERMANENT, code,
                       "broker: %s clashes with what exists: use another name, or delete it once "
                       "it is empty (%s)",
                       what, text);
    return err_set(err, ERR_PERMANENT, code, "broker: %s exists with %s %s, and ours is %s: %s",
                   what, c.argument, c.theirs, c.ours, advice(&c));
}

int broker_refused(unsigned code, const char *what, const char *text, struct err *err)
{
    switch (code) {
    case REFUSED_ACCESS:
        return err_set(err, ERR_PERMANENT, code,
                       "broker: %s: access refused; check user, password and permissions of "
                       "RABBIT_URI (%s)",
                       what, text);
    case REFUSED_NOT_ALLOWED:
        return err_set(err, ERR_PERMANENT, code,
                       "broker: %s: not allowed; check the vhost of RABBIT_URI (%s)", what, text);
    case REFUSED_CLASH:
        return clashes(code, what, text, err);
    case REFUSED_LOCKED:
        return err_set(err, ERR_PERMANENT, code,
                       "broker: %s belongs to another connection alone (exclusive): use another "
                       "name, or end that connection",
                       what);
    default:
        return err_set(err, ERR_RETRY, code, "broker: %s: %s", what, text);
    }
}
