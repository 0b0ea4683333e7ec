#include <arpa/inet.h>
#include <check.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "consumerd/transport.h"
#include "test/unit/suite.h"

/*
 * What comes of each kind of bad day at an operator. The operator is a socket that answers with
 * what the first part of the path is told to do; its first two requests on a connection may differ.
 */

#define TIMEOUT_MS 1000

static const struct {
    const char *name;
    const char *answer; /* "hang", "reset", "close", "flood", "echo", or bytes */
} behaviours[] = {
    {"accept", "HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{\"id\":\"op-1\"}"},
    {"created", "HTTP/1.1 201 Created\r\nContent-Length: 11\r\n\r\n{\"id\": 77 }"},
    {"echo", "echo"},
    {"status-", "status"},
    {"wordless", "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"},
    {"unreadable", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{\"id\": [}"},
    {"binary", "HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n{\"id\":\"a\\u00e4\"}"},
    {"cut", "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{\"id\":\"x\"}"},
    {"garbage", "220 smtp ready\r\n\r\n"},
    {"error", "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"},
    {"teapot", "HTTP/1.1 418 No\r\nContent-Length: 0\r\n\r\n"},
    {"moved", "HTTP/1.1 301 Moved\r\nLocation: /accept/messages\r\nContent-Length: 0\r\n\r\n"},
    {"rest", "HTTP/1.1 429 Rest\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n"},
    {"tired", "HTTP/1.1 429 Rest\r\nContent-Length: 0\r\n\r\n"},
    {"missing", "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"},
    {"hang", "hang"},
    {"reset", "reset"},
    {"close", "close"},
    {"flood", "flood"},
};
#define BEHAVIOURS (sizeof(behaviours) / sizeof(behaviours[0]))

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char last_request[8192]; /* under lock */
static int listener;
static uint16_t port;

static const char *behaviour_of(const char *request)
{
    const char *path = strchr(request, '/');

    for (size_t i = 0; path && i < BEHAVIOURS; i++)
        if (!strncmp(path + 1, behaviours[i].name, strlen(behaviours[i].name)))
            return behaviours[i].answer;
    return "close";
}

static bool whole(const char *request)
{
    const char *end = strstr(request, "\r\n\r\n");
    const char *length = strcasestr(request, "content-length:");

    return end && strlen(end + 4) >= (length ? strtoul(length + 15, NULL, 10) : 0);
}

static void flood(int fd)
{
    static char zeros[65536];

    dprintf(fd, "HTTP/1.1 200 OK\r\n\r\n");
    while (send(fd, zeros, sizeof(zeros), MSG_NOSIGNAL) > 0)
        ;
}

/* The status that the path ends in. */
static void answer_status(int fd, const char *request)
{
    const char *at = strstr(request, "/status-");

    dprintf(fd, "HTTP/1.1 %.3s Status\r\nConnection: close\r\n\r\n", at + strlen("/status-"));
}

/* The Idempotency-Key comes back as the id. */
static void echo(int fd, const char *request)
{
    const char *key = strstr(request, "Idempotency-Key: ");
    int n = key ? (int)strcspn(key + 17, "\r") : 0;

    dprintf(fd, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"id\":\"%.*s\"}", n,
            key ? key + 17 : "");
}

/* One request a connection, but for those that are kept alive. */
static void *serve(void *arg)
{
    int fd = *(int *)arg;
    struct linger linger = {1, 0};

    free(arg);
    for (;;) {
        char request[sizeof(last_request)] = "";
        size_t n = 0;
        const char *what;

        while (!whole(request)) {
            ssize_t got = recv(fd, request + n, sizeof(request) - 1 - n, 0);

            if (got <= 0)
                goto out;
            n += (size_t)got;
            request[n] = '\0';
        }
        pthread_mutex_lock(&lock);
        memcpy(last_request, request, sizeof(request));
        pthread_mutex_unlock(&lock);
        what = behaviour_of(request);
        if (!strcmp(what, "hang")) {
            recv(fd, request, 1, 0); /* until the other side gives up */
            break;
        }
        if (!strcmp(what, "reset"))
            setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
        if (!strcmp(what, "reset") || !strcmp(what, "close"))
            break;
        if (!strcmp(what, "flood")) {
            flood(fd);
            break;
        }
        if (!strcmp(what, "echo")) {
            echo(fd, request);
            break;
        }
        if (!strcmp(what, "status")) {
            answer_status(fd, request);
            break;
        }
        send(fd, what, strlen(what), MSG_NOSIGNAL);
        if (!strstr(what, "Content-Length") || strstr(what, "1000"))
            break;
    }
out:
    close(fd);
    return NULL;
}

static void *accept_all(void *arg)
{
    (void)arg;
    for (;;) {
        int *fd = malloc(sizeof(*fd));
        pthread_t thread;

        if (!fd || (*fd = accept(listener, NULL, NULL)) < 0 ||
            pthread_create(&thread, NULL, serve, fd)) {
            free(fd);
            return NULL;
        }
        pthread_detach(thread);
    }
}

static void start_operator(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof(address);
    pthread_t thread;

    listener = socket(AF_INET, SOCK_STREAM, 0);
    ck_assert(listener >= 0 && !bind(listener, (struct sockaddr *)&address, size));
    ck_assert(!listen(listener, 16) && !getsockname(listener, (struct sockaddr *)&address, &size));
    port = ntohs(address.sin_port);
    ck_assert(!pthread_create(&thread, NULL, accept_all, NULL));
    pthread_detach(thread);
}

/* ---- the caller ---- */

static const char *asked(void)
{
    static char copy[sizeof(last_request)];

    pthread_mutex_lock(&lock);
    memcpy(copy, last_request, sizeof(copy));
    pthread_mutex_unlock(&lock);
    return copy;
}

struct caller {
    struct event_base *base;
    struct transport_call call;
    struct transport_result result;
    int results;
    bool forbid;
};

static void on_done(struct transport_call *call_done, const struct transport_result *result,
                    void *arg)
{
    struct caller *call = arg;

    ck_assert_ptr_eq(call_done, &call->call);
    ck_assert(!transport_under_way(call_done));
    call->result = *result;
    call->results++;
    event_base_loopbreak(call->base);
}

static bool may_send(void *arg)
{
    return !((struct caller *)arg)->forbid;
}

static struct inflight *make_message(struct job **job)
{
    static char text[] = "Grüße, \"quoted\"\n";
    static char state[] = "vendor=1";
    struct inflight *m = calloc(1, sizeof(*m));

    ck_assert_ptr_nonnull(m);
    TAILQ_INIT(&m->jobs);
    strcpy(m->id, "0190-abc"); /* NOLINT: it fits */
    m->type = MESSAGE_EXPRESS;
    m->text = text;
    m->text_len = strlen(text);
    memcpy(m->traceparent, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", 56);
    m->tracestate = state;
    *job = job_new(m);
    (*job)->position = 4;
    snprintf((*job)->recipient, sizeof((*job)->recipient), "+4912345");
    return m;
}

/* Opens the base and the link. */
static struct transport_link *open_link(struct caller *call, struct operator_address *address,
                                        const char *path, uint16_t to)
{
    struct transport_config config = {.operators = address,
                                      .operator_count = 1,
                                      .timeout_ms = TIMEOUT_MS,
                                      .calls_max = 4,
                                      .done = on_done,
                                      .may_send = may_send,
                                      .arg = call};

    snprintf(address->name, sizeof(address->name), "a");
    snprintf(address->url, sizeof(address->url), "http://127.0.0.1:%u/%s", to, path);
    call->base = config.base = event_base_new();
    return transport_http.open(&config);
}

static void close_link(struct caller *call, struct transport_link *link)
{
    transport_http.close(link);
    event_base_free(call->base);
}

static void begin(struct caller *call, struct transport_link *link, struct job *job, bool lookup)
{
    call->call = (struct transport_call){.job = job};
    ck_assert((lookup ? transport_http.lookup : transport_http.submit)(link, &call->call));
    ck_assert(transport_under_way(&call->call));
}

static struct transport_result call_once(bool lookup, const char *path, uint16_t to)
{
    struct operator_address address = {0};
    struct caller call = {0};
    struct job *job;
    struct inflight *m = make_message(&job);
    struct transport_link *link = open_link(&call, &address, path, to);
    struct timeval limit = {5, 0};

    begin(&call, link, job, lookup);
    event_base_loopexit(call.base, &limit);
    event_base_dispatch(call.base);
    ck_assert_int_eq(call.results, 1);
    ck_assert(call.result.lookup == lookup);
    close_link(&call, link);
    inflight_free(m);
    return call.result;
}

static const struct {
    const char *path;
    enum verdict verdict;
    const char *id;
    int64_t rest_ms;
} submits[] = {
    {"accept", VERDICT_ACCEPTED, "op-1", 0},
    {"created", VERDICT_ACCEPTED, "77", 0},
    {"echo", VERDICT_ACCEPTED, "0190-abc-4", 0},
    {"wordless", VERDICT_ACCEPTED, "", 0},
    {"unreadable", VERDICT_ACCEPTED, "", 0},
    {"binary", VERDICT_ACCEPTED, "a??", 0},
    {"cut", VERDICT_UNKNOWN, "", 0},
    {"garbage", VERDICT_UNKNOWN, "", 0},
    {"flood", VERDICT_UNKNOWN, "", 0},
    {"hang", VERDICT_UNKNOWN, "", 0},
    {"reset", VERDICT_UNKNOWN, "", 0},
    {"close", VERDICT_UNKNOWN, "", 0},
    {"rest", VERDICT_THROTTLED, "", 7000},
    {"tired", VERDICT_THROTTLED, "", 1000},
};

START_TEST(meaning_of_a_submission)
{
    struct transport_result r = call_once(false, submits[_i].path, port);

    ck_assert_msg(r.verdict == submits[_i].verdict, "%s: %s %s", submits[_i].path,
                  verdict_name(r.verdict), r.error);
    ck_assert_str_eq(r.provider_id, submits[_i].id);
    ck_assert_int_eq(r.rest_ms, submits[_i].rest_ms);
    ck_assert((r.verdict == VERDICT_ACCEPTED) == (*r.error == '\0'));
    if (!strcmp(submits[_i].path, "hang"))
        ck_assert(r.duration_us >= TIMEOUT_MS * 900 && r.duration_us < TIMEOUT_MS * 3000);
}
END_TEST

static const struct {
    int status;
    enum verdict verdict;
    enum unfit unfit;
} statuses[] = {
    {301, VERDICT_UNFIT, UNFIT_ADDRESS},     {302, VERDICT_UNFIT, UNFIT_ADDRESS},
    {307, VERDICT_UNFIT, UNFIT_ADDRESS},     {308, VERDICT_UNFIT, UNFIT_ADDRESS},
    {400, VERDICT_REJECTED, UNFIT_REASONS},  {401, VERDICT_UNFIT, UNFIT_CREDENTIALS},
    {402, VERDICT_UNFIT, UNFIT_CREDIT},      {403, VERDICT_UNFIT, UNFIT_FORBIDDEN},
    {404, VERDICT_UNFIT, UNFIT_ADDRESS},     {405, VERDICT_UNFIT, UNFIT_ADDRESS},
    {406, VERDICT_UNFIT, UNFIT_PROTOCOL},    {407, VERDICT_UNFIT, UNFIT_PROXY},
    {408, VERDICT_TRANSIENT, UNFIT_REASONS}, {409, VERDICT_UNKNOWN, UNFIT_REASONS},
    {410, VERDICT_UNFIT, UNFIT_ADDRESS},     {411, VERDICT_UNFIT, UNFIT_PROTOCOL},
    {412, VERDICT_UNFIT, UNFIT_PROTOCOL},    {413, VERDICT_REJECTED, UNFIT_REASONS},
    {414, VERDICT_UNFIT, UNFIT_PROTOCOL},    {415, VERDICT_UNFIT, UNFIT_PROTOCOL},
    {417, VERDICT_UNFIT, UNFIT_PROTOCOL},    {418, VERDICT_UNKNOWN, UNFIT_REASONS},
    {421, VERDICT_TRANSIENT, UNFIT_REASONS}, {422, VERDICT_REJECTED, UNFIT_REASONS},
    {423, VERDICT_UNKNOWN, UNFIT_REASONS},   {425, VERDICT_TRANSIENT, UNFIT_REASONS},
    {426, VERDICT_UNFIT, UNFIT_PROTOCOL},    {428, VERDICT_UNFIT, UNFIT_PROTOCOL},
    {429, VERDICT_THROTTLED, UNFIT_REASONS}, {431, VERDICT_UNFIT, UNFIT_PROTOCOL},
    {451, VERDICT_REJECTED, UNFIT_REASONS},  {499, VERDICT_UNKNOWN, UNFIT_REASONS},
    {500, VERDICT_TRANSIENT, UNFIT_REASONS}, {501, VERDICT_TRANSIENT, UNFIT_REASONS},
    {503, VERDICT_TRANSIENT, UNFIT_REASONS}, {599, VERDICT_TRANSIENT, UNFIT_REASONS},
};

START_TEST(meaning_of_a_status)
{
    struct transport_result r;
    char path[20];

    snprintf(path, sizeof(path), "status-%d", statuses[_i].status);
    r = call_once(false, path, port);
    ck_assert_msg(r.verdict == statuses[_i].verdict, "%d: %s %s", statuses[_i].status,
                  verdict_name(r.verdict), r.error);
    if (r.verdict == VERDICT_UNFIT)
        ck_assert_str_eq(unfit_name(r.unfit), unfit_name(statuses[_i].unfit));
    ck_assert_str_eq(r.provider_id, "");
    ck_assert(*r.error);
}
END_TEST

static const struct {
    const char *path;
    enum lookup_answer answer;
} lookups[] = {
    {"accept", LOOKUP_FOUND},         {"unreadable", LOOKUP_FOUND},   {"missing", LOOKUP_NOT_FOUND},
    {"error", LOOKUP_UNREACHABLE},    {"teapot", LOOKUP_UNREACHABLE}, {"rest", LOOKUP_UNREACHABLE},
    {"hang", LOOKUP_UNREACHABLE},     {"close", LOOKUP_UNREACHABLE},  {"moved", LOOKUP_UNREACHABLE},
    {"wordless", LOOKUP_UNREACHABLE},
};

START_TEST(meaning_of_a_lookup)
{
    struct transport_result r = call_once(true, lookups[_i].path, port);

    ck_assert_msg(r.answer == lookups[_i].answer, "%s: %s", lookups[_i].path,
                  lookup_answer_name(r.answer));
    ck_assert_ptr_nonnull(strstr(asked(), "/messages/0190-abc-4 HTTP/1.1\r\n"));
}
END_TEST

/* Nothing has gone out: the operator cannot have it. */
START_TEST(a_refused_connection_is_transient)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    ck_assert(!bind(fd, (struct sockaddr *)&address, size));
    ck_assert(!getsockname(fd, (struct sockaddr *)&address, &size));
    ck_assert_int_eq(call_once(false, "accept", ntohs(address.sin_port)).verdict,
                     VERDICT_TRANSIENT);
    close(fd);
}
END_TEST

/* A full backlog: the connection is never made, so the timeout is a transient one. */
START_TEST(a_connection_timeout_is_transient)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    int fill[8];

    ck_assert(!bind(fd, (struct sockaddr *)&address, size) && !listen(fd, 0));
    ck_assert(!getsockname(fd, (struct sockaddr *)&address, &size));
    for (int i = 0; i < 8; i++) {
        fill[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        (void)connect(fill[i], (struct sockaddr *)&address, size);
    }
    ck_assert_int_eq(call_once(false, "accept", ntohs(address.sin_port)).verdict,
                     VERDICT_TRANSIENT);
    for (int i = 0; i < 8; i++)
        close(fill[i]);
    close(fd);
}
END_TEST

START_TEST(the_request_is_what_the_protocol_says)
{
    call_once(false, "accept", port);
    ck_assert_ptr_nonnull(strstr(asked(), "POST /accept/messages HTTP/1.1\r\n"));
    ck_assert_ptr_nonnull(strstr(asked(), "Idempotency-Key: 0190-abc-4\r\n"));
    ck_assert_ptr_nonnull(strstr(asked(), "Content-Type: application/json\r\n"));
    ck_assert_ptr_nonnull(strstr(
        asked(), "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n"));
    ck_assert_ptr_nonnull(strstr(asked(), "tracestate: vendor=1\r\n"));
    ck_assert_ptr_null(strcasestr(asked(), "expect:"));
    ck_assert_ptr_nonnull(
        strstr(asked(), "\r\n\r\n{\"reference\":\"0190-abc-4\",\"to\":\"+4912345\",\"text\":"
                        "\"Grüße, \\\"quoted\\\"\\n\",\"type\":\"express\"}"));
}
END_TEST

/* A handle that has failed is used again: nothing of the former call may show. */
START_TEST(handles_are_reused)
{
    static const char *const order[] = {"accept", "rest", "hang", "accept", "error", "accept"};
    static const enum verdict expected[] = {VERDICT_ACCEPTED, VERDICT_THROTTLED, VERDICT_UNKNOWN,
                                            VERDICT_ACCEPTED, VERDICT_TRANSIENT, VERDICT_ACCEPTED};
    struct operator_address address = {0};
    struct caller call = {0};
    struct job *job;
    struct inflight *m = make_message(&job);
    struct transport_link *link = open_link(&call, &address, "accept", port);

    for (int i = 0; i < 6; i++) {
        snprintf(address.url, sizeof(address.url), "http://127.0.0.1:%u/%s", port, order[i]);
        begin(&call, link, job, false);
        event_base_dispatch(call.base);
        ck_assert_int_eq(call.results, i + 1);
        ck_assert_msg(call.result.verdict == expected[i], "call %d: %d", i, call.result.verdict);
        ck_assert_str_eq(call.result.provider_id, expected[i] == VERDICT_ACCEPTED ? "op-1" : "");
        ck_assert_int_eq(call.result.rest_ms, expected[i] == VERDICT_THROTTLED ? 7000 : 0);
    }
    close_link(&call, link);
    inflight_free(m);
}
END_TEST

/* curl's sockets for names come and go under the numbers of closed connections: each must be
 * watched anew, or its call ends in a timeout. */
START_TEST(sockets_change_places)
{
    static const struct {
        const char *host, *path;
    } urls[] = {{"localhost", "close"},  {"127.0.0.1", "accept"}, {"127.0.0.1", "close"},
                {"localhost", "accept"}, {"127.0.0.1", "accept"}, {"localhost", "close"}};
    struct operator_address address = {0};
    struct caller call = {0};
    struct job *job;
    struct inflight *m = make_message(&job);

    for (int round = 0; round < 3; round++) { /* a new cache of names each */
        struct transport_link *link = open_link(&call, &address, "accept", port);

        for (int i = 0; i < 6; i++) {
            bool accepts = !strcmp(urls[i].path, "accept");

            snprintf(address.url, sizeof(address.url), "http://%s:%u/%s", urls[i].host, port,
                     urls[i].path);
            begin(&call, link, job, false);
            event_base_dispatch(call.base);
            ck_assert_int_eq(call.results, round * 6 + i + 1);
            ck_assert_int_eq(call.result.verdict, accepts ? VERDICT_ACCEPTED : VERDICT_UNKNOWN);
            ck_assert_int_lt(call.result.duration_us, TIMEOUT_MS * 900);
        }
        close_link(&call, link);
    }
    inflight_free(m);
}
END_TEST

/* Once the incarnation is over not a byte may leave; an aborted call is never heard of again. */
START_TEST(nothing_is_sent_without_leave)
{
    struct operator_address address = {0};
    struct caller call = {.forbid = true};
    struct job *job;
    struct inflight *m = make_message(&job);
    struct transport_link *link = open_link(&call, &address, "accept", port);
    struct timeval limit = {0, 100000};

    pthread_mutex_lock(&lock);
    last_request[0] = '\0';
    pthread_mutex_unlock(&lock);
    begin(&call, link, job, false);
    event_base_loopexit(call.base, &limit);
    event_base_dispatch(call.base);
    ck_assert_int_eq(call.results, 0);
    ck_assert_str_eq(asked(), "");
    transport_http.abort(link, &call.call);
    ck_assert(!transport_under_way(&call.call));
    call.forbid = false;
    event_base_loopexit(call.base, &limit);
    event_base_dispatch(call.base);
    ck_assert_int_eq(call.results, 0);
    ck_assert_str_eq(asked(), "");
    close_link(&call, link);
    inflight_free(m);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("transport_http");
    TCase *tc = tcase_create("transport_http");

    tcase_add_unchecked_fixture(tc, start_operator, NULL);
    tcase_set_timeout(tc, 30);
    tcase_add_loop_test(tc, meaning_of_a_submission, 0,
                        (int)(sizeof(submits) / sizeof(submits[0])));
    tcase_add_loop_test(tc, meaning_of_a_status, 0, (int)(sizeof(statuses) / sizeof(statuses[0])));
    tcase_add_loop_test(tc, meaning_of_a_lookup, 0, (int)(sizeof(lookups) / sizeof(lookups[0])));
    tcase_add_test(tc, a_refused_connection_is_transient);
    tcase_add_test(tc, a_connection_timeout_is_transient);
    tcase_add_test(tc, the_request_is_what_the_protocol_says);
    tcase_add_test(tc, handles_are_reused);
    tcase_add_test(tc, sockets_change_places);
    tcase_add_test(tc, nothing_is_sent_without_leave);
    suite_add_tcase(suite, tc);
    return suite_run(suite);
}
