#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "libcommon/base/clock.h"
#include "libcommon/broker/broker_internal.h"

#define QUIET_MS 300 /* of silence, when its last word cannot be made out (TLS) */

/* connection.close-ok, after which the broker says nothing more. */
static const unsigned char last_word[] = {AMQP_FRAME_METHOD, 0, 0, 0, 0, 0, 4, 0, 10, 0, 51,
                                          AMQP_FRAME_END};

/* The last bytes that came. */
struct tail {
    unsigned char bytes[sizeof(last_word)];
};

static void take(struct tail *t, const unsigned char *bytes, size_t n)
{
    size_t size = sizeof(t->bytes);

    if (n >= size) {
        memcpy(t->bytes, bytes + n - size, size);
        return;
    }
    memmove(t->bytes, t->bytes + n, size - n);
    memcpy(t->bytes + size - n, bytes, n);
}

/* False: the broker has closed the connection, or it is lost. */
static bool throw_away(int fd, struct tail *t)
{
    unsigned char bytes[65536];
    ssize_t n;

    while ((n = recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT)) > 0)
        take(t, bytes, (size_t)n);
    return n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR);
}

void broker_ignore(struct broker *b)
{
    struct tail tail = {{0}};

    (void)throw_away(amqp_get_sockfd(b->conn), &tail);
}

/* Whether the broker has heard our goodbye, and all before it, by the deadline. */
static bool is_heard(const struct broker *b, int64_t deadline_ms)
{
    struct pollfd wait = {.fd = amqp_get_sockfd(b->conn), .events = POLLIN};
    struct tail tail = {{0}};
    int64_t left_ms;

    while ((left_ms = deadline_ms - clock_mono_ms()) > 0) {
        int n = poll(&wait, 1, (int)(left_ms < QUIET_MS ? left_ms : QUIET_MS));

        if (n == 0 && b->tls)
            return true;
        if (!throw_away(wait.fd, &tail) || !memcmp(tail.bytes, last_word, sizeof(last_word)))
            return true;
    }
    return false;
}

int broker_leave(struct broker *b, struct err *err)
{
    amqp_connection_close_t goodbye = {.reply_code = AMQP_REPLY_SUCCESS};
    int rc;

    if (broker_flush(b, err))
        return -1;
    rc = amqp_send_method(b->conn, 0, AMQP_CONNECTION_CLOSE_METHOD, &goodbye);
    if (rc)
        return broker_fail(b, rc, "close", err);
    if (!is_heard(b, clock_mono_ms() + b->settings->rpc_timeout_ms))
        return broker_fail(b, AMQP_STATUS_TIMEOUT, "close", err);
    broker_drop(b);
    return 0;
}
