#include "outboxd/publish.h"

#include <stdio.h>
#include <string.h>

#include "libcommon/base/clock.h"
#include "libcommon/daemon/failpoint.h"
#include "libcommon/telemetry/metrics.h"
#include "libcommon/telemetry/tracer.h"
#include "outboxd/payload.h"

static struct metric *confirm_seconds;
static struct metric *returned_total;

void publish_register(void)
{
    confirm_seconds =
        metrics_latency("msg_publish_confirm_seconds",
                        "From handing a batch to the broker to its last confirm.", "");
    returned_total = metrics_counter("msg_publish_returned_total",
                                     "Messages the broker returned as unroutable.", "");
}

static void refuse(struct row *row, enum row_cause cause, const char *reason)
{
    row->state = ROW_REFUSED;
    row->cause = cause;
    snprintf(row->reason, sizeof(row->reason), "%.*s", (int)sizeof(row->reason) - 1, reason);
}

/* Returned rows stay ROW_RETURNED when their confirm comes: the broker has let go of them. */
static void settle_tag(struct publisher *p, size_t at, enum row_state state)
{
    struct row *row = &p->rows[p->by_tag[at]];

    if (row->state == ROW_SENT) {
        row->state = state;
        p->waiting--;
    } else if (row->state == ROW_RETURNED) {
        p->waiting--;
        p->by_tag[at] = p->n; /* counted once */
    }
}

static void on_confirm(struct publisher *p, const struct broker_event *event, enum row_state state)
{
    size_t last;

    if (event->tag < p->first_tag || event->tag - p->first_tag >= p->sent)
        return; /* of an earlier batch that gave up waiting */
    last = (size_t)(event->tag - p->first_tag);
    for (size_t at = event->multiple ? p->low : last; at <= last; at++)
        if (p->by_tag[at] < p->n)
            settle_tag(p, at, state);
    if (event->multiple && last >= p->low)
        p->low = last + 1;
}

/* A return names no tag, but comes before its confirm: the first one of that message. */
static void on_return(struct publisher *p, const struct broker_event *event)
{
    metrics_add(returned_total, 1);
    p->returned++;
    for (size_t at = p->low; at < p->sent; at++) {
        struct row *row = p->by_tag[at] < p->n ? &p->rows[p->by_tag[at]] : NULL;

        if (row && row->state == ROW_SENT && !strcmp(row->aggregate_id, event->message_id)) {
            row->state = ROW_RETURNED;
            snprintf(row->reason, sizeof(row->reason), "unroutable: %u %s", event->code,
                     event->text);
            return;
        }
    }
}

static void on_event(const struct broker_event *event, void *arg)
{
    struct publisher *p = arg;

    switch (event->type) {
    case BROKER_CONFIRMED:
        on_confirm(p, event, ROW_CONFIRMED);
        break;
    case BROKER_NACKED:
        p->nacked = true;
        on_confirm(p, event, ROW_LEFT);
        break;
    case BROKER_RETURNED:
        on_return(p, event);
        break;
    case BROKER_CHANNEL_CLOSED:
        p->closed = true;
        p->close_code = event->code;
        snprintf(p->close_text, sizeof(p->close_text), "%s", event->text);
        break;
    default:
        break;
    }
}

static int send_row(struct publisher *p, size_t i, struct err *err)
{
    struct row *row = &p->rows[i];
    struct payload payload;
    struct err why;
    uint64_t tag;

    if (!row->payload) {
        refuse(row, CAUSE_PAYLOAD, "the payload is too long");
        return 0;
    }
    if (payload_parse(row->payload, row->payload_len, &payload, &why)) {
        refuse(row, CAUSE_PAYLOAD, why.msg);
        return 0;
    }
    if (broker_publish(p->broker,
                       &(struct broker_message){.exchange = payload.exchange,
                                                .routing_key = payload.routing_key,
                                                .message_id = row->aggregate_id,
                                                .body = payload.body,
                                                .body_len = payload.body_len,
                                                .traceparent = payload.traceparent,
                                                .tracestate = payload.tracestate,
                                                .accepted_us = payload.accepted_us},
                       &tag, err))
        return -1;
    if (!p->sent)
        p->first_tag = tag;
    if (tracer_on() && !p->traced)
        p->traced = trace_parse(payload.traceparent, &p->trace) && tracer_wants(&p->trace);
    p->by_tag[p->sent++] = i;
    p->waiting++;
    row->state = ROW_SENT;
    return 0;
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

static void begin_pass(struct publisher *p)
{
    p->sent = p->low = p->waiting = 0;
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
    p->nacked = false;
    rc = run(p, err);
    for (size_t i = 0; i < n; i++)
        if (rows[i].state != ROW_CONFIRMED && rows[i].state != ROW_REFUSED)
            rows[i].state = ROW_LEFT;
    return rc;
}
