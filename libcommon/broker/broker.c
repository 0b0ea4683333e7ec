#include "libcommon/broker/broker.h"

#include <amqp_tcp_socket.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/base/random.h"
#include "libcommon/broker/broker_internal.h"
#include "libcommon/broker/broker_nodes.h"
#include "libcommon/broker/broker_refusal.h"

/* Not more, though the broker may offer it: the library decodes tables in tables recursively, and
 * the deepest that a frame of this size can hold takes 4.5 MB of a thread's stack. The broker sends
 * a message's properties in one frame, however large: see BROKER_UNREADABLE. */
#define FRAME_MAX 131072
#define CHANNEL_MAX 8
#define GOODBYE_MS 500
#define DEAD_LINK_MS 12000 /* TCP_USER_TIMEOUT: unacknowledged bytes */
#define HOME_ANSWERS_MS 250

struct broker *broker_new(const struct broker_settings *settings, unsigned queues,
                          const char *purpose)
{
    struct broker *b = must_alloc(1, sizeof(*b));

    b->settings = settings;
    b->queues = queues;
    b->nodes = settings->uri ? broker_nodes_count(settings->uri) : 1;
    b->at = b->home = broker_nodes_home(b->nodes);
    snprintf(b->purpose, sizeof(b->purpose), "%s", purpose);
    return b;
}

void broker_free(struct broker *b)
{
    if (!b)
        return;
    broker_close(b);
    broker_acks_free(&b->acks);
    buf_free(&b->out);
    buf_free(&b->in.body);
    free(b);
}

/* What belonged to a channel is void with it. */
static void forget_channel(struct broker *b)
{
    b->channel_open = b->consuming = b->listening = b->deaf = false;
    b->next_tag = 1;
    b->in.expects = INCOMING_METHOD;
    buf_reset(&b->out);
    broker_acks_clear(&b->acks);
}

static void discard(struct broker *b)
{
    if (!b->conn)
        return;
    /* Destroying closes the socket without a word: what amqp_connection_close would say could hang.
     */
    amqp_destroy_connection(b->conn);
    b->conn = NULL;
    b->blocked = b->established = false;
    forget_channel(b);
}

static void go_on_to_next_node(struct broker *b)
{
    b->at = (b->at + 1) % b->nodes;
}

void broker_drop(struct broker *b)
{
    if (b->established)
        go_on_to_next_node(b);
    discard(b);
}

static struct timeval to_timeval(int64_t ms)
{
    return (struct timeval){.tv_sec = ms / 1000, .tv_usec = (ms % 1000) * 1000};
}

void broker_close(struct broker *b)
{
    struct timeval limit = to_timeval(GOODBYE_MS);
    struct err ignored;

    if (b->conn && !b->deaf && !broker_flush(b, &ignored)) {
        amqp_set_rpc_timeout(b->conn, &limit);
        amqp_connection_close(b->conn, AMQP_REPLY_SUCCESS);
    }
    discard(b);
}

const char *broker_warning(const struct broker *b)
{
    return b->warning;
}

bool broker_is_open(const struct broker *b)
{
    return b->conn != NULL;
}

bool broker_is_blocked(const struct broker *b)
{
    return b->blocked;
}

uint64_t broker_generation(const struct broker *b)
{
    return b->generation;
}

int broker_fd(const struct broker *b)
{
    return b->conn ? amqp_get_sockfd(b->conn) : -1;
}

bool broker_has_more(const struct broker *b)
{
    return b->conn && (amqp_frames_enqueued(b->conn) || amqp_data_in_buffer(b->conn));
}

int broker_fail(struct broker *b, int status, const char *what, struct err *err)
{
    broker_drop(b);
    return err_set(err, ERR_RETRY, (unsigned)-status, "broker: %s: %s", what,
                   amqp_error_string2(status));
}

void broker_copy_text(char *to, size_t size, amqp_bytes_t from)
{
    size_t n = from.len < size ? from.len : size - 1;

    if (n)
        memcpy(to, from.bytes, n);
    to[n] = '\0';
}

int broker_check_reply(struct broker *b, amqp_rpc_reply_t reply, const char *what, struct err *err)
{
    unsigned code = AMQP_INTERNAL_ERROR;
    char text[256] = "no reason given";

    if (reply.reply_type == AMQP_RESPONSE_NORMAL)
        return 0;
    if (reply.reply_type != AMQP_RESPONSE_SERVER_EXCEPTION)
        return broker_fail(b, reply.library_error ? reply.library_error : AMQP_STATUS_SOCKET_CLOSED,
                           what, err);
    if (reply.reply.id == AMQP_CONNECTION_CLOSE_METHOD) {
        const amqp_connection_close_t *m = reply.reply.decoded;

        code = m->reply_code;
        broker_copy_text(text, sizeof(text), m->reply_text);
    } else if (reply.reply.id == AMQP_CHANNEL_CLOSE_METHOD) {
        const amqp_channel_close_t *m = reply.reply.decoded;

        code = m->reply_code;
        broker_copy_text(text, sizeof(text), m->reply_text);
    }
    broker_drop(b);
    return broker_refused(code, what, text, err);
}

int broker_aside_open(struct broker *b, const char *what, struct err *err)
{
    amqp_channel_open(b->conn, BROKER_ASIDE_CHANNEL);
    return broker_check_reply(b, amqp_get_rpc_reply(b->conn), what, err);
}

int broker_aside_close(struct broker *b, const char *what, struct err *err)
{
    return broker_check_reply(
        b, amqp_channel_close(b->conn, BROKER_ASIDE_CHANNEL, AMQP_REPLY_SUCCESS), what, err);
}

int broker_aside_reply(struct broker *b, amqp_rpc_reply_t reply, const char *what, bool *gone,
                       struct err *err)
{
    amqp_channel_close_ok_t ok = {0};
    const amqp_channel_close_t *m = reply.reply.decoded;
    char text[256];
    int rc;

    *gone = reply.reply_type == AMQP_RESPONSE_SERVER_EXCEPTION &&
            reply.reply.id == AMQP_CHANNEL_CLOSE_METHOD;
    if (!*gone)
        return broker_check_reply(b, reply, what, err);
    broker_copy_text(text, sizeof(text), m->reply_text);
    broker_refused(m->reply_code, what, text, err);
    rc = amqp_send_method(b->conn, BROKER_ASIDE_CHANNEL, AMQP_CHANNEL_CLOSE_OK_METHOD, &ok);
    return rc ? broker_fail(b, rc, what, err) : -1;
}

static int open_socket(struct broker *b, const struct amqp_connection_info *to, struct err *err)
{
    struct timeval limit = to_timeval(b->settings->connect_timeout_ms);
    amqp_socket_t *socket;
    int rc;

    b->distrust = b->alert = NULL;
    err_set(err, ERR_RETRY, 0, "broker: out of memory");
    socket = b->tls ? broker_tls_socket(b, to->host, err) : amqp_tcp_socket_new(b->conn);
    if (!socket) {
        broker_drop(b);
        return -1;
    }
    rc = amqp_socket_open_noblock(socket, to->host, to->port, &limit);
    if (rc && b->distrust) {
        broker_drop(b);
        return err_set(err, ERR_PERMANENT, (unsigned)-rc,
                       "broker: connect: the certificate is not trusted: %s", b->distrust);
    }
    if (rc && b->alert) {
        broker_drop(b);
        return err_set(err, ERR_RETRY, (unsigned)-rc, "broker: connect: TLS alert: %s", b->alert);
    }
    return rc ? broker_fail(b, rc, "connect", err) : 0;
}

/* A peer that has vanished must be noticed although publishing has no timeout in the library. */
static void set_socket(struct broker *b)
{
    int fd = amqp_get_sockfd(b->conn);
    int yes = 1;
    int idle_sec = 5;
    int interval_sec = 3;
    int probes = 3;
    unsigned dead_ms = DEAD_LINK_MS;

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &yes, sizeof(yes));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_sec, sizeof(idle_sec));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_sec, sizeof(interval_sec));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &dead_ms, sizeof(dead_ms));
}

static amqp_table_entry_t entry_bool(const char *key)
{
    return (amqp_table_entry_t){.key = amqp_cstring_bytes(key),
                                .value = {.kind = AMQP_FIELD_KIND_BOOLEAN, .value.boolean = 1}};
}

static amqp_table_entry_t entry_text(const char *key, const char *value)
{
    return (amqp_table_entry_t){
        .key = amqp_cstring_bytes(key),
        .value = {.kind = AMQP_FIELD_KIND_UTF8, .value.bytes = amqp_cstring_bytes(value)}};
}

static int login(struct broker *b, const struct amqp_connection_info *to, struct err *err)
{
    /* The library's own list leaves out what is needed to hear of alarms and lost consumers. */
    amqp_table_entry_t known[] = {entry_bool("connection.blocked"),
                                  entry_bool("consumer_cancel_notify"), entry_bool("basic.nack"),
                                  entry_bool("publisher_confirms"),
                                  entry_bool("authentication_failure_close")};
    amqp_table_entry_t entries[] = {
        entry_text("connection_name", b->purpose),
        {.key = amqp_cstring_bytes("capabilities"),
         .value = {
             .kind = AMQP_FIELD_KIND_TABLE,
             .value.table = {.num_entries = sizeof(known) / sizeof(known[0]), .entries = known}}}};
    amqp_table_t properties = {.num_entries = sizeof(entries) / sizeof(entries[0]),
                               .entries = entries};
    struct timeval connect_limit = to_timeval(b->settings->connect_timeout_ms);
    struct timeval rpc_limit = to_timeval(b->settings->rpc_timeout_ms);
    amqp_rpc_reply_t reply;

    amqp_set_handshake_timeout(b->conn, &connect_limit);
    amqp_set_rpc_timeout(b->conn, &rpc_limit);
    reply = amqp_login_with_properties(b->conn, broker_nodes_vhost(to), CHANNEL_MAX, FRAME_MAX,
                                       (int)b->settings->heartbeat_sec, &properties,
                                       AMQP_SASL_METHOD_PLAIN, to->user, to->password);
    if (broker_check_reply(b, reply, "login", err))
        return -1;
    b->frame_max = (size_t)amqp_get_frame_max(b->conn);
    return 0;
}

static int open_channel(struct broker *b, struct err *err)
{
    forget_channel(b);
    amqp_channel_open(b->conn, BROKER_CHANNEL);
    if (broker_check_reply(b, amqp_get_rpc_reply(b->conn), "channel open", err))
        return -1;
    amqp_maybe_release_buffers(b->conn);
    b->channel_open = true;
    b->generation++;
    return 0;
}

bool broker_vhost(const struct broker_settings *settings, char *out, size_t size)
{
    struct amqp_connection_info to;
    char *uri = broker_nodes_copy(settings->uri, 0); /* they agree in it */
    size_t len = strlen(uri);
    bool ok = !amqp_parse_url(uri, &to) && strlen(broker_nodes_vhost(&to)) < size;

    if (ok)
        snprintf(out, size, "%s", broker_nodes_vhost(&to));
    broker_nodes_wipe(uri, len);
    return ok;
}

static int connect_to(struct broker *b, const struct amqp_connection_info *to, struct err *err)
{
    b->tls = to->ssl;
    b->conn = amqp_new_connection();
    if (!b->conn)
        return err_set(err, ERR_RETRY, 0, "broker: out of memory");
    if (open_socket(b, to, err))
        return -1;
    set_socket(b);
    return login(b, to, err);
}

static void name_node(const struct broker *b, const struct amqp_connection_info *to,
                      struct err *err)
{
    struct err plain = *err;

    if (b->nodes > 1)
        err_set(err, plain.kind, plain.code, "%s:%d: %s", to->host, to->port, plain.msg);
}

/* The node that is next. */
static int open_node(struct broker *b, struct err *err)
{
    struct amqp_connection_info to;
    char *uri = broker_nodes_copy(b->settings->uri, b->at); /* the parser writes into it */
    size_t len = strlen(uri);
    int rc;

    if (amqp_parse_url(uri, &to)) {
        broker_nodes_wipe(uri, len);
        return err_set(err, ERR_PERMANENT, 0, "broker: RABBIT_URI is malformed");
    }
    rc =
        connect_to(b, &to, err) || open_channel(b, err) || broker_topology_declare(b, err) ? -1 : 0;
    if (rc)
        name_node(b, &to, err);
    broker_nodes_wipe(uri, len);
    return rc;
}

/* Not all connections that were driven away come home at the same time. */
static int64_t home_at_ms(const struct broker *b)
{
    int64_t most_ms = b->settings->rebalance_sec * 1000;

    if (b->at == b->home || !most_ms)
        return INT64_MAX;
    return clock_mono_ms() + most_ms / 2 + (int64_t)(random_u64() % (uint64_t)most_ms);
}

int broker_open(struct broker *b, struct err *err)
{
    int64_t until_ms = clock_mono_ms() + b->settings->connect_timeout_ms;

    discard(b);
    for (size_t tries = 1; open_node(b, err); tries++) {
        discard(b);
        go_on_to_next_node(b);
        if (tries == b->nodes || clock_mono_ms() >= until_ms)
            return -1;
    }
    b->established = true;
    b->home_at_ms = home_at_ms(b);
    return 0;
}

bool broker_may_go_home(struct broker *b)
{
    struct amqp_connection_info to;
    size_t len;
    char *uri;
    bool ok;

    if (!b->established || clock_mono_ms() < b->home_at_ms)
        return false;
    uri = broker_nodes_copy(b->settings->uri, b->home);
    len = strlen(uri);
    ok = !amqp_parse_url(uri, &to) && broker_nodes_answers(to.host, to.port, HOME_ANSWERS_MS);
    broker_nodes_wipe(uri, len);
    if (ok)
        b->at = b->home;
    else
        b->home_at_ms = home_at_ms(b);
    return ok;
}

int broker_need_channel(struct broker *b, const char *what, struct err *err)
{
    if (b->channel_open)
        return broker_flush(b, err);
    broker_drop(b);
    return err_set(err, ERR_RETRY, 0, "broker: %s: not connected", what);
}

int broker_channel_gone(struct broker *b, struct err *err)
{
    amqp_channel_close_ok_t ok = {0};
    int rc = amqp_send_method(b->conn, BROKER_CHANNEL, AMQP_CHANNEL_CLOSE_OK_METHOD, &ok);

    forget_channel(b);
    return rc ? broker_fail(b, rc, "channel close", err) : 0;
}

int broker_reopen_channel(struct broker *b, struct err *err)
{
    if (!b->conn)
        return err_set(err, ERR_RETRY, 0, "broker: reopen channel: not connected");
    if (b->channel_open) {
        /* Closing it from here would let its late confirms pass for the new channel's. */
        broker_drop(b);
        return err_set(err, ERR_RETRY, 0, "broker: reopen channel: it is open");
    }
    return open_channel(b, err);
}

static void ignore_event(const struct broker_event *event, void *arg)
{
    (void)event;
    (void)arg;
}

int broker_renew_channel(struct broker *b, struct err *err)
{
    b->late = false;
    if (broker_need_channel(b, "renew channel", err) ||
        broker_check_reply(b, amqp_channel_close(b->conn, BROKER_CHANNEL, AMQP_REPLY_SUCCESS),
                           "channel close", err))
        return -1;
    forget_channel(b);
    /* What the old channel said meanwhile waits in the library; it is not the new one's. */
    return broker_pump(b, 0, 0, ignore_event, NULL, err) ? -1 : open_channel(b, err);
}

bool broker_was_late(const struct broker *b)
{
    return b->late;
}

int broker_declare(struct broker *b, struct err *err)
{
    if (broker_need_channel(b, "declare", err))
        return -1;
    return broker_topology_declare(b, err);
}

int broker_ping(struct broker *b, struct err *err)
{
    if (broker_need_channel(b, "ping", err))
        return -1;
    /* One question that changes nothing: this connection has no consumer. */
    amqp_basic_qos(b->conn, BROKER_CHANNEL, 0, 0, 0);
    if (broker_check_reply(b, amqp_get_rpc_reply(b->conn), "ping", err))
        return -1;
    amqp_maybe_release_buffers(b->conn);
    /* What came in between waits in the library: on such a connection nobody else would read it. */
    return broker_pump(b, 0, 0, ignore_event, NULL, err);
}

int broker_depth(struct broker *b, const char *queue, uint32_t *ready, uint32_t *readers,
                 struct err *err)
{
    const amqp_queue_declare_ok_t *answer;
    bool gone;

    if (!b->conn)
        return err_set(err, ERR_RETRY, 0, "broker: depth: not connected");
    if (broker_aside_open(b, "depth", err))
        return -1;
    *ready = 0;
    if (readers)
        *readers = 0;
    answer = amqp_queue_declare(b->conn, BROKER_ASIDE_CHANNEL, amqp_cstring_bytes(queue), 1, 0, 0,
                                0, amqp_empty_table);
    if (broker_aside_reply(b, amqp_get_rpc_reply(b->conn), "depth", &gone, err))
        return gone && b->conn && err->code == AMQP_NOT_FOUND ? 0 : -1;
    *ready = answer->message_count;
    if (readers)
        *readers = answer->consumer_count;
    if (broker_aside_close(b, "depth", err))
        return -1;
    amqp_maybe_release_buffers(b->conn);
    return 0;
}

int broker_confirm(struct broker *b, struct err *err)
{
    if (broker_need_channel(b, "confirm", err))
        return -1;
    amqp_confirm_select(b->conn, BROKER_CHANNEL);
    b->next_tag = 1;
    return broker_check_reply(b, amqp_get_rpc_reply(b->conn), "confirm", err);
}

/* A quorum queue takes a tag that it knows for the consumer it knows, with all that is still
 * unacknowledged there; the prefetch is to count anew. */
int broker_consume(struct broker *b, const char *queue, uint16_t prefetch, struct err *err)
{
    if (broker_need_channel(b, "consume", err))
        return -1;
    amqp_basic_qos(b->conn, BROKER_CHANNEL, 0, prefetch, 0);
    if (broker_check_reply(b, amqp_get_rpc_reply(b->conn), "prefetch", err))
        return -1;
    snprintf(b->consumer, sizeof(b->consumer), "%s %u", b->purpose, ++b->consumers);
    amqp_basic_consume(b->conn, BROKER_CHANNEL, amqp_cstring_bytes(queue),
                       amqp_cstring_bytes(b->consumer), 0, 0, 0, amqp_empty_table);
    if (broker_check_reply(b, amqp_get_rpc_reply(b->conn), "consume", err))
        return -1;
    b->consuming = true;
    return 0;
}

int broker_cancel(struct broker *b, struct err *err)
{
    if (!b->consuming)
        return 0;
    if (broker_need_channel(b, "cancel", err))
        return -1;
    b->consuming = false;
    amqp_basic_cancel(b->conn, BROKER_CHANNEL, amqp_cstring_bytes(b->consumer));
    return broker_check_reply(b, amqp_get_rpc_reply(b->conn), "cancel", err);
}
