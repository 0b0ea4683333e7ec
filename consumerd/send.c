#include "consumerd/send.h"

#include <curl/curl.h>
#include <event2/event_struct.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/telemetry/tracer.h"

#define ANSWER_KEPT 4096        /* an id fits many times over */
#define ANSWER_MAX (64 * 1024)  /* beyond it the connection is not worth keeping */
#define IDLE_MAX 256            /* finished transfers kept for reuse, of each kind */
#define CONNECTION_IDLE_SEC 30L /* below what servers usually allow */
#define RECEIVE_BUFFER 4096L    /* one a transfer: answers are small */
#define REST_DEFAULT_MS 1000    /* a 429 without Retry-After */
#define REFERENCE_MAX (MESSAGE_ID_MAX + 12)

struct transfer {
    struct transfer *next; /* idle */
    struct send *send;
    CURL *easy;
    struct job *job; /* NULL: idle */
    enum send_kind kind;
    int64_t started_us;
    curl_socket_t watch_fd; /* the last one that curl wanted watched for it; -1: none */
    struct buf body;
    char answer[ANSWER_KEPT];
    size_t answer_len, received;
    /* The header list that curl reads: nodes and lines of our own, no allocation a call. */
    struct curl_slist headers[5];
    char key_line[sizeof("Idempotency-Key: ") + REFERENCE_MAX];
    char parent_line[sizeof("traceparent: ") + TRACE_PARENT_SIZE];
    char state_line[sizeof("tracestate: ") + TRACE_STATE_MAX];
    char error[CURL_ERROR_SIZE];
};

/* A socket of curl's in the event loop. A connection to an operator stays there when curl has no
 * use for it at present: the next call on it then costs no system call to watch it. */
struct watch {
    struct send *send;
    struct event event;
    short events;    /* 0: not in the loop */
    bool connection; /* an answer has come on it: we hear when curl closes it, as of no other */
    bool wanted;
};

struct send {
    struct event_base *base;
    struct send_config config;
    CURLM *multi;
    struct event *timer;
    struct transfer *idle[2];
    size_t idle_count[2];
    struct watch **watches; /* by file descriptor */
    size_t watch_count;
    bool in_done; /* finished transfers are being handed out */
};

static char content_type_line[] = "Content-Type: application/json";
static char no_expect_line[] = "Expect:";

static void hand_out_finished(struct send *s);

/* ---- curl's view of the event loop ---- */

static void watch_end(struct watch *w)
{
    if (w->events)
        event_del(&w->event);
    w->events = 0;
}

static void drive(struct send *s, curl_socket_t fd, int events)
{
    int running;

    if (!s->config.may_send(s->config.arg))
        return;
    curl_multi_socket_action(s->multi, fd, events, &running);
    hand_out_finished(s);
}

static void on_socket_event(evutil_socket_t fd, short what, void *arg)
{
    struct watch *w = arg;

    if (w->wanted)
        drive(w->send, fd,
              ((what & EV_READ) ? CURL_CSELECT_IN : 0) |
                  ((what & EV_WRITE) ? CURL_CSELECT_OUT : 0));
    else
        watch_end(w); /* an idle connection that its operator has closed, most often */
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    drive(arg, CURL_SOCKET_TIMEOUT, 0);
}

/* NULL: no memory. */
static struct watch *watch_of(struct send *s, curl_socket_t fd)
{
    size_t at = (size_t)fd;

    if (at >= s->watch_count) {
        size_t count = at * 2 + 64;
        struct watch **more = realloc(s->watches, count * sizeof(struct watch *));

        if (!more)
            return NULL;
        memset(more + s->watch_count, 0, (count - s->watch_count) * sizeof(struct watch *));
        s->watches = more;
        s->watch_count = count;
    }
    if (!s->watches[at]) {
        s->watches[at] = calloc(1, sizeof(struct watch));
        if (s->watches[at])
            s->watches[at]->send = s;
    }
    return s->watches[at];
}

static int on_socket_wanted(CURL *easy, curl_socket_t fd, int want, void *arg, void *socket_arg)
{
    struct send *s = arg;
    struct watch *w = watch_of(s, fd);
    struct transfer *t = NULL;
    short events = (short)(((want & CURL_POLL_IN) ? EV_READ : 0) |
                           ((want & CURL_POLL_OUT) ? EV_WRITE : 0) | EV_PERSIST);

    (void)socket_arg;
    if (!w)
        return want == CURL_POLL_REMOVE ? 0 : -1;
    w->wanted = want != CURL_POLL_REMOVE;
    if (w->wanted && !curl_easy_getinfo(easy, CURLINFO_PRIVATE, &t) && t)
        t->watch_fd = fd;
    if (w->wanted && w->events == events)
        return 0;
    if (!w->wanted && w->connection)
        return 0;
    watch_end(w);
    if (!w->wanted)
        return 0;
    event_assign(&w->event, s->base, fd, events, on_socket_event, w);
    if (event_add(&w->event, NULL))
        return -1; /* curl fails the transfer: its answer would never be seen */
    w->events = events;
    return 0;
}

static curl_socket_t on_socket_open(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
    struct send *s = arg;
    int fd = socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
    struct watch *w = fd >= 0 ? watch_of(s, fd) : NULL;

    (void)purpose;
    if (w) {
        watch_end(w);
        w->connection = false;
    } else if (fd >= 0) {
        close(fd);
        fd = -1;
    }
    return fd >= 0 ? fd : CURL_SOCKET_BAD;
}

/* Its number may come back as another socket's. */
static int on_socket_close(void *arg, curl_socket_t fd)
{
    struct send *s = arg;

    if ((size_t)fd < s->watch_count && s->watches[fd]) {
        watch_end(s->watches[fd]);
        free(s->watches[fd]);
        s->watches[fd] = NULL;
    }
    return close(fd);
}

static int on_timer_wanted(CURLM *multi, long timeout_ms, void *arg)
{
    struct send *s = arg;
    struct timeval tv = {timeout_ms / 1000, timeout_ms % 1000 * 1000};

    (void)multi;
    if (timeout_ms < 0)
        event_del(s->timer);
    else
        event_add(s->timer, &tv);
    return 0;
}

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
    curl_easy_cleanup(t->easy);
    buf_free(&t->body);
    free(t);
}

/* What stays the same from call to call is set once. */
static bool set_options(struct transfer *t)
{
    CURL *e = t->easy;
    bool ok = true;

    ok &= !curl_easy_setopt(e, CURLOPT_PRIVATE, t);
    ok &= !curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
    ok &= !curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
    ok &= !curl_easy_setopt(e, CURLOPT_PROXY, "");
    ok &= !curl_easy_setopt(e, CURLOPT_FOLLOWLOCATION, 0L);
    ok &= !curl_easy_setopt(e, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    ok &= !curl_easy_setopt(e, CURLOPT_USERAGENT, "msg-consumerd/" PROJECT_VERSION);
    ok &= !curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, (long)t->send->config.timeout_ms);
    ok &= !curl_easy_setopt(e, CURLOPT_TIMEOUT_MS, (long)t->send->config.timeout_ms);
    ok &= !curl_easy_setopt(e, CURLOPT_MAXAGE_CONN, CONNECTION_IDLE_SEC);
    ok &= !curl_easy_setopt(e, CURLOPT_BUFFERSIZE, RECEIVE_BUFFER);
    ok &= !curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_answer);
    ok &= !curl_easy_setopt(e, CURLOPT_WRITEDATA, t);
    ok &= !curl_easy_setopt(e, CURLOPT_ERRORBUFFER, t->error);
    ok &= !curl_easy_setopt(e, CURLOPT_OPENSOCKETFUNCTION, on_socket_open);
    ok &= !curl_easy_setopt(e, CURLOPT_OPENSOCKETDATA, t->send);
    ok &= !curl_easy_setopt(e, CURLOPT_CLOSESOCKETFUNCTION, on_socket_close);
    ok &= !curl_easy_setopt(e, CURLOPT_CLOSESOCKETDATA, t->send);
    if (t->kind == SEND_POST)
        ok &= !curl_easy_setopt(e, CURLOPT_POST, 1L);
    return ok;
}

static struct transfer *transfer_get(struct send *s, enum send_kind kind)
{
    struct transfer *t = s->idle[kind];

    if (t) {
        s->idle[kind] = t->next;
        s->idle_count[kind]--;
        return t;
    }
    t = calloc(1, sizeof(*t));
    if (!t)
        return NULL;
    t->send = s;
    t->kind = kind;
    t->easy = curl_easy_init();
    if (!t->easy || !set_options(t)) {
        transfer_free(t);
        return NULL;
    }
    return t;
}

/* The handle must be out of the multi. */
static void transfer_put(struct transfer *t)
{
    struct send *s = t->send;

    t->job = NULL;
    if (s->idle_count[t->kind] >= IDLE_MAX) {
        transfer_free(t);
        return;
    }
    t->next = s->idle[t->kind];
    s->idle[t->kind] = t;
    s->idle_count[t->kind]++;
}

static void add_header(struct transfer *t, size_t *n, char *line)
{
    if (*n)
        t->headers[*n - 1].next = &t->headers[*n];
    t->headers[*n].data = line;
    t->headers[*n].next = NULL;
    (*n)++;
}

static bool set_headers(struct transfer *t, const struct job *job, const char *reference)
{
    const struct inflight *m = job->message;
    size_t n = 0;

    if (t->kind == SEND_POST) {
        add_header(t, &n, content_type_line);
        add_header(t, &n, no_expect_line);
        snprintf(t->key_line, sizeof(t->key_line), "Idempotency-Key: %s", reference);
        add_header(t, &n, t->key_line);
    }
    if (*m->traceparent) {
        char traced[TRACE_PARENT_SIZE];

        if (tracer_wants(&m->process))
            trace_format(&job->call, traced);
        snprintf(t->parent_line, sizeof(t->parent_line), "traceparent: %s",
                 tracer_wants(&m->process) ? traced : m->traceparent);
        add_header(t, &n, t->parent_line);
    }
    if (*m->traceparent && m->tracestate) {
        snprintf(t->state_line, sizeof(t->state_line), "tracestate: %s", m->tracestate);
        add_header(t, &n, t->state_line);
    }
    return !curl_easy_setopt(t->easy, CURLOPT_HTTPHEADER, n ? t->headers : NULL);
}

static bool set_body(struct transfer *t, const struct job *job, const char *reference)
{
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
           !curl_easy_setopt(t->easy, CURLOPT_POSTFIELDSIZE, (long)t->body.len) &&
           !curl_easy_setopt(t->easy, CURLOPT_POSTFIELDS, t->body.data);
}

static bool set_request(struct transfer *t, unsigned op, const struct job *job)
{
    const char *base = t->send->config.operators[op].url;
    char reference[REFERENCE_MAX];
    char url[OPERATOR_URL_MAX + sizeof("/messages/") + REFERENCE_MAX];

    snprintf(reference, sizeof(reference), "%s-%u", job->message->id, job->position);
    if (t->kind == SEND_POST)
        snprintf(url, sizeof(url), "%s/messages", base);
    else
        snprintf(url, sizeof(url), "%s/messages/%s", base, reference);
    return !curl_easy_setopt(t->easy, CURLOPT_URL, url) && set_headers(t, job, reference) &&
           (t->kind == SEND_LOOKUP || set_body(t, job, reference));
}

struct transfer *send_start(struct send *s, enum send_kind kind, unsigned op, struct job *job)
{
    struct transfer *t = transfer_get(s, kind);

    if (!t)
        return NULL;
    t->job = job;
    t->answer_len = t->received = 0;
    t->watch_fd = -1;
    t->error[0] = '\0';
    t->started_us = clock_mono_us();
    if (!set_request(t, op, job) || curl_multi_add_handle(s->multi, t->easy)) {
        transfer_put(t);
        return NULL;
    }
    return t;
}

void send_abort(struct transfer *t)
{
    curl_multi_remove_handle(t->send->multi, t->easy);
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

static void classify_post(struct transfer *t, CURLcode code, long status, struct send_result *r)
{
    curl_off_t rest_sec = 0;

    if (code) {
        r->post = went_out(t->easy) ? POST_UNKNOWN : POST_TRANSIENT;
    } else if (status >= 200 && status < 300) {
        r->post = POST_ACCEPTED;
        read_id(t, r->provider_id);
    } else if (status == 429) {
        r->post = POST_RESTING;
        curl_easy_getinfo(t->easy, CURLINFO_RETRY_AFTER, &rest_sec);
        r->rest_ms = rest_sec > 0 ? (int64_t)rest_sec * 1000 : REST_DEFAULT_MS;
    } else if (status >= 400 && status < 500 && status != 408 && status != 425) {
        r->post = POST_REJECTED;
    } else {
        r->post = POST_TRANSIENT;
    }
}

static void classify_lookup(struct transfer *t, CURLcode code, long status, struct send_result *r)
{
    if (!code && status == 200) {
        r->lookup = LOOKUP_FOUND;
        read_id(t, r->provider_id);
    } else {
        r->lookup = !code && status == 404 ? LOOKUP_NOT_FOUND : LOOKUP_UNREACHABLE;
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

static void classify(struct transfer *t, CURLcode code, struct send_result *r)
{
    long status = 0;

    curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
    r->kind = t->kind;
    r->rest_ms = 0;
    r->duration_us = clock_mono_us() - t->started_us;
    r->provider_id[0] = '\0';
    r->error[0] = '\0';
    if (code)
        copy_plain(r->error, sizeof(r->error), *t->error ? t->error : curl_easy_strerror(code));
    else if (status < 200 || status >= 300)
        snprintf(r->error, sizeof(r->error), "HTTP %ld", status);
    if (t->kind == SEND_POST)
        classify_post(t, code, status, r);
    else
        classify_lookup(t, code, status, r);
}

/* Calls of done may start and abort transfers: each turn asks curl again. */
static void hand_out_finished(struct send *s)
{
    CURLMsg *message;
    int left;

    if (s->in_done)
        return;
    s->in_done = true;
    while ((message = curl_multi_info_read(s->multi, &left))) {
        struct send_result result;
        struct transfer *t;
        struct job *job;

        if (message->msg != CURLMSG_DONE)
            continue;
        curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &t);
        classify(t, message->data.result, &result);
        if (message->data.result == CURLE_OK && t->watch_fd >= 0 && s->watches[t->watch_fd])
            s->watches[t->watch_fd]->connection = true;
        job = t->job;
        curl_multi_remove_handle(s->multi, t->easy);
        transfer_put(t);
        s->config.done(job, &result, s->config.arg);
    }
    s->in_done = false;
}

struct send *send_new(struct event_base *base, const struct send_config *config)
{
    struct send *s = must_alloc(1, sizeof(*s));

    MUST(curl_global_init(CURL_GLOBAL_DEFAULT) == 0);
    s->base = base;
    s->config = *config;
    s->multi = curl_multi_init();
    s->timer = event_new(base, -1, 0, on_timer, s);
    MUST(s->multi && s->timer);
    curl_multi_setopt(s->multi, CURLMOPT_SOCKETFUNCTION, on_socket_wanted);
    curl_multi_setopt(s->multi, CURLMOPT_SOCKETDATA, s);
    curl_multi_setopt(s->multi, CURLMOPT_TIMERFUNCTION, on_timer_wanted);
    curl_multi_setopt(s->multi, CURLMOPT_TIMERDATA, s);
    curl_multi_setopt(s->multi, CURLMOPT_PIPELINING, (long)CURLPIPE_NOTHING);
    curl_multi_setopt(s->multi, CURLMOPT_MAXCONNECTS, (long)config->calls_max);
    return s;
}

void send_free(struct send *s)
{
    if (!s)
        return;
    for (int kind = 0; kind < 2; kind++) {
        while (s->idle[kind]) {
            struct transfer *t = s->idle[kind];

            s->idle[kind] = t->next;
            transfer_free(t);
        }
    }
    curl_multi_cleanup(s->multi);
    for (size_t i = 0; i < s->watch_count; i++) {
        if (s->watches[i])
            watch_end(s->watches[i]);
        free(s->watches[i]);
    }
    free(s->watches);
    event_free(s->timer);
    curl_global_cleanup();
    free(s);
}
