#include "consumerd/lane_internal.h"
#include "libcommon/base/backoff.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/random.h"
#include "libcommon/daemon/failpoint.h"
#include "libcommon/domain/bundle.h"
#include "libcommon/telemetry/log.h"

#define RETRY_BASE_MS 200
#define RETRY_MAX_MS 5000
#define CONFIRM_MS 10000  /* a letter that is not confirmed by then is published anew */
#define KEEP_OPEN_MS 5000 /* letters come in company */

void lane_letters_add(struct lane *l, struct inflight *m)
{
    TAILQ_INSERT_TAIL(&l->letters, m, link);
}

void lane_letters_drop(struct lane *l)
{
    struct inflight *m;

    while ((m = TAILQ_FIRST(&l->letters))) {
        TAILQ_REMOVE(&l->letters, m, link);
        lane_let_go(l, m);
    }
}

/* Those that were published and not confirmed are published anew. */
static void failed(struct lane *l, const struct err *err)
{
    struct inflight *m;

    broker_drop(l->letter_broker);
    if (TAILQ_EMPTY(&l->letters))
        return;
    for (m = TAILQ_FIRST(&l->letters); m; m = TAILQ_NEXT(m, link))
        m->letter_tag = 0;
    if (!l->letter_failures++)
        log_warn("consumer.letters_wait", L_STR("lane", l->name), L_ERR(err));
    l->letter_retry_at_ms =
        clock_mono_ms() + backoff_ms(l->letter_failures, RETRY_BASE_MS, RETRY_MAX_MS, random_u64());
}

/* The text as it would be in the queue alone, and what the broker notes of a letter. */
static int publish_one(struct lane *l, struct inflight *m, struct err *err)
{
    const struct broker_settings *s = &l->config.settings->broker;
    struct buf exchange = {0};
    struct buf body = {0};
    int rc;

    buf_printf(&exchange, "%s" BROKER_DEAD, s->exchange);
    if (!bundle_put_alone(&body, m->json, m->json_len) || exchange.failed)
        rc = err_set(err, ERR_RETRY, 0, "out of memory");
    else
        rc = broker_publish(l->letter_broker,
                            &(struct broker_message){
                                .exchange = exchange.data,
                                .routing_key = topology_queue(s, l->config.type),
                                .message_id = m->id,
                                .body = body.data,
                                .body_len = body.len,
                                .traceparent = m->traceparent,
                                .tracestate = m->tracestate,
                                .accepted_us = m->accepted_us,
                                .death_reason = m->death,
                                .death_queue = topology_queue(s, l->config.type),
                            },
                            &m->letter_tag, err);
    buf_free(&body);
    buf_free(&exchange);
    return rc;
}

static int publish(struct lane *l, struct err *err)
{
    struct inflight *m;

    if (TAILQ_EMPTY(&l->letters) || broker_is_blocked(l->letter_broker))
        return 0;
    if (!broker_is_open(l->letter_broker) &&
        (broker_open(l->letter_broker, err) || broker_confirm(l->letter_broker, err)))
        return -1;
    for (m = TAILQ_FIRST(&l->letters); m; m = TAILQ_NEXT(m, link)) {
        if (m->letter_tag)
            continue;
        if (publish_one(l, m, err))
            return -1;
        l->letter_limit_ms = clock_mono_ms() + CONFIRM_MS;
    }
    return 0;
}

static void take_confirm(struct lane *l, uint64_t tag, bool multiple)
{
    struct inflight *m;
    struct inflight *next;

    for (m = TAILQ_FIRST(&l->letters); m; m = next) {
        next = TAILQ_NEXT(m, link);
        if (!m->letter_tag || m->letter_tag > tag || (m->letter_tag < tag && !multiple))
            continue;
        (void)failpoint(FAILPOINT_CONSUMER_AFTER_LETTER);
        TAILQ_REMOVE(&l->letters, m, link);
        lane_over(l, m);
    }
    l->letter_failures = 0;
    l->letter_limit_ms = clock_mono_ms() + (TAILQ_EMPTY(&l->letters) ? KEEP_OPEN_MS : CONFIRM_MS);
}

static void on_event(const struct broker_event *event, void *arg)
{
    struct lane *l = arg;

    if (event->type == BROKER_NACKED || event->type == BROKER_RETURNED ||
        event->type == BROKER_CHANNEL_CLOSED)
        l->letters_refused = true;
    else if (event->type == BROKER_CONFIRMED && !l->letters_refused)
        take_confirm(l, event->tag, event->multiple);
}

/* A letter that is returned is confirmed too, afterwards. */
static int hear(struct lane *l, struct err *err)
{
    if (!broker_is_open(l->letter_broker))
        return 0;
    l->letters_refused = false;
    if (broker_pump(l->letter_broker, 0, 0, on_event, l, err))
        return -1;
    if (l->letters_refused)
        return err_set(err, ERR_RETRY, 0, "the broker did not take a dead letter");
    if (clock_mono_ms() < l->letter_limit_ms || broker_is_blocked(l->letter_broker))
        return 0;
    if (!TAILQ_EMPTY(&l->letters))
        return err_set(err, ERR_RETRY, 0, "the broker does not confirm dead letters");
    broker_close(l->letter_broker);
    return 0;
}

void lane_letters_turn(struct lane *l)
{
    struct err err;

    if (clock_mono_ms() >= l->letter_retry_at_ms && (publish(l, &err) || hear(l, &err)))
        failed(l, &err);
}

int64_t lane_letters_due_ms(const struct lane *l)
{
    if (!broker_is_open(l->letter_broker))
        return TAILQ_EMPTY(&l->letters) ? INT64_MAX : l->letter_retry_at_ms;
    return broker_is_blocked(l->letter_broker) ? INT64_MAX : l->letter_limit_ms;
}
