#include <event2/buffer.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/net/httpd_internal.h"

static const char *page_for(int status, const char **code)
{
    switch (status) {
    case 413:
        *code = "body_too_large";
        return "The request body is too large.";
    case 417:
        *code = "expectation_failed";
        return "Expect may only be 100-continue.";
    case 501:
        *code = "method_not_allowed";
        return "The method is not known.";
    case 503:
        *code = "unavailable";
        return "The server cannot take the request now.";
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

static void put_page(struct evbuffer *out, int status, const char *code, const char *message)
{
    struct buf body = {0};

    buf_printf(&body, "{\"error\":\"%s\",\"message\":\"%s\"}", code, message);
    if (!body.failed) {
        evbuffer_drain(out, evbuffer_get_length(out));
        evbuffer_add_printf(out,
                            "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\n"
                            "X-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\n"
                            "Content-Length: %zu\r\nConnection: close\r\n\r\n%s",
                            status, http_phrase(status) ? http_phrase(status) : "Error", body.len,
                            body.data);
    }
    buf_free(&body);
}

void http_page_rewrite(struct http_conn *c)
{
    struct evbuffer *out = bufferevent_get_output(c->bev);
    const char *code;
    const char *message;
    int status;

    c->rewrite = false;
    evbuffer_unfreeze(out, 1); /* bufferevents keep others from the bytes in front */
    status = status_of(out);
    c->continued = status == 100;
    if (status >= 400) {
        if (is_refused(c))
            status = 400; /* of a bad chunk evhttp says that it is too large */
        message = page_for(status, &code);
        http_conn_set_state(c, CONN_WRITING); /* first, or this page would be rewritten too */
        put_page(out, status, code, is_refused(c) ? c->wire.wrong : message);
        http_stats_answer(c->thread, &c->thread->server->paths[c->thread->server->path_count],
                          HTTP_OTHER, status, 0, NULL);
        http_stats_dropped(HTTP_DROP_BAD_REQUEST);
        c->linger = true;
    }
    if (!c->ssl) /* those of TLS do not, and could not write any more */
        evbuffer_freeze(out, 1);
}
