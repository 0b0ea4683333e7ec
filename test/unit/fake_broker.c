#include "test/unit/fake_broker.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "libcommon/base/buf.h"
#include "libcommon/base/must.h"
#include "test/unit/complain.h"

#define BATCHES_MAX 32
#define EVENTS_MAX 8
#define QUEUES_MAX 4
#define MESSAGES_MAX 512

struct broker {
    bool open, closed; /* closed: the channel */
    uint64_t generation, tag;
};

struct published {
    struct broker_message message;
    char *owned[8]; /* what its members point to */
    size_t n;
};

static struct {
    pthread_t thread; /* the test's own */
    struct {
        struct broker_event events[EVENTS_MAX];
        size_t n;
    } batches[BATCHES_MAX];
    size_t n, at;
    bool blocked;
    const char *failing;
    unsigned fails_in;
    struct {
        const char *queue;
        uint32_t ready;
    } depths[QUEUES_MAX];
    struct buf calls;
    struct published published[MESSAGES_MAX];
    size_t published_n;
} script;

const struct setting broker_settings_rows[] = {SETTINGS_END};

/* ---- the script ---- */

static void forget_published(void)
{
    for (size_t i = 0; i < script.published_n; i++)
        for (size_t j = 0; j < script.published[i].n; j++)
            free(script.published[i].owned[j]);
}

void fake_broker_begin(void)
{
    buf_free(&script.calls);
    forget_published();
    memset(&script, 0, sizeof(script));
    script.thread = pthread_self();
}

void fake_broker_end(void)
{
    ck_assert_msg(script.at == script.n, "the broker had more to say, and nobody listened (%s)",
                  fake_broker_calls());
    fake_broker_begin();
}

void fake_broker_hears(const struct broker_event *events, size_t n)
{
    MUST(script.n < BATCHES_MAX && n <= EVENTS_MAX);
    if (n)
        memcpy(script.batches[script.n].events, events, n * sizeof(*events));
    script.batches[script.n++].n = n;
}

void fake_broker_hears_nothing(void)
{
    fake_broker_hears(NULL, 0);
}

void fake_broker_block(bool blocked)
{
    script.blocked = blocked;
}

void fake_broker_fails(const char *call, unsigned n)
{
    script.failing = call;
    script.fails_in = n;
}

void fake_broker_depth(const char *queue, uint32_t ready)
{
    size_t i = 0;

    while (script.depths[i].queue && strcmp(script.depths[i].queue, queue) != 0)
        i++;
    MUST(i < QUEUES_MAX);
    script.depths[i].queue = queue;
    script.depths[i].ready = ready;
}

const char *fake_broker_calls(void)
{
    return script.calls.data ? script.calls.data : "";
}

static void record(const char *call, const char *what)
{
    if (script.calls.len)
        buf_putc(&script.calls, ' ');
    buf_puts(&script.calls, call);
    if (what)
        buf_putc(&script.calls, ':');
    if (what)
        buf_puts(&script.calls, what);
}

/* -1: it is to fail. */
static int call(struct broker *b, const char *name, struct err *err)
{
    if (!script.failing || strcmp(script.failing, name) != 0 || --script.fails_in)
        return 0;
    script.failing = NULL;
    b->open = false;
    return err_set(err, ERR_RETRY, 0, "%s: as scripted", name);
}

/* ---- the connection ---- */

struct broker *broker_new(const struct broker_settings *settings, unsigned queues,
                          const char *purpose)
{
    (void)settings;
    (void)queues;
    (void)purpose;
    return must_alloc(1, sizeof(struct broker));
}

static void open_channel(struct broker *b)
{
    b->open = true;
    b->closed = false;
    b->generation++;
    b->tag = 0;
}

struct broker *fake_broker_new(void)
{
    struct broker *b = broker_new(NULL, 0, "");

    open_channel(b);
    return b;
}

void broker_free(struct broker *b)
{
    free(b);
}

int broker_open(struct broker *b, struct err *err)
{
    record("open", NULL);
    if (call(b, "open", err))
        return -1;
    open_channel(b);
    return 0;
}

void broker_close(struct broker *b)
{
    record("close", NULL);
    b->open = false;
}

void broker_drop(struct broker *b)
{
    record("drop", NULL);
    b->open = false;
}

static int plain(struct broker *b, const char *name, const char *what, struct err *err)
{
    record(name, what);
    if (!b->open || b->closed)
        complain_from(script.thread, "%s on what is closed (%s)", name, fake_broker_calls());
    return call(b, name, err);
}

int broker_leave(struct broker *b, struct err *err)
{
    int rc = plain(b, "leave", NULL, err);

    b->open = false;
    return rc;
}

bool broker_may_go_home(struct broker *b)
{
    (void)b;
    return false;
}

const char *broker_warning(const struct broker *b)
{
    (void)b;
    return "";
}

bool broker_is_open(const struct broker *b)
{
    return b->open;
}

bool broker_is_blocked(const struct broker *b)
{
    (void)b;
    return script.blocked;
}

uint64_t broker_generation(const struct broker *b)
{
    return b->generation;
}

int broker_fd(const struct broker *b)
{
    (void)b;
    return -1;
}

bool broker_has_more(const struct broker *b)
{
    (void)b;
    return false;
}

int broker_reopen_channel(struct broker *b, struct err *err)
{
    record("reopen", NULL);
    if (call(b, "reopen", err))
        return -1;
    open_channel(b);
    return 0;
}

bool broker_was_late(const struct broker *b)
{
    (void)b;
    return false;
}

int broker_renew_channel(struct broker *b, struct err *err)
{
    return broker_reopen_channel(b, err);
}

int broker_declare(struct broker *b, struct err *err)
{
    return plain(b, "declare", NULL, err);
}

int broker_ping(struct broker *b, struct err *err)
{
    return plain(b, "ping", NULL, err);
}

int broker_depth(struct broker *b, const char *queue, uint32_t *ready, uint32_t *readers,
                 struct err *err)
{
    record("depth", queue);
    *ready = 0;
    if (readers)
        *readers = 0;
    for (size_t i = 0; i < QUEUES_MAX && script.depths[i].queue; i++)
        if (!strcmp(script.depths[i].queue, queue))
            *ready = script.depths[i].ready;
    return call(b, "depth", err);
}

/* ---- publishing ---- */

int broker_confirm(struct broker *b, struct err *err)
{
    return plain(b, "confirm", NULL, err);
}

static const char *keep(struct published *p, const void *bytes, size_t n)
{
    char *copy = must_alloc(1, n + 1);

    memcpy(copy, bytes, n);
    return p->owned[p->n++] = copy;
}

static const char *keep_text(struct published *p, const char *s)
{
    return s ? keep(p, s, strlen(s)) : NULL;
}

static void keep_message(const struct broker_message *m)
{
    struct published *p = &script.published[script.published_n++];

    MUST(script.published_n <= MESSAGES_MAX);
    p->message = (struct broker_message){
        .exchange = keep_text(p, m->exchange),
        .routing_key = keep_text(p, m->routing_key),
        .message_id = keep_text(p, m->message_id),
        .bundle = m->bundle,
        .transient = m->transient,
        .body = keep(p, m->body, m->body_len),
        .body_len = m->body_len,
        .traceparent = keep_text(p, m->traceparent),
        .tracestate = keep_text(p, m->tracestate),
        .accepted_us = m->accepted_us,
        .death_reason = keep_text(p, m->death_reason),
        .death_queue = keep_text(p, m->death_queue),
    };
}

const struct broker_message *fake_broker_published(size_t i)
{
    ck_assert_uint_lt(i, script.published_n);
    return &script.published[i].message;
}

int broker_publish(struct broker *b, const struct broker_message *m, uint64_t *tag, struct err *err)
{
    record(m->bundle      ? "bundle"
           : m->transient ? "ring"
                          : "publish",
           m->transient ? m->exchange : m->message_id);
    keep_message(m);
    if (!b->open || b->closed)
        complain_from(script.thread, "published on what is closed (%s)", fake_broker_calls());
    if (call(b, "publish", err))
        return -1;
    *tag = ++b->tag;
    return 0;
}

int broker_beat(struct broker *b, struct err *err)
{
    return plain(b, "beat", NULL, err);
}

int broker_fanout(struct broker *b, const char *exchange, struct err *err)
{
    return plain(b, "fanout", exchange, err);
}

int broker_listen(struct broker *b, const char *exchange, const char *queue, struct err *err)
{
    (void)queue;
    return plain(b, "listen", exchange, err);
}

int broker_flush(struct broker *b, struct err *err)
{
    return plain(b, "flush", NULL, err);
}

/* ---- consuming ---- */

int broker_consume(struct broker *b, const char *queue, uint16_t prefetch, struct err *err)
{
    char text[8];

    (void)queue;
    snprintf(text, sizeof(text), "%u", prefetch);
    return plain(b, "consume", text, err);
}

int broker_ack(struct broker *b, uint64_t tag, bool multiple, struct err *err)
{
    char text[24];

    (void)multiple;
    snprintf(text, sizeof(text), "%llu", (unsigned long long)tag);
    return plain(b, "ack", text, err);
}

int broker_dead_letter(struct broker *b, uint64_t tag, struct err *err)
{
    char text[24];

    snprintf(text, sizeof(text), "%llu", (unsigned long long)tag);
    return plain(b, "dead_letter", text, err);
}

int broker_requeue(struct broker *b, struct err *err)
{
    return plain(b, "requeue", NULL, err);
}

int broker_cancel(struct broker *b, struct err *err)
{
    return plain(b, "cancel", NULL, err);
}

/* ---- what is heard ---- */

int broker_pump(struct broker *b, int timeout_ms, size_t max, broker_event_fn *fn, void *arg,
                struct err *err)
{
    struct timespec wait = {.tv_sec = timeout_ms / 1000,
                            .tv_nsec = (long)(timeout_ms % 1000) * 1000000};

    (void)max;
    if (call(b, "pump", err))
        return -1;
    if (script.at == script.n) {
        nanosleep(&wait, NULL);
        return 0;
    }
    for (size_t i = 0; i < script.batches[script.at].n; i++) {
        const struct broker_event *event = &script.batches[script.at].events[i];

        if (event->type == BROKER_CHANNEL_CLOSED)
            b->closed = true;
        if (event->type == BROKER_BLOCKED || event->type == BROKER_UNBLOCKED)
            script.blocked = event->type == BROKER_BLOCKED;
        fn(event, arg);
    }
    script.at++;
    return 0;
}
