#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/bufferevent_struct.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/net/httpd_internal.h"

#define SWEEP_MS 200
#define SWEEP_ENDS 32     /* of overdue connections in a turn of the loop: others wait meanwhile */
#define LINGER_MS 2000    /* for a client to finish writing and read its last answer */
#define DRAIN_IDLE_MS 500 /* a draining server waits this long for a request under way */
/* Chunk sizes and line ends beside headers and body; and a record of TLS, of which nothing may be
 * left in OpenSSL, as no event would tell of it. */
#define READ_SLACK (4096 + 16384)

/* What is left of a sweep goes on with the next turn of the loop. */
static void keep_sweeping(struct http_thread *t)
{
    struct timeval after = {0, t->sweep_next ? 0 : SWEEP_MS * 1000};

    if (t->sweeping)
        return;
    t->sweeping = true;
    evtimer_add(t->sweep, &after);
}

static void unlist(struct http_conn *c)
{
    if (c->list)
        TAILQ_REMOVE(c->list, c, place);
    c->list = NULL;
}

void http_conn_set_state(struct http_conn *c, enum http_conn_state state)
{
    unlist(c);
    c->state = state;
    c->since_ms = clock_mono_ms();
    if (state == CONN_LINGERING)
        c->list = &c->thread->lingering;
    else if (state == CONN_IDLE && !c->gone)
        c->list = c->used ? &c->thread->kept : &c->thread->silent;
    if (c->list)
        TAILQ_INSERT_TAIL(c->list, c, place);
}

void http_conn_schedule(struct http_conn *c)
{
    struct http_thread *t = c->thread;

    if (c->due)
        return;
    c->due = true;
    c->next_due = t->due;
    t->due = c;
    event_active(t->act, 0, 0);
}

/* evhttp lets go of the connection; it is still inside its own functions. */
static void on_close(struct evhttp_connection *evcon, void *arg)
{
    struct http_conn *c = arg;

    (void)evcon;
    if (c->ssl && !c->reset)
        http_tls_end(c);
    c->gone = true;
    c->evcon = NULL;
    unlist(c);
    event_del(&c->watch);
    http_conn_schedule(c);
}

/* evhttp stops reading for each request and starts again behind the answer, which would be two
 * system calls a request. The watch stays instead, and goes when something has come that nobody
 * reads now: the next request, or the client's end. */
static void on_watch(evutil_socket_t fd, short what, void *arg)
{
    struct http_conn *c = arg;

    (void)fd;
    (void)what;
    if (!c->was_read && !event_pending(&c->bev->ev_read, EV_READ, NULL))
        event_del(&c->watch);
    c->was_read = false;
}

static void watch(struct http_conn *c)
{
    if (!c->gone && !event_pending(&c->watch, EV_READ, NULL))
        event_add(&c->watch, NULL);
}

/* Whether something of a request has come that is not handled yet. */
static bool has_begun(const struct http_conn *c)
{
    return evbuffer_get_length(bufferevent_get_input(c->bev)) > 0 || c->wire.state != WIRE_BETWEEN;
}

static void on_input(struct evbuffer *buffer, const struct evbuffer_cb_info *info, void *arg)
{
    struct http_conn *c = arg;

    c->thread->last_input = c;
    c->was_read |= info->n_added > 0;
    if (c->filtering || c->gone)
        return;
    c->request_bytes += info->n_deleted; /* evhttp has them */
    if (!info->n_added)
        return;
    c->used = true;
    c->filtering = true;
    http_wire_take(&c->wire, buffer, info->n_added);
    http_memory_count(c);
    if (c->over) { /* nothing of it will be needed */
        evbuffer_drain(buffer, evbuffer_get_length(buffer));
        buf_free(&c->wire.held);
        http_memory_count(c);
    }
    c->filtering = false;
    if (c->wire.proxied.known)
        http_peer_proxied(c);
    if (c->state == CONN_IDLE && has_begun(c))
        http_conn_set_state(c, CONN_READING);
}

/* Bytes go out that no handler has asked for: a page of evhttp's own about a request that it could
 * not read, or its 100 Continue. They leave with the next turn of the loop, so until then there is
 * time to say it in our words. */
static void on_output(struct evbuffer *buffer, const struct evbuffer_cb_info *info, void *arg)
{
    struct http_conn *c = arg;

    (void)buffer;
    http_memory_count(c);
    if (!info->n_added || (c->state != CONN_READING && c->state != CONN_IDLE))
        return;
    c->rewrite = true;
    http_conn_schedule(c);
}

struct bufferevent *http_conn_new(struct event_base *base, void *thread)
{
    struct http_thread *t = thread;
    const struct httpd_settings *s = &t->server->settings;
    struct http_conn *c = calloc(1, sizeof(*c));
    struct bufferevent *bev;

    if (!c)
        return NULL; /* evhttp makes one itself, or drops the connection */
    c->thread = t;
    bev = t->server->tls ? http_tls_bufferevent(c)
                         : bufferevent_socket_new(base, -1, BEV_OPT_CLOSE_ON_FREE);
    if (!bev) {
        free(c);
        return NULL;
    }
    bufferevent_incref(bev);
    bufferevent_setwatermark(bev, EV_READ, 0,
                             (size_t)(s->max_header_bytes + s->max_body_bytes) + READ_SLACK);
    evbuffer_add_cb(bufferevent_get_input(bev), on_input, c);
    evbuffer_add_cb(bufferevent_get_output(bev), on_output, c);
    c->bev = bev;
    c->wire.max_head = (size_t)s->max_header_bytes;
    c->wire.max_headers = (unsigned)s->max_headers;
    http_conn_set_state(c, CONN_IDLE);
    http_memory_count(c);
    c->next = t->conns;
    if (c->next)
        c->next->prev = c;
    t->conns = c;
    t->conn_count++;
    atomic_fetch_add_explicit(&t->server->connections, 1, memory_order_relaxed);
    http_stats_connections(1);
    keep_sweeping(t);
    http_accept_taken(t);
    c->fresh = true;
    http_conn_schedule(c);
    return bev;
}

/* evhttp calls a handler while it looks at the input of the very connection. */
struct http_conn *http_conn_of(struct http_thread *t, struct evhttp_connection *evcon)
{
    struct http_conn *c = t->last_input;

    if (!c || c->evcon != evcon)
        for (c = t->conns; c && c->evcon != evcon; c = c->next)
            ;
    return c;
}

static void release(struct http_conn *c)
{
    struct http_thread *t = c->thread;
    struct httpd *h = t->server;

    MUST(!c->req);
    unlist(c);
    http_peer_leave(c);
    if (c->prev)
        c->prev->next = c->next;
    else
        t->conns = c->next;
    if (c->next)
        c->next->prev = c->prev;
    if (t->last_input == c)
        t->last_input = NULL;
    if (t->sweep_next == c)
        t->sweep_next = c->next;
    evbuffer_remove_cb(bufferevent_get_input(c->bev), on_input, c);
    evbuffer_remove_cb(bufferevent_get_output(c->bev), on_output, c);
    http_memory_forget(c);
    buf_free(&c->wire.held);
    if (c->ssl)
        http_tls_release(c);
    bufferevent_decref(c->bev); /* the last one: closes the socket */
    free(c);
    t->conn_count--;
    http_stats_connections(-1);
    if (atomic_fetch_sub(&h->connections, 1) == 1 && atomic_load(&h->draining)) {
        pthread_mutex_lock(&h->lock);
        pthread_cond_broadcast(&h->drained);
        pthread_mutex_unlock(&h->lock);
    }
}

/* Without waiting for the kernel to say that there is room, as there nearly always is: where not,
 * the bufferevent waits for it. */
void http_conn_write(struct http_conn *c)
{
    if (c->ssl)
        http_tls_gather(c);
    event_active(&c->bev->ev_write, EV_WRITE, 0);
}

void http_conn_written(struct http_conn *c)
{
    c->request_bytes = 0;
    http_memory_count(c);
    if (c->linger) /* evhttp is about to let go */
        return;
    watch(c);
    http_conn_set_state(c, has_begun(c) ? CONN_READING : CONN_IDLE);
}

static void on_linger_read(struct bufferevent *bev, void *arg)
{
    struct evbuffer *input = bufferevent_get_input(bev);

    (void)arg;
    evbuffer_drain(input, evbuffer_get_length(input));
}

void http_conn_end_linger(struct http_conn *c)
{
    unlist(c);
    c->linger = false;
    http_conn_schedule(c);
}

static void on_linger_event(struct bufferevent *bev, short what, void *arg)
{
    (void)bev;
    (void)what;
    http_conn_end_linger(arg);
}

/* Nobody reads it any more. */
static void forget_request(struct http_conn *c)
{
    on_linger_read(c->bev, c);
    buf_free(&c->wire.held);
    c->request_bytes = 0;
    http_memory_count(c);
}

/* Closing a socket with unread bytes resets the connection, and the reset may overtake the answer
 * just written. */
static void start_linger(struct http_conn *c)
{
    http_conn_set_state(c, CONN_LINGERING);
    forget_request(c);
    bufferevent_setwatermark(c->bev, EV_READ, 0, 0);
    bufferevent_setcb(c->bev, on_linger_read, NULL, on_linger_event, c);
    if (bufferevent_enable(c->bev, EV_READ))
        release(c);
}

/* evhttp has made its connection in the same turn, so nothing has been read yet. Without one, it
 * could not. */
static void welcome(struct http_conn *c)
{
    bufferevent_event_cb on_event = NULL;
    void *evcon = NULL;

    c->fresh = false;
    bufferevent_getcb(c->bev, NULL, NULL, &on_event, &evcon);
    if (!on_event) {
        release(c);
        return;
    }
    c->evcon = evcon;
    http_peer_note(c);
    evhttp_connection_set_closecb(c->evcon, on_close, c);
    event_assign(&c->watch, c->thread->base, bufferevent_getfd(c->bev), EV_READ | EV_PERSIST,
                 on_watch, c);
    watch(c);
    if (http_peer_enter(c))
        return;
    http_stats_dropped(HTTP_DROP_ADDRESS);
    evhttp_connection_free(c->evcon);
}

/* What it holds goes at once; it lingers for what the client has still to say. */
static void end_overloaded(struct http_conn *c)
{
    c->linger = true;
    http_conn_set_state(c, CONN_WRITING);
    evhttp_connection_free(c->evcon); /* calls on_close */
    forget_request(c);
}

/* Sends a reset at once. Shutdown and close would end it in order, and the kernel would keep what a
 * client does not read for as long as that lives. */
static void disconnect(struct http_conn *c)
{
    struct sockaddr nowhere = {.sa_family = AF_UNSPEC};

    c->linger = false;
    (void)connect(bufferevent_getfd(c->bev), &nowhere, sizeof(nowhere));
}

static void cut_off(struct http_conn *c)
{
    http_stats_dropped(c->over ? HTTP_DROP_MEMORY : HTTP_DROP_RESET);
    disconnect(c);
    if (c->evcon)
        evhttp_connection_free(c->evcon); /* calls on_close */
    c->reset = false;
}

void http_conn_act(evutil_socket_t fd, short what, void *thread)
{
    struct http_thread *t = thread;

    (void)fd;
    (void)what;
    if (t->short_of_memory)
        http_memory_make_room(t);
    while (t->due) {
        struct http_conn *c = t->due;

        t->due = c->next_due;
        c->due = false;
        if (c->fresh)
            welcome(c);
        else if (c->over && !c->gone && http_page_overloaded(c))
            end_overloaded(c); /* comes back as gone */
        else if ((c->reset || c->over) && !c->gone)
            cut_off(c); /* likewise */
        else if (c->gone && c->linger && c->state == CONN_WRITING)
            start_linger(c);
        else if (c->gone)
            release(c);
        else if (c->rewrite)
            http_page_rewrite(c);
        /* all of them may have freed c or put it on the list again */
    }
    if (t->server->tls)
        http_tls_make_room(t);
}

static void expire(struct http_conn *c, enum http_drop why, short what)
{
    http_stats_dropped(why);
    bufferevent_trigger_event(c->bev, (short)(what | BEV_EVENT_TIMEOUT), 0);
}

static int64_t idle_limit_ms(const struct http_thread *t, const struct http_conn *c)
{
    const struct httpd_settings *s = &t->server->settings;

    if (t->draining_since_ms)
        return DRAIN_IDLE_MS;
    return c->used || s->idle_timeout_ms < s->read_timeout_ms ? s->idle_timeout_ms
                                                              : s->read_timeout_ms;
}

/* True: its time was up. */
static bool sweep_one(struct http_conn *c, int64_t now_ms)
{
    struct http_thread *t = c->thread;
    const struct httpd_settings *s = &t->server->settings;
    int64_t age_ms = now_ms - c->since_ms;

    switch (c->state) {
    case CONN_IDLE:
        if (t->draining_since_ms > c->since_ms)
            age_ms = now_ms - t->draining_since_ms;
        if (age_ms <= idle_limit_ms(t, c))
            return false;
        expire(c, http_tls_is_shaking(c) ? HTTP_DROP_HANDSHAKE_TIMEOUT : HTTP_DROP_IDLE_TIMEOUT,
               BEV_EVENT_READING);
        return true;
    case CONN_READING:
        if (age_ms <= s->read_timeout_ms)
            return false;
        expire(c, HTTP_DROP_READ_TIMEOUT, BEV_EVENT_READING);
        return true;
    case CONN_HANDLING:
        return false;
    case CONN_WRITING:
        if (age_ms <= s->write_timeout_ms)
            return false;
        disconnect(c);
        expire(c, HTTP_DROP_WRITE_TIMEOUT, BEV_EVENT_WRITING);
        return true;
    case CONN_LINGERING:
        if (age_ms <= LINGER_MS)
            return false;
        http_conn_end_linger(c);
        return true;
    }
    return false;
}

void http_conn_sweep(evutil_socket_t fd, short what, void *thread)
{
    struct http_thread *t = thread;
    int64_t now_ms = clock_mono_ms();
    unsigned ended = 0;
    struct http_conn *c;

    (void)fd;
    (void)what;
    if (!t->sweep_next)
        t->sweep_next = t->conns;
    while (ended < SWEEP_ENDS && (c = t->sweep_next)) {
        t->sweep_next = c->next;
        if (!c->gone || c->state == CONN_LINGERING)
            ended += sweep_one(c, now_ms);
        if (c->ssl && !c->gone)
            http_memory_count(c);
    }
    http_stats_memory(t);
    t->sweeping = false;
    if (t->conns)
        keep_sweeping(t);
}

void http_conn_drain(struct http_thread *t)
{
    for (struct http_conn *c = t->conns; c; c = c->next)
        if (c->req && c->req->waiting)
            event_active(c->req->timer, EV_TIMEOUT, 0);
}

void http_conn_forget_timers(struct http_thread *t)
{
    for (struct http_conn *c = t->conns; c; c = c->next)
        if (c->req && c->req->waiting)
            http_request_free(c->req);
}

void http_conn_free_all(struct http_thread *t)
{
    struct http_conn *next;

    for (struct http_conn *c = t->conns; c; c = next) {
        next = c->next;
        release(c);
    }
}
