/*
 * Calls to operators over HTTP, with libcurl. This file and transport_http_loop.c are the only ones
 * that know curl.
 *
 *   POST {base}/messages {"reference","to","text","type"}, Idempotency-Key: <reference>
 *   GET  {base}/messages/{reference}
 *
 * What an answer means: a 2xx that says it (transport_http_answer.h): accepted, or found; any other
 * 2xx: unknown; 5xx, 408, 421, 425: transient; 429: throttled; 400, 413, 422 and 451, which speak
 * of the message: rejected; redirects, and what speaks of us, of the address or of the form of our
 * requests: unfit; other 4xx: unknown. A status that has come counts, whatever becomes of the rest
 * of the answer. Without one: unknown, or transient when nothing of the request has left. "Not
 * found" is a 404.
 *
 * A POST goes out once a call. libcurl would send it again by itself when a kept connection ends
 * without an answer; before_request stops it there. It also takes a new connection where something
 * has come on the kept one that belongs to no call: that would be read as the answer. A connection
 * is kept after an answer that we understood to its end, and for NAME_SEC at most: then the name is
 * looked up again, so that an operator that moves is followed.
 *
 * Redirects are not followed, proxies from the environment not used, answers beyond 64 KiB cut off.
 */

#include "consumerd/transport.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "consumerd/transport_http_answer.h"
#include "consumerd/transport_http_loop.h"
#include "libcommon/base/buf.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/telemetry/tracer.h"

#define ANSWER_MAX (64 * 1024)  /* beyond it there is no use in reading on */
#define ANSWER_KEPT 4096        /* the memory that a transfer keeps for the next answer */
#define IDLE_MAX 256            /* finished transfers kept for reuse, of each method */
#define CONNECTION_IDLE_SEC 30L /* below what servers usually allow */
#define RECEIVE_BUFFER 4096L    /* one a transfer: answers are small */

/* Why a request was not let out. */
enum refusal {
    REFUSAL_NONE,
    REFUSAL_STALE,  /* of this connection */
    REFUSAL_REPEAT, /* it has been out */
};

/* What a transfer is for; its handle is set up for one of them. */
enum method { METHOD_POST, METHOD_GET, METHODS };

struct transfer {
    struct http_handle handle; /* first: what curl knows of a transfer */
    struct transfer *next;     /* idle */
    struct http_link *link;
    struct transport_call *call; /* NULL: idle */
    enum method method;
    int64_t started_us;
    struct buf body, answer;
    enum refusal refusal;
    bool again;     /* on a new connection, since the kept one was stale */
    bool conflicts; /* the answer's headers say two things about its length */
    long long length;
    bool encoded;
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

    (void)one;
    if (t->answer.len + n > ANSWER_MAX)
        return 0;
    buf_put(&t->answer, data, n);
    return t->answer.failed ? 0 : n;
}

static bool is_header(const char *line, size_t n, const char *name, const char **value)
{
    size_t len = strlen(name);

    *value = line + len;
    return n > len && !strncasecmp(line, name, len);
}

/* An answer whose length is said in two ways may end in the middle of what curl took for the next.
 */
static size_t on_header(char *line, size_t one, size_t n, void *arg)
{
    struct transfer *t = arg;
    const char *value;

    (void)one;
    if (is_header(line, n, "HTTP/", &value)) {
        t->length = -1;
        t->encoded = false;
    } else if (is_header(line, n, "Content-Length:", &value)) {
        long long length = strtoll(value, NULL, 10); /* the end of the line stops it */

        t->conflicts |= t->encoded || (t->length >= 0 && t->length != length);
        t->length = length;
    } else if (is_header(line, n, "Transfer-Encoding:", &value)) {
        t->conflicts |= t->length >= 0;
        t->encoded = true;
    }
    return n;
}

static void transfer_free(struct transfer *t)
{
    if (!t)
        return;
    curl_easy_cleanup(t->handle.easy);
    buf_free(&t->body);
    buf_free(&t->answer);
    free(t);
}

/* Whether any byte of the request has left: what then goes wrong leaves the outcome open. */
static bool went_out(CURL *easy)
{
    long sent = 0;

    curl_easy_getinfo(easy, CURLINFO_REQUEST_SIZE, &sent);
    return sent > 0;
}

/* Whether curl may send the request, on the connection that it has for it. */
/* NOLINTNEXTLINE(readability-non-const-parameter): curl's type */
static int before_request(void *arg, char *peer, char *local, int peer_port, int local_port)
{
    struct transfer *t = arg;
    const struct http_ends ends = {peer, peer_port, local_port};

    (void)local;
    if (t->method == METHOD_POST && went_out(t->handle.easy))
        t->refusal = REFUSAL_REPEAT;
    else if (!http_loop_may_use(&t->link->loop, &t->handle, &ends))
        t->refusal = REFUSAL_STALE;
    return t->refusal ? CURL_PREREQFUNC_ABORT : CURL_PREREQFUNC_OK;
}

/* What stays the same from call to call is set once. */
static bool set_options(struct transfer *t)
{
    const struct transport_config *config = &t->link->config;
    CURL *e = t->handle.easy;
    bool ok = http_loop_adopt(&t->link->loop, &t->handle);

    ok &= !curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
    ok &= !curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
    ok &= !curl_easy_setopt(e, CURLOPT_PROXY, "");
    ok &= !curl_easy_setopt(e, CURLOPT_FOLLOWLOCATION, 0L);
    ok &= !curl_easy_setopt(e, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    ok &= !curl_easy_setopt(e, CURLOPT_USERAGENT, "msg-consumerd/" PROJECT_VERSION);
    ok &= !curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, (long)config->timeout_ms);
    ok &= !curl_easy_setopt(e, CURLOPT_TIMEOUT_MS, (long)config->timeout_ms);
    ok &= !curl_easy_setopt(e, CURLOPT_MAXAGE_CONN, CONNECTION_IDLE_SEC);
    ok &= !curl_easy_setopt(e, CURLOPT_MAXLIFETIME_CONN, (long)config->name_sec);
    ok &= !curl_easy_setopt(e, CURLOPT_DNS_CACHE_TIMEOUT, (long)config->name_sec);
    if (config->tls_ca && *config->tls_ca)
        ok &= !curl_easy_setopt(e, CURLOPT_CAINFO, config->tls_ca);
    ok &= !curl_easy_setopt(e, CURLOPT_PREREQFUNCTION, before_request);
    ok &= !curl_easy_setopt(e, CURLOPT_PREREQDATA, t);
    ok &= !curl_easy_setopt(e, CURLOPT_BUFFERSIZE, RECEIVE_BUFFER);
    ok &= !curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_answer);
    ok &= !curl_easy_setopt(e, CURLOPT_WRITEDATA, t);
    ok &= !curl_easy_setopt(e, CURLOPT_HEADERFUNCTION, on_header);
    ok &= !curl_easy_setopt(e, CURLOPT_HEADERDATA, t);
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
    if (t->answer.cap > ANSWER_KEPT)
        buf_free(&t->answer);
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

/* Forgets what came of the try before. */
static bool begin(struct transfer *t)
{
    buf_reset(&t->answer);
    t->refusal = REFUSAL_NONE;
    t->conflicts = false;
    t->error[0] = '\0';
    http_loop_begin(&t->handle);
    return !curl_multi_add_handle(t->link->loop.multi, t->handle.easy);
}

/* Nothing went out on a connection that was stale: once more on a new one, in the time that is
 * left.
 */
static bool begin_again(struct transfer *t)
{
    int64_t spent_ms = (clock_mono_us() - t->started_us) / 1000;
    int64_t left_ms = t->link->config.timeout_ms - spent_ms;

    if (t->refusal != REFUSAL_STALE || t->again || left_ms <= 0)
        return false;
    curl_multi_remove_handle(t->link->loop.multi, t->handle.easy);
    t->again = !curl_easy_setopt(t->handle.easy, CURLOPT_FRESH_CONNECT, 1L) &&
               !curl_easy_setopt(t->handle.easy, CURLOPT_TIMEOUT_MS, (long)left_ms);
    return t->again && begin(t);
}

/* After begin_again. */
static bool set_usual(struct transfer *t)
{
    t->again = false;
    return !curl_easy_setopt(t->handle.easy, CURLOPT_FRESH_CONNECT, 0L) &&
           !curl_easy_setopt(t->handle.easy, CURLOPT_TIMEOUT_MS, (long)t->link->config.timeout_ms);
}

static bool start(struct transport_link *base, enum method method, struct transport_call *call)
{
    struct http_link *link = (struct http_link *)base;
    struct transfer *t = transfer_get(link, method);

    if (!t)
        return false;
    t->call = call;
    t->started_us = clock_mono_us();
    if ((t->again && !set_usual(t)) || !set_request(t) || !begin(t)) {
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

/* Errors go into the database and logs: nothing but plain text may come of a peer's bytes. */
static void copy_plain(char *to, size_t size, const char *from)
{
    size_t n = 0;

    for (; *from && n + 1 < size; from++)
        to[n++] = *from < ' ' || *from > '~' ? '?' : *from;
    to[n] = '\0';
}

static bool is_good(const struct transport_result *r)
{
    return r->lookup ? r->answer == LOOKUP_FOUND : r->verdict == VERDICT_ACCEPTED;
}

static void explain(const struct transfer *t, CURLcode code, long status,
                    struct transport_result *r)
{
    size_t size = sizeof(r->error);

    if (t->refusal == REFUSAL_REPEAT)
        snprintf(r->error, size, "the connection ended without an answer");
    else if (t->refusal == REFUSAL_STALE)
        snprintf(r->error, size, "it spoke before it was asked");
    else if (status && (status < 200 || status >= 300))
        snprintf(r->error, size, "HTTP %ld", status);
    else if (t->answer.len && code == CURLE_WRITE_ERROR)
        snprintf(r->error, size, "HTTP %ld and more than %d bytes", status, ANSWER_MAX);
    else if (code)
        copy_plain(r->error, size, *t->error ? t->error : curl_easy_strerror(code));
    else
        snprintf(r->error, size, "HTTP %ld, and no acceptance", status);
}

static void classify(struct transfer *t, CURLcode code, struct transport_result *r)
{
    const char *body = code ? NULL : t->answer.len ? t->answer.data : "";
    curl_off_t retry_after = 0;
    long status = 0;

    curl_easy_getinfo(t->handle.easy, CURLINFO_RESPONSE_CODE, &status);
    r->lookup = t->method == METHOD_GET;
    r->verdict = VERDICT_UNKNOWN;
    r->answer = LOOKUP_UNREACHABLE;
    r->rest_ms = 0;
    r->duration_us = clock_mono_us() - t->started_us;
    r->provider_id[0] = '\0';
    r->error[0] = '\0';
    if (r->lookup)
        r->answer = http_answer_to_get(status, body, t->answer.len, r->provider_id);
    else if (status || went_out(t->handle.easy))
        r->verdict = http_answer_to_post(status, body, t->answer.len, r->provider_id, &r->unfit);
    else
        r->verdict = VERDICT_TRANSIENT;
    if (r->verdict == VERDICT_THROTTLED) {
        curl_easy_getinfo(t->handle.easy, CURLINFO_RETRY_AFTER, &retry_after);
        r->rest_ms = http_answer_rest_ms(retry_after);
    }
    if (!is_good(r))
        explain(t, code, status, r);
}

/* curl does not tell what follows an answer without a body. */
static bool understood(const struct transfer *t, const struct transport_result *r)
{
    if (!t->answer.len || t->conflicts)
        return false;
    return r->lookup ? r->answer != LOOKUP_UNREACHABLE : r->verdict != VERDICT_UNKNOWN;
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
        CURLcode code;

        if (message->msg != CURLMSG_DONE)
            continue;
        curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &t);
        code = message->data.result; /* curl's message is gone once the handle is */
        if (begin_again(t))
            continue;
        classify(t, code, &result);
        if (!understood(t, &result))
            http_loop_spoil(&link->loop, &t->handle);
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
