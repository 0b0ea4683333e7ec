#include "outboxd/bell.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "libcommon/base/backoff.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/base/random.h"
#include "libcommon/domain/doorbell.h"
#include "libcommon/telemetry/log.h"
#include "libcommon/telemetry/metrics.h"

#define BIND_EVERY_MS 5000
#define BACKOFF_BASE_MS 200
#define BACKOFF_MAX_MS 5000
#define BACKOFF_REFUSED_MAX_MS 30000 /* a person must act first */

struct bell {
    struct broker_settings settings;
    struct bell_ear ear;
    struct broker *broker;
    char exchange[DOORBELL_NAME_SIZE];
    char queue[DOORBELL_NAME_SIZE + 24];
    pthread_t thread;
    struct pause *pause;
    int wake;  /* eventfd: it is to end */
    bool lost; /* the queue or the channel has ended */
    unsigned failures;
    int64_t bound_at_ms;
    struct metric *heard[MESSAGE_LANES], *hears;
};

static void wait(struct bell *b, int64_t ms)
{
    struct pollfd fds[] = {
        {.fd = b->wake, .events = POLLIN},
        {.fd = broker_fd(b->broker), .events = POLLIN}, /* poll ignores -1 */
    };

    if (!broker_has_more(b->broker))
        poll(fds, 2, (int)ms);
}

static void tell(struct bell *b, bool hears)
{
    metrics_set(b->hears, hears);
    b->ear.hears(b->ear.arg, hears);
}

static void lose(struct bell *b, const struct err *err)
{
    broker_drop(b->broker);
    tell(b, false);
    b->failures++;
    if (err->kind == ERR_PERMANENT)
        doorbell_warn(err);
    else
        log_debug("doorbell.lost", L_ERR(err));
    wait(b, backoff_ms(b->failures, BACKOFF_BASE_MS,
                       err->kind == ERR_PERMANENT ? BACKOFF_REFUSED_MAX_MS : BACKOFF_MAX_MS,
                       random_u64()));
}

/* By a name that nobody has had: the broker may not have missed an earlier connection yet. */
static int start_to_hear(struct bell *b, struct err *err)
{
    snprintf(b->queue, sizeof(b->queue), "%s.%016llx", b->exchange,
             (unsigned long long)random_u64());
    if (broker_open(b->broker, err) || broker_listen(b->broker, b->exchange, b->queue, err))
        return -1;
    b->lost = false;
    b->failures = 0;
    b->bound_at_ms = clock_mono_ms();
    doorbell_warn(NULL);
    tell(b, true);
    return 0;
}

static int bind_if_due(struct bell *b, struct err *err)
{
    if (clock_mono_ms() - b->bound_at_ms < BIND_EVERY_MS)
        return 0;
    b->bound_at_ms = clock_mono_ms();
    return broker_listen(b->broker, b->exchange, b->queue, err);
}

static void hear(struct bell *b, const struct broker_event *event)
{
    unsigned what = doorbell_parse(event->body, event->body_len);

    for (int i = 0; i < MESSAGE_LANES; i++)
        if (what & (DOORBELL_FRESH(i) | DOORBELL_LATER(i)))
            metrics_add(b->heard[i], 1);
    b->ear.heard(b->ear.arg, what);
}

static void on_event(const struct broker_event *event, void *arg)
{
    struct bell *b = arg;

    if (event->type == BROKER_DELIVERED)
        hear(b, event);
    else if (event->type == BROKER_CANCELLED || event->type == BROKER_CHANNEL_CLOSED)
        b->lost = true;
}

static int attend(struct bell *b, struct err *err)
{
    wait(b, b->settings.heartbeat_sec * 1000 / 2);
    if (broker_pump(b->broker, 0, 0, on_event, b, err))
        return -1;
    if (b->lost)
        return err_set(err, ERR_RETRY, 0, "broker: %s: the queue has ended", b->queue);
    return bind_if_due(b, err);
}

static void *bell_main(void *arg)
{
    struct bell *b = arg;
    struct err err;

    while (!pause_stopping(b->pause))
        if (broker_is_open(b->broker) ? attend(b, &err) : start_to_hear(b, &err))
            lose(b, &err);
    broker_close(b->broker);
    pause_leave(b->pause);
    return NULL;
}

static void register_metrics(struct bell *b)
{
    char labels[32];

    for (int i = 0; i < MESSAGE_LANES; i++) {
        snprintf(labels, sizeof(labels), "lane=\"%s\"", message_type_name((enum message_type)i));
        b->heard[i] =
            metrics_counter("msg_doorbell_heard_total", "Rings for outbox rows that came.", labels);
    }
    b->hears = metrics_gauge("msg_doorbell_hears",
                             "1: rings can arrive, and an idle lane looks seldom.", "");
}

struct bell *bell_start(const struct broker_settings *settings, const struct bell_ear *ear,
                        struct pause *pause)
{
    struct bell *b = must_alloc(1, sizeof(*b));

    register_metrics(b);
    b->ear = *ear;
    b->pause = pause;
    b->settings = doorbell_settings(settings);
    b->broker = broker_new(&b->settings, 0, "outboxd doorbell");
    doorbell_exchange(settings, b->exchange);
    b->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    MUST(b->wake >= 0);
    pause_enter(b->pause);
    MUST(pthread_create(&b->thread, NULL, bell_main, b) == 0);
    pthread_setname_np(b->thread, "doorbell");
    return b;
}

void bell_wake(struct bell *b)
{
    uint64_t one = 1;

    while (write(b->wake, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
}

void bell_free(struct bell *b)
{
    pthread_join(b->thread, NULL);
    broker_free(b->broker);
    close(b->wake);
    free(b);
}
