#include "outboxd/publish.h"

#include <stdio.h>
#include <string.h>

#include "libcommon/base/clock.h"
#include "libcommon/daemon/failpoint.h"
#include "libcommon/domain/bundle.h"
#include "libcommon/telemetry/metrics.h"
#include "libcommon/telemetry/tracer.h"

/* A batch that would fit into one bundle makes up to so many, for as many consumers to share it;
 * but of a bundle of fewer the broker's work for one more would be felt (a bundle costs it some 75
 * us of processor time and a member 5). */
#define SHARES 4
#define SHARE_LEAST 10

static struct metric *confirm_seconds;
static struct metric *returned_total;
static struct metric *bundle_size[MESSAGE_LANES];

void publish_register(void)
{
    confirm_seconds =
        metrics_latency("msg_publish_confirm_seconds",
                        "From handing a batch to the broker to its last confirm.", "");
    returned_total =
        metrics_counter("msg_publish_returned_total",
                        "AMQP messages (a bundle is one) the broker returned as unroutable.", "");
    for (int i = 0; i < MESSAGE_LANES; i++) {
        char labels[32];

        snprintf(labels, sizeof(labels), "lane=\"%s\"", message_type_name((enum message_type)i));
        bundle_size[i] =
            metrics_sizes("msg_outbox_bundle_size",
                          "Messages of an AMQP message that the broker has confirmed.", labels);
    }
}

void publish_init(struct publisher *p, enum message_type lane, size_t bundle_max)
{
    *p = (struct publisher){.lane = lane, .bundle_max = bundle_max};
}

void publish_free(struct publisher *p)
{
    buf_free(&p->body);
}

static void refuse(struct row *row, enum row_cause cause, const char *reason)
{
    row->state = ROW_REFUSED;
    row->cause = cause;
    snprintf(row->reason, sizeof(row->reason), "%.*s", (int)sizeof(row->reason) - 1, reason);
}

static size_t move(struct publisher *p, const struct publish_span *span, enum row_state from,
                   enum row_state to)
{
    size_t n = 0;

    for (size_t i = span->first; i < span->end; i++) {
        if (p->rows[i].state != from)
            continue;
        p->rows[i].state = to;
        n++;
    }
    return n;
}

/* ---- what the broker says ---- */

/* Returned rows stay ROW_RETURNED when their confirm comes: the broker has let go of them. */
static void settle(struct publisher *p, struct publish_span *span, enum row_state state)
{
    size_t n = move(p, span, ROW_SENT, state);

    if (n && state == ROW_CONFIRMED)
        metrics_observe(bundle_size[p->lane], (int64_t)n);
    p->waiting--;
    *span = (struct publish_span){0};
}

static void on_confirm(struct publisher *p, const struct broker_event *event, enum row_state state)
{
    size_t last;

    if (event->tag < p->first_tag || event->tag - p->first_tag >= p->sent)
        return; /* of an earlier batch that gave up waiting */
    last = (size_t)(event->tag - p->first_tag);
    for (size_t at = event->multiple ? p->low : last; at <= last; at++)
        if (p->by_tag[at].end)
            settle(p, &p->by_tag[at], state);
    if (event->multiple && last >= p->low)
        p->low = last + 1;
}

static bool is_what_returned(const struct publisher *p, const struct publish_span *span,
                             const struct broker_event *event)
{
    const struct row *row = &p->rows[span->first];

    return span->end && row->state == ROW_SENT && !strcmp(row->aggregate_id, event->message_id);
}

/* A return names no tag, but comes before its confirm: the first one of that message. */
static void on_return(struct publisher *p, const struct broker_event *event)
{
    const struct publish_span *span = NULL;

    metrics_add(returned_total, 1);
    for (size_t at = p->low; !span && at < p->sent; at++)
        if (is_what_returned(p, &p->by_tag[at], event))
            span = &p->by_tag[at];
    if (!span)
        return;
    for (size_t i = span->first; i < span->end; i++)
        if (p->rows[i].state == ROW_SENT)
            snprintf(p->rows[i].reason, sizeof(p->rows[i].reason), "unroutable: %u %s", event->code,
                     event->text);
    move(p, span, ROW_SENT, ROW_RETURNED);
}

static void on_event(const struct broker_event *event, void *arg)
{
    struct publisher *p = arg;

    switch (event->type) {
    case BROKER_CONFIRMED:
        on_confirm(p, event, ROW_CONFIRMED);
        break;
    case BROKER_NACKED:
        p->nacked = p->refused = true;
        on_confirm(p, event, ROW_LEFT);
        break;
    case BROKER_RETURNED:
        p->refused = true;
        on_return(p, event);
        break;
    case BROKER_CHANNEL_CLOSED:
        p->closed = p->refused = true;
        p->close_code = event->code;
        snprintf(p->close_text, sizeof(p->close_text), "%s", event->text);
        break;
    default:
        break;
    }
}

/* ---- what is handed to it ---- */

static int hand_over(struct publisher *p, const struct publish_span *span,
                     const struct broker_message *m, struct err *err)
{
    uint64_t tag;

    if (broker_publish(p->broker, m, &tag, err))
        return -1;
    if (!p->sent)
        p->first_tag = tag;
    p->by_tag[p->sent++] = *span;
    p->waiting++;
    move(p, span, ROW_TO_PUBLISH, ROW_SENT);
    return 0;
}

static int send_alone(struct publisher *p, size_t i, const struct payload *payload, struct err *err)
{
    p->rows[i].together = 1;
    return hand_over(p, &(struct publish_span){i, i + 1},
                     &(struct broker_message){.exchange = payload->exchange,
                                              .routing_key = payload->routing_key,
                                              .message_id = p->rows[i].aggregate_id,
                                              .body = payload->body,
                                              .body_len = payload->body_len,
                                              .traceparent = payload->traceparent,
                                              .tracestate = payload->tracestate,
                                              .accepted_us = payload->accepted_us},
                     err);
}

/* Publishes what has been put together, if anything. */
static int send_open(struct publisher *p, struct err *err)
{
    struct publish_span span = p->open;
    size_t members = p->members;

    p->members = 0;
    if (members < 2)
        return members ? send_alone(p, span.first, &p->head, err) : 0;
    bundle_end(&p->body);
    if (p->body.failed) {
        buf_free(&p->body);
        broker_drop(p->broker);
        return err_set(err, ERR_RETRY, 0, "out of memory for a bundle");
    }
    for (size_t i = span.first; i < span.end; i++)
        p->rows[i].together = members;
    return hand_over(p, &span,
                     &(struct broker_message){.exchange = p->head.exchange,
                                              .routing_key = p->head.routing_key,
                                              .message_id = p->rows[span.first].aggregate_id,
                                              .bundle = BUNDLE_VERSION,
                                              .body = p->body.data,
                                              .body_len = p->body.len},
                     err);
}

static bool fits(const struct publisher *p, const struct payload *payload,
                 const struct bundle_entry *e)
{
    return p->members < p->members_max && !strcmp(p->head.exchange, payload->exchange) &&
           !strcmp(p->head.routing_key, payload->routing_key) &&
           bundle_size_with(&p->body, e) <= BUNDLE_BYTES_MAX;
}

static int put_into_open(struct publisher *p, size_t i, const struct payload *payload,
                         const struct bundle_entry *e, struct err *err)
{
    if (p->members && !fits(p, payload, e) && send_open(p, err))
        return -1;
    if (!p->members) {
        bundle_begin(&p->body);
        p->head = *payload;
        p->open.first = i;
    }
    bundle_add(&p->body, e);
    p->open.end = i + 1;
    p->members++;
    return 0;
}

static bool goes_alone(const struct publisher *p, const struct row *row,
                       const struct bundle_entry *e)
{
    return p->members_max < 2 || row->attempts || !bundle_takes(e);
}

static int send_row(struct publisher *p, size_t i, struct err *err)
{
    struct row *row = &p->rows[i];
    struct payload payload;
    struct bundle_entry e;
    struct err why;

    if (!row->payload) {
        refuse(row, CAUSE_PAYLOAD, "the payload is too long");
        return 0;
    }
    if (payload_parse(row->payload, row->payload_len, &payload, &why)) {
        refuse(row, CAUSE_PAYLOAD, why.msg);
        return 0;
    }
    if (tracer_on() && !p->traced)
        p->traced = trace_parse(payload.traceparent, &p->trace) && tracer_wants(&p->trace);
    e = (struct bundle_entry){payload.body, payload.body_len, payload.traceparent,
                              payload.tracestate, payload.accepted_us};
    if (!goes_alone(p, row, &e))
        return put_into_open(p, i, &payload, &e, err);
    return send_open(p, err) ? -1 : send_alone(p, i, &payload, err);
}

static int wait_for_confirms(struct publisher *p, struct err *err)
{
    while (p->waiting && !p->closed) {
        int64_t left_ms = p->deadline_ms - clock_mono_ms();

        if (left_ms <= 0) {
            /* In an alarm the confirms come when it ends; the connection is as good as a new one.
             */
            if (broker_is_blocked(p->broker))
                return 0;
            broker_drop(p->broker);
            return err_set(err, ERR_RETRY, 0, "broker: %zu of %zu messages not confirmed in time",
                           p->waiting, p->sent);
        }
        if (broker_pump(p->broker, (int)left_ms, 0, on_event, p, err))
            return -1;
    }
    if (p->closed)
        p->waiting = 0; /* nothing more can come */
    return 0;
}

static size_t parts(size_t n, size_t size)
{
    return (n + size - 1) / size;
}

/* A batch's bundles are of one size, about. */
static size_t members_max(const struct publisher *p)
{
    size_t fewest = parts(p->n, p->bundle_max);
    size_t shares = parts(p->n, SHARE_LEAST) < SHARES ? parts(p->n, SHARE_LEAST) : SHARES;

    if (p->alone || p->refused || !p->n)
        return 1;
    return parts(p->n, shares > fewest ? shares : fewest);
}

static void begin_pass(struct publisher *p)
{
    p->sent = p->low = p->waiting = p->members = 0;
    p->members_max = members_max(p);
    p->first_tag = UINT64_MAX;
    p->closed = p->traced = false;
}

static int end_pass(struct publisher *p, struct err *err)
{
    int64_t start_us = clock_mono_us();

    if (broker_flush(p->broker, err))
        return -1;
    if (failpoint(FAILPOINT_OUTBOX_AFTER_PUBLISH)) {
        broker_drop(p->broker);
        return err_set(err, ERR_RETRY, 0, "failpoint after publish");
    }
    if (wait_for_confirms(p, err))
        return -1;
    if (!p->waiting && !p->closed)
        metrics_observe_traced(confirm_seconds, clock_mono_us() - start_us,
                               p->traced ? &p->trace : NULL);
    return 0;
}

static int pass_all(struct publisher *p, struct err *err)
{
    begin_pass(p);
    for (size_t i = 0; i < p->n; i++)
        if (p->rows[i].state == ROW_TO_PUBLISH && send_row(p, i, err))
            return -1;
    if (send_open(p, err))
        return -1;
    return p->sent ? end_pass(p, err) : 0;
}

static void again(struct publisher *p, enum row_state from)
{
    for (size_t i = 0; i < p->n; i++)
        if (p->rows[i].state == from)
            p->rows[i].state = ROW_TO_PUBLISH;
}

static int reopen(struct publisher *p, struct err *err)
{
    if (broker_reopen_channel(p->broker, err) || broker_declare(p->broker, err))
        return -1;
    return broker_confirm(p->broker, err);
}

/* A quorum queue that is full refuses a channel until it has been told otherwise, which it is not
 * when the queue's limit is lifted. */
static int renew(struct publisher *p, struct err *err)
{
    return broker_renew_channel(p->broker, err) ? -1 : broker_confirm(p->broker, err);
}

/* A channel closed for what was published on it, not for the state of the broker or our rights. */
static bool blames_message(unsigned code)
{
    return code == 404 || code == 406 || code == 311; /* no exchange, precondition, too large */
}

static int pass_singly(struct publisher *p, struct err *err)
{
    for (size_t i = 0; i < p->n; i++) {
        if (p->rows[i].state != ROW_TO_PUBLISH)
            continue;
        if (clock_mono_ms() >= p->deadline_ms || p->waiting)
            return 0;
        begin_pass(p);
        if (send_row(p, i, err) || (p->sent && end_pass(p, err)))
            return -1;
        if (!p->closed)
            continue;
        if (!blames_message(p->close_code)) {
            broker_drop(p->broker);
            return err_set(err, ERR_RETRY, p->close_code, "broker: channel closed: %s",
                           p->close_text);
        }
        refuse(&p->rows[i], CAUSE_CHANNEL, p->close_text);
        if (reopen(p, err))
            return -1;
    }
    return 0;
}

/* What is still open when a channel was closed is unknown: send it again. */
static int after_close(struct publisher *p, struct err *err)
{
    if (reopen(p, err))
        return -1;
    again(p, ROW_SENT);
    if (pass_all(p, err))
        return -1;
    if (!p->closed)
        return 0;
    if (reopen(p, err))
        return -1;
    again(p, ROW_SENT);
    return pass_singly(p, err);
}

static int after_returns(struct publisher *p, struct err *err)
{
    if (broker_declare(p->broker, err))
        return -1;
    again(p, ROW_RETURNED);
    if (pass_all(p, err))
        return -1;
    if (p->closed)
        return reopen(p, err);
    for (size_t i = 0; i < p->n; i++) {
        if (p->rows[i].state != ROW_RETURNED)
            continue;
        p->rows[i].state = ROW_REFUSED;
        p->rows[i].cause = CAUSE_UNROUTABLE;
    }
    return 0;
}

static int run(struct publisher *p, struct err *err)
{
    /* Before a burst: hears of an alarm, and keeps the library's silent-peer check from blocking.
     */
    begin_pass(p);
    if (broker_pump(p->broker, 0, 0, on_event, p, err))
        return -1;
    if (broker_is_blocked(p->broker))
        return 0;
    if (p->closed && reopen(p, err))
        return -1;
    if (p->renew && renew(p, err))
        return -1;
    if (pass_all(p, err) || (p->closed && after_close(p, err)))
        return -1;
    if (p->waiting)
        return 0;
    for (size_t i = 0; i < p->n; i++)
        if (p->rows[i].state == ROW_RETURNED)
            return after_returns(p, err);
    return 0;
}

int publish_batch(struct publisher *p, struct broker *broker, struct row *rows, size_t n,
                  int64_t deadline_ms, struct err *err)
{
    int rc;

    p->broker = broker;
    p->rows = rows;
    p->n = n;
    p->deadline_ms = deadline_ms;
    p->renew = p->nacked;
    p->nacked = false;
    p->alone = p->refused;
    p->refused = false;
    rc = run(p, err);
    for (size_t i = 0; i < n; i++)
        if (rows[i].state != ROW_CONFIRMED && rows[i].state != ROW_REFUSED)
            rows[i].state = ROW_LEFT;
    return rc;
}
