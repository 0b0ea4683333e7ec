#include <event2/buffer.h>
#include <event2/http.h>
#include <event2/http_struct.h>
#include <event2/util.h>
#include <string.h>
#include <strings.h>

#include "libcommon/base/clock.h"
#include "libcommon/net/httpd_internal.h"
#include "libcommon/telemetry/log.h"

/*
 * evhttp writes an answer by printf, header by header, and looks through all headers for each that
 * it may have to add: a fifth of what a small request cost. So the answer is put together here, in
 * one piece, and evhttp hears only that it ends; what becomes of the connection is still evhttp's,
 * which reads that off the request and its list of the answer's headers.
 */

#define BODY_WITH_HEAD 4096 /* a larger one is not copied twice */

#define PUT(b, literal) buf_put(b, literal, sizeof(literal) - 1)

const char *http_phrase(int status)
{
    static const char *const phrases[600] = {
        [200] = "OK",
        [201] = "Created",
        [202] = "Accepted",
        [204] = "No Content",
        [301] = "Moved Permanently",
        [302] = "Found",
        [304] = "Not Modified",
        [307] = "Temporary Redirect",
        [400] = "Bad Request",
        [401] = "Unauthorized",
        [402] = "Payment Required",
        [403] = "Forbidden",
        [404] = "Not Found",
        [405] = "Method Not Allowed",
        [409] = "Conflict",
        [413] = "Content Too Large",
        [415] = "Unsupported Media Type",
        [417] = "Expectation Failed",
        [421] = "Misdirected Request",
        [422] = "Unprocessable Content",
        [425] = "Too Early",
        [429] = "Too Many Requests",
        [431] = "Request Header Fields Too Large",
        [500] = "Internal Server Error",
        [501] = "Not Implemented",
        [503] = "Service Unavailable",
    };
    const char *phrase = status >= 0 && status < 600 ? phrases[status] : NULL;

    return phrase ? phrase : status >= 400 ? "Error" : "Other";
}

/* Written out once a second. */
static const char *date_now(struct http_thread *t)
{
    time_t now = (time_t)(clock_wall_us() / 1000000);
    struct tm tm;

    if (now != t->date_sec && gmtime_r(&now, &tm)) {
        evutil_date_rfc1123(t->date, sizeof(t->date), &tm);
        t->date_sec = now;
    }
    return t->date;
}

void http_answer_put_header(struct buf *b, const char *name, const char *value)
{
    buf_puts(b, name);
    PUT(b, ": ");
    buf_puts(b, value);
    PUT(b, "\r\n");
}

/* A client of HTTP/1.0 may have asked for it; one of 1.1 has it anyway. */
static bool asked_to_keep(struct evhttp_request *ev)
{
    const char *wish = evhttp_find_header(evhttp_request_get_input_headers(ev), "Connection");

    return ev->minor == 0 && wish && !strncasecmp(wish, "keep-alive", 10);
}

static void put_head(const struct httpd_request *req, size_t n, bool bare, bool last, struct buf *b)
{
    if (req->ev->minor == 0)
        PUT(b, "HTTP/1.0 ");
    else
        PUT(b, "HTTP/1.1 ");
    buf_put_uint(b, (uint64_t)req->status);
    PUT(b, " ");
    buf_puts(b, http_phrase(req->status));
    PUT(b, "\r\n");
    http_answer_put_header(b, "Date", date_now(req->thread));
    if (*req->content_type)
        http_answer_put_header(b, "Content-Type", req->content_type);
    else if (!bare)
        PUT(b, "Content-Type: application/json\r\n");
    buf_put(b, req->headers.data, req->headers.len);
    if (*req->id)
        http_answer_put_header(b, "X-Request-Id", req->id);
    PUT(b, "X-Content-Type-Options: nosniff\r\n");
    if (!req->kept) /* it is about somebody's money */
        PUT(b, "Cache-Control: no-store\r\n");
    if (last)
        PUT(b, "Connection: close\r\n");
    else if (asked_to_keep(req->ev))
        PUT(b, "Connection: keep-alive\r\n");
    if (!bare) {
        PUT(b, "Content-Length: ");
        buf_put_uint(b, n);
        PUT(b, "\r\n");
    }
    PUT(b, "\r\n");
}

/* Head and body into the connection's output, which nobody empties yet. False: memory is out. */
static bool put_answer(struct httpd_request *req, const char *body, size_t n, bool last)
{
    struct evbuffer *out = bufferevent_get_output(req->conn->bev);
    struct buf *head = &req->thread->answer;
    bool bare = req->status == 204 || req->status == 304;
    /* A client would read one where HTTP allows none as the next answer. */
    size_t sent = bare || req->method == HTTP_HEAD ? 0 : n;

    buf_reset(head);
    put_head(req, n, bare, last, head);
    req->conn->lent = req->constant ? sent : 0;
    if (!req->constant && sent <= BODY_WITH_HEAD) {
        buf_put(head, body, sent);
        sent = 0;
    }
    if (head->failed || req->headers.failed || evbuffer_add(out, head->data, head->len))
        return false;
    if (req->constant && sent)
        return !evbuffer_add_reference(out, body, sent, NULL, NULL);
    return !sent || !evbuffer_add(out, body, sent);
}

static void on_written(struct evhttp_request *ev, void *arg)
{
    (void)ev;
    http_conn_written(arg);
}

/* What evhttp_send_reply() does behind the answer. */
static void end_reply(struct http_conn *c, struct evhttp_request *ev, bool last)
{
    bufferevent_data_cb on_write = NULL;
    bufferevent_event_cb on_event = NULL;
    void *evcon = NULL;

    if (last)
        evhttp_add_header(evhttp_request_get_output_headers(ev), "Connection", "close");
    evhttp_request_set_on_complete_cb(ev, on_written, c);
    ev->chunked = 0; /* the request was; the answer is not */
    evhttp_send_reply_end(ev);
    bufferevent_getcb(c->bev, NULL, &on_write, &on_event, &evcon);
    bufferevent_setcb(c->bev, NULL, on_write, on_event, evcon);
    /* Reading stays off. Else evhttp sees the client's end before this answer is out and drops it,
     * with the requests that came before the end. It reads on by itself when the answer is written.
     */
    bufferevent_enable(c->bev, EV_WRITE);
}

static void tell(struct httpd_request *req)
{
    bool traced = http_span_wanted(req);

    http_stats_answer(req->thread, req->path, req->method, req->status, req->start_us,
                      traced ? &req->trace : NULL);
    if (traced)
        http_span_answer(req);
    log_debug("http.answered", L_STR("method", http_method_name(req->method)),
              L_STR("path", req->path->pattern), L_INT("status", req->status),
              L_INT("duration_us", clock_mono_us() - req->start_us), L_STR("client", req->peer),
              L_STR("request_id", req->id), L_TRACE(&req->trace));
}

void http_answer_send(struct httpd_request *req, const char *body, size_t n)
{
    struct evhttp_request *ev = req->ev;
    struct http_conn *c = req->conn;
    bool last = req->close || httpd_draining(req);
    bool whole;

    c->linger = last && !req->ended;
    tell(req);
    http_conn_set_state(c, CONN_WRITING); /* first, or what is put would be taken for evhttp's */
    whole = put_answer(req, body, n, last);
    httpd_drop_body(req); /* whose bytes the answer may have been */
    http_request_free(req);
    if (!whole) { /* the client sees the connection end: nothing false is said */
        c->reset = true;
        http_conn_schedule(c);
        return;
    }
    http_memory_count(c);
    end_reply(c, ev, last);
    http_conn_write(c);
}
