#include <event2/buffer.h>
#include <event2/http.h>
#include <event2/http_struct.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/net/httpd_internal.h"
#include "libcommon/telemetry/log.h"
#include "libcommon/telemetry/tracer.h"

#define HEADERS_MAX 4096 /* bytes of headers a handler may add to an answer */

static const char *const method_names[HTTP_METHODS] = {
    [HTTP_GET] = "GET",     [HTTP_HEAD] = "HEAD",     [HTTP_POST] = "POST",
    [HTTP_PUT] = "PUT",     [HTTP_DELETE] = "DELETE", [HTTP_OPTIONS] = "OPTIONS",
    [HTTP_PATCH] = "PATCH", [HTTP_TRACE] = "TRACE",   [HTTP_CONNECT] = "CONNECT",
    [HTTP_OTHER] = "OTHER",
};

const char *http_method_name(enum http_method method)
{
    return method_names[method];
}

enum http_method http_method_parse(const char *name)
{
    for (int i = 0; i < HTTP_OTHER; i++)
        if (!strcmp(name, method_names[i]))
            return (enum http_method)i;
    return HTTP_OTHER;
}

static enum http_method method_of(const struct evhttp_request *ev)
{
    switch ((unsigned)evhttp_request_get_command(ev)) {
    case EVHTTP_REQ_GET:
        return HTTP_GET;
    case EVHTTP_REQ_HEAD:
        return HTTP_HEAD;
    case EVHTTP_REQ_POST:
        return HTTP_POST;
    case EVHTTP_REQ_PUT:
        return HTTP_PUT;
    case EVHTTP_REQ_DELETE:
        return HTTP_DELETE;
    case EVHTTP_REQ_OPTIONS:
        return HTTP_OPTIONS;
    case EVHTTP_REQ_PATCH:
        return HTTP_PATCH;
    case EVHTTP_REQ_TRACE:
        return HTTP_TRACE;
    case EVHTTP_REQ_CONNECT:
        return HTTP_CONNECT;
    default:
        return HTTP_OTHER;
    }
}

static struct httpd_request *request_new(struct http_thread *t, struct http_conn *c,
                                         struct evhttp_request *ev)
{
    struct httpd_request *req = malloc(sizeof(*req));

    if (!req)
        return NULL;
    memset(req, 0, offsetof(struct httpd_request, small));
    req->thread = t;
    req->conn = c;
    req->ev = ev;
    req->path = &t->server->paths[t->server->path_count];
    req->method = method_of(ev);
    req->start_us = clock_mono_us();
    req->tracestate = "";
    req->decoded_path = "";
    req->peer = c->peer;
    req->id = "";
    c->req = req;
    /* RACE: evhttp writes a "100 Continue" that is still on its way while the request is handled,
     * and would free the connection under it when that fails. It writes again with the answer. */
    bufferevent_disable(c->bev, EV_WRITE);
    /* RACE: under TLS libevent tells evhttp at the end of the turn that it has written, and evhttp
     * would take it for the end of an answer that is given meanwhile. */
    req->settle = c->ssl && c->continued;
    c->continued = false;
    http_conn_set_state(c, CONN_HANDLING);
    atomic_fetch_add_explicit(&t->server->held, 1, memory_order_relaxed);
    http_stats_held(1);
    return req;
}

void http_request_free(struct httpd_request *req)
{
    struct httpd_text *text = req->texts;

    while (text) {
        struct httpd_text *next = text->next;

        free(text);
        text = next;
    }
    if (req->timer)
        event_free(req->timer);
    http_deadline_forget(req);
    buf_free(&req->headers);
    free(req->owned_body);
    if (req->conn->req == req)
        req->conn->req = NULL;
    atomic_fetch_sub_explicit(&req->thread->server->held, 1, memory_order_relaxed);
    http_stats_held(-1);
    http_deadline_let_go(req);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct httpd_request *req = arg;

    (void)fd;
    (void)what;
    req->waiting = false;
    http_request_finish(req);
}

static bool hold_back(struct httpd_request *req)
{
    struct timeval after = {req->delay_us / 1000000, req->delay_us % 1000000};

    req->delay_us = 0;
    req->settle = false;
    req->timer = event_new(req->thread->base, -1, 0, on_timer, req);
    if (!req->timer || evtimer_add(req->timer, &after))
        return false;
    req->waiting = true;
    return true;
}

void httpd_delay(struct httpd_request *req, int64_t delay_us)
{
    req->delay_us = delay_us;
}

void http_request_finish(struct httpd_request *req)
{
    struct http_conn *c = req->conn;

    if (((req->delay_us > 0 && !httpd_draining(req)) || req->settle) && hold_back(req))
        return;
    if (req->action == HTTP_ANSWER) {
        http_answer_send(req, req->body, req->body_len);
        return;
    }
    http_request_free(req);
    c->reset = true;
    http_conn_schedule(c);
}

static void keep_body(struct httpd_request *req, const char *body, size_t n)
{
    char *to = req->small;

    req->body = body;
    req->body_len = n;
    if (req->constant)
        return;
    if (n > sizeof(req->small))
        to = req->owned_body = malloc(n);
    if (!to) { /* the client sees the connection end: nothing false is said */
        req->action = HTTP_RESET;
        return;
    }
    if (n)
        memcpy(to, body, n);
    req->body = to;
}

void httpd_reply_type(struct httpd_request *req, int status, const char *content_type,
                      const char *body, size_t n)
{
    MUST(!req->answered);
    req->answered = true;
    req->status = status;
    if (content_type)
        evutil_snprintf(req->content_type, sizeof(req->content_type), "%s", content_type);
    if (http_current_thread() != req->thread) {
        keep_body(req, body, n);
        http_post(req);
    } else if (req->delay_us > 0 || req->settle) {
        keep_body(req, body, n);
        http_request_finish(req);
    } else {
        http_answer_send(req, body, n);
    }
}

void httpd_reply_constant(struct httpd_request *req, int status, const char *content_type,
                          const char *body, size_t n)
{
    req->constant = true;
    httpd_reply_type(req, status, content_type, body, n);
}

void httpd_reply(struct httpd_request *req, int status, const char *body, size_t n)
{
    httpd_reply_type(req, status, NULL, body, n);
}

void httpd_reply_error(struct httpd_request *req, int status, const char *code, const char *message,
                       const char *field)
{
    struct buf b = {0};

    buf_puts(&b, "{\"error\":");
    buf_put_json(&b, code, strlen(code));
    buf_puts(&b, ",\"message\":");
    buf_put_json(&b, message, strlen(message));
    if (field) {
        buf_puts(&b, ",\"field\":");
        buf_put_json(&b, field, strlen(field));
    }
    buf_putc(&b, '}');
    httpd_reply(req, status, b.failed ? "{}" : b.data, b.failed ? 2 : b.len);
    buf_free(&b);
}

void httpd_reply_retry(struct httpd_request *req, int status, const char *code, const char *message,
                       int64_t after_sec)
{
    char text[24];

    snprintf(text, sizeof(text), "%lld", (long long)after_sec);
    httpd_set_header(req, "Retry-After", text);
    httpd_reply_error(req, status, code, message, NULL);
}

void httpd_reset(struct httpd_request *req)
{
    MUST(!req->answered);
    req->answered = true;
    req->action = HTTP_RESET;
    if (http_current_thread() == req->thread)
        http_request_finish(req);
    else
        http_post(req);
}

void httpd_set_header(struct httpd_request *req, const char *name, const char *value)
{
    /* A line's end would begin a header of somebody else's choice. */
    if (strpbrk(name, "\r\n") || strpbrk(value, "\r\n") ||
        req->headers.len + strlen(name) + strlen(value) + 4 > HEADERS_MAX)
        return;
    req->kept |= !strcasecmp(name, "Cache-Control");
    http_answer_put_header(&req->headers, name, value);
}

static const struct http_path *find_path(const struct httpd *h, const char *path)
{
    size_t n = strlen(path);
    const struct http_path *prefix = NULL;

    for (const struct http_path *p = h->paths; p < h->paths + h->path_count; p++) {
        if (p->prefix ? n < p->len : n != p->len)
            continue;
        if (memcmp(path, p->pattern, p->len) != 0)
            continue;
        if (!p->prefix)
            return p;
        if (!prefix || p->len > prefix->len)
            prefix = p;
    }
    return prefix;
}

static bool is_our_host(const struct httpd *h, const struct httpd_route *route,
                        const struct http_facts *facts)
{
    return !h->settings.hosts || !*h->settings.hosts || (route && route->words & HTTPD_PROBE) ||
           http_check_host(h->settings.hosts, facts);
}

static bool has_body(enum http_method method)
{
    return method == HTTP_POST || method == HTTP_PUT || method == HTTP_PATCH;
}

/* A certificate that is not good has ended the handshake; here there is none. */
static bool lacks_certificate(const struct httpd_request *req)
{
    const struct http_tls *tls = req->thread->server->tls;

    return tls && http_tls_wants_certificate(tls) && !http_tls_has_certificate(req->conn);
}

static void dispatch(struct httpd_request *req, const struct http_facts *facts)
{
    struct httpd *h = req->thread->server;
    const struct http_path *path = find_path(h, req->decoded_path);
    const struct httpd_route *route = path ? path->routes[req->method] : NULL;

    if (path)
        req->path = path;
    if (!(route && route->words & HTTPD_RAW_QUERY) && !http_input_query(req))
        return;
    if (lacks_certificate(req) && !(route && route->words & HTTPD_PROBE)) {
        req->close = true;
        httpd_reply_error(req, 403, "certificate_required", "A client certificate is required.",
                          NULL);
    } else if (!is_our_host(h, route, facts)) {
        httpd_reply_error(req, 421, "misdirected_request", "The server has no such host.", "Host");
    } else if (http_cors(req, path, facts)) {
        return;
    } else if (!path) {
        httpd_reply_error(req, 404, "not_found", "There is nothing at this path.", NULL);
    } else if (!route) {
        httpd_set_header(req, "Allow", path->allow);
        httpd_reply_error(req, 405, "method_not_allowed", "The method is not allowed here.", NULL);
    } else if (has_body(req->method) && !http_check_type(facts)) {
        httpd_reply_error(req, 415, "unsupported_media_type",
                          "The body must be JSON; send Content-Type: application/json.",
                          "Content-Type");
    } else if ((route->words & HTTPD_NO_LIMIT) || !h->admit || h->admit(req, h->arg)) {
        route->handler(req, h->arg);
    }
}

void http_on_request(struct evhttp_request *ev, void *thread)
{
    struct http_thread *t = thread;
    struct http_conn *c = http_conn_of(t, evhttp_request_get_connection(ev));
    struct httpd_request *req = c ? request_new(t, c, ev) : NULL;
    struct http_facts facts;
    const char *wrong;

    if (!req) { /* out of memory */
        evhttp_send_error(ev, HTTP_SERVUNAVAIL, NULL);
        return;
    }
    wrong = http_check(ev, &facts);
    if (!http_wire_agrees(&c->wire, ++c->taken, evbuffer_get_length(bufferevent_get_input(c->bev))))
        wrong = "It is not clear where the request ends.";
    if (wrong) {
        req->close = true;
        http_stats_dropped(HTTP_DROP_BAD_REQUEST);
        httpd_reply_error(req, 400, facts.field ? "invalid_input" : "bad_request", wrong,
                          facts.field);
        return;
    }
    req->ended = facts.close;
    req->close = facts.close || c->taken == (uint64_t)t->server->settings.connection_requests;
    http_peer_forwarded(req);
    http_input_path(req);
    http_input_trace(req, &facts);
    http_input_id(req, &facts);
    dispatch(req, &facts);
}
