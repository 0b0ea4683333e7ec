#include <string.h>

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
#define PATIENCE_MS 60000 /* then all of the bundle is rejected */
#define WAITING_MAX 16    /* the same while letters are not being taken */

void lane_letters_add(struct lane *l, struct inflight *m)
{
    m->letter_since_ms = clock_mono_ms();
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

/* It is to be published anew. */
static void take_back(struct inflight *m)
{
    m->letter_tag = 0;
    m->letter_returned = false;
}

static void try_later(struct lane *l, const struct err *err)
{
    if (!l->letter_failures++)
        log_warn("consumer.letters_wait", L_STR("lane", l->name), L_ERR(err));
    l->letter_retry_at_ms =
        clock_mono_ms() + backoff_ms(l->letter_failures, RETRY_BASE_MS, RETRY_MAX_MS, random_u64());
}

/* Of those that were published and not confirmed nothing is known. */
static void failed(struct lane *l, const struct err *err)
{
    struct inflight *m;

    broker_drop(l->letter_broker);
    for (m = TAILQ_FIRST(&l->letters); m; m = TAILQ_NEXT(m, link))
        take_back(m);
    if (!TAILQ_EMPTY(&l->letters))
        try_later(l, err);
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

struct hearing {
    struct lane *lane;
    bool refused, closed;
};

/* What the broker says of a tag: each letter that is taken is over, whatever becomes of others. */
static void settle(struct hearing *h, const struct broker_event *event, bool taken)
{
    struct lane *l = h->lane;
    struct inflight *m;
    struct inflight *next;

    for (m = TAILQ_FIRST(&l->letters); m; m = next) {
        next = TAILQ_NEXT(m, link);
        if (!m->letter_tag || m->letter_tag > event->tag ||
            (m->letter_tag < event->tag && !event->multiple))
            continue;
        if (!taken || m->letter_returned) {
            take_back(m);
            h->refused = true;
            continue;
        }
        (void)failpoint(FAILPOINT_CONSUMER_AFTER_LETTER);
        TAILQ_REMOVE(&l->letters, m, link);
        lane_over(l, m);
        l->letter_failures = 0;
    }
    l->letter_limit_ms = clock_mono_ms() + (TAILQ_EMPTY(&l->letters) ? KEEP_OPEN_MS : CONFIRM_MS);
}

/* It is confirmed too, afterwards. */
static void note_return(struct lane *l, const char *id)
{
    struct inflight *m = TAILQ_FIRST(&l->letters);

    while (m && (!m->letter_tag || m->letter_returned || strcmp(m->id, id) != 0))
        m = TAILQ_NEXT(m, link);
    if (m)
        m->letter_returned = true;
}

static void on_event(const struct broker_event *event, void *arg)
{
    struct hearing *h = arg;

    switch (event->type) {
    case BROKER_CONFIRMED:
        settle(h, event, true);
        break;
    case BROKER_NACKED:
        settle(h, event, false);
        break;
    case BROKER_RETURNED:
        note_return(h->lane, event->message_id);
        break;
    case BROKER_CHANNEL_CLOSED:
        h->closed = true;
        break;
    default:
        break;
    }
}

static bool any_published(const struct lane *l)
{
    const struct inflight *m = TAILQ_FIRST(&l->letters);

    while (m && !m->letter_tag)
        m = TAILQ_NEXT(m, link);
    return m;
}

static int hear(struct lane *l, struct err *err)
{
    struct hearing h = {.lane = l};
    bool published;

    if (!broker_is_open(l->letter_broker))
        return 0;
    if (broker_pump(l->letter_broker, 0, 0, on_event, &h, err))
        return -1;
    if (h.closed)
        return err_set(err, ERR_RETRY, 0, "the broker has closed the channel of dead letters");
    published = any_published(l);
    if (h.refused) {
        err_set(err, ERR_RETRY, 0, "the broker did not take a dead letter");
        try_later(l, err);
    }
    if (!published && !TAILQ_EMPTY(&l->letters) && l->letter_failures) {
        broker_drop(l->letter_broker); /* whatever is missing is declared by the next one */
        return 0;
    }
    if (clock_mono_ms() < l->letter_limit_ms || broker_is_blocked(l->letter_broker))
        return 0;
    if (published)
        return err_set(err, ERR_RETRY, 0, "the broker does not confirm dead letters");
    broker_close(l->letter_broker);
    return 0;
}

/* ---- when they are not taken for long ---- */

/* The bundle goes as a whole: of what its other members are by then a replay makes nothing new. */
static void reject_bundle(struct lane *l, struct inflight *letter)
{
    struct arrival *a = letter->arrival;
    struct inflight *m;
    struct inflight *next;

    log_warn("delivery.bundle_rejected", L_STR("lane", l->name), L_STR("message_id", letter->id),
             L_TRACE(&letter->trace));
    a->refused = true;
    for (m = TAILQ_FIRST(&l->letters); m; m = next) {
        next = TAILQ_NEXT(m, link);
        if (m->arrival != a)
            continue;
        TAILQ_REMOVE(&l->letters, m, link);
        lane_over(l, m);
    }
}

/* New letters put off the limit for a confirm: it is the oldest one that tells. */
static bool not_taken(const struct lane *l)
{
    const struct inflight *oldest = TAILQ_FIRST(&l->letters);

    return l->letter_failures || broker_is_blocked(l->letter_broker) ||
           (oldest && clock_mono_ms() - oldest->letter_since_ms > CONFIRM_MS);
}

/* Of letters that are not being taken so many may wait, with their bundles' bodies, and leave the
 * lane half of its deliveries at least. */
static bool too_many(const struct lane *l)
{
    size_t most = l->deliveries_max / 2 < WAITING_MAX ? l->deliveries_max / 2 : WAITING_MAX;
    const struct inflight *m;
    size_t n = 0;

    for (m = TAILQ_FIRST(&l->letters); m && n <= most; m = TAILQ_NEXT(m, link))
        n++;
    return n > most && not_taken(l);
}

static void stop_waiting(struct lane *l)
{
    struct inflight *m;

    while ((m = TAILQ_FIRST(&l->letters)) &&
           (clock_mono_ms() - m->letter_since_ms > PATIENCE_MS || too_many(l)))
        reject_bundle(l, m);
}

void lane_letters_turn(struct lane *l)
{
    bool due = clock_mono_ms() >= l->letter_retry_at_ms;
    struct err err;

    if ((due && publish(l, &err)) || hear(l, &err))
        failed(l, &err);
    stop_waiting(l);
}

int64_t lane_letters_due_ms(const struct lane *l)
{
    if (!broker_is_open(l->letter_broker))
        return TAILQ_EMPTY(&l->letters) ? INT64_MAX : l->letter_retry_at_ms;
    return broker_is_blocked(l->letter_broker) ? INT64_MAX : l->letter_limit_ms;
}
