/*
 * Bytes of a connection through httpd_wire.c: in whatever segments they come, the same goes on; and
 * evhttp reads out of that the very requests that were let through.
 */

#include <errno.h>
#include <event2/buffer.h>
#include <event2/event.h>
#include <event2/http.h>
#include <event2/keyvalq_struct.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "libcommon/net/httpd_internal.h"
#include "test/fuzz/http_parts.h"

#define MAX_HEAD 2048
#define MAX_BODY 32768
#define IDLE_TURNS 4       /* of the loop, for what evhttp puts off */
#define READ_AT_LEAST 4096 /* bytes that a turn takes of what has come */

/* ---- segments ---- */

static void check_segments(const uint8_t *data, size_t size, struct fuzz_text whole,
                           const char *wrong)
{
    struct http_wire wire = {.max_head = MAX_HEAD};
    struct fuzz_cuts cuts = fuzz_cuts(data, size);
    struct evbuffer *in = evbuffer_new();
    struct evbuffer *seen = evbuffer_new();

    for (size_t at = 0; at < size;) {
        size_t n = fuzz_cut(&cuts, size - at);

        evbuffer_add(in, data + at, n);
        http_wire_take(&wire, in, n);
        if (cuts.state & 1 << 20) /* evhttp may have taken it by now, or not */
            evbuffer_add_buffer(seen, in);
        at += n;
    }
    evbuffer_add_buffer(seen, in);
    MUST(evbuffer_get_length(seen) == whole.n);
    MUST(!whole.n || !memcmp(evbuffer_pullup(seen, -1), whole.p, whole.n));
    MUST(!wrong == !wire.wrong && (!wrong || !strcmp(wrong, wire.wrong)));
    buf_free(&wire.held);
    evbuffer_free(in);
    evbuffer_free(seen);
}

/* ---- evhttp ---- */

static struct {
    struct event_base *base;
    struct evhttp *http;
    struct sockaddr_un address;
    socklen_t address_len;
    struct fuzz_text left; /* what evhttp has not made requests of */
    size_t requests;
} peer;

static bool same(struct fuzz_text text, const char *s)
{
    return text.n == strlen(s) && (!text.n || !memcmp(text.p, s, text.n));
}

static void check_headers(const struct http_parts *r, const struct evkeyvalq *headers)
{
    const struct evkeyval *h = headers->tqh_first;

    for (size_t i = 0; i < r->header_count; i++, h = h->next.tqe_next)
        MUST(h && same(r->headers[i].name, h->key) && same(r->headers[i].value, h->value));
    MUST(!h);
}

/* What evhttp takes for a request has to be the next one. */
static void on_request(struct evhttp_request *ev, void *arg)
{
    struct http_parts r;
    size_t n = http_parts_read(&r, peer.left.p, peer.left.n);
    struct evbuffer *body = evhttp_request_get_input_buffer(ev);

    (void)arg;
    MUST(n > 0);
    MUST(same(r.target, evhttp_request_get_uri(ev)));
    MUST((evhttp_request_get_command(ev) == EVHTTP_REQ_HEAD) == same(r.method, "HEAD"));
    MUST((evhttp_request_get_command(ev) == EVHTTP_REQ_POST) == same(r.method, "POST"));
    check_headers(&r, evhttp_request_get_input_headers(ev));
    MUST(evbuffer_get_length(body) == r.body.len);
    MUST(!r.body.len || !memcmp(evbuffer_pullup(body, -1), r.body.data, r.body.len));
    http_parts_free(&r);
    peer.left.p += n;
    peer.left.n -= n;
    peer.requests++;
    evhttp_send_reply(ev, 200, NULL, NULL);
}

static void start_peer(void)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    peer.address = (struct sockaddr_un){.sun_family = AF_UNIX};
    peer.address_len = sizeof(peer.address);
    MUST(fd >= 0 && !bind(fd, (struct sockaddr *)&peer.address, sizeof(sa_family_t)));
    MUST(!getsockname(fd, (struct sockaddr *)&peer.address, &peer.address_len));
    MUST(!listen(fd, 4));
    peer.base = event_base_new();
    peer.http = evhttp_new(peer.base);
    MUST(peer.http && !evhttp_accept_socket(peer.http, fd));
    evhttp_set_allowed_methods(peer.http, 0xffff);
    evhttp_set_max_headers_size(peer.http, MAX_HEAD);
    evhttp_set_max_body_size(peer.http, MAX_BODY);
    evhttp_set_gencb(peer.http, on_request, NULL);
}

static int dial(void)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    MUST(fd >= 0 && !connect(fd, (struct sockaddr *)&peer.address, peer.address_len));
    return fd;
}

/* Whether the connection has ended from the other side. Answers are thrown away. */
static bool has_ended(int fd)
{
    char answers[8192];
    ssize_t n;

    do
        n = recv(fd, answers, sizeof(answers), 0);
    while (n > 0);
    return n == 0 || errno != EAGAIN;
}

/* Until evhttp has closed the connection, which is said, or there is nothing left to be done. */
static bool talk(int fd, struct fuzz_text text)
{
    bool ended = false;
    size_t idle = 0;

    while (!ended && idle < IDLE_TURNS + text.n / READ_AT_LEAST) {
        size_t before = peer.requests;
        ssize_t n = text.n ? send(fd, text.p, text.n, MSG_NOSIGNAL) : 0;

        if (n > 0) {
            text.p += n;
            text.n -= (size_t)n;
        }
        event_base_loop(peer.base, EVLOOP_NONBLOCK);
        ended = has_ended(fd);
        idle = n > 0 || peer.requests != before ? 0 : idle + 1;
    }
    return ended;
}

/* seen: what was let through; clean: that without the line that ends what was refused. */
static void check_evhttp(struct fuzz_text seen, struct fuzz_text clean, bool refused)
{
    struct http_parts r;
    size_t whole;
    bool ended;
    int fd = dial();

    peer.left = clean;
    peer.requests = 0;
    ended = talk(fd, seen);
    close(fd);
    for (int i = 0; i < IDLE_TURNS; i++)
        event_base_loop(peer.base, EVLOOP_NONBLOCK);
    whole = http_parts_read(&r, peer.left.p, peer.left.n);
    http_parts_free(&r);
    MUST(ended || !whole);   /* it takes what comes, or ends the connection */
    MUST(ended || !refused); /* what is wrong ends it */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *wrong;
    size_t n;
    char *text;
    struct fuzz_text seen;
    struct fuzz_text clean;

    if (!size || size > MAX_BODY)
        return -1;
    if (!peer.http)
        start_peer();
    text = http_parts_filter(data, size, MAX_HEAD, &n, &wrong);
    seen = clean = (struct fuzz_text){text, n};
    if (wrong) {
        MUST(n >= 3 && !memcmp(text + n - 3, "x\r\n", 3));
        clean.n -= 3;
    }
    check_segments(data, size, seen, wrong);
    check_evhttp(seen, clean, wrong);
    free(text);
    return 0;
}
