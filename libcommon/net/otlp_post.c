#include <curl/curl.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>
#include <zlib.h>

#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/net/otlp_internal.h"

#define ANSWER_MAX (4 * 1024 * 1024) /* the specification's limit */
#define HEAD_MAX (64 * 1024)         /* with trailers: curl keeps them, in many times their bytes */
#define ANSWER_KEPT (64 * 1024)      /* a number and a sentence fit many times over */
#define CONNECTION_IDLE_SEC 60L
#define POLL_MAX_MS 60000
#define GZIP_WINDOW (15 + 16)
#define USER_AGENT "distributed-messaging-platform/" PROJECT_VERSION

struct otlp_post {
    bool grpc, gzip;
    int wake_fd;
    CURLM *multi;
    CURL *easy;
    struct curl_slist *headers;
    z_stream deflate;
    struct buf body;       /* what goes out, where it is not the request itself */
    size_t received, head; /* of the answer: body; headers and trailers */
    bool too_large;
    struct otlp_grpc_status status;
    uint8_t answer[ANSWER_KEPT];
    size_t answer_len;
    char error[CURL_ERROR_SIZE];
};

/* ---- what comes in ---- */

static size_t count(struct otlp_post *p, size_t *sum, size_t n, size_t most)
{
    *sum += n;
    p->too_large |= *sum > most;
    return p->too_large ? 0 : n; /* less than n: curl ends the transfer */
}

static size_t on_answer(char *data, size_t one, size_t n, void *arg)
{
    struct otlp_post *p = arg;
    size_t room = sizeof(p->answer) - p->answer_len;
    size_t keep = n < room ? n : room;

    (void)one;
    memcpy(p->answer + p->answer_len, data, keep);
    p->answer_len += keep;
    return count(p, &p->received, n, ANSWER_MAX);
}

static bool take_header(const char *line, size_t n, const char *name, char *out, size_t size)
{
    size_t len = strlen(name);

    if (n <= len || strncasecmp(line, name, len) != 0 || line[len] != ':')
        return false;
    line += len + 1;
    n -= len + 1;
    while (n && (*line == ' ' || *line == '\t'))
        line++, n--;
    while (n && (unsigned char)line[n - 1] <= ' ')
        n--;
    if (n >= size)
        n = size - 1;
    memcpy(out, line, n);
    out[n] = '\0';
    return true;
}

/* Trailers come here too, after the body; a status without a body has them as headers. */
static size_t on_header(char *line, size_t one, size_t n, void *arg)
{
    struct otlp_post *p = arg;
    char code[16];

    (void)one;
    if (take_header(line, n, "grpc-status", code, sizeof(code))) {
        char *end;
        long value = strtol(code, &end, 10);

        p->status.code = *code && !*end && value >= 0 && value <= 16 ? (int)value : 2;
    } else if (!take_header(line, n, "grpc-message", p->status.message,
                            sizeof(p->status.message))) {
        take_header(line, n, "grpc-status-details-bin", p->status.details,
                    sizeof(p->status.details));
    }
    return count(p, &p->head, n, HEAD_MAX);
}

/* ---- set up once ---- */

static void add_header(struct otlp_post *p, const char *name, const char *value)
{
    struct buf line = {0};

    /* curl takes "name:" for a header to be left out, "name;" for one without a value */
    buf_printf(&line, *value ? "%s: %s" : "%s;", name, value);
    MUST(!line.failed);
    p->headers = curl_slist_append(p->headers, line.data);
    MUST(p->headers != NULL);
    buf_free(&line);
}

static void add_headers(struct otlp_post *p, const struct otlp_target *t)
{
    for (size_t i = 0; i < t->headers.n; i++)
        add_header(p, t->headers.at[i].key, t->headers.at[i].value);
    p->headers = curl_slist_append(p->headers, "Expect:");
    MUST(p->headers != NULL);
    if (t->grpc) {
        add_header(p, "content-type", "application/grpc");
        add_header(p, "te", "trailers");
    } else {
        add_header(p, "Content-Type", "application/x-protobuf");
    }
    if (t->gzip)
        add_header(p, t->grpc ? "grpc-encoding" : "Content-Encoding", "gzip");
}

/* libcurl 7.88 cannot use a plain HTTP/2 connection twice: the second request fails. */
static bool set_version(struct otlp_post *p, const struct otlp_target *t)
{
    bool tls = !strncmp(t->url, "https:", 6);
    long version = !t->grpc ? CURL_HTTP_VERSION_1_1
                   : tls    ? CURL_HTTP_VERSION_2TLS
                            : CURL_HTTP_VERSION_2_PRIOR_KNOWLEDGE;

    return !curl_easy_setopt(p->easy, CURLOPT_HTTP_VERSION, version) &&
           !curl_easy_setopt(p->easy, CURLOPT_FORBID_REUSE, t->grpc && !tls ? 1L : 0L);
}

static bool set_options(struct otlp_post *p, const struct otlp_target *t)
{
    CURL *e = p->easy;
    bool ok = set_version(p, t);

    ok &= !curl_easy_setopt(e, CURLOPT_URL, t->url);
    ok &= !curl_easy_setopt(e, CURLOPT_POST, 1L);
    ok &= !curl_easy_setopt(e, CURLOPT_HTTPHEADER, p->headers);
    ok &= !curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
    ok &= !curl_easy_setopt(e, CURLOPT_QUICK_EXIT, 1L); /* never waits for a name server */
    ok &= !curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
    ok &= !curl_easy_setopt(e, CURLOPT_PROXY, "");
    ok &= !curl_easy_setopt(e, CURLOPT_FOLLOWLOCATION, 0L);
    ok &= !curl_easy_setopt(e, CURLOPT_USERAGENT, USER_AGENT);
    ok &= !curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, (long)t->timeout_ms);
    ok &= !curl_easy_setopt(e, CURLOPT_TIMEOUT_MS, (long)t->timeout_ms);
    ok &= !curl_easy_setopt(e, CURLOPT_MAXAGE_CONN, CONNECTION_IDLE_SEC);
    ok &= !curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_answer);
    ok &= !curl_easy_setopt(e, CURLOPT_WRITEDATA, p);
    ok &= !curl_easy_setopt(e, CURLOPT_HEADERFUNCTION, on_header);
    ok &= !curl_easy_setopt(e, CURLOPT_HEADERDATA, p);
    ok &= !curl_easy_setopt(e, CURLOPT_ERRORBUFFER, p->error);
    ok &= !curl_easy_setopt(e, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    if (*t->certificate)
        ok &= !curl_easy_setopt(e, CURLOPT_CAINFO, t->certificate);
    if (*t->client_certificate) {
        ok &= !curl_easy_setopt(e, CURLOPT_SSLCERT, t->client_certificate);
        ok &= !curl_easy_setopt(e, CURLOPT_SSLKEY, t->client_key);
    }
    return ok;
}

struct otlp_post *otlp_post_new(const struct otlp_target *t, int wake_fd)
{
    struct otlp_post *p = must_alloc(1, sizeof(*p));

    p->grpc = t->grpc;
    p->wake_fd = wake_fd;
    p->gzip = t->gzip;
    MUST(curl_global_init(CURL_GLOBAL_DEFAULT) == 0);
    p->multi = curl_multi_init();
    p->easy = curl_easy_init();
    MUST(p->multi && p->easy);
    add_headers(p, t);
    MUST(set_options(p, t));
    if (p->gzip)
        MUST(deflateInit2(&p->deflate, Z_DEFAULT_COMPRESSION, Z_DEFLATED, GZIP_WINDOW, 8,
                          Z_DEFAULT_STRATEGY) == Z_OK);
    return p;
}

void otlp_post_free(struct otlp_post *p)
{
    if (!p)
        return;
    curl_easy_cleanup(p->easy);
    curl_multi_cleanup(p->multi);
    curl_slist_free_all(p->headers);
    curl_global_cleanup();
    if (p->gzip)
        deflateEnd(&p->deflate);
    buf_free(&p->body);
    free(p);
}

/* ---- one request ---- */

static bool put_gzip(struct otlp_post *p, const struct buf *request)
{
    z_stream *z = &p->deflate;
    uLong most = deflateReset(z) == Z_OK ? deflateBound(z, request->len) : 0;

    if (!most || !buf_reserve(&p->body, most))
        return false;
    z->next_in = (Bytef *)request->data;
    z->avail_in = (uInt)request->len;
    z->next_out = (Bytef *)p->body.data + p->body.len;
    z->avail_out = (uInt)most;
    if (deflate(z, Z_FINISH) != Z_STREAM_END)
        return false;
    p->body.len += most - z->avail_out;
    return true;
}

/* What goes out for this request; NULL when memory is out. */
static const struct buf *make_body(struct otlp_post *p, const struct buf *request)
{
    size_t head = p->grpc ? 5 : 0;
    size_t n;

    if (!p->grpc && !p->gzip)
        return request;
    buf_reset(&p->body);
    buf_put(&p->body, "\0\0\0\0\0", head);
    if (p->gzip ? !put_gzip(p, request)
                : (buf_put(&p->body, request->data, request->len), p->body.failed))
        return NULL;
    n = p->body.len - head;
    if (p->grpc) {
        p->body.data[0] = (char)p->gzip;
        for (int i = 0; i < 4; i++)
            p->body.data[1 + i] = (char)(n >> (24 - 8 * i));
    }
    return &p->body;
}

/* Until something happens on the connections, or the thread is woken. */
static bool wait_events(struct otlp_post *p, int64_t timeout_ms)
{
    struct curl_waitfd wake = {.fd = p->wake_fd, .events = CURL_WAIT_POLLIN};
    int timeout = timeout_ms < POLL_MAX_MS ? (int)timeout_ms : POLL_MAX_MS;
    uint64_t times;

    if (curl_multi_poll(p->multi, &wake, 1, timeout, NULL))
        return false;
    if (wake.revents && read(p->wake_fd, &times, sizeof(times)) < 0)
        MUST(errno == EAGAIN || errno == EINTR);
    return true;
}

static CURLcode transfer(struct otlp_post *p, int64_t (*until_ms)(void *arg), void *arg)
{
    CURLcode result = CURLE_FAILED_INIT;
    int running = 1;
    const CURLMsg *m;
    int left;

    if (curl_multi_add_handle(p->multi, p->easy))
        return result;
    while (!curl_multi_perform(p->multi, &running) && running) {
        int64_t left_ms = until_ms(arg) - clock_mono_ms();

        if (left_ms <= 0) {
            result = CURLE_OPERATION_TIMEDOUT;
            break;
        }
        if (!wait_events(p, left_ms))
            break;
    }
    while ((m = curl_multi_info_read(p->multi, &left)) != NULL)
        if (m->msg == CURLMSG_DONE)
            result = m->data.result;
    curl_multi_remove_handle(p->multi, p->easy);
    return result;
}

/* A connection that could not be made or broke. The collector may have the spans all the same: they
 * carry their ids, so a repeat does no harm. */
static bool may_repeat(CURLcode code)
{
    switch (code) {
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_CONNECT:
    case CURLE_OPERATION_TIMEDOUT:
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
    case CURLE_GOT_NOTHING:
    case CURLE_PARTIAL_FILE:
    case CURLE_HTTP2:
    case CURLE_HTTP2_STREAM:
        return true;
    default:
        return false;
    }
}

static void judge(struct otlp_post *p, CURLcode code, struct otlp_answer *out)
{
    curl_off_t retry_after = 0;
    long status = 0;

    curl_easy_getinfo(p->easy, CURLINFO_RESPONSE_CODE, &status);
    /* A server may answer in trailers and reset the stream whose body it did not want. */
    if (p->grpc && (p->status.code >= 0 || code == CURLE_OK)) {
        otlp_judge_grpc(status, &p->status, p->answer, p->answer_len, out);
        return;
    }
    if (code != CURLE_OK) {
        *out = (struct otlp_answer){.verdict = may_repeat(code) ? OTLP_RETRY : OTLP_REFUSED,
                                    .wait_ms = -1};
        snprintf(out->why, sizeof(out->why), "%.180s",
                 p->too_large ? "the answer is too large"
                 : *p->error  ? p->error
                              : curl_easy_strerror(code));
        return;
    }
    otlp_judge_http(status, p->answer, p->answer_len, out);
    curl_easy_getinfo(p->easy, CURLINFO_RETRY_AFTER, &retry_after);
    if (out->verdict == OTLP_RETRY && retry_after > 0)
        out->wait_ms = retry_after < 86400 ? (int64_t)retry_after * 1000 : 86400000;
}

void otlp_post(struct otlp_post *p, const struct buf *request, int64_t (*until_ms)(void *arg),
               void *arg, struct otlp_answer *out)
{
    const struct buf *body = make_body(p, request);
    CURLcode code = CURLE_OUT_OF_MEMORY;

    p->received = p->head = p->answer_len = 0;
    p->too_large = false;
    p->status = (struct otlp_grpc_status){.code = -1};
    p->error[0] = '\0';
    if (body && !curl_easy_setopt(p->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)body->len) &&
        !curl_easy_setopt(p->easy, CURLOPT_POSTFIELDS, body->data))
        code = transfer(p, until_ms, arg);
    judge(p, code, out);
}

void otlp_post_wait(struct otlp_post *p, int64_t timeout_ms)
{
    wait_events(p, timeout_ms);
}
