/*
 * Calls to operators over HTTP, with libcurl. This file and transport_http_loop.c are the only ones
 * that know curl.
 *
 *   POST {base}/messages {"reference","to","text","type"}, Idempotency-Key: <reference>
 *   GET  {base}/messages/{reference}
 *
 * What an answer means: 2xx accepted; 5xx, 408, 421, 425 and calls whose request never went out:
 * transient; 429: throttled; 400, 413, 422 and 451, which speak of the message: rejected; what
 * speaks of us, of the address or of the form of our requests: unfit; other 4xx, and a timeout or a
 * lost connection once the request (or a part of it) had gone out: unknown. libcurl repeats a
 * request by itself when a kept-alive connection turns out to be closed; the operator knows it
 * again by its reference.
 *
 * Redirects are not followed, proxies from the environment not used, answers beyond 64 KiB cut off.
 */

#include "consumerd/transport.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "consumerd/transport_http_loop.h"
#include "libcommon/base/buf.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/telemetry/tracer.h"

#define ANSWER_KEPT 4096        /* an id fits many times over */
#define ANSWER_MAX (64 * 1024)  /* beyond it the connection is not worth keeping */
#define IDLE_MAX 256            /* finished transfers kept for reuse, of each method */
#define CONNECTION_IDLE_SEC 30L /* below what servers usually allow */
#define RECEIVE_BUFFER 4096L    /* one a transfer: answers are small */
#define REST_DEFAULT_MS 1000    /* a 429 without Retry-After */

/* What a transfer is for; its handle is set up for one of them. */
enum method { METHOD_POST, METHOD_GET, METHODS };

struct transfer {
    struct http_handle handle; /* first: what curl knows of a transfer */
    struct transfer *next;     /* idle */
    struct http_link *link;
    struct transport_call *call; /* NULL: idle */
    enum method method;
    int64_t started_us;
    struct buf body;
    char answer[ANSWER_KEPT];
    size_t answer_len, received;
    /* The header list that curl reads: nodes and lines of our own, no allocation a call. */
    struct curl_slist headers[5];
    char key_line[sizeof("Idempotency-Key: ") + TRANSPORT_REFERENCE_MAX];
    char parent_line[sizeof("traceparent: ") + TRACE_PARENT_SIZE];
    char state_line[sizeof("tracestate: ") + TRACE_STATE_MAX];
    char error[CURL_ERROR_SIZE];
};

struct http_link {
    struct transport_link base; /* first */
    struct transport_config config;
    struct http_loop loop;
    struct transfer *idle[METHODS];
    size_t idle_count[METHODS];
    bool in_done; /* finished transfers are being handed out */
};

static char content_type_line[] = "Content-Type: application/json";
static char no_expect_line[] = "Expect:";

/* ---- transfers ---- */

static size_t on_answer(char *data, size_t one, size_t n, void *arg)
{
    struct transfer *t = arg;
    size_t room = ANSWER_KEPT - t->answer_len;
    size_t keep = n < room ? n : room;

    (void)one;
    memcpy(t->answer + t->answer_len, data, keep);
    t->answer_len += keep;
    t->received += n;
    return t->received <= ANSWER_MAX ? n : 0;
}

static void transfer_free(struct transfer *t)
{
    if (!t)
        return;
    curl_easy_cleanup(t->handle.easy);
    buf_free(&t->body);
    free(t);
}

/* What stays the same from call to call is set once. */
static bool set_options(struct transfer *t)
{
    CURL *e = t->handle.easy;
    bool ok = http_loop_adopt(&t->link->loop, &t->handle);

    ok &= !curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
    ok &= !curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
    ok &= !curl_easy_setopt(e, CURLOPT_PROXY, "");
    ok &= !curl_easy_setopt(e, CURLOPT_FOLLOWLOCATION, 0L);
    ok &= !curl_easy_setopt(e, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    ok &= !curl_easy_setopt(e, CURLOPT_USERAGENT, "msg-consumerd/" PROJECT_VERSION);
    ok &= !curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, (long)t->link->config.timeout_ms);
    ok &= !curl_easy_setopt(e, CURLOPT_TIMEOUT_MS, (long)t->link->config.timeout_ms);
    ok &= !curl_easy_setopt(e, CURLOPT_MAXAGE_CONN, CONNECTION_IDLE_SEC);
    ok &= !curl_easy_setopt(e, CURLOPT_BUFFERSIZE, RECEIVE_BUFFER);
    ok &= !curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_answer);
    ok &= !curl_easy_setopt(e, CURLOPT_WRITEDATA, t);
    ok &= !curl_easy_setopt(e, CURLOPT_ERRORBUFFER, t->error);
    if (t->method == METHOD_POST)
        ok &= !curl_easy_setopt(e, CURLOPT_POST, 1L);
    return ok;
}

static struct transfer *transfer_get(struct http_link *link, enum method method)
{
    struct transfer *t = link->idle[method];

    if (t) {
        link->idle[method] = t->next;
        link->idle_count[method]--;
        return t;
    }
    t = calloc(1, sizeof(*t));
    if (!t)
        return NULL;
    t->link = link;
    t->method = method;
    t->handle.easy = curl_easy_init();
    if (!t->handle.easy || !set_options(t)) {
        transfer_free(t);
        return NULL;
    }
    return t;
}

/* The handle must be out of the multi. */
static void transfer_put(struct transfer *t)
{
    struct http_link *link = t->link;

    t->call = NULL;
    if (link->idle_count[t->method] >= IDLE_MAX) {
        transfer_free(t);
        return;
    }
    t->next = link->idle[t->method];
    link->idle[t->method] = t;
    link->idle_count[t->method]++;
}

static void add_header(struct transfer *t, size_t *n, char *line)
{
    if (*n)
        t->headers[*n - 1].next = &t->headers[*n];
    t->headers[*n].data = line;
    t->headers[*n].next = NULL;
    (*n)++;
}

static bool set_headers(struct transfer *t, const char *reference)
{
    const struct inflight *m = t->call->job->message;
    size_t n = 0;

    if (t->method == METHOD_POST) {
        add_header(t, &n, content_type_line);
        add_header(t, &n, no_expect_line);
        snprintf(t->key_line, sizeof(t->key_line), "Idempotency-Key: %s", reference);
        add_header(t, &n, t->key_line);
    }
    if (*m->traceparent) {
        char traced[TRACE_PARENT_SIZE];

        if (tracer_wants(&m->process))
            trace_format(&t->call->trace, traced);
        snprintf(t->parent_line, sizeof(t->parent_line), "traceparent: %s",
                 tracer_wants(&m->process) ? traced : m->traceparent);
        add_header(t, &n, t->parent_line);
    }
    if (*m->traceparent && m->tracestate) {
        snprintf(t->state_line, sizeof(t->state_line), "tracestate: %s", m->tracestate);
        add_header(t, &n, t->state_line);
    }
    return !curl_easy_setopt(t->handle.easy, CURLOPT_HTTPHEADER, n ? t->headers : NULL);
}

static bool set_body(struct transfer *t, const char *reference)
{
    const struct job *job = t->call->job;
    const struct inflight *m = job->message;

    buf_reset(&t->body);
    buf_puts(&t->body, "{\"reference\":\"");
    buf_puts(&t->body, reference);
    buf_puts(&t->body, "\",\"to\":\"");
    buf_puts(&t->body, job->recipient);
    buf_puts(&t->body, "\",\"text\":");
    buf_put_json(&t->body, m->text, m->text_len);
    buf_puts(&t->body, ",\"type\":\"");
    buf_puts(&t->body, message_type_name(m->type));
    buf_puts(&t->body, "\"}");
    return !t->body.failed &&
           !curl_easy_setopt(t->handle.easy, CURLOPT_POSTFIELDSIZE, (long)t->body.len) &&
           !curl_easy_setopt(t->handle.easy, CURLOPT_POSTFIELDS, t->body.data);
}

static bool set_request(struct transfer *t)
{
    const char *base = t->link->config.operators[t->call->op].url;
    char reference[TRANSPORT_REFERENCE_MAX];
    char url[OPERATOR_URL_MAX + sizeof("/messages/") + TRANSPORT_REFERENCE_MAX];

    transport_reference(t->call->job, reference);
    if (t->method == METHOD_POST)
        snprintf(url, sizeof(url), "%s/messages", base);
    else
        snprintf(url, sizeof(url), "%s/messages/%s", base, reference);
    return !curl_easy_setopt(t->handle.easy, CURLOPT_URL, url) && set_headers(t, reference) &&
           (t->method == METHOD_GET || set_body(t, reference));
}

static bool start(struct transport_link *base, enum method method, struct transport_call *call)
{
    struct http_link *link = (struct http_link *)base;
    struct transfer *t = transfer_get(link, method);

    if (!t)
        return false;
    t->call = call;
    t->answer_len = t->received = 0;
    t->handle.watch_fd = -1;
    t->error[0] = '\0';
    t->started_us = clock_mono_us();
    if (!set_request(t) || curl_multi_add_handle(link->loop.multi, t->handle.easy)) {
        transfer_put(t);
        return false;
    }
    call->own = t;
    return true;
}

static bool http_submit(struct transport_link *link, struct transport_call *call)
{
    return start(link, METHOD_POST, call);
}

static bool http_lookup(struct transport_link *link, struct transport_call *call)
{
    return start(link, METHOD_GET, call);
}

static void http_abort(struct transport_link *base, struct transport_call *call)
{
    struct http_link *link = (struct http_link *)base;
    struct transfer *t = call->own;

    curl_multi_remove_handle(link->loop.multi, t->handle.easy);
    call->own = NULL;
    transfer_put(t);
}

/* ---- what an answer means ---- */

/* The operator's name for the message: a string or a number, kept when it is plain ASCII. */
static void read_id(const struct transfer *t, char out[PROVIDER_ID_MAX + 1])
{
    json_t *root = json_loadb(t->answer, t->answer_len, JSON_REJECT_DUPLICATES, NULL);
    const json_t *id = json_object_get(root, "id");

    out[0] = '\0';
    if (json_is_integer(id)) {
        snprintf(out, PROVIDER_ID_MAX + 1, "%lld", (long long)json_integer_value(id));
    } else if (json_is_string(id)) {
        size_t n = 0;

        for (const char *p = json_string_value(id); *p && n < PROVIDER_ID_MAX; p++)
            out[n++] = *p < ' ' || *p > '~' ? '?' : *p;
        out[n] = '\0';
    }
    json_decref(root);
}

/* Whether any byte of the request has left: what then goes wrong leaves the outcome open. */
static bool went_out(CURL *easy)
{
    long sent = 0;

    curl_easy_getinfo(easy, CURLINFO_REQUEST_SIZE, &sent);
    return sent > 0;
}

static void judge_unfit(struct transport_result *r, enum unfit reason)
{
    r->verdict = VERDICT_UNFIT;
    r->unfit = reason;
}

/* INVARIANT: a status that nobody has thought of is no final no, which would refund a message that
 * the operator may deliver: it is asked. So is 409, which services that know Idempotency-Key give
 * while an earlier request with that key is at work. */
static void judge_status(long status, struct transport_result *r)
{
    switch (status) {
    case 400: /* of the message: its number, its text */
    case 413:
    case 422:
    case 451:
        r->verdict = VERDICT_REJECTED;
        return;
    case 401:
        judge_unfit(r, UNFIT_CREDENTIALS);
        return;
    case 402:
        judge_unfit(r, UNFIT_CREDIT);
        return;
    case 403:
        judge_unfit(r, UNFIT_FORBIDDEN);
        return;
    case 404:
    case 405:
    case 410:
        judge_unfit(r, UNFIT_ADDRESS);
        return;
    case 407:
        judge_unfit(r, UNFIT_PROXY);
        return;
    case 406: /* of what every request of ours has alike */
    case 411:
    case 412:
    case 414:
    case 415:
    case 417:
    case 426:
    case 428:
    case 431:
        judge_unfit(r, UNFIT_PROTOCOL);
        return;
    case 408: /* not processed, as the server itself says */
    case 421:
    case 425:
        r->verdict = VERDICT_TRANSIENT;
        return;
    case 429:
        r->verdict = VERDICT_THROTTLED;
        return;
    default:
        break;
    }
    if (status >= 200 && status < 300)
        r->verdict = VERDICT_ACCEPTED;
    else if (status >= 300 && status < 400)
        judge_unfit(r, UNFIT_ADDRESS);
    else
        r->verdict = status >= 500 ? VERDICT_TRANSIENT : VERDICT_UNKNOWN;
}

static void classify_post(struct transfer *t, CURLcode code, long status,
                          struct transport_result *r)
{
    curl_off_t rest_sec = 0;

    if (code)
        r->verdict = went_out(t->handle.easy) ? VERDICT_UNKNOWN : VERDICT_TRANSIENT;
    else
        judge_status(status, r);
    if (r->verdict == VERDICT_ACCEPTED) {
        read_id(t, r->provider_id);
    } else if (r->verdict == VERDICT_THROTTLED) {
        curl_easy_getinfo(t->handle.easy, CURLINFO_RETRY_AFTER, &rest_sec);
        r->rest_ms = rest_sec > 0 ? (int64_t)rest_sec * 1000 : REST_DEFAULT_MS;
    }
}

static void classify_get(struct transfer *t, CURLcode code, long status, struct transport_result *r)
{
    if (!code && status == 200) {
        r->answer = LOOKUP_FOUND;
        read_id(t, r->provider_id);
    } else {
        r->answer = !code && status == 404 ? LOOKUP_NOT_FOUND : LOOKUP_UNREACHABLE;
    }
}

/* Errors go into the database and logs: nothing but plain text may come of a peer's bytes. */
static void copy_plain(char *to, size_t size, const char *from)
{
    size_t n = 0;

    for (; *from && n + 1 < size; from++)
        to[n++] = *from < ' ' || *from > '~' ? '?' : *from;
    to[n] = '\0';
}

static void classify(struct transfer *t, CURLcode code, struct transport_result *r)
{
    long status = 0;

    curl_easy_getinfo(t->handle.easy, CURLINFO_RESPONSE_CODE, &status);
    r->lookup = t->method == METHOD_GET;
    r->verdict = VERDICT_UNKNOWN;
    r->answer = LOOKUP_UNREACHABLE;
    r->rest_ms = 0;
    r->duration_us = clock_mono_us() - t->started_us;
    r->provider_id[0] = '\0';
    r->error[0] = '\0';
    if (code)
        copy_plain(r->error, sizeof(r->error), *t->error ? t->error : curl_easy_strerror(code));
    else if (status < 200 || status >= 300)
        snprintf(r->error, sizeof(r->error), "HTTP %ld", status);
    if (t->method == METHOD_POST)
        classify_post(t, code, status, r);
    else
        classify_get(t, code, status, r);
}

/* Calls of done may start and abort transfers: each turn asks curl again. */
static void hand_out_finished(void *arg)
{
    struct http_link *link = arg;
    CURLMsg *message;
    int left;

    if (link->in_done)
        return;
    link->in_done = true;
    while ((message = curl_multi_info_read(link->loop.multi, &left))) {
        struct transport_result result;
        struct transport_call *call;
        struct transfer *t;

        if (message->msg != CURLMSG_DONE)
            continue;
        curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &t);
        classify(t, message->data.result, &result);
        if (message->data.result == CURLE_OK)
            http_loop_answered(&link->loop, &t->handle);
        call = t->call;
        http_abort(&link->base, call); /* it is over: this only puts the handle back */
        link->config.done(call, &result, link->config.arg);
    }
    link->in_done = false;
}

/* ---- the link ---- */

static struct transport_link *http_open(const struct transport_config *config)
{
    struct http_link *link = must_alloc(1, sizeof(*link));

    MUST(curl_global_init(CURL_GLOBAL_DEFAULT) == 0);
    link->base.transport = &transport_http;
    link->config = *config;
    link->loop = (struct http_loop){
        .base = config->base,
        .may_send = config->may_send,
        .may_send_arg = config->arg,
        .progressed = hand_out_finished,
        .progressed_arg = link,
    };
    http_loop_open(&link->loop, config->calls_max);
    return &link->base;
}

static void http_close(struct transport_link *base)
{
    struct http_link *link = (struct http_link *)base;

    for (int method = 0; method < METHODS; method++) {
        while (link->idle[method]) {
            struct transfer *t = link->idle[method];

            link->idle[method] = t->next;
            transfer_free(t);
        }
    }
    http_loop_close(&link->loop);
    curl_global_cleanup();
    free(link);
}

const struct transport transport_http = {
    .kind = "native",
    .properties = {.can_lookup = true, .repeat_is_safe = true},
    .submit_span = {.name = "POST",
                    .attrs = {T_STR("http.request.method", "POST"),
                              T_STR("url.template", "/messages")},
                    .attr_count = 2},
    .lookup_span = {.name = "GET",
                    .attrs = {T_STR("http.request.method", "GET"),
                              T_STR("url.template", "/messages/{reference}")},
                    .attr_count = 2},
    .open = http_open,
    .close = http_close,
    .submit = http_submit,
    .lookup = http_lookup,
    .abort = http_abort,
};
