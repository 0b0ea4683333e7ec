#include <limits.h>
#include <string.h>
#include <sys/time.h>

#include "libcommon/base/clock.h"
#include "libcommon/broker/broker_internal.h"

struct pump {
    struct broker *b;
    broker_event_fn *fn;
    void *arg;
    size_t events;
};

static void hand_on(struct pump *p, const struct broker_event *event)
{
    p->events++;
    p->fn(event, p->arg);
}

static int malformed(struct broker *b, struct err *err)
{
    return broker_fail(b, AMQP_STATUS_BAD_AMQP_DATA, "read", err);
}

/* A message has come in whole. body: what to hand on. */
static int finish(struct pump *p, const void *body, size_t body_len, struct err *err)
{
    struct broker *b = p->b;
    struct broker_incoming *in = &b->in;
    struct broker_event event = {
        .type = in->type,
        .tag = in->tag,
        .redelivered = in->redelivered,
        .code = in->code,
        .text = in->text,
        .message_id = in->message_id,
        .traceparent = in->traceparent,
        .tracestate = in->tracestate,
        .accepted_us = in->accepted_us,
        .is_bundle = in->is_bundle,
        .bundle = in->bundle,
        .death_reason = in->death_reason,
        .death_queue = in->death_queue,
        .delivery_count = in->delivery_count,
        .body = body_len ? body : "",
        .body_len = body_len,
    };

    in->expects = INCOMING_METHOD;
    if (in->type == BROKER_DELIVERED && !b->listening && !broker_acks_delivered(&b->acks, in->tag))
        return broker_fail(b, AMQP_STATUS_NO_MEMORY, "read", err);
    hand_on(p, &event);
    return 0;
}

/* What is too long to be ours, or holds a NUL, is dropped, not cut: half a trace state is none. */
static void copy_whole(char *to, size_t size, amqp_bytes_t from)
{
    if (from.len < size && !(from.len && memchr(from.bytes, '\0', from.len)))
        broker_copy_text(to, size, from);
}

static void copy_header(char *to, size_t size, const amqp_field_value_t *value)
{
    if (value->kind == AMQP_FIELD_KIND_UTF8 || value->kind == AMQP_FIELD_KIND_BYTES)
        copy_whole(to, size, value->value.bytes);
}

/* Whoever wrote it uses whatever width he likes. */
static int64_t number_of(const amqp_field_value_t *value)
{
    switch (value->kind) {
    case AMQP_FIELD_KIND_I8:
        return value->value.i8;
    case AMQP_FIELD_KIND_U8:
        return value->value.u8;
    case AMQP_FIELD_KIND_I16:
        return value->value.i16;
    case AMQP_FIELD_KIND_U16:
        return value->value.u16;
    case AMQP_FIELD_KIND_I32:
        return value->value.i32;
    case AMQP_FIELD_KIND_U32:
        return value->value.u32;
    case AMQP_FIELD_KIND_I64:
        return value->value.i64;
    default:
        return 0;
    }
}

/* 0 is no bundle's. */
static unsigned version_of(const amqp_field_value_t *value)
{
    int64_t n = number_of(value);

    return n > 0 && n <= UINT_MAX ? (unsigned)n : 0;
}

static bool is_text(amqp_bytes_t bytes, const char *text)
{
    return bytes.len == strlen(text) && !memcmp(bytes.bytes, text, bytes.len);
}

static void read_headers(struct broker_incoming *in, const amqp_table_t *headers)
{
    for (int i = 0; i < headers->num_entries; i++) {
        amqp_bytes_t key = headers->entries[i].key;
        const amqp_field_value_t *value = &headers->entries[i].value;

        if (is_text(key, "traceparent"))
            copy_header(in->traceparent, sizeof(in->traceparent), value);
        else if (is_text(key, "tracestate"))
            copy_header(in->tracestate, sizeof(in->tracestate), value);
        else if (is_text(key, "accepted_us") && value->kind == AMQP_FIELD_KIND_I64)
            in->accepted_us = value->value.i64;
        else if (is_text(key, DEATH_REASON))
            copy_header(in->death_reason, sizeof(in->death_reason), value);
        else if (is_text(key, DEATH_QUEUE))
            copy_header(in->death_queue, sizeof(in->death_queue), value);
        else if (is_text(key, BROKER_BUNDLE_VERSION))
            in->bundle = version_of(value);
        else if (is_text(key, "x-delivery-count"))
            in->delivery_count = number_of(value);
    }
}

void broker_read_properties(struct broker_incoming *in, const amqp_basic_properties_t *properties)
{
    in->accepted_us = in->delivery_count = 0;
    in->message_id[0] = in->traceparent[0] = in->tracestate[0] = '\0';
    in->death_reason[0] = in->death_queue[0] = '\0';
    in->is_bundle = false;
    in->bundle = 0;
    if (properties->_flags & AMQP_BASIC_CONTENT_TYPE_FLAG)
        in->is_bundle = is_text(properties->content_type, BROKER_BUNDLE_TYPE);
    if (properties->_flags & AMQP_BASIC_MESSAGE_ID_FLAG)
        copy_whole(in->message_id, sizeof(in->message_id), properties->message_id);
    if (properties->_flags & AMQP_BASIC_HEADERS_FLAG)
        read_headers(in, &properties->headers);
}

static int on_header(struct pump *p, const amqp_frame_t *frame, struct err *err)
{
    struct broker_incoming *in = &p->b->in;

    if (in->expects != INCOMING_HEADER)
        return malformed(p->b, err);
    broker_read_properties(in, frame->payload.properties.decoded);
    in->body_size = frame->payload.properties.body_size;
    in->body_seen = 0;
    buf_reset(&in->body);
    if (!in->body_size)
        return finish(p, "", 0, err);
    in->expects = INCOMING_BODY;
    return 0;
}

static int on_body(struct pump *p, const amqp_frame_t *frame, struct err *err)
{
    struct broker_incoming *in = &p->b->in;
    amqp_bytes_t part = frame->payload.body_fragment;
    bool too_long = in->body_size > BROKER_BODY_MAX;

    if (in->expects != INCOMING_BODY || part.len > in->body_size - in->body_seen)
        return malformed(p->b, err);
    if (part.len == in->body_size && !too_long)
        return finish(p, part.bytes, part.len, err);
    in->body_seen += part.len;
    if (!too_long)
        buf_put(&in->body, part.bytes, part.len);
    if (in->body.failed)
        return broker_fail(p->b, AMQP_STATUS_NO_MEMORY, "read", err);
    if (in->body_seen < in->body_size)
        return 0;
    if (finish(p, in->body.data, in->body.len, err))
        return -1;
    buf_free(&in->body); /* rare and large */
    return 0;
}

static int on_content_method(struct broker *b, const amqp_method_t *method)
{
    struct broker_incoming *in = &b->in;

    in->expects = INCOMING_HEADER;
    in->text[0] = '\0';
    in->code = 0;
    in->tag = 0;
    in->redelivered = false;
    if (method->id == AMQP_BASIC_DELIVER_METHOD) {
        const amqp_basic_deliver_t *m = method->decoded;

        in->type = BROKER_DELIVERED;
        in->tag = m->delivery_tag;
        in->redelivered = m->redelivered;
    } else {
        const amqp_basic_return_t *m = method->decoded;

        in->type = BROKER_RETURNED;
        in->code = m->reply_code;
        broker_copy_text(in->text, sizeof(in->text), m->reply_text);
    }
    return 0;
}

static struct broker_event plain_event(enum broker_event_type type)
{
    return (struct broker_event){.type = type,
                                 .text = "",
                                 .message_id = "",
                                 .traceparent = "",
                                 .tracestate = "",
                                 .death_reason = "",
                                 .death_queue = "",
                                 .body = ""};
}

static int on_channel_close(struct pump *p, const amqp_channel_close_t *m, struct err *err)
{
    struct broker_event event = plain_event(BROKER_CHANNEL_CLOSED);
    char text[256];

    broker_copy_text(text, sizeof(text), m->reply_text);
    event.code = m->reply_code;
    event.text = text;
    if (broker_channel_gone(p->b, err))
        return -1;
    hand_on(p, &event);
    return 0;
}

static int on_connection_close(struct broker *b, const amqp_connection_close_t *m, struct err *err)
{
    amqp_connection_close_ok_t ok = {0};
    unsigned code = m->reply_code;
    char text[200];

    broker_copy_text(text, sizeof(text), m->reply_text);
    amqp_send_method(b->conn, 0, AMQP_CONNECTION_CLOSE_OK_METHOD, &ok);
    broker_drop(b);
    return err_set(err, ERR_RETRY, code, "broker: connection closed: %s", text);
}

static int on_connection_method(struct pump *p, const amqp_method_t *method, struct err *err)
{
    struct broker_event event;
    char text[256] = "";

    if (method->id == AMQP_CONNECTION_CLOSE_METHOD)
        return on_connection_close(p->b, method->decoded, err);
    if (method->id == AMQP_CONNECTION_BLOCKED_METHOD) {
        const amqp_connection_blocked_t *m = method->decoded;

        broker_copy_text(text, sizeof(text), m->reason);
        event = plain_event(BROKER_BLOCKED);
    } else if (method->id == AMQP_CONNECTION_UNBLOCKED_METHOD) {
        event = plain_event(BROKER_UNBLOCKED);
    } else {
        return 0;
    }
    p->b->blocked = event.type == BROKER_BLOCKED;
    event.text = text;
    hand_on(p, &event);
    return 0;
}

static int on_channel_method(struct pump *p, const amqp_method_t *method, struct err *err)
{
    struct broker_event event;

    if (p->b->in.expects != INCOMING_METHOD && method->id != AMQP_CHANNEL_CLOSE_METHOD)
        return malformed(p->b, err);
    switch (method->id) {
    case AMQP_BASIC_DELIVER_METHOD:
    case AMQP_BASIC_RETURN_METHOD:
        return on_content_method(p->b, method);
    case AMQP_BASIC_ACK_METHOD:
        event = plain_event(BROKER_CONFIRMED);
        event.tag = ((const amqp_basic_ack_t *)method->decoded)->delivery_tag;
        event.multiple = ((const amqp_basic_ack_t *)method->decoded)->multiple;
        break;
    case AMQP_BASIC_NACK_METHOD:
        event = plain_event(BROKER_NACKED);
        event.tag = ((const amqp_basic_nack_t *)method->decoded)->delivery_tag;
        event.multiple = ((const amqp_basic_nack_t *)method->decoded)->multiple;
        break;
    case AMQP_BASIC_CANCEL_METHOD:
        p->b->consuming = false;
        event = plain_event(BROKER_CANCELLED);
        break;
    case AMQP_CHANNEL_CLOSE_METHOD:
        return on_channel_close(p, method->decoded, err);
    default:
        return 0;
    }
    hand_on(p, &event);
    return 0;
}

static int on_frame(struct pump *p, const amqp_frame_t *frame, struct err *err)
{
    if (frame->channel == 0)
        return frame->frame_type == AMQP_FRAME_METHOD
                   ? on_connection_method(p, &frame->payload.method, err)
                   : 0;
    if (frame->channel != BROKER_CHANNEL || !p->b->channel_open) {
        p->b->late |= frame->frame_type == AMQP_FRAME_METHOD &&
                      frame->payload.method.id == AMQP_BASIC_DELIVER_METHOD;
        return 0; /* a late word for a channel that is gone */
    }
    switch (frame->frame_type) {
    case AMQP_FRAME_METHOD:
        return on_channel_method(p, &frame->payload.method, err);
    case AMQP_FRAME_HEADER:
        return on_header(p, frame, err);
    case AMQP_FRAME_BODY:
        return on_body(p, frame, err);
    default:
        return 0;
    }
}

/* The library stopped at the properties of a delivery. Their size says nothing: it is the broker's
 * to send, and it sends what it was given. */
static bool is_unreadable(const struct broker *b, int rc)
{
    return rc == AMQP_STATUS_BAD_AMQP_DATA && b->in.expects == INCOMING_HEADER &&
           b->in.type == BROKER_DELIVERED && !b->listening;
}

/* Its tag has come before them, in a frame of its own. */
static int give_up_reading(struct pump *p, struct err *err)
{
    struct broker *b = p->b;
    struct broker_event event = plain_event(BROKER_UNREADABLE);

    if (!broker_acks_delivered(&b->acks, b->in.tag))
        return broker_fail(b, AMQP_STATUS_NO_MEMORY, "read", err);
    b->deaf = true;
    event.tag = b->in.tag;
    event.redelivered = b->in.redelivered;
    hand_on(p, &event);
    return 0;
}

int broker_pump(struct broker *b, int timeout_ms, size_t max, broker_event_fn *fn, void *arg,
                struct err *err)
{
    struct pump p = {.b = b, .fn = fn, .arg = arg};
    int64_t deadline_ms = clock_mono_ms() + timeout_ms;

    if (broker_flush(b, err))
        return -1;
    if (b->deaf)
        return malformed(b, err);
    for (;;) {
        int64_t left_ms = p.events || timeout_ms <= 0 ? 0 : deadline_ms - clock_mono_ms();
        struct timeval wait = {0};
        amqp_frame_t frame;
        int rc;

        if (left_ms > 0)
            wait = (struct timeval){left_ms / 1000, (left_ms % 1000) * 1000};
        rc = amqp_simple_wait_frame_noblock(b->conn, &frame, &wait);
        if (rc == AMQP_STATUS_TIMEOUT)
            break;
        if (is_unreadable(b, rc))
            return give_up_reading(&p, err);
        if (rc != AMQP_STATUS_OK)
            return broker_fail(b, rc, "read", err);
        if (on_frame(&p, &frame, err))
            return -1;
        amqp_maybe_release_buffers_on_channel(b->conn, frame.channel);
        if (max && p.events >= max)
            break;
    }
    return broker_flush(b, err);
}
