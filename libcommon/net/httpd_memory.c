#include <event2/buffer.h>

#include "libcommon/base/clock.h"
#include "libcommon/net/httpd_internal.h"
#include "libcommon/telemetry/log.h"

/*
 * What a connection costs is counted from the bytes that it holds, and the threads share the
 * process's budget evenly. A connection with a request of the usual size is always served:
 * connections are limited so that all of them fit. Who holds more than that lives on what the
 * others leave: as the budget runs out those go first who have been at it for longest, since a
 * client that reads and writes at its own speed is done long before. Should bytes come faster than
 * room is made, whoever brings the one too many goes at once, and they with it. Who is still
 * sending a request is told so (503); who does not read what there is for it is reset.
 */

#define CONN_BYTES 4096    /* structs */
#define HEADER_BYTES 100   /* of a header in evhttp's list, beside its text */
#define GONE_BYTES 2048    /* of one that evhttp has let go and that lingers */
#define USUAL_BYTES 8192   /* of a connection with a request of the usual size */
#define LARGEST_REQUESTS 4 /* of a thread: the least that is of any use */

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

void http_memory_plan(struct httpd *h)
{
    struct httpd_settings *s = &h->settings;
    size_t request = (size_t)(s->max_header_bytes + s->max_body_bytes);
    bool tls = s->tls_cert_file && *s->tls_cert_file;
    size_t wanted =
        s->memory_bytes ? (size_t)s->memory_bytes : (size_t)s->max_connections * USUAL_BYTES;
    size_t least;
    int64_t room;

    h->usual_bytes = USUAL_BYTES + (tls ? HTTP_TLS_BYTES_MAX : 0);
    least = h->thread_count * LARGEST_REQUESTS * (h->usual_bytes + request);
    h->thread_bytes = larger(wanted, least) / h->thread_count;
    room = (int64_t)(h->thread_bytes * h->thread_count / h->usual_bytes);
    if (room >= s->max_connections)
        return;
    log_info("http.connections_planned", L_INT("wanted", s->max_connections),
             L_INT("connections", room), L_INT("bytes", (int64_t)wanted),
             L_MSG("HTTP_MEMORY_BYTES has room for no more"));
    s->max_connections = room;
}

/* What is there of the output and nobody else's. */
static size_t unwritten(struct http_conn *c)
{
    size_t n = evbuffer_get_length(bufferevent_get_output(c->bev));

    if (!n)
        c->lent = 0;
    return n > c->lent ? n - c->lent : 0;
}

static void count(struct http_conn *c)
{
    size_t bytes = (c->gone ? GONE_BYTES : CONN_BYTES) + http_tls_bytes(c) + c->request_bytes +
                   c->wire.held.cap + evbuffer_get_length(bufferevent_get_input(c->bev)) +
                   unwritten(c);

    /* evhttp has a list of them, and waits for the rest */
    if (!c->gone && c->wire.state > WIRE_HEAD)
        bytes += c->wire.headers * HEADER_BYTES;

    c->thread->bytes += bytes - c->bytes; /* sizes wrap around, to the right sum */
    c->bytes = bytes;
}

/* Whose request is in the program's hands is cut by nobody else. */
static bool may_go(const struct http_conn *c)
{
    return c->bytes > c->thread->server->usual_bytes && !c->req && !c->gone && !c->over;
}

static void let_go(struct http_conn *c)
{
    c->over = true;
    http_conn_schedule(c);
}

void http_memory_count(struct http_conn *c)
{
    struct http_thread *t = c->thread;
    size_t all = t->server->thread_bytes;

    count(c);
    if (t->bytes <= all - all / 8)
        return;
    if (t->bytes > all && may_go(c))
        let_go(c);
    t->short_of_memory = true;
    event_active(t->act, 0, 0);
}

void http_memory_forget(struct http_conn *c)
{
    c->thread->bytes -= c->bytes;
    c->bytes = 0;
}

static struct http_conn *slowest(const struct http_thread *t)
{
    struct http_conn *found = NULL;

    for (struct http_conn *c = t->conns; c; c = c->next)
        if (may_go(c) && (!found || c->since_ms < found->since_ms))
            found = c;
    return found;
}

void http_memory_make_room(struct http_thread *t)
{
    size_t all = t->server->thread_bytes;
    size_t going = 0; /* bytes of those that are told to */
    struct http_conn *c;

    t->short_of_memory = false;
    while (t->bytes - going > all - all / 4 && (c = slowest(t))) {
        going += c->bytes;
        let_go(c);
    }
}
