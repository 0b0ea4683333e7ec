#include <event2/buffer.h>
#include <event2/keyvalq_struct.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "libcommon/net/httpd_internal.h"
#include "libcommon/telemetry/tracer.h"

#define PARAMETERS_MAX 32 /* in a query */
#define ID_MAX 128

const char *httpd_path(const struct httpd_request *req)
{
    return req->decoded_path;
}

const char *httpd_method(const struct httpd_request *req)
{
    return http_method_name(req->method);
}

const char *httpd_target(const struct httpd_request *req)
{
    const char *target = evhttp_request_get_uri(req->ev);

    return target ? target : "";
}

const char *httpd_raw_query(const struct httpd_request *req)
{
    const char *query = evhttp_uri_get_query(evhttp_request_get_evhttp_uri(req->ev));

    return query ? query : "";
}

const char *httpd_header(const struct httpd_request *req, const char *name)
{
    return evhttp_find_header(evhttp_request_get_input_headers(req->ev), name);
}

const char *httpd_body(const struct httpd_request *req, size_t *n)
{
    struct evbuffer *in = evhttp_request_get_input_buffer(req->ev);
    const unsigned char *body;

    *n = evbuffer_get_length(in);
    body = *n ? evbuffer_pullup(in, -1) : NULL;
    if (!body)
        *n = 0;
    return body ? (const char *)body : "";
}

void httpd_drop_body(struct httpd_request *req)
{
    struct evbuffer *in = evhttp_request_get_input_buffer(req->ev);
    struct http_conn *c = req->conn;
    size_t n = evbuffer_get_length(in);

    evbuffer_drain(in, n);
    c->request_bytes -= n < c->request_bytes ? n : c->request_bytes;
    http_memory_count(c);
}

const struct trace_context *httpd_trace(const struct httpd_request *req)
{
    return &req->trace;
}

const char *httpd_tracestate(const struct httpd_request *req)
{
    return req->tracestate;
}

const char *httpd_request_id(const struct httpd_request *req)
{
    return req->id;
}

void httpd_set_user(struct httpd_request *req, int64_t user_id)
{
    req->user_id = user_id;
}

const void *httpd_needs(const struct httpd_request *req)
{
    return http_route(req)->needs;
}

void *httpd_room(struct httpd_request *req)
{
    return req->room;
}

char *http_input_text(struct httpd_request *req, size_t n)
{
    struct httpd_text *text = malloc(sizeof(*text) + n + 1);

    if (!text)
        return NULL;
    text->next = req->texts;
    req->texts = text;
    text->text[n] = '\0';
    return text->text;
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Percent-decoding into out, which has room for n bytes and a NUL; malformed sequences stay. */
static size_t decode(const char *s, size_t n, bool plus_is_space, char *out)
{
    size_t len = 0;

    for (size_t i = 0; i < n; i++) {
        if (s[i] == '%' && i + 2 < n && hex_value(s[i + 1]) >= 0 && hex_value(s[i + 2]) >= 0) {
            out[len++] = (char)(hex_value(s[i + 1]) << 4 | hex_value(s[i + 2]));
            i += 2;
        } else {
            out[len++] = plus_is_space && s[i] == '+' ? ' ' : s[i];
        }
    }
    out[len] = '\0';
    return len;
}

static const char *raw_query(const struct httpd_request *req)
{
    return evhttp_uri_get_query(evhttp_request_get_evhttp_uri(req->ev));
}

/* The name of the parameter that a query goes on with; moves *at behind the parameter. */
static const char *next_name(const char **at, size_t *len)
{
    const char *name = *at;

    *len = strcspn(name, "&=");
    *at += strcspn(name, "&");
    *at += **at == '&';
    return name;
}

const char *httpd_query(const struct httpd_request *req, const char *name)
{
    const char *at = raw_query(req);
    size_t n = strlen(name);

    while (at && *at) {
        const char *found;
        const char *value;
        size_t len;
        char *text;

        found = next_name(&at, &len);
        if (len != n || memcmp(found, name, n) != 0)
            continue;
        value = found + n + (found[n] == '=');
        len = strcspn(value, "&");
        /* kept with the request, which is constant to the caller alone */
        text = http_input_text(req->conn->req, len);
        if (text)
            decode(value, len, true, text);
        return text;
    }
    return NULL;
}

static void refuse_query(struct httpd_request *req, const char *message, const char *name, size_t n)
{
    char *field = name ? http_input_text(req, n) : NULL;

    if (field)
        decode(name, n, true, field);
    httpd_reply_error(req, 400, "invalid_input", message, field);
}

/* Of a parameter given twice, we would take the first, and the client may mean the last. */
bool http_input_query(struct httpd_request *req)
{
    const char *at = raw_query(req);
    const char *names[PARAMETERS_MAX];
    size_t lens[PARAMETERS_MAX];
    size_t count = 0;

    if (at && strstr(at, "%00")) {
        req->close = true;
        http_stats_dropped(HTTP_DROP_BAD_REQUEST);
        httpd_reply_error(req, 400, "bad_request", HTTP_NUL_IN_TARGET, NULL);
        return false;
    }
    while (at && *at) {
        if (count == PARAMETERS_MAX) {
            refuse_query(req, "The query holds too many parameters.", NULL, 0);
            return false;
        }
        names[count] = next_name(&at, &lens[count]);
        for (size_t i = 0; i < count; i++) {
            if (lens[i] != lens[count] || memcmp(names[i], names[count], lens[i]) != 0)
                continue;
            refuse_query(req, "This parameter is given twice.", names[i], lens[i]);
            return false;
        }
        count += lens[count] > 0;
    }
    return true;
}

void http_input_path(struct httpd_request *req)
{
    const char *raw = evhttp_uri_get_path(evhttp_request_get_evhttp_uri(req->ev));
    char *text;

    if (!raw)
        return;
    req->decoded_path = raw;
    if (!strchr(raw, '%'))
        return;
    text = http_input_text(req, strlen(raw));
    if (text)
        decode(raw, strlen(raw), false, text);
    req->decoded_path = text ? text : "";
}

/* Several tracestate headers are one list (W3C trace context, section 3.3.1). */
static void take_tracestate(struct httpd_request *req, const struct http_facts *facts)
{
    const struct evkeyval *h = facts->tracestate;
    char *text;
    size_t len = 0;

    if (facts->tracestates == 1 && trace_state_ok(h->value, strlen(h->value)))
        req->tracestate = h->value;
    if (facts->tracestates < 2)
        return;
    text = http_input_text(req, TRACE_STATE_MAX);
    for (; text && h; h = h->next.tqe_next) {
        size_t n = strlen(h->value);

        if (strcasecmp(h->key, "tracestate") != 0 || !n)
            continue;
        if (len + n + 1 > TRACE_STATE_MAX)
            return;
        if (len)
            text[len++] = ',';
        memcpy(text + len, h->value, n + 1);
        len += n;
    }
    if (text && trace_state_ok(text, len))
        req->tracestate = text;
}

void http_input_trace(struct httpd_request *req, const struct http_facts *facts)
{
    req->has_parent = facts->traceparent && trace_parse(facts->traceparent, &req->parent);
    if (req->has_parent) {
        trace_child(&req->parent, &req->trace);
        take_tracestate(req, facts);
    } else {
        trace_root(&req->trace, false);
    }
    tracer_sample(&req->trace, req->has_parent);
}

/* What may stand in a header, a log and a query as it is. */
static bool is_id(const char *s)
{
    static const char allowed[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~+/=:@";
    size_t n = strspn(s, allowed);

    return n && n <= ID_MAX && !s[n];
}

/* Ours is the span's: log lines and traces have it already. */
void http_input_id(struct httpd_request *req, const struct http_facts *facts)
{
    static const char hex[] = "0123456789abcdef";

    if (facts->request_id && is_id(facts->request_id)) {
        req->id = facts->request_id;
        return;
    }
    for (size_t i = 0; i < sizeof(req->trace.span_id); i++) {
        req->own_id[2 * i] = hex[req->trace.span_id[i] >> 4];
        req->own_id[2 * i + 1] = hex[req->trace.span_id[i] & 15];
    }
    req->own_id[2 * sizeof(req->trace.span_id)] = '\0';
    req->id = req->own_id;
}
