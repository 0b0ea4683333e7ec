#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "libcommon/base/clock.h"
#include "libcommon/broker/broker_internal.h"

#define FLUSH_AT 65536
#define FRAME_END 0xCE
#define FRAME_OVERHEAD 8
#define HEADERS_ROOM 2048 /* the largest properties we send: tracestate and ids */
#define HEADERS_MAX 6
#define CLASS_BASIC 60

static void put_u8(struct buf *out, uint8_t v)
{
    buf_putc(out, (char)v);
}

static void put_u16(struct buf *out, uint16_t v)
{
    uint8_t b[2] = {(uint8_t)(v >> 8), (uint8_t)v};

    buf_put(out, b, sizeof(b));
}

static void put_u32(struct buf *out, uint32_t v)
{
    put_u16(out, (uint16_t)(v >> 16));
    put_u16(out, (uint16_t)v);
}

static void put_u64(struct buf *out, uint64_t v)
{
    put_u32(out, (uint32_t)(v >> 32));
    put_u32(out, (uint32_t)v);
}

static void put_short_text(struct buf *out, const char *s)
{
    size_t n = strnlen(s, 255);

    put_u8(out, (uint8_t)n);
    buf_put(out, s, n);
}

/* A frame's size stands before its payload and is known after it. */
static size_t begin_frame(struct buf *out, uint8_t type)
{
    put_u8(out, type);
    put_u16(out, BROKER_CHANNEL);
    put_u32(out, 0);
    return out->len;
}

static void end_frame(struct buf *out, size_t start)
{
    size_t n = out->len - start;
    uint8_t size[4] = {(uint8_t)(n >> 24), (uint8_t)(n >> 16), (uint8_t)(n >> 8), (uint8_t)n};

    if (!out->failed)
        memcpy(out->data + start - 4, size, sizeof(size));
    put_u8(out, FRAME_END);
}

static void put_publish(struct buf *out, const struct broker_message *m)
{
    size_t start = begin_frame(out, AMQP_FRAME_METHOD);

    put_u32(out, AMQP_BASIC_PUBLISH_METHOD);
    put_u16(out, 0);
    put_short_text(out, m->exchange);
    put_short_text(out, m->routing_key);
    put_u8(out, !m->transient); /* mandatory, not immediate */
    end_frame(out, start);
}

static void put_header(struct buf *out, const struct broker_message *m,
                       amqp_basic_properties_t *properties)
{
    size_t start = begin_frame(out, AMQP_FRAME_HEADER);
    int n;

    put_u16(out, CLASS_BASIC);
    put_u16(out, 0);
    put_u64(out, m->body_len);
    if (!buf_reserve(out, HEADERS_ROOM))
        return;
    n = amqp_encode_properties(CLASS_BASIC, properties,
                               (amqp_bytes_t){.len = HEADERS_ROOM, .bytes = out->data + out->len});
    if (n < 0)
        out->failed = true;
    else
        out->len += (size_t)n;
    end_frame(out, start);
}

static void put_body(struct buf *out, const struct broker_message *m, size_t frame_max)
{
    const char *body = m->body;
    size_t most = frame_max - FRAME_OVERHEAD;

    for (size_t at = 0; at < m->body_len; at += most) {
        size_t n = m->body_len - at < most ? m->body_len - at : most;
        size_t start = begin_frame(out, AMQP_FRAME_BODY);

        buf_put(out, body + at, n);
        end_frame(out, start);
    }
}

static void put_ack(uint64_t tag, bool multiple, void *arg)
{
    struct buf *out = arg;
    size_t start = begin_frame(out, AMQP_FRAME_METHOD);

    put_u32(out, AMQP_BASIC_ACK_METHOD);
    put_u64(out, tag);
    put_u8(out, multiple);
    end_frame(out, start);
}

static int write_all(struct broker *b, struct err *err)
{
    int fd = amqp_get_sockfd(b->conn);
    int64_t deadline_ms = clock_mono_ms() + b->settings->rpc_timeout_ms;

    for (size_t at = 0; at < b->out.len;) {
        ssize_t n = send(fd, b->out.data + at, b->out.len - at, MSG_NOSIGNAL | MSG_DONTWAIT);
        struct pollfd wait = {.fd = fd, .events = POLLOUT};
        int64_t left_ms;

        if (n >= 0) {
            at += (size_t)n;
            continue;
        }
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN && errno != EWOULDBLOCK)
            return broker_fail(b, AMQP_STATUS_SOCKET_ERROR, "write", err);
        left_ms = deadline_ms - clock_mono_ms();
        if (left_ms <= 0 || poll(&wait, 1, (int)left_ms) == 0)
            return broker_fail(b, AMQP_STATUS_TIMEOUT, "write", err);
    }
    buf_reset(&b->out);
    return 0;
}

struct tls_acks {
    struct broker *b;
    int rc;
};

static void send_tls_ack(uint64_t tag, bool multiple, void *arg)
{
    struct tls_acks *t = arg;

    if (!t->rc)
        t->rc = amqp_basic_ack(t->b->conn, BROKER_CHANNEL, tag, multiple);
}

static int flush_tls(struct broker *b, struct err *err)
{
    struct tls_acks t = {.b = b};

    broker_acks_collect(&b->acks, send_tls_ack, &t);
    return t.rc ? broker_fail(b, t.rc, "ack", err) : 0;
}

int broker_flush(struct broker *b, struct err *err)
{
    if (!b->conn)
        return err_set(err, ERR_RETRY, 0, "broker: not connected");
    if (!b->channel_open)
        return 0;
    if (b->tls)
        return flush_tls(b, err);
    broker_acks_collect(&b->acks, put_ack, &b->out);
    if (b->out.failed)
        return broker_fail(b, AMQP_STATUS_NO_MEMORY, "write", err);
    return write_all(b, err);
}

/* How many headers that makes. */
static int text_header(amqp_table_entry_t *to, const char *key, const char *value)
{
    if (!value || !*value)
        return 0;
    *to = (amqp_table_entry_t){
        .key = amqp_cstring_bytes(key),
        .value = {.kind = AMQP_FIELD_KIND_UTF8, .value.bytes = amqp_cstring_bytes(value)}};
    return 1;
}

static void set_properties(const struct broker_message *m, amqp_basic_properties_t *p,
                           amqp_table_entry_t *headers)
{
    int n = 0;

    if (m->transient) {
        *p = (amqp_basic_properties_t){._flags = AMQP_BASIC_DELIVERY_MODE_FLAG,
                                       .delivery_mode = AMQP_DELIVERY_NONPERSISTENT};
        return;
    }
    *p = (amqp_basic_properties_t){
        ._flags = AMQP_BASIC_CONTENT_TYPE_FLAG | AMQP_BASIC_DELIVERY_MODE_FLAG |
                  AMQP_BASIC_MESSAGE_ID_FLAG | AMQP_BASIC_TIMESTAMP_FLAG | AMQP_BASIC_TYPE_FLAG |
                  AMQP_BASIC_HEADERS_FLAG,
        .content_type = amqp_cstring_bytes(m->bundle ? BROKER_BUNDLE_TYPE : "application/json"),
        .delivery_mode = AMQP_DELIVERY_PERSISTENT,
        .message_id = amqp_cstring_bytes(m->message_id),
        .timestamp = (uint64_t)((m->accepted_us > 0 ? m->accepted_us : clock_wall_us()) / 1000000),
        .type = amqp_cstring_bytes("message.send"),
    };
    n += text_header(&headers[n], "traceparent", m->traceparent);
    n += text_header(&headers[n], "tracestate", m->tracestate);
    n += text_header(&headers[n], DEATH_REASON, m->death_reason);
    n += text_header(&headers[n], DEATH_QUEUE, m->death_queue);
    if (m->bundle)
        headers[n++] = (amqp_table_entry_t){
            .key = amqp_cstring_bytes(BROKER_BUNDLE_VERSION),
            .value = {.kind = AMQP_FIELD_KIND_I32, .value.i32 = (int32_t)m->bundle}};
    if (m->accepted_us > 0)
        headers[n++] = (amqp_table_entry_t){
            .key = amqp_cstring_bytes("accepted_us"),
            .value = {.kind = AMQP_FIELD_KIND_I64, .value.i64 = m->accepted_us}};
    p->headers = (amqp_table_t){.num_entries = n, .entries = headers};
}

int broker_publish(struct broker *b, const struct broker_message *m, uint64_t *tag, struct err *err)
{
    amqp_basic_properties_t properties;
    amqp_table_entry_t headers[HEADERS_MAX];
    int rc;

    if (!b->channel_open) {
        broker_drop(b);
        return err_set(err, ERR_RETRY, 0, "broker: publish: no channel");
    }
    set_properties(m, &properties, headers);
    if (b->tls) {
        amqp_bytes_t body = {.len = m->body_len};

        memcpy(&body.bytes, &m->body, sizeof(body.bytes)); /* the library does not write to it */
        rc = amqp_basic_publish(b->conn, BROKER_CHANNEL, amqp_cstring_bytes(m->exchange),
                                amqp_cstring_bytes(m->routing_key), !m->transient, 0, &properties,
                                body);
        if (rc)
            return broker_fail(b, rc, "publish", err);
    } else {
        put_publish(&b->out, m);
        put_header(&b->out, m, &properties);
        put_body(&b->out, m, b->frame_max);
        if (b->out.failed)
            return broker_fail(b, AMQP_STATUS_NO_MEMORY, "publish", err);
        if (b->out.len >= FLUSH_AT && write_all(b, err))
            return -1;
    }
    *tag = b->next_tag++;
    return 0;
}

int broker_beat(struct broker *b, struct err *err)
{
    static const char beat[] = {AMQP_FRAME_HEARTBEAT, 0, 0, 0, 0, 0, 0, (char)FRAME_END};
    amqp_frame_t frame = {.frame_type = AMQP_FRAME_HEARTBEAT};
    int rc;

    if (broker_flush(b, err))
        return -1;
    if (b->deaf)
        broker_ignore(b);
    if (clock_mono_ms() < b->beat_at_ms)
        return 0;
    b->beat_at_ms = clock_mono_ms() + b->settings->heartbeat_sec * 500;
    if (b->tls) {
        rc = amqp_send_frame(b->conn, &frame);
        return rc ? broker_fail(b, rc, "heartbeat", err) : 0;
    }
    buf_put(&b->out, beat, sizeof(beat));
    return b->out.failed ? broker_fail(b, AMQP_STATUS_NO_MEMORY, "heartbeat", err)
                         : write_all(b, err);
}

int broker_ack(struct broker *b, uint64_t tag, bool multiple, struct err *err)
{
    if (!b->conn)
        return err_set(err, ERR_RETRY, 0, "broker: ack: not connected");
    broker_acks_done(&b->acks, tag, multiple);
    return 0;
}

int broker_dead_letter(struct broker *b, uint64_t tag, struct err *err)
{
    size_t start;
    int rc;

    if (!b->conn)
        return err_set(err, ERR_RETRY, 0, "broker: dead letter: not connected");
    if (!broker_acks_settled(&b->acks, tag))
        return 0;
    if (b->tls) {
        rc = amqp_basic_reject(b->conn, BROKER_CHANNEL, tag, 0);
        return rc ? broker_fail(b, rc, "dead letter", err) : 0;
    }
    start = begin_frame(&b->out, AMQP_FRAME_METHOD);
    put_u32(&b->out, AMQP_BASIC_REJECT_METHOD);
    put_u64(&b->out, tag);
    put_u8(&b->out, 0);
    end_frame(&b->out, start);
    return 0;
}

int broker_requeue(struct broker *b, struct err *err)
{
    int rc;

    if (broker_need_channel(b, "requeue", err))
        return -1;
    rc = amqp_basic_nack(b->conn, BROKER_CHANNEL, 0, 1, 1);
    broker_acks_clear(&b->acks);
    return rc ? broker_fail(b, rc, "requeue", err) : 0;
}
