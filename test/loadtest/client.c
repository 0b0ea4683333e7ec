#include "test/loadtest/client.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "test/loadtest/response.h"
#include "test/loadtest/stream.h"

#define EVENTS 256
#define TICK_US 100000
#define READ_BYTES 16384
#define FAILED_PAUSE_US 20000 /* a server that refuses connections is not hammered */
#define REST_MAX_SEC 60

struct connection {
    struct stream stream;
    bool busy;
    uint64_t number;
    int64_t due_us, began_us, rest_until_us;
    size_t sent;
    struct buf out, in;
    struct connection *next_idle;
};

struct client {
    struct client_settings settings;
    struct sockaddr_storage address;
    socklen_t address_len;
    struct buf host, path;
    struct ssl_ctx_st *tls; /* NULL: http:// */
    char name[256];         /* the host's alone */
    struct connection *connections, *idle;
    size_t in_flight;
    int epoll_fd, timer_fd;
    bool ended, distrusts;
    const struct client_work *work;
};

/* https:// has TLS from then on. */
static const char *take_scheme(struct client *c, struct err *err)
{
    const char *url = c->settings.base_url;
    const char *ca_file = c->settings.ca_file;

    if (!strncmp(url, "http://", strlen("http://")))
        return url + strlen("http://");
    if (strncmp(url, "https://", strlen("https://")) != 0) {
        err_set(err, ERR_PERMANENT, 0, "the base URL must begin with http:// or https://");
        return NULL;
    }
    c->tls = stream_tls_new(ca_file ? ca_file : "", err);
    return c->tls ? url + strlen("https://") : NULL;
}

static int resolve(struct client *c, struct err *err)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    const char *host = take_scheme(c, err);
    struct addrinfo *found;
    const char *port;
    const char *colon;
    size_t n;
    int rc;

    if (!host)
        return -1;
    port = c->tls ? "443" : "80";
    n = strcspn(host, "/");
    colon = memchr(host, ':', n);
    if (!n || n >= sizeof(c->name))
        return err_set(err, ERR_PERMANENT, 0, "the base URL has no usable host");
    buf_put(&c->host, host, n);
    buf_puts(&c->path, host + n);
    while (c->path.len && c->path.data[c->path.len - 1] == '/')
        c->path.data[--c->path.len] = '\0';
    memcpy(c->name, host, n);
    c->name[n] = '\0';
    if (colon) {
        c->name[colon - host] = '\0';
        port = c->name + (colon - host) + 1;
    }
    rc = getaddrinfo(c->name, port, &hints, &found);
    if (rc)
        return err_set(err, ERR_RETRY, 0, "the base URL's host: %s", gai_strerror(rc));
    for (const struct addrinfo *a = found; a; a = a->ai_next) /* the daemons listen on IPv4 */
        if (!c->address_len || a->ai_family == AF_INET) {
            memcpy(&c->address, a->ai_addr, a->ai_addrlen);
            c->address_len = a->ai_addrlen;
        }
    freeaddrinfo(found);
    return 0;
}

struct client *client_new(const struct client_settings *settings, struct err *err)
{
    struct client *c = must_alloc(1, sizeof(*c));
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.ptr = NULL};

    c->settings = *settings;
    c->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    c->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    MUST(c->epoll_fd >= 0 && c->timer_fd >= 0);
    MUST(epoll_ctl(c->epoll_fd, EPOLL_CTL_ADD, c->timer_fd, &event) == 0);
    c->connections = must_alloc(settings->connections, sizeof(*c->connections));
    for (size_t i = 0; i < settings->connections; i++)
        c->connections[i].stream.fd = -1;
    if (resolve(c, err)) {
        client_free(c);
        return NULL;
    }
    return c;
}

static void drop(struct connection *k)
{
    stream_close(&k->stream);
    buf_reset(&k->in);
}

void client_free(struct client *c)
{
    if (!c)
        return;
    for (size_t i = 0; i < c->settings.connections; i++) {
        drop(&c->connections[i]);
        buf_free(&c->connections[i].out);
        buf_free(&c->connections[i].in);
    }
    close(c->epoll_fd);
    close(c->timer_fd);
    stream_tls_free(c->tls);
    buf_free(&c->host);
    buf_free(&c->path);
    free(c->connections);
    free(c);
}

static void put_idle(struct client *c, struct connection *k)
{
    k->next_idle = c->idle;
    c->idle = k;
}

static void answer(struct client *c, struct connection *k, const struct response *r)
{
    int64_t now_us = clock_mono_us();
    struct client_answer a = {.latency_us = now_us - k->due_us};

    if (r) {
        a.status = r->status;
        a.body = r->body;
        a.body_len = r->body_len;
    }
    k->busy = false;
    c->in_flight--;
    c->work->answered(c->work->arg, k->number, &a);
    if (!r)
        k->rest_until_us = now_us + FAILED_PAUSE_US;
    else if (c->settings.rest && r->retry_after_sec > 0 && r->retry_after_sec <= REST_MAX_SEC)
        k->rest_until_us = now_us + r->retry_after_sec * 1000000;
    if (!r || r->close)
        drop(k);
    else
        buf_reset(&k->in);
    if (k->rest_until_us <= now_us)
        put_idle(c, k); /* else the tick brings it back */
}

static bool open_stream(struct client *c, struct connection *k)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = k};

    return stream_open(&k->stream, &c->address, c->address_len, c->tls, c->name) &&
           epoll_ctl(c->epoll_fd, EPOLL_CTL_ADD, k->stream.fd, &event) == 0;
}

static void fail(struct client *c, struct connection *k)
{
    drop(k);
    answer(c, k, NULL);
}

/* Never written again by itself: a send whose answer was lost may have been carried out. */
static void broken(struct client *c, struct connection *k)
{
    const char *why = stream_distrust(&k->stream);

    if (why && !c->distrusts)
        fprintf(stderr, "msg-loadtest: the server's certificate: %s\n", why);
    c->distrusts |= why != NULL;
    if (k->busy)
        fail(c, k);
    else
        drop(k);
}

static void write_more(struct client *c, struct connection *k)
{
    while (k->stream.fd >= 0 && k->sent < k->out.len) {
        ssize_t n = stream_send(&k->stream, k->out.data + k->sent, k->out.len - k->sent);

        if (n > 0) {
            k->sent += (size_t)n;
        } else if (n < 0 && errno == EINTR) {
            continue;
        } else if (n < 0 && (errno == EAGAIN || errno == ENOTCONN)) {
            return;
        } else {
            broken(c, k);
            return;
        }
    }
}

static void start(struct client *c, struct connection *k, const struct client_request *r)
{
    k->busy = true;
    k->number = r->number;
    k->due_us = r->due_us;
    k->began_us = clock_mono_us();
    k->sent = 0;
    c->in_flight++;
    buf_reset(&k->out);
    buf_reset(&k->in);
    buf_puts(&k->out, r->body ? "POST " : "GET ");
    if (c->path.len)
        buf_puts(&k->out, c->path.data);
    buf_puts(&k->out, r->path);
    buf_puts(&k->out, " HTTP/1.1\r\nHost: ");
    buf_puts(&k->out, c->host.data);
    if (c->settings.api_key && *c->settings.api_key) {
        buf_puts(&k->out, "\r\nAuthorization: Bearer ");
        buf_puts(&k->out, c->settings.api_key);
    }
    if (r->body) {
        buf_puts(&k->out, "\r\nContent-Type: application/json\r\nContent-Length: ");
        buf_put_uint(&k->out, r->body->len);
    }
    buf_puts(&k->out, "\r\n\r\n");
    if (r->body)
        buf_put(&k->out, r->body->data, r->body->len);
    if (k->out.failed || (k->stream.fd < 0 && !open_stream(c, k)))
        fail(c, k);
    else
        write_more(c, k);
}

/* Hands out what is due to who is idle. Returns when to look again. */
static int64_t hand_out(struct client *c, int64_t now_us)
{
    int64_t wake_us = now_us + TICK_US;

    while (!c->ended && c->idle) {
        struct client_request request;
        struct connection *k = c->idle;
        enum client_turn turn = c->work->next(c->work->arg, now_us, &request, &wake_us);

        if (turn == CLIENT_LATER)
            break;
        c->ended = turn == CLIENT_END;
        if (c->ended)
            break;
        c->idle = k->next_idle;
        start(c, k, &request);
    }
    return wake_us;
}

/* What has come is whole, or cannot be: answered. */
static void take_response(struct client *c, struct connection *k)
{
    struct response r;
    int whole;

    if (!k->busy || !k->in.len)
        return;
    whole = response_parse(k->in.data, k->in.len, &r);
    if (whole > 0)
        answer(c, k, &r);
    else if (whole < 0)
        fail(c, k);
    else if (r.total)
        buf_reserve(&k->in, r.total - k->in.len);
}

static void read_more(struct client *c, struct connection *k)
{
    bool ended = false;

    while (k->stream.fd >= 0) {
        size_t room;
        ssize_t n;

        if (!buf_reserve(&k->in, READ_BYTES))
            break;
        room = k->in.cap - k->in.len - 1;
        n = stream_recv(&k->stream, k->in.data + k->in.len, room);
        if (n > 0) {
            k->in.len += (size_t)n;
            if ((size_t)n < room && !c->tls)
                break; /* edge-triggered: what comes later is told */
        } else if (n < 0 && errno == EINTR) {
            continue;
        } else {
            ended = n == 0 || errno != EAGAIN;
            break;
        }
    }
    take_response(c, k);
    if (ended && k->stream.fd >= 0)
        broken(c, k);
}

static void set_timer(const struct client *c, int64_t at_us)
{
    const struct itimerspec when = {
        .it_value = {.tv_sec = at_us / 1000000, .tv_nsec = at_us % 1000000 * 1000}};

    timerfd_settime(c->timer_fd, TFD_TIMER_ABSTIME, &when, NULL);
}

static void tick(struct client *c, int64_t now_us)
{
    for (size_t i = 0; i < c->settings.connections; i++) {
        struct connection *k = &c->connections[i];

        if (k->busy && now_us - k->began_us > c->settings.timeout_us)
            fail(c, k);
        if (!k->busy && k->rest_until_us && k->rest_until_us <= now_us) {
            k->rest_until_us = 0;
            put_idle(c, k);
        }
    }
    if (c->work->tick)
        c->work->tick(c->work->arg, now_us);
}

static void take_events(struct client *c, const struct epoll_event *events, int n)
{
    for (int i = 0; i < n; i++) {
        struct connection *k = events[i].data.ptr;

        if (!k) /* the timer: it has only to wake; edge-triggered, it need not be read */
            continue;
        if (k->stream.fd >= 0 && k->busy && (c->tls || (events[i].events & EPOLLOUT)))
            write_more(c, k);
        if (k->stream.fd >= 0 && (events[i].events & ~(uint32_t)EPOLLOUT))
            read_more(c, k);
    }
}

void client_run(struct client *c, const struct client_work *work)
{
    struct epoll_event events[EVENTS];
    int64_t tick_us = clock_mono_us() + TICK_US;
    int64_t armed_us = 0;

    c->work = work;
    c->ended = false;
    c->idle = NULL;
    for (size_t i = 0; i < c->settings.connections; i++) {
        c->connections[i].rest_until_us = 0;
        put_idle(c, &c->connections[i]);
    }
    for (;;) {
        int64_t now_us = clock_mono_us();
        int64_t wake_us;

        if (now_us >= tick_us) {
            tick(c, now_us);
            tick_us = now_us + TICK_US;
        }
        wake_us = hand_out(c, now_us);
        if (c->ended && !c->in_flight)
            return;
        if (wake_us > tick_us)
            wake_us = tick_us;
        if (wake_us != armed_us)
            set_timer(c, wake_us);
        armed_us = wake_us;
        take_events(c, events, epoll_wait(c->epoll_fd, events, EVENTS, -1));
    }
}

struct one_get {
    const char *path;
    struct buf *out;
    bool asked;
    int status;
};

static enum client_turn get_next(void *arg, int64_t now_us, struct client_request *request,
                                 int64_t *wake_us)
{
    struct one_get *g = arg;

    if (g->asked)
        return CLIENT_END;
    *wake_us = now_us;
    g->asked = true;
    *request = (struct client_request){.path = g->path, .due_us = now_us};
    return CLIENT_SEND;
}

static void get_answered(void *arg, uint64_t number, const struct client_answer *a)
{
    struct one_get *g = arg;

    (void)number;
    g->status = a->status;
    buf_put(g->out, a->body, a->body_len);
}

int client_get(const char *url, const char *path, int64_t timeout_us, struct buf *out,
               struct err *err)
{
    const struct client_settings settings = {
        .base_url = url, .connections = 1, .timeout_us = timeout_us};
    struct one_get get = {.path = path, .out = out};
    const struct client_work work = {.next = get_next, .answered = get_answered, .arg = &get};
    struct client *client = client_new(&settings, err);

    if (!client)
        return -1;
    client_run(client, &work);
    client_free(client);
    if (get.status != 200)
        return err_set(err, ERR_RETRY, (unsigned)get.status, "GET %s answered %d", path,
                       get.status);
    if (out->failed)
        return err_set(err, ERR_RETRY, 0, "out of memory");
    return 0;
}
