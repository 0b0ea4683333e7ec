#include "consumerd/transport_http_loop.h"

#include <arpa/inet.h>
#include <errno.h>
#include <event2/event_struct.h>
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "libcommon/base/must.h"

/* A socket of curl's in the event loop. */
struct http_watch {
    struct http_loop *loop;
    struct event event;
    curl_socket_t fd;
    uint64_t socket; /* which one with that number; 0: not one of ours */
    short events;    /* 0: not in the loop */
    bool connection; /* a call has used it: we hear when curl closes it, as of no other */
    bool wanted;
    /* Of a connection. */
    char peer[INET6_ADDRSTRLEN];
    int peer_port, local_port;
    struct http_watch *next; /* of the same list of ports */
};

static void watch_end(struct http_watch *w)
{
    if (w->events)
        event_del(&w->event);
    w->events = 0;
}

/* curl takes it for closed by the other side. It closes the socket, not we. */
static void shut_down(struct http_watch *w)
{
    watch_end(w);
    shutdown(w->fd, SHUT_RDWR);
}

static void drive(struct http_loop *loop, curl_socket_t fd, int events)
{
    int running;

    if (!loop->may_send(loop->may_send_arg))
        return;
    curl_multi_socket_action(loop->multi, fd, events, &running);
    loop->progressed(loop->progressed_arg);
}

static void on_socket_event(evutil_socket_t fd, short what, void *arg)
{
    struct http_watch *w = arg;

    if (w->wanted)
        drive(w->loop, fd,
              ((what & EV_READ) ? CURL_CSELECT_IN : 0) |
                  ((what & EV_WRITE) ? CURL_CSELECT_OUT : 0));
    else
        shut_down(w); /* its operator has closed it, most often */
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    drive(arg, CURL_SOCKET_TIMEOUT, 0);
}

/* NULL: no memory. */
static struct http_watch *watch_of(struct http_loop *loop, curl_socket_t fd)
{
    size_t at = (size_t)fd;

    if (at >= loop->watch_count) {
        size_t count = at * 2 + 64;
        struct http_watch **more = realloc(loop->watches, count * sizeof(struct http_watch *));

        if (!more)
            return NULL;
        memset(more + loop->watch_count, 0,
               (count - loop->watch_count) * sizeof(struct http_watch *));
        loop->watches = more;
        loop->watch_count = count;
    }
    if (!loop->watches[at]) {
        loop->watches[at] = calloc(1, sizeof(struct http_watch));
        if (loop->watches[at]) {
            loop->watches[at]->loop = loop;
            loop->watches[at]->fd = fd;
        }
    }
    return loop->watches[at];
}

static struct http_watch **port_list(struct http_loop *loop, int port)
{
    return &loop->by_port[port % HTTP_PORT_LISTS];
}

static void forget_port(struct http_loop *loop, const struct http_watch *w)
{
    struct http_watch **at = port_list(loop, w->local_port);

    while (*at && *at != w)
        at = &(*at)->next;
    if (*at)
        *at = w->next;
}

static int on_socket_wanted(CURL *easy, curl_socket_t fd, int want, void *arg, void *socket_arg)
{
    struct http_loop *loop = arg;
    struct http_watch *w = watch_of(loop, fd);
    struct http_handle *handle = NULL;
    short events = (short)(((want & CURL_POLL_IN) ? EV_READ : 0) |
                           ((want & CURL_POLL_OUT) ? EV_WRITE : 0) | EV_PERSIST);

    (void)socket_arg;
    if (!w)
        return want == CURL_POLL_REMOVE ? 0 : -1;
    w->wanted = want != CURL_POLL_REMOVE;
    if (w->wanted && !curl_easy_getinfo(easy, CURLINFO_PRIVATE, &handle) && handle) {
        handle->fd = fd;
        handle->socket = w->socket;
    }
    if (w->wanted && w->events == events)
        return 0;
    if (!w->wanted && w->connection)
        return 0;
    watch_end(w);
    if (!w->wanted)
        return 0;
    event_assign(&w->event, loop->base, fd, events, on_socket_event, w);
    if (event_add(&w->event, NULL))
        return -1; /* curl fails the transfer: its answer would never be seen */
    w->events = events;
    return 0;
}

static curl_socket_t on_socket_open(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
    struct http_loop *loop = arg;
    int fd = socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
    struct http_watch *w = fd >= 0 ? watch_of(loop, fd) : NULL;

    (void)purpose;
    if (w) {
        watch_end(w);
        if (w->connection)
            forget_port(loop, w);
        w->connection = false;
        w->socket = ++loop->sockets;
    } else if (fd >= 0) {
        close(fd);
        fd = -1;
    }
    return fd >= 0 ? fd : CURL_SOCKET_BAD;
}

/* Its number may come back as another socket's. */
static int on_socket_close(void *arg, curl_socket_t fd)
{
    struct http_loop *loop = arg;
    struct http_watch *w = (size_t)fd < loop->watch_count ? loop->watches[fd] : NULL;

    if (w) {
        watch_end(w);
        if (w->connection)
            forget_port(loop, w);
        free(w);
        loop->watches[fd] = NULL;
    }
    return close(fd);
}

static int on_timer_wanted(CURLM *multi, long timeout_ms, void *arg)
{
    struct http_loop *loop = arg;
    struct timeval tv = {timeout_ms / 1000, timeout_ms % 1000 * 1000};

    (void)multi;
    if (timeout_ms < 0)
        event_del(loop->timer);
    else
        event_add(loop->timer, &tv);
    return 0;
}

void http_loop_open(struct http_loop *loop, size_t connections_max)
{
    loop->multi = curl_multi_init();
    loop->timer = event_new(loop->base, -1, 0, on_timer, loop);
    MUST(loop->multi && loop->timer);
    curl_multi_setopt(loop->multi, CURLMOPT_SOCKETFUNCTION, on_socket_wanted);
    curl_multi_setopt(loop->multi, CURLMOPT_SOCKETDATA, loop);
    curl_multi_setopt(loop->multi, CURLMOPT_TIMERFUNCTION, on_timer_wanted);
    curl_multi_setopt(loop->multi, CURLMOPT_TIMERDATA, loop);
    curl_multi_setopt(loop->multi, CURLMOPT_PIPELINING, (long)CURLPIPE_NOTHING);
    curl_multi_setopt(loop->multi, CURLMOPT_MAXCONNECTS, (long)connections_max);
}

void http_loop_close(struct http_loop *loop)
{
    curl_multi_cleanup(loop->multi);
    for (size_t i = 0; i < loop->watch_count; i++) {
        if (loop->watches[i])
            watch_end(loop->watches[i]);
        free(loop->watches[i]);
    }
    free(loop->watches);
    event_free(loop->timer);
}

bool http_loop_adopt(struct http_loop *loop, struct http_handle *handle)
{
    CURL *e = handle->easy;
    bool ok = true;

    ok &= !curl_easy_setopt(e, CURLOPT_PRIVATE, handle);
    ok &= !curl_easy_setopt(e, CURLOPT_OPENSOCKETFUNCTION, on_socket_open);
    ok &= !curl_easy_setopt(e, CURLOPT_OPENSOCKETDATA, loop);
    ok &= !curl_easy_setopt(e, CURLOPT_CLOSESOCKETFUNCTION, on_socket_close);
    ok &= !curl_easy_setopt(e, CURLOPT_CLOSESOCKETDATA, loop);
    return ok;
}

void http_loop_begin(struct http_handle *handle)
{
    handle->fd = -1;
    handle->socket = 0;
}

/* The handle's socket, unless it has been closed since. */
static struct http_watch *socket_of(const struct http_loop *loop, const struct http_handle *handle)
{
    struct http_watch *w = NULL;

    if (handle->fd >= 0 && (size_t)handle->fd < loop->watch_count)
        w = loop->watches[handle->fd];
    return w && w->socket && w->socket == handle->socket ? w : NULL;
}

static struct http_watch *find_connection(struct http_loop *loop, const struct http_ends *ends)
{
    struct http_watch *w = *port_list(loop, ends->local_port);

    while (w && (w->local_port != ends->local_port || w->peer_port != ends->peer_port ||
                 strcmp(w->peer, ends->peer) != 0))
        w = w->next;
    return w;
}

static int local_port(curl_socket_t fd)
{
    struct sockaddr_storage address = {0};
    socklen_t size = sizeof(address);

    if (getsockname(fd, (struct sockaddr *)&address, &size))
        return -1;
    if (address.ss_family == AF_INET6)
        return ntohs(((struct sockaddr_in6 *)&address)->sin6_port);
    return address.ss_family == AF_INET ? ntohs(((struct sockaddr_in *)&address)->sin_port) : -1;
}

/* A new connection: from now on it is watched, whether curl wants that or not. */
static struct http_watch *add_connection(struct http_loop *loop, const struct http_handle *handle,
                                         const struct http_ends *ends)
{
    struct http_watch *w = socket_of(loop, handle);
    struct http_watch **list = port_list(loop, ends->local_port);

    /* Of several addresses that were tried it may not be the one that was reached. */
    if (!w || w->connection || local_port(w->fd) != ends->local_port)
        return NULL;
    snprintf(w->peer, sizeof(w->peer), "%s", ends->peer);
    w->peer_port = ends->peer_port;
    w->local_port = ends->local_port;
    w->connection = true;
    w->next = *list;
    *list = w;
    return w;
}

/* NULL: a connection in clear. */
static SSL *tls_of(CURL *easy)
{
    struct curl_tlssessioninfo *tls = NULL;

    if (curl_easy_getinfo(easy, CURLINFO_TLS_SSL_PTR, &tls) || !tls ||
        tls->backend != CURLSSLBACKEND_OPENSSL)
        return NULL;
    return tls->internals;
}

/* A closed connection has something to read, too: its end. */
static bool has_input(const struct http_watch *w)
{
    char byte;

    return recv(w->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0 || errno != EAGAIN;
}

bool http_loop_may_use(struct http_loop *loop, struct http_handle *handle,
                       const struct http_ends *ends)
{
    struct http_watch *w = find_connection(loop, ends);
    SSL *tls = tls_of(handle->easy);
    long made = 0;

    if (w) {
        handle->fd = w->fd;
        handle->socket = w->socket;
        return !has_input(w) && !(tls && SSL_has_pending(tls));
    }
    curl_easy_getinfo(handle->easy, CURLINFO_NUM_CONNECTS, &made);
    if (!made)
        return false;
    w = add_connection(loop, handle, ends);
    /* What a new one has to read under TLS belongs to the handshake. */
    return !w || tls || !has_input(w);
}

void http_loop_spoil(struct http_loop *loop, const struct http_handle *handle)
{
    struct http_watch *w = socket_of(loop, handle);

    if (w)
        shut_down(w);
}
