#include "consumerd/transport_http_conn.h"

#include <errno.h>
#include <event2/event_struct.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"

#define IDLE_MS 30000    /* below what servers usually allow */
#define TLS_RECORD 16384 /* what one holds at most */

struct op_conn {
    TAILQ_ENTRY(op_conn) link, peer_link; /* of those that wait; of them, the same operator's */
    struct op_conns *conns;
    struct op_conn_list *peers;
    CURL *easy; /* in the multi from the first to the last */
    curl_socket_t fd;
    bool made, used, tls;
    void *call; /* NULL: it waits */
    int64_t made_ms, idle_since_ms;
    struct event readable, writable;
    char error[CURL_ERROR_SIZE];
};

/* ---- what curl needs to make one ---- */

static void hand_out_made(struct op_conns *conns);

static void drive(struct op_conns *conns, curl_socket_t fd, int events)
{
    int running;

    if (!conns->may_send(conns->may_send_arg))
        return;
    curl_multi_socket_action(conns->multi, fd, events, &running);
    hand_out_made(conns);
}

static void on_curl_socket(evutil_socket_t fd, short what, void *arg)
{
    drive(arg, fd,
          ((what & EV_READ) ? CURL_CSELECT_IN : 0) | ((what & EV_WRITE) ? CURL_CSELECT_OUT : 0));
}

static void on_curl_timer(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    drive(arg, CURL_SOCKET_TIMEOUT, 0);
}

static int on_socket_wanted(CURL *easy, curl_socket_t fd, int want, void *arg, void *socket_arg)
{
    struct op_conns *conns = arg;
    struct event *event = socket_arg;
    short events = (short)(((want & CURL_POLL_IN) ? EV_READ : 0) |
                           ((want & CURL_POLL_OUT) ? EV_WRITE : 0) | EV_PERSIST);

    (void)easy;
    if (event)
        event_free(event);
    event =
        want == CURL_POLL_REMOVE ? NULL : event_new(conns->base, fd, events, on_curl_socket, conns);
    curl_multi_assign(conns->multi, fd, event);
    if (want == CURL_POLL_REMOVE)
        return 0;
    return event && !event_add(event, NULL) ? 0 : -1;
}

static int on_timer_wanted(CURLM *multi, long timeout_ms, void *arg)
{
    struct op_conns *conns = arg;
    struct timeval tv = {timeout_ms / 1000, timeout_ms % 1000 * 1000};

    (void)multi;
    if (timeout_ms < 0)
        event_del(conns->timer);
    else
        event_add(conns->timer, &tv);
    return 0;
}

void op_conns_open(struct op_conns *conns)
{
    MUST(curl_global_init(CURL_GLOBAL_DEFAULT) == 0);
    conns->multi = curl_multi_init();
    conns->timer = event_new(conns->base, -1, 0, on_curl_timer, conns);
    MUST(conns->multi && conns->timer);
    TAILQ_INIT(&conns->idle);
    conns->idle_of = must_alloc(conns->operator_count, sizeof(*conns->idle_of));
    for (size_t i = 0; i < conns->operator_count; i++)
        TAILQ_INIT(&conns->idle_of[i]);
    curl_multi_setopt(conns->multi, CURLMOPT_SOCKETFUNCTION, on_socket_wanted);
    curl_multi_setopt(conns->multi, CURLMOPT_SOCKETDATA, conns);
    curl_multi_setopt(conns->multi, CURLMOPT_TIMERFUNCTION, on_timer_wanted);
    curl_multi_setopt(conns->multi, CURLMOPT_TIMERDATA, conns);
}

void op_conns_close(struct op_conns *conns)
{
    struct op_conn *c, *next;

    for (c = TAILQ_FIRST(&conns->idle); c; c = next) {
        next = TAILQ_NEXT(c, link);
        op_conn_end(c);
    }
    free(conns->idle_of);
    curl_multi_cleanup(conns->multi);
    event_free(conns->timer);
    curl_global_cleanup();
}

/* ---- one connection ---- */

/* A closed connection has something to read, too: its end. Under TLS what can be read may be of TLS
 * itself; what is taken here belongs to no call. */
static bool has_input(const struct op_conn *c)
{
    char byte;
    size_t got;

    if (c->tls)
        return curl_easy_recv(c->easy, &byte, 1, &got) != CURLE_AGAIN;
    return recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0 || errno != EAGAIN;
}

/* curl takes a connection that it has made for idle, even in the middle of a call, until something
 * is sent or read through curl, which is done under TLS alone; and when it makes another, it closes
 * what is idle and has ended, or is old. But while we use the socket its number must not become
 * another's: once the connection is made, the socket is ours. Under TLS it is of no use then, and
 * who waits for it must hear so. */
static int on_curl_closes(void *arg, curl_socket_t fd)
{
    struct op_conn *c = arg;

    if (!c->made || fd != c->fd)
        return close(fd);
    event_active(&c->readable, EV_READ, 0);
    return 0;
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
    struct op_conn *c = arg;

    (void)fd;
    (void)what;
    if (c->call)
        c->conns->ready(c->call, false);
    else if (has_input(c))
        op_conn_end(c); /* its operator has closed it, most often */
}

static void on_writable(evutil_socket_t fd, short what, void *arg)
{
    struct op_conn *c = arg;

    (void)fd;
    (void)what;
    c->conns->ready(c->call, true);
}

static bool set_options(struct op_conn *c, const char *url, int64_t timeout_ms)
{
    const struct op_conns *conns = c->conns;
    CURL *e = c->easy;
    bool ok = true;

    ok &= !curl_easy_setopt(e, CURLOPT_URL, url);
    ok &= !curl_easy_setopt(e, CURLOPT_PRIVATE, c);
    ok &= !curl_easy_setopt(e, CURLOPT_CONNECT_ONLY, 1L);
    ok &= !curl_easy_setopt(e, CURLOPT_CLOSESOCKETFUNCTION, on_curl_closes);
    ok &= !curl_easy_setopt(e, CURLOPT_CLOSESOCKETDATA, c);
    ok &= !curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
    ok &= !curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
    ok &= !curl_easy_setopt(e, CURLOPT_PROXY, "");
    ok &= !curl_easy_setopt(e, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    ok &= !curl_easy_setopt(e, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    ok &= !curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, (long)timeout_ms);
    ok &= !curl_easy_setopt(e, CURLOPT_DNS_CACHE_TIMEOUT, (long)(conns->life_ms / 1000));
    ok &= !curl_easy_setopt(e, CURLOPT_ERRORBUFFER, c->error);
    if (conns->tls_ca && *conns->tls_ca)
        ok &= !curl_easy_setopt(e, CURLOPT_CAINFO, conns->tls_ca);
    return ok;
}

struct op_conn *op_conns_make(struct op_conns *conns, size_t op, const char *url,
                              int64_t timeout_ms, void *call)
{
    struct op_conn *c = calloc(1, sizeof(*c));

    if (!c)
        return NULL;
    c->conns = conns;
    c->call = call;
    c->peers = &conns->idle_of[op];
    c->tls = !strncmp(url, "https:", 6);
    c->easy = curl_easy_init();
    if (!c->easy || !set_options(c, url, timeout_ms) ||
        curl_multi_add_handle(conns->multi, c->easy)) {
        curl_easy_cleanup(c->easy);
        free(c);
        return NULL;
    }
    conns->count++;
    return c;
}

static void leave_idle(struct op_conn *c)
{
    TAILQ_REMOVE(&c->conns->idle, c, link);
    TAILQ_REMOVE(c->peers, c, peer_link);
}

void op_conn_end(struct op_conn *c)
{
    if (!c->call)
        leave_idle(c);
    c->conns->count--;
    curl_multi_remove_handle(c->conns->multi, c->easy); /* says goodbye; may activate the event */
    curl_easy_cleanup(c->easy);
    if (c->made) {
        event_del(&c->readable);
        event_del(&c->writable);
        close(c->fd);
    }
    free(c);
}

static bool has_socket(struct op_conn *c)
{
    return !curl_easy_getinfo(c->easy, CURLINFO_ACTIVESOCKET, &c->fd) && c->fd != CURL_SOCKET_BAD;
}

static bool set_up(struct op_conn *c)
{
    event_assign(&c->readable, c->conns->base, c->fd, EV_READ | EV_PERSIST, on_readable, c);
    event_assign(&c->writable, c->conns->base, c->fd, EV_WRITE | EV_PERSIST, on_writable, c);
    c->made = true;
    c->made_ms = clock_mono_ms();
    return !event_add(&c->readable, NULL);
}

static void connected(struct op_conn *c, CURLcode code)
{
    struct op_conns *conns = c->conns;
    void *call = c->call;
    char why[CURL_ERROR_SIZE];

    if (code)
        snprintf(why, sizeof(why), "%s", *c->error ? c->error : curl_easy_strerror(code));
    else if (!has_socket(c)) /* curl has closed it meanwhile */
        snprintf(why, sizeof(why), "it ended as soon as it was made");
    else if (!set_up(c))
        snprintf(why, sizeof(why), "out of memory");
    else if (!c->tls && has_input(c)) /* under TLS it belongs to the handshake */
        snprintf(why, sizeof(why), "it spoke before it was asked");
    else {
        conns->connected(call);
        return;
    }
    op_conn_end(c);
    conns->failed(call, why);
}

/* Callbacks may make and end connections: each turn asks curl again. */
static void hand_out_made(struct op_conns *conns)
{
    CURLMsg *message;
    int left;

    if (conns->in_finished)
        return;
    conns->in_finished = true;
    while ((message = curl_multi_info_read(conns->multi, &left))) {
        struct op_conn *c;

        curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &c);
        connected(c, message->data.result);
    }
    conns->in_finished = false;
}

static bool is_old(const struct op_conn *c, int64_t now_ms)
{
    return now_ms - c->idle_since_ms >= IDLE_MS || now_ms - c->made_ms >= c->conns->life_ms;
}

struct op_conn *op_conns_take(struct op_conns *conns, size_t op, void *call)
{
    int64_t now_ms = clock_mono_ms();
    struct op_conn *c, *next;

    for (c = TAILQ_FIRST(&conns->idle_of[op]); c && (is_old(c, now_ms) || has_input(c)); c = next) {
        next = TAILQ_NEXT(c, peer_link);
        op_conn_end(c);
    }
    if (!c)
        return NULL;
    leave_idle(c);
    c->call = call;
    return c;
}

void op_conns_forget(struct op_conns *conns, size_t op)
{
    struct op_conn *c, *next;

    for (c = TAILQ_FIRST(&conns->idle_of[op]); c; c = next) {
        next = TAILQ_NEXT(c, peer_link);
        op_conn_end(c);
    }
}

void op_conn_keep(struct op_conn *c)
{
    struct op_conns *conns = c->conns;
    int64_t now_ms = clock_mono_ms();
    struct op_conn *oldest;

    event_del(&c->writable);
    c->call = NULL;
    c->used = true;
    c->idle_since_ms = now_ms;
    TAILQ_INSERT_HEAD(&conns->idle, c, link);
    TAILQ_INSERT_HEAD(c->peers, c, peer_link);
    oldest = TAILQ_LAST(&conns->idle, op_conn_list);
    if (conns->count > conns->max || is_old(oldest, now_ms))
        op_conn_end(oldest);
}

bool op_conn_was_used(const struct op_conn *c)
{
    return c->used;
}

ssize_t op_conn_write(struct op_conn *c, const char *data, size_t n)
{
    size_t sent = 0;
    CURLcode code;
    ssize_t rc;

    if (!c->tls) {
        rc = send(c->fd, data, n, MSG_NOSIGNAL | MSG_DONTWAIT);
        return rc < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : rc;
    }
    /* Of several records the first may leave and the next fail: that is a failure alone. */
    code = curl_easy_send(c->easy, data, n < TLS_RECORD ? n : TLS_RECORD, &sent);
    return !code ? (ssize_t)sent : code == CURLE_AGAIN ? 0 : -1;
}

ssize_t op_conn_read(struct op_conn *c, char *data, size_t n, bool *ended)
{
    size_t got = 0;
    CURLcode code;
    ssize_t rc;

    *ended = false;
    if (!c->tls) {
        rc = recv(c->fd, data, n, MSG_DONTWAIT);
        *ended = rc == 0;
        return rc < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : rc;
    }
    code = curl_easy_recv(c->easy, data, n, &got);
    *ended = !code && !got;
    return !code ? (ssize_t)got : code == CURLE_AGAIN ? 0 : -1;
}

bool op_conn_is_tls(const struct op_conn *c)
{
    return c->tls;
}

bool op_conn_want_write(struct op_conn *c, bool want)
{
    return !(want ? event_add(&c->writable, NULL) : event_del(&c->writable));
}
