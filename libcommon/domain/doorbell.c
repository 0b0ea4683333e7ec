#include "libcommon/domain/doorbell.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "libcommon/base/backoff.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/base/random.h"
#include "libcommon/daemon/readiness.h"
#include "libcommon/telemetry/log.h"
#include "libcommon/telemetry/metrics.h"

#define GAP_MIN_MS 4  /* between two rings: what a commit may wait when few come ... */
#define GAP_MAX_MS 24 /* ... and when many do; of the 50 ms that express messages have */
#define GAP_CROWD 3   /* asked for so often in a gap, the next one is twice as long */
#define CALL_TIMEOUT_MS 2000
#define ONCE_TIMEOUT_MS 1000
#define BACKOFF_BASE_MS 200
#define BACKOFF_MAX_MS 5000
#define BACKOFF_REFUSED_MAX_MS 30000 /* a person must act first */
#define KINDS (2 * MESSAGE_LANES)

static const char *const words[KINDS] = {
    [MESSAGE_NORMAL] = "normal",
    [MESSAGE_EXPRESS] = "express",
    [MESSAGE_LANES + MESSAGE_NORMAL] = "normal.later",
    [MESSAGE_LANES + MESSAGE_EXPRESS] = "express.later",
};

struct doorbell {
    struct broker_settings settings;
    struct broker *broker;
    char exchange[DOORBELL_NAME_SIZE];
    pthread_t thread;
    int wake;                /* eventfd */
    _Atomic unsigned wanted; /* what is to be rung for */
    _Atomic unsigned asked;  /* how often, since the last ring */
    _Atomic bool asleep;     /* the thread wants to be woken for it */
    _Atomic bool stopping;
    bool refused; /* the channel was closed: the exchange is gone, or we may not */
    struct err why;
    unsigned failures;
    int64_t retry_at_ms;
    int64_t gap_ms;
    struct buf text;
    struct metric *sent[MESSAGE_LANES], *dropped[MESSAGE_LANES];
};

/* ---- what a ring says ---- */

void doorbell_put(struct buf *out, unsigned what)
{
    const char *separator = "";

    for (int i = 0; i < KINDS; i++) {
        if (!(what & 1u << i))
            continue;
        buf_puts(out, separator);
        buf_puts(out, words[i]);
        separator = " ";
    }
}

static unsigned parse_word(const char *word, size_t n)
{
    for (int i = 0; i < KINDS; i++)
        if (strlen(words[i]) == n && !memcmp(words[i], word, n))
            return 1u << i;
    return 0;
}

unsigned doorbell_parse(const void *text, size_t n)
{
    const char *at = text;
    const char *end = at + n;
    unsigned what = 0;

    while (at < end) {
        const char *space = memchr(at, ' ', (size_t)(end - at));
        const char *stop = space ? space : end;

        what |= parse_word(at, (size_t)(stop - at));
        at = space ? space + 1 : end;
    }
    return what;
}

/* ---- where it is rung ---- */

void doorbell_exchange(const struct broker_settings *settings, char out[DOORBELL_NAME_SIZE])
{
    snprintf(out, DOORBELL_NAME_SIZE, "%.200s.doorbell", settings->exchange);
}

static int64_t lower(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static struct broker_settings within(const struct broker_settings *settings, int64_t most_ms)
{
    struct broker_settings quick = *settings;

    quick.connect_timeout_ms = lower(settings->connect_timeout_ms, most_ms);
    quick.rpc_timeout_ms = lower(settings->rpc_timeout_ms, most_ms);
    return quick;
}

struct broker_settings doorbell_settings(const struct broker_settings *settings)
{
    return within(settings, CALL_TIMEOUT_MS);
}

void doorbell_warn(const struct err *err)
{
    bool news = readiness_warn("doorbell", err ? err->msg : "");

    if (news && err)
        log_warn("doorbell.refused", L_ERR(err),
                 L_MSG("messages leave the outbox at the pace of polling"));
}

int64_t doorbell_gap_ms(int64_t gap_ms, unsigned asked)
{
    return gap_ms && asked >= GAP_CROWD ? lower(gap_ms * 2, GAP_MAX_MS) : GAP_MIN_MS;
}

/* ---- the connection ---- */

static void give_up(struct doorbell *d, const struct err *err)
{
    broker_drop(d->broker);
    if (err->kind == ERR_PERMANENT)
        doorbell_warn(err);
    else
        log_debug("doorbell.lost", L_ERR(err));
    d->failures++;
    d->retry_at_ms =
        clock_mono_ms() +
        backoff_ms(d->failures, BACKOFF_BASE_MS,
                   err->kind == ERR_PERMANENT ? BACKOFF_REFUSED_MAX_MS : BACKOFF_MAX_MS,
                   random_u64());
}

static void open_if_due(struct doorbell *d)
{
    struct err err;

    if (broker_is_open(d->broker) || clock_mono_ms() < d->retry_at_ms)
        return;
    if (broker_open(d->broker, &err) || broker_fanout(d->broker, d->exchange, &err)) {
        give_up(d, &err);
        return;
    }
    d->failures = 0;
    doorbell_warn(NULL);
}

static void on_event(const struct broker_event *event, void *arg)
{
    struct doorbell *d = arg;

    if (event->type != BROKER_CHANNEL_CLOSED)
        return;
    d->refused = true;
    err_set(&d->why, ERR_RETRY, event->code, "broker: %s: %s", d->exchange, event->text);
}

/* Hears of alarms and of what was refused, and keeps heartbeats going. */
static void attend(struct doorbell *d)
{
    struct err err;

    d->refused = false;
    if (broker_pump(d->broker, 0, 0, on_event, d, &err))
        give_up(d, &err);
    else if (d->refused)
        give_up(d, &d->why);
}

static void count(struct metric *const *counters, unsigned what)
{
    for (int i = 0; i < KINDS; i++)
        if (what & 1u << i)
            metrics_add(counters[i % MESSAGE_LANES], 1);
}

static int publish(struct broker *broker, const char *exchange, struct buf *text, unsigned what,
                   struct err *err)
{
    uint64_t ignored;

    buf_reset(text);
    doorbell_put(text, what);
    if (text->failed)
        return err_set(err, ERR_RETRY, 0, "out of memory");
    if (broker_publish(broker,
                       &(struct broker_message){.exchange = exchange,
                                                .routing_key = "",
                                                .body = text->data,
                                                .body_len = text->len,
                                                .transient = true},
                       &ignored, err))
        return -1;
    return broker_flush(broker, err);
}

static void ring(struct doorbell *d, unsigned what)
{
    struct err err;

    if (!what)
        return;
    if (!broker_is_open(d->broker) || broker_is_blocked(d->broker)) {
        count(d->dropped, what);
    } else if (publish(d->broker, d->exchange, &d->text, what, &err)) {
        count(d->dropped, what);
        give_up(d, &err);
    } else {
        count(d->sent, what);
    }
}

/* ---- the thread ---- */

static void poke(struct doorbell *d)
{
    uint64_t one = 1;

    while (write(d->wake, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
}

static void clear_poke(struct doorbell *d)
{
    uint64_t pokes;

    while (read(d->wake, &pokes, sizeof(pokes)) < 0 && errno == EINTR)
        ;
}

static void wait(struct doorbell *d, int64_t ms, bool broker)
{
    struct pollfd fds[] = {
        {.fd = d->wake, .events = POLLIN},
        {.fd = broker ? broker_fd(d->broker) : -1, .events = POLLIN}, /* poll ignores -1 */
    };

    if (poll(fds, 2, ms > 0 ? (int)ms : 0) > 0 && fds[0].revents)
        clear_poke(d);
}

static int64_t idle_ms(const struct doorbell *d)
{
    int64_t left_ms = d->retry_at_ms - clock_mono_ms();

    return broker_is_open(d->broker) ? d->settings.heartbeat_sec * 1000 / 2 : left_ms;
}

/* Until there is something to ring for. A ringer sets wanted before it reads asleep, and this the
 * other way round: one of the two sees the other. */
static void wait_until_wanted(struct doorbell *d)
{
    atomic_store(&d->asleep, true);
    if (!atomic_load(&d->wanted) && !atomic_load(&d->stopping))
        wait(d, idle_ms(d), true);
    atomic_store(&d->asleep, false);
}

/* What comes meanwhile leaves as one ring; nobody wakes us for it. */
static void gather(struct doorbell *d)
{
    wait(d, d->gap_ms, false);
    d->gap_ms = doorbell_gap_ms(d->gap_ms, atomic_load(&d->asked));
}

static void turn(struct doorbell *d)
{
    unsigned what;

    open_if_due(d);
    if (!broker_is_open(d->broker)) {
        count(d->dropped, atomic_exchange(&d->wanted, 0));
        wait(d, idle_ms(d), false);
        return;
    }
    wait_until_wanted(d);
    attend(d);
    what = atomic_exchange(&d->wanted, 0);
    if (!what)
        return;
    atomic_store(&d->asked, 0);
    ring(d, what);
    gather(d);
}

static void *doorbell_main(void *arg)
{
    struct doorbell *d = arg;

    while (!atomic_load(&d->stopping))
        turn(d);
    ring(d, atomic_load(&d->wanted));
    if (broker_is_blocked(d->broker)) /* it would not say goodbye */
        broker_drop(d->broker);
    return NULL;
}

static struct metric *counter(enum message_type lane, const char *result)
{
    char labels[64];

    snprintf(labels, sizeof(labels), "lane=\"%s\",result=\"%s\"", message_type_name(lane), result);
    return metrics_counter("msg_doorbell_rings_total",
                           "Rings for outbox rows, many commits in one: sent, or dropped because "
                           "the broker was away or blocked.",
                           labels);
}

static void register_metrics(struct doorbell *d)
{
    for (int i = 0; i < MESSAGE_LANES; i++) {
        d->sent[i] = counter((enum message_type)i, "sent");
        d->dropped[i] = counter((enum message_type)i, "dropped");
    }
}

struct doorbell *doorbell_start(const struct broker_settings *settings)
{
    struct doorbell *d = must_alloc(1, sizeof(*d));

    register_metrics(d);
    d->settings = doorbell_settings(settings);
    d->broker = broker_new(&d->settings, 0, "doorbell");
    d->gap_ms = doorbell_gap_ms(0, 0);
    doorbell_exchange(settings, d->exchange);
    d->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    MUST(d->wake >= 0);
    MUST(pthread_create(&d->thread, NULL, doorbell_main, d) == 0);
    pthread_setname_np(d->thread, "doorbell");
    return d;
}

void doorbell_begin_stop(struct doorbell *d)
{
    if (!d)
        return;
    atomic_store(&d->stopping, true);
    poke(d);
}

void doorbell_stop(struct doorbell *d)
{
    if (!d)
        return;
    doorbell_begin_stop(d);
    pthread_join(d->thread, NULL);
    broker_free(d->broker);
    buf_free(&d->text);
    close(d->wake);
    free(d);
}

void doorbell_ring(struct doorbell *d, unsigned what)
{
    if (!d || !what)
        return;
    atomic_fetch_add_explicit(&d->asked, 1, memory_order_relaxed);
    if ((atomic_load(&d->wanted) & what) == what)
        return;
    atomic_fetch_or(&d->wanted, what);
    if (atomic_load(&d->asleep) && atomic_exchange(&d->asleep, false))
        poke(d);
}

void doorbell_ring_once(const struct broker_settings *settings, unsigned what)
{
    struct broker_settings quick = within(settings, ONCE_TIMEOUT_MS);
    struct broker *b = broker_new(&quick, 0, "doorbell");
    char exchange[DOORBELL_NAME_SIZE];
    struct buf text = {0};
    struct err err;

    doorbell_exchange(settings, exchange);
    if (broker_open(b, &err) || broker_fanout(b, exchange, &err) ||
        publish(b, exchange, &text, what, &err))
        log_debug("doorbell.lost", L_ERR(&err));
    buf_free(&text);
    broker_free(b);
}
