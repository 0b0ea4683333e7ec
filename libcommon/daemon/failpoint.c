#include "libcommon/daemon/failpoint.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char *const names[FAILPOINT_COUNT] = {
    [FAILPOINT_NONE] = "",
    [FAILPOINT_API_BEFORE_BEGIN] = "api.before_begin",
    [FAILPOINT_API_BEFORE_COMMIT] = "api.before_commit",
    [FAILPOINT_API_AFTER_COMMIT] = "api.after_commit",
    [FAILPOINT_API_AFTER_REPLY] = "api.after_reply",
    [FAILPOINT_OUTBOX_AFTER_CLAIM] = "outbox.after_claim",
    [FAILPOINT_OUTBOX_AFTER_PUBLISH] = "outbox.after_publish",
    [FAILPOINT_OUTBOX_AFTER_CONFIRM] = "outbox.after_confirm",
    [FAILPOINT_OUTBOX_AFTER_DELETE] = "outbox.after_delete",
    [FAILPOINT_CONSUMER_ON_DELIVERY] = "consumer.on_delivery",
    [FAILPOINT_CONSUMER_AFTER_CLAIM] = "consumer.after_claim",
    [FAILPOINT_CONSUMER_AFTER_DISPATCH] = "consumer.after_dispatch",
    [FAILPOINT_CONSUMER_AFTER_ACCEPTED] = "consumer.after_accepted",
    [FAILPOINT_CONSUMER_AFTER_SETTLE] = "consumer.after_settle",
    [FAILPOINT_CONSUMER_AFTER_ACK] = "consumer.after_ack",
    [FAILPOINT_CONSUMER_AFTER_LETTER] = "consumer.after_letter",
    [FAILPOINT_REFUND_BEFORE] = "refund.before",
    [FAILPOINT_REFUND_AFTER] = "refund.after",
    [FAILPOINT_RECEIPTS_BEFORE_COMMIT] = "receipts.before_commit",
    [FAILPOINT_RECEIPTS_AFTER_COMMIT] = "receipts.after_commit",
    [FAILPOINT_WEBHOOKS_BEFORE_SETTLE] = "webhooks.before_settle",
    [FAILPOINT_WEBHOOKS_AFTER_SETTLE] = "webhooks.after_settle",
    [FAILPOINT_MOVE_ARRIVING] = "move.arriving",
    [FAILPOINT_MOVE_COPIED] = "move.copied",
    [FAILPOINT_MOVE_LEAVING] = "move.leaving",
    [FAILPOINT_MOVE_HANDED] = "move.handed",
    [FAILPOINT_MOVE_FROZEN] = "move.frozen",
    [FAILPOINT_MOVE_PROVED] = "move.proved",
    [FAILPOINT_MOVE_SWITCHED] = "move.switched",
    [FAILPOINT_MOVE_MOVED] = "move.moved",
    [FAILPOINT_MOVE_TAKEN_IN] = "move.taken_in",
};

enum action { ACTION_KILL, ACTION_ERROR, ACTION_DELAY };

struct spec {
    enum failpoint at;
    enum action action;
    long delay_ms;
    unsigned long every;
};

enum failpoint failpoint_armed = FAILPOINT_NONE;
static struct spec armed;
static _Atomic unsigned long passes;

static enum failpoint find(const char *name, size_t n)
{
    for (int i = 1; i < FAILPOINT_COUNT; i++)
        if (strlen(names[i]) == n && !memcmp(names[i], name, n))
            return (enum failpoint)i;
    return FAILPOINT_NONE;
}

/* A whole number from 1 to 1,000,000 that ends at : or the end. */
static bool parse_number(const char *text, size_t n, unsigned long *out)
{
    char *end;

    if (!n || text[0] < '1' || text[0] > '9')
        return false;
    *out = strtoul(text, &end, 10);
    return end == text + n && *out <= 1000000;
}

static const char *parse_action(const char *text, size_t n, struct spec *s)
{
    unsigned long delay_ms;

    if (n == 4 && !memcmp(text, "kill", n)) {
        s->action = ACTION_KILL;
    } else if (n == 5 && !memcmp(text, "error", n)) {
        s->action = ACTION_ERROR;
    } else if (n > 6 && !memcmp(text, "delay=", 6) && parse_number(text + 6, n - 6, &delay_ms)) {
        s->action = ACTION_DELAY;
        s->delay_ms = (long)delay_ms;
    } else {
        return "must do kill, error or delay=<ms>";
    }
    return NULL;
}

static const char *parse(const char *text, struct spec *s)
{
    size_t n = strcspn(text, ":");
    const char *wrong;

    *s = (struct spec){.at = find(text, n), .every = 1};
    if (!s->at)
        return "must begin with the name of a failpoint";
    text += n;
    if (*text != ':')
        return "must be name:action";
    n = strcspn(++text, ":");
    wrong = parse_action(text, n, s);
    if (wrong)
        return wrong;
    text += n;
    if (!*text)
        return NULL;
    if (strncmp(text, ":every=", 7) != 0 || !parse_number(text + 7, strlen(text + 7), &s->every))
        return "must end in every=<n>";
    return NULL;
}

bool failpoint_check(const char *spec, char *why, size_t size)
{
    struct spec s;
    const char *wrong = parse(spec, &s);

    if (!wrong)
        return true;
    snprintf(why, size, "%s", wrong);
    return false;
}

void failpoint_arm(const char *spec)
{
    failpoint_armed = FAILPOINT_NONE;
    atomic_store(&passes, 0);
    if (*spec && !parse(spec, &armed))
        failpoint_armed = armed.at;
}

bool failpoint_fire(void)
{
    struct timespec delay = {armed.delay_ms / 1000, armed.delay_ms % 1000 * 1000000};

    if ((atomic_fetch_add(&passes, 1) + 1) % armed.every != 0)
        return false;
    switch (armed.action) {
    case ACTION_KILL:
        raise(SIGKILL);
        return true;
    case ACTION_DELAY:
        nanosleep(&delay, NULL);
        return false;
    case ACTION_ERROR:
        return true;
    }
    return false;
}
