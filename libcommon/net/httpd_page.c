#include <event2/buffer.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "libcommon/net/httpd_internal.h"

#define RETRY_AFTER "Retry-After: 1\r\n"

static const char *page_for(int status, const char **code)
{
    switch (status) {
    case 413:
        *code = "body_too_large";
        return "The request body is too large.";
    case 417:
        *code = "expectation_failed";
        return "Expect may only be 100-continue.";
    case 431:
        *code = "headers_too_large";
        return "The headers are too large.";
    case 501:
        *code = "method_not_allowed";
        return "The method is not known.";
    case 503:
        *code = "system_overloaded";
        return "The system is temporarily overloaded. Please retry later.";
    default:
        *code = "bad_request";
        return "The request is not valid HTTP.";
    }
}

/* Whether the page is about what the wire refused: then nothing else is left of the input. */
static bool is_refused(const struct http_conn *c)
{
    return c->wire.state == WIRE_REFUSED && !evbuffer_get_length(bufferevent_get_input(c->bev));
}

/* The status of the page in out; 0: something else. */
static int status_of(struct evbuffer *out)
{
    char line[16] = "";

    if (evbuffer_copyout(out, line, sizeof(line) - 1) < 12 || memcmp(line, "HTTP/", 5) != 0)
        return 0;
    return (int)strtol(line + 9, NULL, 10);
}

/* wrong: a sentence in place of the usual one; NULL: none. */
static void put_page(struct buf *page, int status, const char *wrong)
{
    struct buf body = {0};
    const char *code;
    const char *message = page_for(status, &code);

    buf_printf(&body, "{\"error\":\"%s\",\"message\":\"%s\"}", code, wrong ? wrong : message);
    buf_printf(page,
               "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\n"
               "X-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\n%s"
               "Content-Length: %zu\r\nConnection: close\r\n\r\n%s",
               status, http_phrase(status), status == 503 ? RETRY_AFTER : "", body.len,
               body.failed ? "" : body.data);
    page->failed |= body.failed;
    buf_free(&body);
}

static void tell_stats(struct http_conn *c, int status, enum http_drop why)
{
    struct httpd *h = c->thread->server;

    http_stats_answer(c->thread, &h->paths[h->path_count], HTTP_OTHER, status, 0, NULL);
    http_stats_dropped(why);
}

static void replace(struct evbuffer *out, int status, const char *wrong)
{
    struct buf page = {0};

    put_page(&page, status, wrong);
    if (!page.failed) {
        evbuffer_drain(out, evbuffer_get_length(out));
        evbuffer_add(out, page.data, page.len);
    }
    buf_free(&page);
}

void http_page_rewrite(struct http_conn *c)
{
    struct evbuffer *out = bufferevent_get_output(c->bev);
    int status;

    c->rewrite = false;
    evbuffer_unfreeze(out, 1); /* bufferevents keep others from the bytes in front */
    status = status_of(out);
    c->continued = status == 100;
    if (status >= 400) {
        bool refused = is_refused(c);

        if (refused)
            status = c->wire.status;          /* of a bad chunk evhttp says that it is too large */
        http_conn_set_state(c, CONN_WRITING); /* first, or this page would be rewritten too */
        replace(out, status, refused ? c->wire.wrong : NULL);
        tell_stats(c, status, HTTP_DROP_BAD_REQUEST);
        c->linger = true;
    }
    if (!c->ssl) /* those of TLS do not, and could not write any more */
        evbuffer_freeze(out, 1);
}

/* Past libevent and evhttp, which would keep what they have of the request until it is written. An
 * empty output has been taken by the kernel; one that is not waits for a client that does not read.
 */
bool http_page_overloaded(struct http_conn *c)
{
    struct buf page = {0};
    bool said = c->state == CONN_READING && !evbuffer_get_length(bufferevent_get_output(c->bev));

    if (said) {
        put_page(&page, 503, NULL);
        said = !page.failed && (c->ssl ? http_tls_say(c, page.data, page.len)
                                       : send(bufferevent_getfd(c->bev), page.data, page.len,
                                              MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)page.len);
    }
    if (said)
        tell_stats(c, 503, HTTP_DROP_MEMORY);
    buf_free(&page);
    return said;
}
