#include <errno.h>
#include <event2/http.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/net/httpd_internal.h"
#include "libcommon/telemetry/log.h"

#define BACKLOG 4096
#define CONNECTIONS_MIN 16
#define UNSENT_BYTES 65536      /* in the kernel, of a client that does not read */
#define OWN_DESCRIPTORS 16      /* of a process: log, signals, clocks, timers and the like */
#define THREAD_DESCRIPTORS 4    /* of a thread: its loop, its mailbox, its listener */
#define DESCRIPTOR_PAUSE_MS 250 /* without descriptors nothing is accepted for this long */
#define CROWD_MS 5              /* how often a full thread looks whether somebody waits */
#define CROWD_IDLE_MS 10        /* what a new client's first bytes may take then */

static int open_socket(const struct addrinfo *ai, bool shared)
{
    int fd = socket(ai->ai_family, ai->ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, ai->ai_protocol);
    int yes = 1;
    int no = 0;
    int unsent = UNSENT_BYTES;
    int saved;

    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
    if (shared)
        setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &yes, sizeof(yes));
    /* Accepted ones inherit these. */
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
    setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof(unsent));
    if (ai->ai_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof(no));
    if (!bind(fd, ai->ai_addr, ai->ai_addrlen))
        return fd;
    saved = errno;
    close(fd);
    errno = saved;
    return -1;
}

static uint16_t port_of(int fd)
{
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } sa = {.v6 = {0}};
    socklen_t len = sizeof(sa);

    if (getsockname(fd, &sa.any, &len))
        return 0;
    return ntohs(sa.any.sa_family == AF_INET6 ? sa.v6.sin6_port : sa.v4.sin_port);
}

static void set_port(struct addrinfo *ai, uint16_t port)
{
    if (ai->ai_family == AF_INET6)
        ((struct sockaddr_in6 *)ai->ai_addr)->sin6_port = htons(port);
    else
        ((struct sockaddr_in *)ai->ai_addr)->sin_port = htons(port);
}

/* One socket a thread on the same port. SO_REUSEPORT alone would let a second process share the
 * port in silence, so a plain bind tries first whether it is free. */
static int bind_all(struct httpd *h, struct addrinfo *ai)
{
    for (unsigned i = 0; i < h->thread_count; i++) {
        int fd = open_socket(ai, true);

        if (fd < 0)
            return -1;
        h->threads[i].listen_fd = fd;
        h->port = port_of(fd);
        set_port(ai, h->port);
    }
    return 0;
}

int http_accept_bind(struct httpd *h, struct err *err)
{
    const char *addr = h->settings.listen_addr;
    struct addrinfo hints = {.ai_flags = AI_PASSIVE | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM};
    struct addrinfo *list = NULL;
    char host[256];
    char port_text[8];
    uint16_t port;
    int fd = -1;
    int rc;

    if (!settings_split_addr(addr, host, sizeof(host), &port))
        return err_set(err, ERR_PERMANENT, 0, "LISTEN_ADDR is not host:port");
    snprintf(port_text, sizeof(port_text), "%u", port);
    rc = getaddrinfo(*host ? host : NULL, port_text, &hints, &list);
    if (rc)
        return err_set(err, ERR_RETRY, 0, "listen on %s: %s", addr, gai_strerror(rc));
    for (int family = AF_INET6; fd < 0; family = AF_INET) {
        for (struct addrinfo *ai = list; ai && fd < 0; ai = ai->ai_next) {
            if (ai->ai_family != family)
                continue;
            fd = open_socket(ai, false);
            if (fd >= 0) {
                close(fd);
                fd = bind_all(h, ai);
            }
            if (fd < 0 && errno == EADDRINUSE) /* never the other family's half of the port */
                goto out;
        }
        if (family == AF_INET)
            break;
    }
out:
    rc = fd < 0
             ? err_set(err, ERR_RETRY, (unsigned)errno, "listen on %s: %s", addr, strerror(errno))
             : 0;
    freeaddrinfo(list);
    return rc;
}

static int64_t connection_limit(const struct http_thread *t)
{
    return t->server->settings.max_connections / t->server->thread_count;
}

/* The rest of the program goes on when all connections are taken. */
void http_accept_clamp(struct httpd *h, int64_t beside)
{
    int64_t own = OWN_DESCRIPTORS + THREAD_DESCRIPTORS * (int64_t)h->thread_count;
    int64_t least = h->thread_count > CONNECTIONS_MIN ? h->thread_count : CONNECTIONS_MIN;
    struct rlimit files;
    int64_t room;

    if (getrlimit(RLIMIT_NOFILE, &files) || files.rlim_cur > INT64_MAX)
        return;
    room = (int64_t)files.rlim_cur - own - beside;
    if (room < least)
        room = least;
    if (room >= h->settings.max_connections)
        return;
    log_warn("http.connections_limited", L_INT("wanted", h->settings.max_connections),
             L_INT("connections", room), L_INT("descriptors", (int64_t)files.rlim_cur),
             L_MSG("the limit of open files leaves no more"));
    h->settings.max_connections = room;
}

static void look_again(struct http_thread *t)
{
    struct timeval after = {0, CROWD_MS * 1000};

    evtimer_add(t->crowd, &after);
}

static void pause_accepting(struct http_thread *t, bool descriptors)
{
    if (t->paused || !t->listener)
        return;
    t->paused = true;
    evconnlistener_disable(t->listener);
    http_stats_paused(descriptors);
    look_again(t);
}

void http_accept_taken(struct http_thread *t)
{
    if (t->conn_count >= connection_limit(t))
        pause_accepting(t, false);
}

/* Out of descriptors or memory: a listening socket left on would spin. */
static void on_accept_failed(struct evconnlistener *listener, void *arg)
{
    struct http_thread *t = http_current_thread();

    (void)listener;
    (void)arg;
    t->resume_ms = clock_mono_ms() + DESCRIPTOR_PAUSE_MS;
    pause_accepting(t, true);
}

/* How many connections the kernel holds for us. */
static int64_t count_waiting(const struct http_thread *t)
{
    struct pollfd p = {.fd = t->listen_fd, .events = POLLIN};
    struct tcp_info info = {0};
    socklen_t n = sizeof(info);

    if (poll(&p, 1, 0) <= 0)
        return 0;
    return getsockopt(t->listen_fd, IPPROTO_TCP, TCP_INFO, &info, &n) || !info.tcpi_unacked
               ? 1
               : info.tcpi_unacked;
}

/* Such as have been told why they end, then idle ones; of these such as have asked before only when
 * there are no others. */
static struct http_conns *first_to_go(struct http_thread *t)
{
    if (!TAILQ_EMPTY(&t->lingering))
        return &t->lingering;
    return TAILQ_EMPTY(&t->silent) ? &t->kept : &t->silent;
}

/* It leaves its list now, and the memory later. */
static void end_early(struct http_conn *c)
{
    if (c->state == CONN_LINGERING) {
        http_conn_end_linger(c);
        return;
    }
    http_stats_dropped(HTTP_DROP_CROWDED);
    evhttp_connection_free(c->evcon);
}

/* Ends at most so many connections of one kind, the longest at it first. */
static bool make_room(struct http_thread *t, int64_t wanted, int64_t now_ms)
{
    struct http_conns *from = first_to_go(t);
    bool made = false;
    struct http_conn *c;

    while (wanted-- > 0 && (c = TAILQ_FIRST(from)) && now_ms - c->since_ms >= CROWD_IDLE_MS) {
        end_early(c);
        made = true;
    }
    return made;
}

void http_accept_crowd(evutil_socket_t fd, short what, void *thread)
{
    struct http_thread *t = thread;
    int64_t now_ms = clock_mono_ms();

    (void)fd;
    (void)what;
    if (!t->listener)
        return;
    if (t->conn_count < connection_limit(t) && now_ms >= t->resume_ms) {
        t->paused = false;
        evconnlistener_enable(t->listener);
        return;
    }
    if (make_room(t, count_waiting(t), now_ms))
        t->resume_ms = now_ms;
    look_again(t);
}

/* The socket listens only from here on: before, clients are refused rather than left waiting. */
int http_accept_start(struct http_thread *t, struct err *err)
{
    t->listener = evconnlistener_new(
        t->base, NULL, NULL, LEV_OPT_CLOSE_ON_EXEC | LEV_OPT_CLOSE_ON_FREE, BACKLOG, t->listen_fd);
    if (!t->listener)
        return err_set(err, ERR_RETRY, (unsigned)errno, "listen: %s", strerror(errno));
    t->bound = evhttp_bind_listener(t->http, t->listener);
    MUST(t->bound != NULL);
    evconnlistener_set_error_cb(t->listener, on_accept_failed);
    return 0;
}
