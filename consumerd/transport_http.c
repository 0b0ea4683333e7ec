/*
 * The exchange over HTTP/1.1: what is said is the caller's (transport_http.h).
 *
 * libcurl makes the connections (transport_http_conn.h); the requests are written, and the answers
 * read (transport_http_read.h), here. A POST goes out once a call. A GET does so once more when a
 * connection that was kept ends before its answer. A connection on which something has come that
 * belongs to no call is not used: that would be read as the answer. One is kept after an answer
 * that we understood to its end, and for NAME_SEC at most: then the name is looked up again, so
 * that an operator that moves is followed.
 *
 * Redirects are not followed, proxies from the environment not used, answers beyond 64 KiB cut off.
 */

#include "consumerd/transport_http.h"

#include <errno.h>
#include <event2/event_struct.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "consumerd/transport_http_answer.h"
#include "consumerd/transport_http_conn.h"
#include "consumerd/transport_http_read.h"
#include "libcommon/base/buf.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/telemetry/tracer.h"

#define ANSWER_MAX (64 * 1024) /* beyond it there is no use in reading on */
#define READ_SIZE 8192
#define BUFFER_KEPT 8192 /* the memory that a transfer keeps for the next request and answer */
#define IDLE_MAX 512     /* finished transfers kept for reuse */

struct transfer {
    TAILQ_ENTRY(transfer) link; /* of those that wait to go out, or of the idle ones */
    struct http_link *owner;
    struct transport_call *call; /* NULL: idle */
    struct operator_set *set;    /* that it was begun with */
    const struct operator_config *op;
    bool lookup;
    int64_t started_us;
    struct event timeout;
    bool queued;
    struct op_conn *conn; /* NULL: none yet */
    struct buf request;
    size_t sent;   /* bytes of it, on this connection */
    bool went_out; /* any of it, on any connection */
    struct http_read answer;
    struct buf body;
};
TAILQ_HEAD(transfer_list, transfer);

struct http_link {
    struct transport_link base; /* first */
    struct transport_config config;
    const struct http_speech *speech;
    struct op_conns conns;
    /* Of each operator; the loop keeps those that are equally long in a list. */
    struct timeval timeouts[OPERATORS_MAX];
    struct event *go;
    struct transfer_list queued, idle;
    struct buf scratch;
    size_t idle_count;
};

static void finish(struct transfer *t, const char *why);

/* ---- transfers ---- */

static void on_timeout(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    finish(arg, "timed out");
}

static struct transfer *transfer_get(struct http_link *link)
{
    struct transfer *t = TAILQ_FIRST(&link->idle);

    if (t) {
        TAILQ_REMOVE(&link->idle, t, link);
        link->idle_count--;
        return t;
    }
    t = calloc(1, sizeof(*t));
    if (!t)
        return NULL;
    t->owner = link;
    evtimer_assign(&t->timeout, link->config.base, on_timeout, t);
    return t;
}

static void transfer_free(struct transfer *t)
{
    buf_free(&t->request);
    buf_free(&t->body);
    free(t);
}

static void empty(struct buf *b)
{
    if (b->cap > BUFFER_KEPT)
        buf_free(b);
    buf_reset(b);
}

/* Its connection must be gone or kept. */
static void transfer_put(struct transfer *t)
{
    struct http_link *link = t->owner;

    event_del(&t->timeout);
    if (t->queued)
        TAILQ_REMOVE(&link->queued, t, link);
    t->queued = false;
    t->call->own = NULL;
    t->call = NULL;
    operator_set_drop(t->set);
    t->set = NULL;
    empty(&t->request);
    empty(&t->body);
    if (link->idle_count >= IDLE_MAX) {
        transfer_free(t);
        return;
    }
    TAILQ_INSERT_HEAD(&link->idle, t, link);
    link->idle_count++;
}

/* ---- the request ---- */

static int64_t timeout_of(const struct transfer *t)
{
    int64_t ms = t->op->properties.timeout_ms;

    return ms > 0 ? ms : t->owner->config.timeout_ms;
}

static bool put_said(struct transfer *t, bool shown)
{
    struct http_link *link = t->owner;
    const struct http_said said = {.call = t->call,
                                   .op = t->op,
                                   .config = &link->config,
                                   .lookup = t->lookup,
                                   .shown = shown,
                                   .scratch = &link->scratch};

    buf_reset(&link->scratch);
    return link->speech->put(&said, &t->request, &t->body) && !t->request.failed && !t->body.failed;
}

/* The answer's buffer holds the body until its length is known. */
static bool put_request(struct transfer *t)
{
    const struct transport_config *config = &t->owner->config;

    if (config->said && put_said(t, true)) {
        config->said(t->request.data, t->request.len, config->arg);
        buf_reset(&t->request);
        buf_reset(&t->body);
    }
    return put_said(t, false);
}

/* ---- what happens to it ---- */

static void go_out(struct transfer *t);

/* Of a kept connection it may be no more than its end; nothing has left on it then. Else what the
 * operator has said before it left may be there to be read. */
static void on_write_failed(struct transfer *t)
{
    op_conn_want_write(t->conn, false);
    if (t->went_out)
        return;
    if (!op_conn_was_used(t->conn)) {
        finish(t, "the connection is broken");
        return;
    }
    op_conn_end(t->conn);
    go_out(t);
}

static void write_out(struct transfer *t)
{
    size_t left = t->request.len - t->sent;
    ssize_t n = op_conn_write(t->conn, t->request.data + t->sent, left);

    if (n < 0) {
        on_write_failed(t);
        return;
    }
    t->sent += (size_t)n;
    t->went_out = true; /* under TLS some of it may have, whatever n is */
    if (!op_conn_want_write(t->conn, (size_t)n < left))
        finish(t, "out of memory");
}

static void connect_anew(struct transfer *t)
{
    t->conn = op_conns_make(&t->owner->conns, t->call->op, t->op->url, timeout_of(t), t);
    if (!t->conn)
        finish(t, "out of memory");
}

/* Whether its operator is still where it was when the call began. */
static bool is_there(const struct transfer *t)
{
    const struct operator_set *now = *t->owner->config.set;

    return now == t->set || !strcmp(now->all[t->call->op]->url, t->op->url);
}

static void go_out(struct transfer *t)
{
    buf_reset(&t->body);
    t->conn = is_there(t) ? op_conns_take(&t->owner->conns, t->call->op, t) : NULL;
    if (t->conn)
        write_out(t);
    else
        connect_anew(t);
}

/* Whether the other side may have ended a connection that it had kept for too long, rather than
 * this call; asking again does no harm. It is asked on a new one, so that this is done once. */
static bool may_repeat(const struct transfer *t)
{
    return t->lookup && op_conn_was_used(t->conn) && !t->answer.head_bytes;
}

/* A write that has failed has taken a reset's error with it: what is read then is a mere end. */
static void on_broken(struct transfer *t, bool in_order)
{
    if (may_repeat(t)) {
        op_conn_end(t->conn);
        t->sent = 0;
        connect_anew(t);
        return;
    }
    http_read_end(&t->answer, in_order && t->sent == t->request.len);
    finish(t, t->answer.head_bytes ? "the answer was cut off"
                                   : "the connection ended without an answer");
}

/* What came, as far as it is there. */
static void read_answer(struct transfer *t)
{
    char data[READ_SIZE];
    ssize_t n;

    do {
        bool ended;

        n = op_conn_read(t->conn, data, sizeof(data), &ended);
        if (n < 0 || ended) {
            on_broken(t, ended);
            return;
        }
        if (http_read_take(&t->answer, data, (size_t)n, &t->body, ANSWER_MAX) < (size_t)n)
            t->answer.reusable = false; /* what follows belongs to no call */
        if (http_read_over(&t->answer)) {
            finish(t, "the answer was not understood");
            return;
        }
    } while (n == sizeof(data) || (n > 0 && op_conn_is_tls(t->conn)));
}

static bool may_send(const struct http_link *link)
{
    return link->config.may_send(link->config.arg);
}

static void on_ready(void *call, bool writable)
{
    struct transfer *t = call;

    if (!writable)
        read_answer(t);
    else if (may_send(t->owner))
        write_out(t);
}

static void on_connected(void *call)
{
    struct transfer *t = call;

    if (may_send(t->owner))
        write_out(t);
}

static void on_failed(void *call, const char *why)
{
    struct transfer *t = call;

    t->conn = NULL;
    finish(t, why);
}

/* Those that were started in this turn of the loop. */
static void on_go(evutil_socket_t fd, short what, void *arg)
{
    struct http_link *link = arg;
    struct transfer *t;

    (void)fd;
    (void)what;
    while ((t = TAILQ_FIRST(&link->queued)) && may_send(link)) {
        TAILQ_REMOVE(&link->queued, t, link);
        t->queued = false;
        go_out(t);
    }
}

static bool start(struct transport_link *base, bool lookup, struct transport_call *call)
{
    struct http_link *link = (struct http_link *)base;
    struct transfer *t = transfer_get(link);

    if (!t)
        return false;
    t->call = call;
    t->set = operator_set_keep(*link->config.set);
    t->op = t->set->all[call->op];
    t->lookup = lookup;
    t->started_us = clock_mono_us();
    t->sent = 0;
    t->went_out = false;
    t->conn = NULL;
    http_read_begin(&t->answer);
    if (!put_request(t) || link->config.dry_run ||
        event_add(&t->timeout, &link->timeouts[call->op])) {
        transfer_put(t);
        return false;
    }
    TAILQ_INSERT_TAIL(&link->queued, t, link);
    t->queued = true;
    event_active(link->go, 0, 0);
    call->own = t;
    return true;
}

bool http_submit(struct transport_link *link, struct transport_call *call)
{
    return start(link, false, call);
}

bool http_lookup(struct transport_link *link, struct transport_call *call)
{
    return start(link, true, call);
}

void http_abort(struct transport_link *base, struct transport_call *call)
{
    struct transfer *t = call->own;

    (void)base;
    if (t->conn)
        op_conn_end(t->conn);
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

/* Whether the body is all there. */
static bool is_whole(const struct transfer *t)
{
    return t->answer.state == READ_DONE;
}

static void explain(const struct transfer *t, const char *why, struct transport_result *r)
{
    size_t size = sizeof(r->error);
    int status = t->answer.status;

    if (r->rule_line)
        snprintf(r->error, size, "HTTP %d, line %u", status, r->rule_line);
    else if (status && (status < 200 || status >= 300))
        snprintf(r->error, size, "HTTP %d", status);
    else if (is_whole(t))
        snprintf(r->error, size, "HTTP %d, and no acceptance", status);
    else if (status && t->body.len > ANSWER_MAX - READ_SIZE)
        snprintf(r->error, size, "HTTP %d and more than %d bytes", status, ANSWER_MAX);
    else
        copy_plain(r->error, size, why);
}

/* From its value: seconds, or a date; 0: neither. */
static int64_t retry_after_sec(const char *value)
{
    char *end;
    long long sec;
    time_t at;

    errno = 0;
    sec = strtoll(value, &end, 10);
    if (end != value && !*end)
        return errno ? 0 : sec;
    at = curl_getdate(value, NULL);
    return at > 0 ? (int64_t)(at - time(NULL)) : 0;
}

static void classify(const struct transfer *t, const char *why, struct transport_result *r)
{
    const struct http_heard heard = {
        .op = t->op,
        .status = t->answer.status,
        .body = t->body.len ? t->body.data : "",
        .len = t->body.len,
        .whole = is_whole(t),
    };

    *r = (struct transport_result){
        .lookup = t->lookup,
        .verdict = VERDICT_UNKNOWN,
        .answer = LOOKUP_UNREACHABLE,
        .duration_us = clock_mono_us() - t->started_us,
        .parts = OPERATOR_NO_NUMBER,
        .cost_millionths = OPERATOR_NO_NUMBER,
        .remaining = OPERATOR_NO_NUMBER,
    };
    if (r->lookup || heard.status || t->went_out)
        t->owner->speech->judge(&heard, r);
    else
        r->verdict = VERDICT_TRANSIENT;
    if (r->verdict == VERDICT_THROTTLED)
        r->rest_ms = http_answer_rest_ms(retry_after_sec(t->answer.retry_after));
    if (!is_good(r))
        explain(t, why, r);
}

static bool understood(const struct transfer *t, const struct transport_result *r)
{
    if (!is_whole(t) || !t->answer.reusable || t->sent < t->request.len)
        return false;
    return r->lookup ? r->answer != LOOKUP_UNREACHABLE : r->verdict != VERDICT_UNKNOWN;
}

/* why: what to say where there is no answer. The transfer may be another call's afterwards. */
static void finish(struct transfer *t, const char *why)
{
    struct http_link *link = t->owner;
    struct transport_call *call = t->call;
    struct transport_result result;

    classify(t, why, &result);
    if (link->config.heard)
        link->config.heard(t->answer.status, t->body.data, t->body.len, link->config.arg);
    if (t->conn && is_there(t) && understood(t, &result))
        op_conn_keep(t->conn);
    else if (t->conn)
        op_conn_end(t->conn);
    transfer_put(t);
    link->config.done(call, &result, link->config.arg);
}

/* ---- the link ---- */

static void set_timeouts(struct http_link *link)
{
    const struct operator_set *set = *link->config.set;

    for (size_t op = 0; op < set->n; op++) {
        int64_t own_ms = set->all[op]->properties.timeout_ms;
        int64_t ms = own_ms > 0 ? own_ms : link->config.timeout_ms;
        struct timeval plain = {ms / 1000, ms % 1000 * 1000};
        const struct timeval *common = event_base_init_common_timeout(link->config.base, &plain);

        link->timeouts[op] = common ? *common : plain; /* there are only so many lists */
    }
}

struct transport_link *http_open(const struct transport_config *config,
                                 const struct transport *transport,
                                 const struct http_speech *speech)
{
    struct http_link *link = must_alloc(1, sizeof(*link));

    link->base.transport = transport;
    link->config = *config;
    link->speech = speech;
    link->conns = (struct op_conns){
        .base = config->base,
        .tls_ca = config->tls_ca,
        .life_ms = config->name_sec * 1000,
        .operator_count = config->operator_count,
        .max = config->calls_max,
        .may_send = config->may_send,
        .may_send_arg = config->arg,
        .connected = on_connected,
        .failed = on_failed,
        .ready = on_ready,
    };
    TAILQ_INIT(&link->queued);
    TAILQ_INIT(&link->idle);
    link->go = event_new(config->base, -1, 0, on_go, link);
    MUST(link->go);
    set_timeouts(link);
    op_conns_open(&link->conns);
    return &link->base;
}

void http_reloaded(struct transport_link *base, size_t calls_max)
{
    struct http_link *link = (struct http_link *)base;

    link->conns.max = calls_max;
    set_timeouts(link);
    for (size_t op = 0; op < link->config.operator_count; op++)
        op_conns_forget(&link->conns, op);
}

void http_close(struct transport_link *base)
{
    struct http_link *link = (struct http_link *)base;
    struct transfer *t;

    while ((t = TAILQ_FIRST(&link->idle))) {
        TAILQ_REMOVE(&link->idle, t, link);
        transfer_free(t);
    }
    op_conns_close(&link->conns);
    event_free(link->go);
    buf_free(&link->scratch);
    free(link);
}
