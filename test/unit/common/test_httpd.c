#include <arpa/inet.h>
#include <check.h>
#include <errno.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "libcommon/base/buf.h"
#include "libcommon/base/clock.h"
#include "libcommon/net/httpd_internal.h"
#include "libcommon/telemetry/metrics.h"
#include "test/unit/suite.h"

#define HELD_MAX 600
#define ANSWER_WAIT_MS 5000

/* ---- a server, whose requests to /held wait until answer_held() is called from the test's thread
 * ---- */

static char any_port[] = "127.0.0.1:0";
static char handler_arg[] = "arg";
static struct httpd_settings settings;
static struct httpd *server;
static struct {
    pthread_mutex_t lock;
    pthread_cond_t more;
    struct httpd_request *req[HELD_MAX];
    size_t n;
} held = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, {0}, 0};
static char seen[1024];
static char seen_peer[64];

static void handle_echo(struct httpd_request *req, void *arg)
{
    size_t n;
    const char *body = httpd_body(req, &n);

    ck_assert_str_eq(arg, "arg");
    httpd_reply_type(req, 200, "application/octet-stream", body, n);
}

static void handle_show(struct httpd_request *req, void *arg)
{
    const char *a = httpd_query(req, "a");
    const char *b = httpd_query(req, "b");
    char trace[TRACE_PARENT_SIZE];

    (void)arg;
    trace_format(httpd_trace(req), trace);
    snprintf(seen_peer, sizeof(seen_peer), "%s", httpd_peer(req));
    snprintf(seen, sizeof(seen), "%s a=%s b=%s trace=%s state=%s", httpd_path(req), a ? a : "none",
             b ? b : "none", trace, httpd_tracestate(req));
    httpd_set_header(req, "X-One", "1");
    httpd_set_header(req, "X-Two", "2");
    if (httpd_query(req, "keep"))
        httpd_set_header(req, "cache-control", "max-age=1");
    if (httpd_query(req, "three"))
        httpd_set_header(req, "X-Three", httpd_query(req, "three"));
    httpd_reply(req, 200, "{}", 2);
}

static void handle_held(struct httpd_request *req, void *arg)
{
    (void)arg;
    pthread_mutex_lock(&held.lock);
    ck_assert_uint_lt(held.n, HELD_MAX);
    held.req[held.n++] = req;
    pthread_cond_signal(&held.more);
    pthread_mutex_unlock(&held.lock);
}

static void answer_late(struct httpd_request *req, unsigned mark)
{
    char text[16];

    snprintf(text, sizeof(text), "late %u", mark);
    httpd_set_header(req, "X-Late", "1");
    httpd_reply(req, 503, text, strlen(text));
}

/* Held, and answered with its mark when the time is up. */
static void handle_deadline(struct httpd_request *req, void *arg)
{
    httpd_set_deadline(req, clock_mono_ms() + strtol(httpd_query(req, "ms"), NULL, 10),
                       answer_late);
    handle_held(req, arg);
}

static void handle_late(struct httpd_request *req, void *arg)
{
    const char *ms = httpd_query(req, "ms");

    (void)arg;
    httpd_delay(req, strtol(ms, NULL, 10) * 1000);
    if (httpd_query(req, "reset"))
        httpd_reset(req);
    else
        httpd_reply(req, 200, "late", 4);
}

static void handle_reset(struct httpd_request *req, void *arg)
{
    (void)arg;
    httpd_reset(req);
}

static void handle_none(struct httpd_request *req, void *arg)
{
    (void)arg;
    httpd_reply(req, 204, "never seen", 10);
}

static bool admit(struct httpd_request *req, void *arg)
{
    const char *row = httpd_needs(req);

    (void)arg;
    if (row)
        snprintf(httpd_room(req), HTTPD_ROOM, "%s", row);
    if (!httpd_header(req, "X-Refuse"))
        return true;
    httpd_set_header(req, "Retry-After", "1");
    httpd_reply_error(req, 429, "rate_limit_exceeded", "Too \"many\".", NULL);
    return false;
}

static const char needs[] = "what the row says";

/* What admit leaves in the request's room is there for the handler. */
static void handle_needy(struct httpd_request *req, void *arg)
{
    (void)arg;
    httpd_reply(req, 200, httpd_room(req), strlen(httpd_room(req)));
}

static void handle_raw(struct httpd_request *req, void *arg)
{
    (void)arg;
    httpd_reply(req, 200, httpd_raw_query(req), strlen(httpd_raw_query(req)));
}

static const struct httpd_route routes[] = {
    {"POST", "/echo", handle_echo, 0, NULL},
    {"GET", "/show", handle_show, 0, NULL},
    {"GET", "/show/*", handle_show, 0, NULL},
    {"GET", "/held", handle_held, 0, NULL},
    {"POST", "/held", handle_held, 0, NULL},
    {"GET", "/late", handle_late, 0, NULL},
    {"GET", "/deadline", handle_deadline, 0, NULL},
    {"GET", "/reset", handle_reset, 0, NULL},
    {"DELETE", "/show", handle_none, 0, NULL},
    {"GET", "/open", handle_show, HTTPD_NO_LIMIT, NULL},
    {"GET", "/needy", handle_needy, 0, needs},
    {"GET", "/uncounted", handle_show, HTTPD_NO_METRIC, NULL},
    {"GET", "/machines", handle_show, HTTPD_EXPECT_200 | HTTPD_PROBE, NULL},
    {"GET", "/raw", handle_raw, HTTPD_RAW_QUERY, NULL},
};

static void open_server(void)
{
    struct httpd_config config = {
        &settings, routes, sizeof(routes) / sizeof(routes[0]), handler_arg, admit, 0, 4096};
    struct err err = {0};

    held.n = 0;
    server = httpd_new(&config, &err);
    ck_assert_msg(server != NULL, "%s", err.msg);
    ck_assert_int_eq(httpd_start(server, &err), 0);
}

static void setup(void)
{
    settings = (struct httpd_settings){.listen_addr = any_port,
                                       .threads = 2,
                                       .max_connections = 2000,
                                       .max_header_bytes = 2048,
                                       .read_timeout_ms = 600,
                                       .idle_timeout_ms = 1500,
                                       .write_timeout_ms = 600};
    open_server();
}

static void teardown(void)
{
    httpd_free(server);
    server = NULL;
}

static void wait_held(size_t n)
{
    struct timespec until;
    int rc = 0;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += ANSWER_WAIT_MS / 1000;
    pthread_mutex_lock(&held.lock);
    while (held.n < n && !rc)
        rc = pthread_cond_timedwait(&held.more, &held.lock, &until);
    pthread_mutex_unlock(&held.lock);
    ck_assert_int_eq(rc, 0);
}

static void answer_held(void)
{
    for (size_t i = 0; i < held.n; i++)
        httpd_reply(held.req[i], 200, "held", 4);
    held.n = 0;
}

/* ---- a client that says exactly what it is told ---- */

static int dial_with(int receive_bytes)
{
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons(httpd_port(server))};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ck_assert_int_ge(fd, 0);
    if (receive_bytes)
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &receive_bytes, sizeof(receive_bytes));
    ck_assert_int_eq(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    return fd;
}

static int dial(void)
{
    return dial_with(0);
}

static void say(int fd, const char *text)
{
    ck_assert_int_eq(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
}

/* Reads until the text ends with the awaited end (NULL: until the connection does). */
static const char *hear(int fd, const char *end)
{
    static char text[65536];
    size_t n = 0;
    int64_t deadline_ms = clock_mono_ms() + ANSWER_WAIT_MS;

    text[0] = '\0';
    while (n < sizeof(text) - 1) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        int64_t left_ms = deadline_ms - clock_mono_ms();
        ssize_t got;

        if (end && n >= strlen(end) && !strcmp(text + n - strlen(end), end))
            return text;
        if (left_ms <= 0 || poll(&p, 1, (int)left_ms) <= 0)
            break;
        got = recv(fd, text + n, sizeof(text) - 1 - n, 0);
        if (got <= 0) {
            ck_assert_msg(!end, "the connection ended after: %s", text);
            return text;
        }
        n += (size_t)got;
        text[n] = '\0';
    }
    ck_abort_msg("no answer in time, only: %s", text);
    return NULL;
}

static const char *ask(const char *text)
{
    int fd = dial();
    const char *answer;

    say(fd, text);
    answer = hear(fd, NULL);
    close(fd);
    return answer;
}

#define REQUEST(method, target, more) method " " target " HTTP/1.1\r\nHost: x\r\n" more "\r\n"
#define CLOSE "Connection: close\r\n"

static void assert_begins(const char *answer, const char *start)
{
    ck_assert_msg(!strncmp(answer, start, strlen(start)), "not %s but:\n%s", start, answer);
}

static void assert_status(const char *answer, int status)
{
    char begin[16];

    snprintf(begin, sizeof(begin), "HTTP/1.1 %d", status);
    assert_begins(answer, begin);
}

static void assert_has(const char *answer, const char *part)
{
    ck_assert_msg(strstr(answer, part) != NULL, "%s is not in:\n%s", part, answer);
}

/* ---- tests ---- */

START_TEST(routes_and_refusals)
{
    assert_begins(ask(REQUEST("POST", "/echo", CLOSE "Content-Length: 4\r\n") "abcd"),
                  "HTTP/1.1 200");
    assert_begins(ask(REQUEST("GET", "/nothing", CLOSE)), "HTTP/1.1 404");
    assert_has(ask(REQUEST("PATCH", "/show", CLOSE)), "\r\nAllow: GET, HEAD, DELETE\r\n");
    assert_begins(ask(REQUEST("BREW", "/show", CLOSE)), "HTTP/1.1 405");
    assert_has(ask(REQUEST("GET", "/echo", CLOSE)),
               "{\"error\":\"method_not_allowed\",\"message\":");
    assert_begins(ask(REQUEST("GET", "/showy", CLOSE)), "HTTP/1.1 404");
    assert_begins(ask(REQUEST("GET", "/show/", CLOSE)), "HTTP/1.1 200");
}
END_TEST

START_TEST(what_a_handler_sees)
{
    ask(REQUEST("GET", "/show/x%2Fy%20z?a=1%2B1+2&b=&aa=second&c",
                CLOSE "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n"
                      "tracestate: k=1\r\ntracestate: l=2\r\n"));
    ck_assert_str_eq(seen_peer, "127.0.0.1");
    assert_begins(seen, "/show/x/y z a=1+1 2 b= trace=00-4bf92f3577b34da6a3ce929d0e0e4736-");
    ck_assert_ptr_null(strstr(seen, "00f067aa0ba902b7"));
    assert_has(seen, "-01 state=k=1,l=2");
    /* Given twice, a traceparent is ignored, and its tracestate with it. */
    ask(REQUEST("GET", "/show?a=%zz%4",
                CLOSE "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n"
                      "Traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n"
                      "tracestate: k=1\r\n"));
    assert_begins(seen, "/show a=%zz%4 b=none trace=00-");
    ck_assert_ptr_null(strstr(seen, "4bf92f3577b34da6a3ce929d0e0e4736"));
    ck_assert_str_eq(seen + strlen(seen) - 7, " state=");
}
END_TEST

START_TEST(answers_without_a_body)
{
    int fd = dial();
    const char *answer;

    say(fd, REQUEST("HEAD", "/show", "") REQUEST("DELETE", "/show", "")
                REQUEST("HEAD", "/nothing", CLOSE));
    answer = hear(fd, NULL);
    close(fd);
    assert_begins(answer, "HTTP/1.1 200");
    assert_has(answer, "\r\nContent-Length: 2\r\n");
    assert_has(answer, "\r\nX-One: 1\r\nX-Two: 2\r\n");
    assert_has(answer, "\r\n\r\nHTTP/1.1 204");
    assert_has(answer, "\r\n\r\nHTTP/1.1 404");
    ck_assert_ptr_null(strstr(answer, "never seen"));
    ck_assert_str_eq(answer + strlen(answer) - 4, "\r\n\r\n");
}
END_TEST

#define NOT_KEPT "\r\nCache-Control: no-store\r\n"
#define NOT_GUESSED "\r\nX-Content-Type-Options: nosniff\r\n"

static size_t count_of(const char *text, const char *part)
{
    size_t n = 0;

    while ((text = strstr(text, part)))
        n++, text += strlen(part);
    return n;
}

START_TEST(an_answer_is_what_it_says_and_nothing_beside_it)
{
    static const char chunked[] = "Transfer-Encoding: chunked\r\n";
    char request[512];
    const char *answers, *body;
    int fd = dial();

    /* Two at once: whatever stood between their answers would be part of the second. */
    snprintf(request, sizeof(request),
             "POST /echo HTTP/1.1\r\nHost: x\r\n%s\r\n3\r\nabc\r\n0\r\n\r\n"
             "GET /show HTTP/1.1\r\nHost: x\r\n\r\n",
             chunked);
    say(fd, request);
    answers = hear(fd, "\r\n\r\n{}");
    close(fd);
    assert_status(answers, 200);
    body = strstr(answers, "\r\n\r\n") + 4;
    ck_assert(!strncmp(body, "abc", 3));
    assert_status(body + 3, 200);
    ck_assert_uint_eq(count_of(answers, "\r\nDate: "), 2);
    ck_assert_uint_eq(count_of(answers, " GMT\r\n"), 2);
    ck_assert_uint_eq(count_of(answers, "\r\nContent-Length: "), 2);
    ck_assert_uint_eq(count_of(answers, "\r\nContent-Type: "), 2);
    ck_assert_ptr_null(strstr(answers, "Transfer-Encoding"));
    ck_assert_ptr_null(strstr(answers, "Connection"));
}
END_TEST

START_TEST(no_header_goes_on_in_a_line_of_its_own)
{
    assert_has(ask(REQUEST("GET", "/show?three=a%09b", CLOSE)), "\r\nX-Three: a\tb\r\n");
    ck_assert_ptr_null(strstr(ask(REQUEST("GET", "/show?three=a%0D%0AX-Four:b", CLOSE)), "X-Four"));
    ck_assert_ptr_null(strstr(ask(REQUEST("GET", "/show?three=a%0AX-Four:b", CLOSE)), "X-Four"));
    ck_assert_ptr_null(strstr(ask(REQUEST("GET", "/show?three=a%0DX-Four:b", CLOSE)), "X-Four"));
}
END_TEST

START_TEST(an_old_client_that_wants_to_is_kept)
{
    int fd = dial();

    for (int i = 0; i < 2; i++) {
        const char *answer;

        say(fd, "GET /show HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n");
        answer = hear(fd, "{}");
        assert_begins(answer, "HTTP/1.0 200 OK\r\n");
        assert_has(answer, "\r\nConnection: keep-alive\r\n");
    }
    close(fd);
    ck_assert_ptr_null(strstr(ask("GET /show HTTP/1.0\r\n\r\n"), "Connection"));
}
END_TEST

START_TEST(no_answer_is_kept_or_guessed_at)
{
    static const char *const requests[] = {
        REQUEST("GET", "/show", CLOSE), REQUEST("HEAD", "/show", CLOSE),
        REQUEST("DELETE", "/show", CLOSE), REQUEST("GET", "/nothing", CLOSE), "nonsense\r\n\r\n"};
    const char *answer;

    for (size_t i = 0; i < sizeof(requests) / sizeof(requests[0]); i++) {
        answer = ask(requests[i]);
        assert_has(answer, NOT_KEPT);
        assert_has(answer, NOT_GUESSED);
    }
    answer = ask(REQUEST("GET", "/show?keep", CLOSE));
    assert_has(answer, "\r\ncache-control: max-age=1\r\n");
    ck_assert_ptr_null(strstr(answer, "no-store"));
}
END_TEST

#define ID(value) REQUEST("GET", "/show", CLOSE "X-Request-Id:" value "\r\n")
#define ID_AT "\r\nX-Request-Id: "

/* The value of the header in the answer, up to its line's end. */
static void assert_id(const char *answer, const char *id)
{
    const char *at = strstr(answer, ID_AT);
    char span[17];

    ck_assert_ptr_nonnull(at);
    at += strlen(ID_AT);
    if (!id) { /* the one of the span, which the handler has noted */
        snprintf(span, sizeof(span), "%s", strstr(seen, "trace=") + 6 + 3 + 33);
        id = span;
    }
    ck_assert_msg(!strncmp(at, id, strlen(id)) && at[strlen(id)] == '\r', "%s: %s", id, at);
    ck_assert_ptr_null(strstr(at, ID_AT));
}

START_TEST(a_request_has_an_id)
{
    char text[512];
    char id[160];

    assert_id(ask(REQUEST("GET", "/show", CLOSE)), NULL);
    assert_id(ask(ID(" 01936f0e-7a3c-7b1e-9c55-0d2f1c6b8a10")),
              "01936f0e-7a3c-7b1e-9c55-0d2f1c6b8a10");
    assert_id(ask(ID(" aZ09-._~+/=:@ ")), "aZ09-._~+/=:@");
    assert_id(ask(ID("")), NULL);
    assert_id(ask(ID(" a b")), NULL);
    assert_id(ask(ID(" \"a\"")), NULL);
    assert_id(ask(ID(" {}")), NULL);
    assert_id(ask(ID(" \xc3\xa9")), NULL);
    for (int n = 128; n < 130; n++) {
        snprintf(id, sizeof(id), "%0*d", n, 7);
        snprintf(text, sizeof(text),
                 "GET /show HTTP/1.1\r\nHost: x\r\n" CLOSE "X-Request-Id: %s\r\n\r\n", id);
        assert_id(ask(text), n == 128 ? id : NULL);
    }
}
END_TEST

START_TEST(admission)
{
    const char *answer = ask(REQUEST("GET", "/show", CLOSE "X-Refuse: 1\r\n"));

    assert_begins(answer, "HTTP/1.1 429 Too Many Requests");
    assert_has(answer, "\r\nRetry-After: 1\r\n");
    assert_has(answer, "{\"error\":\"rate_limit_exceeded\",\"message\":\"Too \\\"many\\\".\"}");
    assert_begins(ask(REQUEST("GET", "/open", CLOSE "X-Refuse: 1\r\n")), "HTTP/1.1 200");
    assert_has(ask(REQUEST("GET", "/needy", CLOSE)), "\r\n\r\nwhat the row says");
}
END_TEST

/* Whether the metrics have a series of this path and status. */
static bool counted(const char *metric, const char *path, const char *status)
{
    struct buf text = {0};
    char series[128];
    bool found;

    snprintf(series, sizeof(series), "%s{path=\"%s\",method=\"GET\"%s", metric, path, status);
    metrics_render(&text, METRICS_PLAIN);
    buf_putc(&text, '\0');
    found = strstr(text.data, series) != NULL;
    buf_free(&text);
    return found;
}

START_TEST(what_a_route_goes_without)
{
    ask(REQUEST("GET", "/uncounted", CLOSE));
    ck_assert(!counted("http_requests_total", "/uncounted", ""));
    ck_assert(!counted("http_request_duration_seconds_count", "/uncounted", ""));
    ck_assert(counted("http_requests_total", "/machines", ",status=\"200\""));
    ck_assert(counted("http_request_duration_seconds_count", "/machines", ""));
    ck_assert(!counted("http_requests_total", "/machines", ",status=\"429\""));
    ck_assert(counted("http_requests_total", "/show", ",status=\"429\""));
}
END_TEST

/* Bytes that may hold NULs; the literal's own is not among them. */
#define RAW(text)                \
    {                            \
        (text), sizeof(text) - 1 \
    }
#define CHUNKED REQUEST("POST", "/echo", "Transfer-Encoding: chunked\r\n")

static const struct {
    const char *p;
    size_t n;
} smuggling[] = {
    RAW(REQUEST("POST", "/echo", "Content-Length: 4\r\nContent-Length: 4\r\n") "abcd"),
    RAW(REQUEST("POST", "/echo", "Content-Length: 4\r\nContent-Length: 9\r\n") "abcd"),
    RAW(REQUEST("POST", "/echo", "Content-Length : 4\r\n") "abcd"),
    RAW(REQUEST("POST", "/echo", "Content-Length: +4\r\n") "abcd"),
    RAW(REQUEST("POST", "/echo",
                "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n") "0\r\n\r\n"),
    RAW(REQUEST("POST", "/echo", "Transfer-Encoding: gzip\r\n")),
    RAW(REQUEST("POST", "/echo", "Transfer-Encoding: xchunked\r\n")),
    RAW(REQUEST("POST", "/echo", "Transfer-Encoding: gzip, chunked\r\n") "0\r\n\r\n"),
    RAW(REQUEST("HEAD", "/show", "Content-Length: 4\r\n") "abcd"),
    RAW(REQUEST("BREW", "/show", "Content-Length: 4\r\n") "abcd"),
    RAW(REQUEST("CONNECT", "/show", "")),
    RAW(REQUEST("GET", "http://x/show", "")),
    RAW(REQUEST("GET", "//x/show", "")),
    RAW(REQUEST("GET", "/show?a=1%002", "")),
    RAW(REQUEST("GET", "/show#/nothing", "")),
    RAW(REQUEST("GET", "/show?a=\xc3\xa9", "")),
    RAW(REQUEST("GET", "/show", "B\xc3\xa9: 1\r\n")),
    RAW("GET /show HTTP/1.1\r\n\r\n"),
    RAW("GET /show HTTP/1.7\r\nHost: x\r\n\r\n"),
    RAW("nonsense\r\n\r\n"),
    RAW(REQUEST("GET", "/show", "Y: n1\0b\r\n")),
    RAW(REQUEST("GET", "/show", "\0\r\n")),
    RAW(REQUEST("GET", "/show", "Y: a\rb\r\n")),
    RAW(REQUEST("GET", "/show", "Y: a\r\n folded\r\n")),
    RAW("GET /show HTTP/1.1\nHost: x\n\n"),
    RAW("GET /show\0 HTTP/1.1\r\nHost: x\r\n\r\n"),
    RAW(CHUNKED "1;a=\0\r\nx\r\n0\r\n\r\n"),
    RAW(CHUNKED "1;a\nx\r\n0\r\n\r\n"),
    RAW(CHUNKED "0x1\r\nx\r\n0\r\n\r\n"),
    RAW(CHUNKED "1\r\nx\n0\r\n\r\n"),
    RAW(CHUNKED "1\r\nx\r\n0\r\nA: b\0c\r\n\r\n"),
    RAW(CHUNKED "1\r\nx\r\n0\r\n\0\r\n\r\n"),
    RAW("POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
};

static int64_t refusals(void)
{
    static const char series[] = "\nhttp_connections_dropped_total{reason=\"bad_request\"} ";
    struct buf text = {0};
    const char *at;
    int64_t n;

    metrics_render(&text, METRICS_PLAIN);
    buf_putc(&text, '\0');
    at = strstr(text.data, series);
    ck_assert_ptr_nonnull(at);
    n = strtoll(at + strlen(series), NULL, 10);
    buf_free(&text);
    return n;
}

static void say_bytes(int fd, const char *p, size_t n)
{
    ck_assert_int_eq(send(fd, p, n, MSG_NOSIGNAL), (ssize_t)n);
}

/* Refused as JSON and closed: the second request is never read. The one before is answered. */
START_TEST(ambiguous_requests_end_the_connection)
{
    int64_t before = refusals();
    int fd = dial();
    const char *answer;

    say(fd, REQUEST("GET", "/late?ms=1", ""));
    say_bytes(fd, smuggling[_i].p, smuggling[_i].n);
    send(fd, REQUEST("GET", "/show", ""), strlen(REQUEST("GET", "/show", "")), MSG_NOSIGNAL);
    answer = hear(fd, NULL);
    close(fd);
    assert_begins(answer, "HTTP/1.1 200");
    answer = strstr(answer, "\r\n\r\nlate");
    ck_assert_ptr_nonnull(answer);
    answer += strlen("\r\n\r\nlate");
    assert_begins(answer, "HTTP/1.1 400");
    assert_has(answer, "\r\nConnection: close\r\n");
    assert_has(answer, "{\"error\":\"bad_request\",\"message\":");
    ck_assert_ptr_null(strstr(answer + 1, "HTTP/1.1 "));
    ck_assert_int_eq(refusals(), before + 1);
}
END_TEST

static const char *const twice[][2] = {
    {REQUEST("GET", "/show", "Host: y\r\n"), "Host"},
    {REQUEST("GET", "/show", "Idempotency-Key: a\r\nidempotency-key: a\r\n"), "Idempotency-Key"},
    {REQUEST("GET", "/show", "X-Api-Key: a\r\nX-API-Key: a\r\n"), "X-Api-Key"},
    {REQUEST("GET", "/show", "Content-Type: a/b\r\nContent-Type: c/d\r\n"), "Content-Type"},
    {REQUEST("GET", "/show", "Authorization: a\r\nAuthorization: b\r\n"), "Authorization"},
    {REQUEST("GET", "/show?a=1&b=2&a=1", CLOSE), "a"},
    {REQUEST("GET", "/show?%20=1&%20", CLOSE), " "},
};

START_TEST(what_is_given_twice_is_named)
{
    char field[64];
    const char *answer = ask(twice[_i][0]);

    snprintf(field, sizeof(field), " is given twice.\",\"field\":\"%s\"}", twice[_i][1]);
    assert_begins(answer, "HTTP/1.1 400");
    assert_has(answer, "{\"error\":\"invalid_input\"");
    assert_has(answer, field);
}
END_TEST

#define TYPE(value) CLOSE "Content-Length: 2\r\nContent-Type: " value "\r\n"
#define ORIGIN "Origin: http://x\r\n"
#define NO_TYPE CLOSE "Content-Length: 2\r\n"

static const struct {
    const char *request;
    int status;
} types[] = {
    {REQUEST("POST", "/echo", NO_TYPE) "{}", 200},
    {REQUEST("POST", "/echo", TYPE("")) "{}", 200},
    {REQUEST("POST", "/echo", TYPE("application/json")) "{}", 200},
    {REQUEST("POST", "/echo", TYPE("Application/JSON \t; charset=utf-8")) "{}", 200},
    {REQUEST("POST", "/echo", TYPE("application/problem+json")) "{}", 200},
    {REQUEST("POST", "/echo", TYPE("application/x-www-form-urlencoded;charset=UTF-8")) "{}", 200},
    {REQUEST("POST", "/echo", TYPE("application/json") ORIGIN "Sec-Fetch-Mode: cors\r\n") "{}",
     200},
    {REQUEST("POST", "/echo", TYPE("a/b+json") ORIGIN) "{}", 200},
    {REQUEST("GET", "/show", CLOSE ORIGIN), 200},
    {REQUEST("POST", "/echo", NO_TYPE ORIGIN) "{}", 415},
    {REQUEST("POST", "/echo", NO_TYPE "Origin: null\r\n") "{}", 415},
    {REQUEST("POST", "/echo", NO_TYPE "Origin:\r\n") "{}", 415},
    {REQUEST("POST", "/echo", NO_TYPE "sec-fetch-site: none\r\n") "{}", 415},
    {REQUEST("POST", "/echo", TYPE("") ORIGIN) "{}", 415},
    {REQUEST("POST", "/echo", TYPE("application/x-www-form-urlencoded") ORIGIN) "{}", 415},
    {REQUEST("POST", "/echo", TYPE("text/plain")) "{}", 415},
    {REQUEST("POST", "/echo", TYPE("text/plain; a=application/json")) "{}", 415},
    {REQUEST("POST", "/echo", TYPE("text/plain, application/json")) "{}", 415},
    {REQUEST("POST", "/echo", TYPE("text/plain, a/b+json")) "{}", 415},
    {REQUEST("POST", "/echo", TYPE("text/plain a/b+json")) "{}", 415},
    {REQUEST("POST", "/echo", TYPE("text+json")) "{}", 415},
    {REQUEST("POST", "/echo", TYPE("application/jsonp")) "{}", 415},
    {REQUEST("POST", "/echo", TYPE("json")) "{}", 415},
    {REQUEST("POST", "/echo", TYPE("multipart/form-data; boundary=x")) "{}", 415},
    {REQUEST("PUT", "/nothing", TYPE("text/plain")) "{}", 404},
    {REQUEST("POST", "/show", TYPE("text/plain")) "{}", 405},
};

START_TEST(a_body_is_json_by_its_type)
{
    const char *answer = ask(types[_i].request);

    assert_status(answer, types[_i].status);
    if (types[_i].status == 415)
        assert_has(answer, "{\"error\":\"unsupported_media_type\"");
}
END_TEST

#define TO(host, path) "GET " path " HTTP/1.1\r\nHost:" host "\r\n" CLOSE "\r\n"

static const struct {
    const char *host;
    int any, chosen; /* the status where any host is served, and where a few are */
} hosts[] = {
    {TO(" api.example", "/show"), 200, 200},
    {TO(" API.Example:80", "/show"), 200, 200},
    {TO(" api.example.:65535", "/show"), 200, 200},
    {TO(" [::1]:8080", "/show"), 200, 200},
    {TO(" 192.0.2.1", "/show"), 200, 200},
    {TO(" elsewhere.example", "/machines"), 200, 200},
    {TO("", "/show"), 200, 421},
    {TO(" elsewhere.example", "/show"), 200, 421},
    {TO(" elsewhere.example", "/nothing"), 404, 421},
    {TO(" example", "/show"), 200, 421},
    {TO(" xapi.example", "/show"), 200, 421},
    {TO(" ::1", "/show"), 400, 400},
    {TO(" [::1", "/show"), 400, 400},
    {TO(" []", "/show"), 400, 400},
    {TO(" [x]", "/show"), 400, 400},
    {TO(" :80", "/show"), 400, 400},
    {TO(" api.example:", "/show"), 200, 200},
    {TO(" api.example:http", "/show"), 400, 400},
    {TO(" api.example:123456", "/show"), 400, 400},
    {TO(" api.example:80:80", "/show"), 400, 400},
    {TO(" api.example/", "/show"), 400, 400},
    {TO(" api.example api.example", "/show"), 400, 400},
    {TO(" a@api.example", "/show"), 400, 400},
    {TO(" api.example,api.example", "/show"), 400, 400},
    {TO(" api%2eexample", "/show"), 400, 400},
    {TO(" \"api.example\"", "/show"), 400, 400},
    {TO(" <script>", "/show"), 400, 400},
    {TO(" \xc3\xa9.example", "/show"), 400, 400},
};

START_TEST(the_host_is_a_name_and_one_of_ours)
{
    static char ours[] = "api.example,[::1],192.0.2.1";

    for (size_t i = 0; i < sizeof(hosts) / sizeof(hosts[0]); i++)
        assert_status(ask(hosts[i].host), hosts[i].any);
    teardown();
    settings.hosts = ours;
    open_server();
    for (size_t i = 0; i < sizeof(hosts) / sizeof(hosts[0]); i++)
        assert_status(ask(hosts[i].host), hosts[i].chosen);
    assert_begins(ask("GET /show HTTP/1.0\r\n\r\n"), "HTTP/1.0 421");
}
END_TEST

#define FROM(origin) CLOSE "Origin: " origin "\r\n"
#define MAY_READ "\r\nAccess-Control-Allow-Origin: https://app.example\r\n"
#define WISH "Access-Control-Request-Method: DELETE\r\n"

START_TEST(pages_of_listed_origins_may_call)
{
    static char origins[] = "https://app.example,http://localhost:3000";
    const char *answer = ask(REQUEST("OPTIONS", "/show", FROM("https://app.example") WISH));

    assert_begins(answer, "HTTP/1.1 405"); /* nobody, as long as nobody is listed */
    ck_assert_ptr_null(strstr(answer, "Access-Control"));
    teardown();
    settings.cors_origins = origins;
    open_server();
    answer = ask(REQUEST("OPTIONS", "/show", FROM("https://app.example") WISH));
    assert_begins(answer, "HTTP/1.1 204");
    assert_has(answer, MAY_READ);
    assert_has(answer, "\r\nAccess-Control-Allow-Methods: GET, HEAD, DELETE\r\n");
    assert_has(answer, "\r\nAccess-Control-Allow-Headers: Authorization, Content-Type, ");
    ck_assert_ptr_null(strstr(answer, "Allow-Credentials"));
    answer = ask(REQUEST("GET", "/show", FROM("https://app.example")));
    assert_begins(answer, "HTTP/1.1 200");
    assert_has(answer, MAY_READ);
    assert_has(answer, "\r\nVary: Origin\r\n");
    assert_has(ask(REQUEST("GET", "/show", FROM("http://localhost:3000"))),
               "\r\nAccess-Control-Allow-Origin: http://localhost:3000\r\n");
    assert_has(ask(REQUEST("OPTIONS", "/nothing", FROM("https://app.example") WISH)),
               "HTTP/1.1 404");
    assert_has(ask(REQUEST("OPTIONS", "/show", FROM("https://app.example"))), "HTTP/1.1 405");
    assert_has(
        ask(REQUEST(
            "POST", "/echo",
            FROM("https://app.example") "Content-Type: text/plain\r\nContent-Length: 2\r\n") "{}"),
        "HTTP/1.1 415");
}
END_TEST

START_TEST(pages_of_others_may_not)
{
    static char origins[] = "https://app.example";
    static const char *const others[] = {
        REQUEST("OPTIONS", "/show", FROM("https://app.example.evil") WISH),
        REQUEST("OPTIONS", "/show", FROM("http://app.example") WISH),
        REQUEST("OPTIONS", "/show", FROM("https://app.example:8443") WISH),
        REQUEST("OPTIONS", "/show", FROM("https://xapp.example") WISH),
        REQUEST("OPTIONS", "/show", FROM("null") WISH),
        REQUEST("OPTIONS", "/show", FROM("") WISH),
        REQUEST("OPTIONS", "/show", CLOSE WISH),
    };

    teardown();
    settings.cors_origins = origins;
    open_server();
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        const char *answer = ask(others[i]);

        assert_begins(answer, "HTTP/1.1 405");
        assert_has(answer, "\r\nVary: Origin\r\n");
        ck_assert_ptr_null(strstr(answer, "Access-Control"));
    }
}
END_TEST

START_TEST(origins_are_written_as_browsers_do)
{
    static const char *const good[] = {"https://app.example",
                                       "http://localhost:3000,https://[::1]:8"};
    static const char *const bad[] = {"*",
                                      "null",
                                      "app.example",
                                      "https://",
                                      "https://app.example/",
                                      "https://App.example",
                                      "ftp://app.example",
                                      "httpx://a",
                                      "https://a,",
                                      "https://a, https://b",
                                      "https://a@b",
                                      "://a"};
    char why[128];

    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        ck_assert_msg(http_cors_check(good[i], why, sizeof(why)), "%s", good[i]);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        ck_assert_msg(!http_cors_check(bad[i], why, sizeof(why)), "%s", bad[i]);
}
END_TEST

static const struct {
    const char *value;
    bool ok;
} lists[] = {
    {"api.example", true}, {"a,b.c,[::1],10.0.0.1", true},
    {"a:80", false},       {"a,", false},
    {",a", false},         {"a, b", false},
    {"::1", false},        {"a.", false},
    {"http://a", false},   {"[::1]:80", false},
};

START_TEST(names_without_ports_are_hosts)
{
    char why[128];

    for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++)
        ck_assert_msg(http_check_hosts_setting(lists[i].value, why, sizeof(why)) == lists[i].ok,
                      "%s", lists[i].value);
}
END_TEST

START_TEST(a_query_is_bounded_and_has_no_nul)
{
    char target[512] = "";
    char text[600];

    for (int i = 0; i <= 32; i++)
        snprintf(target + strlen(target), 16, "&p%d", i);
    snprintf(text, sizeof(text), "GET /show?%s HTTP/1.1\r\nHost: x\r\n" CLOSE "\r\n", target);
    assert_has(ask(text), "The query holds too many parameters.");
    *strrchr(target, '&') = '\0';
    snprintf(text, sizeof(text), "GET /show?%s HTTP/1.1\r\nHost: x\r\n" CLOSE "\r\n", target);
    assert_begins(ask(text), "HTTP/1.1 200");
    assert_has(ask(REQUEST("GET", "/show?a=1%002", "")), "must not hold %00.");
    assert_has(ask(REQUEST("GET", "/raw%00?a=1", "")), "must not hold %00.");
    assert_has(ask(REQUEST("GET", "/raw?a=1%002&b=%00&a=3", "")), "\r\n\r\na=1%002&b=%00&a=3");
}
END_TEST

/* What RFC 9112 asks a server to bear with. */
START_TEST(blanks_where_they_may_be)
{
    int fd = dial();

    say(fd, "\r\n" REQUEST("POST", "/echo", "Content-Length:\t2 \t\r\n") "ab\r\n");
    assert_has(hear(fd, "\r\n\r\nab"), "HTTP/1.1 200");
    say(fd,
        "\r\n" REQUEST(
            "POST", "/echo",
            "Transfer-Encoding:\tchunked\r\n"
            "Connection:\tclose\t\r\n") "2;what=ever\r\nab\r\n1\r\nc\r\n0\r\nTrailer: x\r\n\r\n");
    assert_has(hear(fd, NULL), "\r\n\r\nabc");
    close(fd);
}
END_TEST

START_TEST(old_clients_hear_how_long_an_answer_is)
{
    const char *answer = ask("GET /show HTTP/1.0\r\n\r\n");

    assert_begins(answer, "HTTP/1.0 200");
    assert_has(answer, "\r\nContent-Length: 2\r\n");
    ck_assert_ptr_null(strstr(strstr(answer, "Content-Length") + 1, "Content-Length"));
    answer = ask("DELETE /show HTTP/1.0\r\n\r\n");
    assert_begins(answer, "HTTP/1.0 204");
    ck_assert_ptr_null(strstr(answer, "Content-Length"));
}
END_TEST

/* Requests that came before the client's end are answered, in hand or not begun. */
START_TEST(after_a_half_close_what_came_is_answered)
{
    for (int round = 0; round < 20; round++) {
        int fd = dial();
        const char *answer;

        say(fd, REQUEST("GET", "/show", "") REQUEST("GET", "/held", "")
                    REQUEST("POST", "/echo",
                            "Content-Length: 2\r\n") "ab" REQUEST("GET", "/late?ms=1", ""));
        shutdown(fd, SHUT_WR);
        wait_held(1);
        answer_held();
        answer = hear(fd, NULL);
        close(fd);
        assert_has(answer, "\r\n\r\n{}HTTP/1.1 200");
        assert_has(answer, "\r\n\r\nheldHTTP/1.1 200");
        assert_has(answer, "\r\n\r\nabHTTP/1.1 200");
        ck_assert_str_eq(answer + strlen(answer) - 8, "\r\n\r\nlate");
    }
}
END_TEST

START_TEST(limits_are_answered_as_json)
{
    char *big = calloc(1, 20000);
    size_t n = (size_t)sprintf(big, REQUEST("POST", "/echo", "Content-Length: 10000\r\n"));

    memset(big + n, 'x', 10000);
    assert_has(ask(big), "{\"error\":\"body_too_large\"");
    n = (size_t)sprintf(
        big, "%s", "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2000\r\n");
    memset(big + n, 'x', 0x2000);
    big[n + 0x2000] = '\0';
    assert_begins(ask(big), "HTTP/1.1 413");
    n = (size_t)sprintf(big, "GET /show HTTP/1.1\r\nHost: x\r\nX: ");
    memset(big + n, 'x', 3000);
    big[n + 3000] = '\0';
    assert_begins(ask(big), "HTTP/1.1 431 Request Header Fields Too Large\r\n");
    assert_has(ask(big),
               "{\"error\":\"headers_too_large\",\"message\":\"The headers are too large.\"");
    free(big);
}
END_TEST

START_TEST(a_body_in_pieces_and_expect)
{
    int fd = dial();

    say(fd, REQUEST("POST", "/echo", "Content-Length: 4\r\nExpect: 100-continue\r\n"));
    assert_begins(hear(fd, "\r\n\r\n"), "HTTP/1.1 100");
    say(fd, "ab");
    say(fd, "cd");
    assert_begins(hear(fd, "abcd"), "HTTP/1.1 200");
    say(fd, REQUEST("POST", "/echo",
                    "Transfer-Encoding: chunked\r\n") "2\r\nxy\r\n1\r\nz\r\n0\r\n\r\n");
    assert_begins(hear(fd, "xyz"), "HTTP/1.1 200");
    close(fd);
}
END_TEST

START_TEST(answers_from_another_thread)
{
    int fds[HELD_MAX];

    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < HELD_MAX; i++) {
            if (!round)
                fds[i] = dial();
            say(fds[i], REQUEST("GET", "/held", ""));
        }
        wait_held(HELD_MAX);
        answer_held();
        for (int i = 0; i < HELD_MAX; i++)
            assert_begins(hear(fds[i], "held"), "HTTP/1.1 200");
    }
    for (int i = 0; i < HELD_MAX; i++)
        close(fds[i]);
}
END_TEST

static int64_t process_cpu_us(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    return ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

/* Nobody reads it then, and the loop must not turn for it. */
START_TEST(what_comes_while_a_request_is_handled_waits_without_cost)
{
    int fds[] = {dial(), dial(), dial()};
    int64_t before_us;

    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 3; i++)
            say(fds[i], REQUEST("GET", "/held", ""));
        wait_held(3);
        say(fds[0], REQUEST("GET", "/show", ""));
        say(fds[1], "GET /sh");
        if (round == 2)
            shutdown(fds[2], SHUT_WR);
        before_us = process_cpu_us();
        poll(NULL, 0, 100);
        ck_assert_int_lt(process_cpu_us() - before_us, 40000);
        answer_held();
        assert_has(hear(fds[0], "{}"), "heldHTTP/1.1 200");
        hear(fds[1], "held");
        say(fds[1], "ow HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_has(hear(fds[1], "{}"), "HTTP/1.1 200");
        hear(fds[2], round == 2 ? NULL : "held");
    }
    for (int i = 0; i < 3; i++)
        close(fds[i]);
}
END_TEST

START_TEST(a_client_that_left_is_answered_into_nothing)
{
    struct linger now = {1, 0};

    for (int i = 0; i < 20; i++) {
        int fd = dial();

        say(fd, REQUEST("GET", "/held", ""));
        wait_held((size_t)i + 1);
        if (i % 2)
            setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
        close(fd);
    }
    answer_held();
    assert_begins(ask(REQUEST("GET", "/show", CLOSE)), "HTTP/1.1 200");
}
END_TEST

#define UNREAD 15000 /* evhttp writes it at once */

static bool has_queued(int fd, unsigned long which)
{
    int n = 0;

    ck_assert_int_eq(ioctl(fd, which, &n), 0);
    return n > 0;
}

static void wait_queued(int fd, unsigned long which, bool wanted)
{
    int64_t until_ms = clock_mono_ms() + ANSWER_WAIT_MS;

    while (has_queued(fd, which) != wanted) {
        ck_assert_int_lt(clock_mono_ms(), until_ms);
        poll(NULL, 0, 1);
    }
}

/* The kernel takes all of an answer that the client does not read, so evhttp goes on to the next
 * request, but it takes nothing more. Gives the server's end of the connection. */
static int fill(int fd)
{
    static const char unread[UNREAD];
    struct pollfd p = {.events = POLLOUT};
    int least = 1;

    say(fd, REQUEST("GET", "/held", ""));
    wait_held(1);
    p.fd = bufferevent_getfd(held.req[0]->conn->bev);
    held.n = 0;
    httpd_reply(held.req[0], 200, unread, sizeof(unread));
    wait_queued(p.fd, SIOCOUTQ, true);
    ck_assert_int_eq(setsockopt(p.fd, SOL_SOCKET, SO_SNDBUF, &least, sizeof(least)), 0);
    ck_assert_int_eq(poll(&p, 1, 0), 0);
    return p.fd;
}

/* Else evhttp would try to write it, fail, and free the connection under the request. */
START_TEST(a_client_that_left_before_its_100_continue_was_out)
{
    struct linger now = {1, 0};
    int fd = dial_with(1); /* the kernel has a least of its own */
    struct pollfd p = {.fd = fill(fd), .events = POLLOUT};

    say(fd, REQUEST("POST", "/held", "Content-Length: 2\r\nExpect: 100-continue\r\n"));
    wait_queued(fd, SIOCOUTQ, false);   /* it has come, */
    wait_queued(p.fd, FIONREAD, false); /* and been read without its body */
    say(fd, "ab");
    wait_held(1);
    ck_assert_int_eq(poll(&p, 1, 0), 0); /* the 100 waits still */
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    close(fd);
    ck_assert_int_eq(poll(&p, 1, ANSWER_WAIT_MS), 1);
    for (int i = 0; i < 20; i++) /* each thread sees some of them, and the reset before */
        assert_begins(ask(REQUEST("GET", "/show", CLOSE)), "HTTP/1.1 200");
    answer_held();
    httpd_drain(server);
    ck_assert(httpd_wait_drained(server, ANSWER_WAIT_MS));
}
END_TEST

START_TEST(held_back_answers_and_resets)
{
    int64_t began_ms = clock_mono_ms();
    char byte;
    int fd;

    assert_has(ask(REQUEST("GET", "/late?ms=150", CLOSE)), "late");
    ck_assert_int_ge(clock_mono_ms() - began_ms, 149);
    for (int i = 0; i < 2; i++) {
        fd = dial();
        say(fd, i ? REQUEST("GET", "/reset", "") : REQUEST("GET", "/late?ms=50&reset=1", ""));
        ck_assert_int_eq(recv(fd, &byte, 1, 0), -1);
        ck_assert_int_eq(errno, ECONNRESET);
        close(fd);
    }
}
END_TEST

static const char *const slow[] = {"GET /show HTTP/1.1\r\n",
                                   "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\n"};

/* A byte now and then keeps no connection alive. */
START_TEST(slow_requests_are_cut_off)
{
    int64_t began_ms = clock_mono_ms();
    int fd = dial();
    struct pollfd p = {.fd = fd, .events = POLLIN};

    say(fd, slow[_i]);
    while (poll(&p, 1, 100) == 0 && clock_mono_ms() - began_ms < 5000)
        if (send(fd, "x", 1, MSG_NOSIGNAL) < 0)
            break;
    ck_assert_int_ge(clock_mono_ms() - began_ms, 500);
    ck_assert_int_lt(clock_mono_ms() - began_ms, 2500);
    close(fd);
}
END_TEST

START_TEST(silent_connections_are_closed)
{
    int64_t began_ms = clock_mono_ms();
    int never = dial();
    int fd = dial();

    say(fd, REQUEST("GET", "/show", ""));
    hear(fd, "{}");
    ck_assert_str_eq(hear(never, NULL), "");
    ck_assert_int_lt(clock_mono_ms() - began_ms, 1400); /* the read timeout, not the idle one */
    ck_assert_str_eq(hear(fd, NULL), "");
    ck_assert_int_ge(clock_mono_ms() - began_ms, 1400);
    close(fd);
    close(never);
}
END_TEST

#define CROWD 200

/* Where few fit, those who say nothing make room for those who ask, and those who have asked before
 * go last. */
START_TEST(idle_connections_make_room)
{
    int64_t began_ms = clock_mono_ms();
    int idle[CROWD];
    int kept;

    teardown();
    settings.max_connections = 16;
    settings.threads = 1;
    settings.read_timeout_ms = settings.idle_timeout_ms = 60000;
    open_server();
    kept = dial();
    say(kept, REQUEST("GET", "/show", ""));
    hear(kept, "{}");
    for (int i = 0; i < CROWD; i++)
        idle[i] = dial();
    assert_begins(ask(REQUEST("GET", "/show", CLOSE)), "HTTP/1.1 200");
    ck_assert_int_lt(clock_mono_ms() - began_ms, 2000);
    ck_assert_str_eq(hear(idle[0], NULL), "");
    say(kept, REQUEST("GET", "/show", CLOSE));
    assert_begins(hear(kept, NULL), "HTTP/1.1 200");
    for (int i = 0; i < CROWD; i++)
        close(idle[i]);
    close(kept);
}
END_TEST

/* Nobody is sent away while nobody waits. */
START_TEST(a_full_server_keeps_its_idle_connections)
{
    int fds[16];

    teardown();
    settings.max_connections = 16;
    settings.threads = 1;
    settings.idle_timeout_ms = 60000;
    open_server();
    for (int i = 0; i < 16; i++) {
        fds[i] = dial();
        say(fds[i], REQUEST("GET", "/show", ""));
        hear(fds[i], "{}");
    }
    poll(NULL, 0, 100);
    for (int i = 0; i < 16; i++) {
        say(fds[i], REQUEST("GET", "/show", CLOSE));
        assert_begins(hear(fds[i], NULL), "HTTP/1.1 200");
        close(fds[i]);
    }
}
END_TEST

static void reopen_for(int64_t connections, char *proxies)
{
    teardown();
    settings.address_connections = connections;
    settings.trusted_proxies = proxies;
    open_server();
}

START_TEST(an_address_has_so_many_connections)
{
    static char elsewhere[] = "192.0.2.0/24,::1";
    static char here[] = "127.0.0.0/8";
    int surplus;
    int fds[4];

    reopen_for(4, elsewhere);
    for (int i = 0; i < 4; i++) {
        fds[i] = dial();
        say(fds[i], REQUEST("GET", "/show", ""));
        hear(fds[i], "{}");
    }
    surplus = dial();
    ck_assert_str_eq(hear(surplus, NULL), "");
    close(surplus);
    close(fds[0]);
    while (atomic_load(&server->connections) > 3)
        poll(NULL, 0, 1);
    assert_begins(ask(REQUEST("GET", "/show", CLOSE)), "HTTP/1.1 200");
    for (int i = 1; i < 4; i++)
        close(fds[i]);
    reopen_for(2, here);
    for (int i = 0; i < 4; i++) {
        fds[i] = dial();
        say(fds[i], REQUEST("GET", "/show", ""));
        hear(fds[i], "{}");
    }
    for (int i = 0; i < 4; i++)
        close(fds[i]);
}
END_TEST

#define FOR(value) "X-Forwarded-For:" value "\r\n"

static const struct {
    const char *headers, *peer;
} forwarded[] = {
    {"", "127.0.0.1"},
    {FOR(" 203.0.113.7"), "203.0.113.7"},
    {FOR(" 198.51.100.1, 203.0.113.7"), "203.0.113.7"},
    {FOR(" 203.0.113.7, 10.0.0.1,10.1.2.3"), "203.0.113.7"},
    {FOR(" 203.0.113.7") FOR(" 10.0.0.1"), "203.0.113.7"},
    {FOR(" 10.0.0.1") FOR(" 203.0.113.7"), "203.0.113.7"},
    {FOR(" 203.0.113.7:4711"), "203.0.113.7"},
    {FOR(" [2001:db8::1]:4711"), "2001:db8::1"},
    {FOR("2001:DB8::1 \t"), "2001:db8::1"},
    {FOR(" ::ffff:203.0.113.7"), "203.0.113.7"},
    {FOR(" 10.0.0.1, 10.0.0.2"), "10.0.0.1"},
    {FOR(" 203.0.113.7, unknown"), "127.0.0.1"},
    {FOR(" 203.0.113.7, unknown, 10.0.0.1"), "10.0.0.1"},
    {FOR(" 203.0.113.7,"), "127.0.0.1"},
    {FOR(" 203.0.113.7,, 10.0.0.1"), "10.0.0.1"},
    {FOR(""), "127.0.0.1"},
    {FOR(" ,"), "127.0.0.1"},
    {FOR(" ["), "127.0.0.1"},
    {FOR(" []"), "127.0.0.1"},
    {FOR(" :80"), "127.0.0.1"},
    {"X-Real-IP: 203.0.113.7\r\n", "127.0.0.1"},
};

START_TEST(a_proxy_of_ours_says_who_the_client_is)
{
    static char ours[] = "127.0.0.0/8,10.0.0.0/8";
    static char others[] = "10.0.0.0/8";
    char text[512];

    reopen_for(0, ours);
    for (size_t i = 0; i < sizeof(forwarded) / sizeof(forwarded[0]); i++) {
        snprintf(text, sizeof(text), "GET /show HTTP/1.1\r\nHost: x\r\n" CLOSE "%s\r\n",
                 forwarded[i].headers);
        assert_begins(ask(text), "HTTP/1.1 200");
        ck_assert_msg(!strcmp(seen_peer, forwarded[i].peer), "%s: %s", forwarded[i].headers,
                      seen_peer);
    }
    reopen_for(0, others); /* nobody else is believed */
    ask(REQUEST("GET", "/show", CLOSE FOR(" 203.0.113.7")));
    ck_assert_str_eq(seen_peer, "127.0.0.1");
}
END_TEST

#define V2 "\r\n\r\n\0\r\nQUIT\n"
#define V2_TCP4 V2 "\x21\x11\0\x0c\xcb\0\x71\x07\x0a\0\0\1\x12\x67\0\x50"
#define GET_SHOW REQUEST("GET", "/show", CLOSE)

static const struct {
    struct {
        const char *p;
        size_t n;
    } sent;
    const char *peer; /* NULL: refused */
} proxied[] = {
    {RAW("PROXY TCP4 203.0.113.7 10.0.0.1 4711 80\r\n" GET_SHOW), "203.0.113.7"},
    {RAW("PROXY TCP6 2001:db8::7 2001:db8::1 4711 80\r\n" GET_SHOW), "2001:db8::7"},
    {RAW("PROXY UNKNOWN\r\n" GET_SHOW), "127.0.0.1"},
    {RAW("PROXY UNKNOWN ffff::1 whatever\r\n" GET_SHOW), "127.0.0.1"},
    {RAW(V2_TCP4 GET_SHOW), "203.0.113.7"},
    {RAW(V2 "\x21\x11\0\x0f\xcb\0\x71\x07\x0a\0\0\1\x12\x67\0\x50\4\0\0" GET_SHOW), "203.0.113.7"},
    {RAW(V2 "\x21\x21\0\x24\x20\1\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\7\x20\1\x0d\xb8\0\0\0\0\0\0"
            "\0\0\0\0\0\1\x12\x67\0\x50" GET_SHOW),
     "2001:db8::7"},
    {RAW(V2 "\x20\0\0\0" GET_SHOW), "127.0.0.1"},
    {RAW(V2 "\x21\0\0\3abc" GET_SHOW), "127.0.0.1"},
    {RAW("PROXY TCP4 10.0.0.9 10.0.0.1 4711 80\r\n" REQUEST("GET", "/show",
                                                            CLOSE FOR(" 203.0.113.8"))),
     "203.0.113.8"}, /* our own proxy behind another one of ours */
    {RAW("PROXY TCP4 203.0.113.7 10.0.0.1 4711 80\r\n" REQUEST("GET", "/show",
                                                               CLOSE FOR(" 198.51.100.1"))),
     "203.0.113.7"},
    {RAW(GET_SHOW), NULL},
    {RAW("\r\n" GET_SHOW), NULL},
    {RAW("PROXY\r\n" GET_SHOW), NULL},
    {RAW("PROXY TCP4 203.0.113.7 10.0.0.1 4711 80\n" GET_SHOW), NULL},
    {RAW("PROXY TCP4 203.0.113.7 10.0.0.1 4711\r\n" GET_SHOW), NULL},
    {RAW("PROXY TCP4 203.0.113.7 10.0.0.1 4711 80 1\r\n" GET_SHOW), NULL},
    {RAW("PROXY TCP4 203.0.113.7 10.0.0.1 4711 80 \r\n" GET_SHOW), NULL},
    {RAW("PROXY TCP4  203.0.113.7 10.0.0.1 4711 80\r\n" GET_SHOW), NULL},
    {RAW("PROXY TCP4 203.0.113.7 10.0.0.1 4711 65536\r\n" GET_SHOW), NULL},
    {RAW("PROXY TCP4 203.0.113.7 10.0.0.1 -1 80\r\n" GET_SHOW), NULL},
    {RAW("PROXY TCP4 2001:db8::7 2001:db8::1 4711 80\r\n" GET_SHOW), NULL},
    {RAW("PROXY TCP6 203.0.113.7 10.0.0.1 4711 80\r\n" GET_SHOW), NULL},
    {RAW("PROXY UDP4 203.0.113.7 10.0.0.1 4711 80\r\n" GET_SHOW), NULL},
    {RAW("proxy TCP4 203.0.113.7 10.0.0.1 4711 80\r\n" GET_SHOW), NULL},
    {RAW("PROXY TCP4 203.0.113.7 10.0.0.1 4711 80\r\n"
         "PROXY TCP4 203.0.113.7 10.0.0.1 4711 80\r\n" GET_SHOW),
     NULL},
    {RAW("PROXY UNKNOWN "
         "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
         "xxxxxxxxxxxxxxx\r\n" GET_SHOW),
     NULL},
    {RAW(V2 "\x11\x11\0\0" GET_SHOW), NULL},
    {RAW(V2 "\x22\x11\0\0" GET_SHOW), NULL},
    {RAW(V2 "\x21\x11\0\x0b\xcb\0\x71\x07\x0a\0\0\1\x12\x67\0" GET_SHOW), NULL},
    {RAW(V2 "\x21\x11\xff\xff" GET_SHOW), NULL},
    {RAW(V2_TCP4 V2_TCP4 GET_SHOW), NULL},
};

/* In one segment, and in as many as there are bytes. */
START_TEST(a_proxy_of_ours_speaks_before_its_client)
{
    static char ours[] = "127.0.0.0/8,10.0.0.0/8";

    settings.proxy_protocol = true;
    reopen_for(0, ours);
    for (size_t i = 0; i < 2 * sizeof(proxied) / sizeof(proxied[0]); i++) {
        const char *p = proxied[i / 2].sent.p;
        size_t n = proxied[i / 2].sent.n;
        int fd = dial();
        const char *answer;

        *seen_peer = '\0';
        for (size_t at = 0; at < n; at += i % 2 ? 1 : n)
            if (send(fd, p + at, i % 2 ? 1 : n, MSG_NOSIGNAL) < 0)
                break;
        answer = hear(fd, NULL);
        close(fd);
        assert_status(answer, proxied[i / 2].peer ? 200 : 400);
        ck_assert_msg(!strcmp(seen_peer, proxied[i / 2].peer ? proxied[i / 2].peer : ""),
                      "case %zu: %s", i / 2, seen_peer);
        if (!proxied[i / 2].peer)
            ck_assert_ptr_null(strstr(answer + 1, "HTTP/1.1 "));
    }
}
END_TEST

START_TEST(nobody_else_speaks_before_a_request)
{
    static char others[] = "10.0.0.0/8";

    settings.proxy_protocol = true;
    reopen_for(0, others);
    assert_begins(ask("PROXY TCP4 203.0.113.7 10.0.0.1 4711 80\r\n" GET_SHOW), "HTTP/1.1 400");
    assert_begins(ask(GET_SHOW), "HTTP/1.1 200");
    ck_assert_str_eq(seen_peer, "127.0.0.1");
}
END_TEST

START_TEST(a_connection_has_so_many_requests)
{
    const char *answer;
    int fd;

    teardown();
    settings.connection_requests = 3;
    open_server();
    fd = dial();
    for (int i = 0; i < 4; i++)
        say(fd, REQUEST("GET", "/show", ""));
    answer = hear(fd, NULL);
    close(fd);
    for (int i = 1; i <= 3; i++) {
        assert_begins(answer, "HTTP/1.1 200");
        ck_assert_int_eq(strstr(answer, "Connection: close") != NULL, true);
        answer = strstr(answer, "\r\n\r\n{}") + 6;
    }
    ck_assert_str_eq(answer, "");
}
END_TEST

START_TEST(connections_leave_descriptors_for_others)
{
    struct rlimit before;
    struct rlimit few;
    struct httpd_config config = {
        &settings, routes, sizeof(routes) / sizeof(routes[0]), handler_arg, admit, 40, 4096};
    struct err err = {0};

    teardown();
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &before), 0);
    few = before;
    few.rlim_cur = 100;
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &few), 0);
    server = httpd_new(&config, &err);
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &before), 0);
    ck_assert_ptr_nonnull(server);
    ck_assert_int_gt(server->settings.max_connections, 16);
    ck_assert_int_lt(server->settings.max_connections, 60);
    teardown();
    settings.max_connections = 20;
    open_server();
    ck_assert_int_eq(server->settings.max_connections, 20);
}
END_TEST

START_TEST(drain_finishes_what_is_in_hand)
{
    int busy = dial();
    int idle = dial();
    int late = dial();

    say(idle, REQUEST("GET", "/show", ""));
    hear(idle, "{}");
    say(busy, REQUEST("GET", "/held", ""));
    say(late, REQUEST("GET", "/late?ms=60000", ""));
    wait_held(1);
    while (poll(&(struct pollfd){.fd = late, .events = POLLIN}, 1, 50) > 0)
        ;
    httpd_drain(server);
    ck_assert(!httpd_wait_drained(server, 200));
    assert_has(hear(late, NULL), "\r\nConnection: close\r\n");
    say(idle, REQUEST("GET", "/show", "")); /* was on its way when the drain began */
    assert_has(hear(idle, NULL), "\r\nConnection: close\r\n");
    answer_held();
    ck_assert(httpd_wait_drained(server, 3000));
    assert_has(hear(busy, NULL), "\r\nConnection: close\r\n");
    close(busy);
    close(idle);
    close(late);
}
END_TEST

START_TEST(a_port_in_use_is_said)
{
    struct httpd_settings same = settings;
    struct httpd_config config = {&same, routes, 1, NULL, NULL, 0, 0};
    struct err err = {0};
    char addr[32];

    snprintf(addr, sizeof(addr), "127.0.0.1:%u", httpd_port(server));
    same.listen_addr = addr;
    ck_assert_ptr_null(httpd_new(&config, &err));
    assert_has(err.msg, "Address already in use");
}
END_TEST

START_TEST(unanswered_at_the_end)
{
    int fd = dial();

    say(fd, REQUEST("GET", "/late?ms=60000", ""));
    while (poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 50) > 0)
        ;
    teardown();
    ck_assert_str_eq(hear(fd, NULL), "");
    close(fd);
}
END_TEST

#define FAR "60000"

START_TEST(a_deadline_is_answered_in_time_and_whoever_comes_later_learns_it)
{
    int waiting = dial();
    int marked = dial();

    say(waiting, REQUEST("GET", "/deadline?ms=100", CLOSE));
    wait_held(1);
    say(marked, REQUEST("GET", "/deadline?ms=100", CLOSE));
    wait_held(2);
    ck_assert(httpd_mark(held.req[1], 1));
    ck_assert(httpd_mark(held.req[1], 7));
    assert_has(hear(waiting, NULL), "\r\n\r\nlate 0");
    assert_has(hear(marked, NULL), "\r\n\r\nlate 7");
    ck_assert(!httpd_take(held.req[0]));
    ck_assert(!httpd_mark(held.req[1], 1));
    close(waiting);
    close(marked);
}
END_TEST

START_TEST(what_was_taken_before_its_deadline_is_answered_after_it)
{
    int taken = dial();
    int next = dial();

    say(taken, REQUEST("GET", "/deadline?ms=200", CLOSE));
    wait_held(1);
    ck_assert(httpd_take(held.req[0]));
    say(next, REQUEST("GET", "/deadline?ms=300", CLOSE)); /* when this one is over, so is that */
    assert_has(hear(next, NULL), "late");
    httpd_reply(held.req[0], 200, "held", 4);
    assert_has(hear(taken, NULL), "\r\n\r\nheld");
    ck_assert(!httpd_take(held.req[1]));
    close(taken);
    close(next);
}
END_TEST

#define PAIRS 8 /* so that each thread has some */

/* A far deadline that was set first keeps no near one waiting, nor does one that is over. */
START_TEST(deadlines_pass_in_their_order)
{
    int fds[2 * PAIRS];

    for (size_t i = 0; i < 2 * PAIRS; i++) {
        fds[i] = dial();
        say(fds[i], i < PAIRS ? REQUEST("GET", "/deadline?ms=" FAR, CLOSE)
                              : REQUEST("GET", "/deadline?ms=1", CLOSE));
        wait_held(i + 1);
    }
    for (size_t i = PAIRS; i < 2 * PAIRS; i++)
        assert_has(hear(fds[i], NULL), "late");
    for (size_t i = 0; i < PAIRS; i++) {
        ck_assert(httpd_take(held.req[i]));
        ck_assert(!httpd_take(held.req[PAIRS + i]));
        httpd_reply(held.req[i], 200, "held", 4);
        assert_has(hear(fds[i], NULL), "held");
    }
    for (size_t i = 0; i < 2 * PAIRS; i++)
        close(fds[i]);
}
END_TEST

#define RACES 300

/* One answer each, whoever comes first; the sanitizers see what is touched after it. */
START_TEST(an_answer_and_a_deadline_race)
{
    size_t late = 0;
    int fds[RACES];

    for (size_t i = 0; i < RACES; i++) {
        fds[i] = dial();
        say(fds[i], REQUEST("GET", "/deadline?ms=2", CLOSE));
        wait_held(i + 1);
        if (i % 3 == 0)
            poll(NULL, 0, (int)(i % 4));
        if (httpd_mark(held.req[i], 1) && httpd_take(held.req[i]))
            httpd_reply(held.req[i], 200, "held", 4);
        else
            late++;
    }
    for (size_t i = 0; i < RACES; i++) {
        const char *answer = hear(fds[i], NULL);

        late -= strstr(answer, "\r\n\r\nlate") != NULL;
        ck_assert(strstr(answer, "late") || strstr(answer, "\r\n\r\nheld"));
        close(fds[i]);
    }
    ck_assert_uint_eq(late, 0);
}
END_TEST

/* Whoever still holds a request when the server ends may answer it all the same. */
START_TEST(an_answer_after_the_end)
{
    int fd = dial();

    say(fd, REQUEST("GET", "/held", ""));
    wait_held(1);
    teardown();
    httpd_reply(held.req[0], 200, "held", 4);
    close(fd);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("httpd");
    TCase *t = tcase_create("httpd");

    signal(SIGPIPE, SIG_IGN);
    tcase_set_timeout(t, 30);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, routes_and_refusals);
    tcase_add_test(t, what_a_handler_sees);
    tcase_add_test(t, answers_without_a_body);
    tcase_add_test(t, an_answer_is_what_it_says_and_nothing_beside_it);
    tcase_add_test(t, no_header_goes_on_in_a_line_of_its_own);
    tcase_add_test(t, an_old_client_that_wants_to_is_kept);
    tcase_add_test(t, no_answer_is_kept_or_guessed_at);
    tcase_add_test(t, a_request_has_an_id);
    tcase_add_test(t, admission);
    tcase_add_test(t, what_a_route_goes_without);
    tcase_add_loop_test(t, ambiguous_requests_end_the_connection, 0,
                        (int)(sizeof(smuggling) / sizeof(smuggling[0])));
    tcase_add_loop_test(t, what_is_given_twice_is_named, 0,
                        (int)(sizeof(twice) / sizeof(twice[0])));
    tcase_add_loop_test(t, a_body_is_json_by_its_type, 0, (int)(sizeof(types) / sizeof(types[0])));
    tcase_add_test(t, the_host_is_a_name_and_one_of_ours);
    tcase_add_test(t, names_without_ports_are_hosts);
    tcase_add_test(t, pages_of_listed_origins_may_call);
    tcase_add_test(t, pages_of_others_may_not);
    tcase_add_test(t, origins_are_written_as_browsers_do);
    tcase_add_test(t, a_query_is_bounded_and_has_no_nul);
    tcase_add_test(t, blanks_where_they_may_be);
    tcase_add_test(t, old_clients_hear_how_long_an_answer_is);
    tcase_add_test(t, after_a_half_close_what_came_is_answered);
    tcase_add_test(t, limits_are_answered_as_json);
    tcase_add_test(t, a_body_in_pieces_and_expect);
    tcase_add_test(t, answers_from_another_thread);
    tcase_add_test(t, what_comes_while_a_request_is_handled_waits_without_cost);
    tcase_add_test(t, a_client_that_left_is_answered_into_nothing);
    tcase_add_test(t, a_client_that_left_before_its_100_continue_was_out);
    tcase_add_test(t, held_back_answers_and_resets);
    tcase_add_loop_test(t, slow_requests_are_cut_off, 0, (int)(sizeof(slow) / sizeof(slow[0])));
    tcase_add_test(t, silent_connections_are_closed);
    tcase_add_test(t, idle_connections_make_room);
    tcase_add_test(t, a_full_server_keeps_its_idle_connections);
    tcase_add_test(t, an_address_has_so_many_connections);
    tcase_add_test(t, a_proxy_of_ours_says_who_the_client_is);
    tcase_add_test(t, a_proxy_of_ours_speaks_before_its_client);
    tcase_add_test(t, nobody_else_speaks_before_a_request);
    tcase_add_test(t, a_connection_has_so_many_requests);
    tcase_add_test(t, connections_leave_descriptors_for_others);
    tcase_add_test(t, drain_finishes_what_is_in_hand);
    tcase_add_test(t, a_port_in_use_is_said);
    tcase_add_test(t, unanswered_at_the_end);
    tcase_add_test(t, a_deadline_is_answered_in_time_and_whoever_comes_later_learns_it);
    tcase_add_test(t, what_was_taken_before_its_deadline_is_answered_after_it);
    tcase_add_test(t, deadlines_pass_in_their_order);
    tcase_add_test(t, an_answer_and_a_deadline_race);
    tcase_add_test(t, an_answer_after_the_end);
    suite_add_tcase(s, t);
    return suite_run(s);
}
