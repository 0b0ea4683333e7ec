#include <arpa/inet.h>
#include <check.h>
#include <dlfcn.h>
#include <netdb.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "consumerd/transport.h"
#include "libcommon/base/clock.h"
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
    {"chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                "d\r\n{\"id\":\"op-1\"}\r\n0\r\n\r\n"},
    {"long", "long"},
    {"too-long", "too-long"},
    {"refused-long", "refused-long"},
    {"no-content", "HTTP/1.1 204 No Content\r\n\r\n"},
    {"partial", "HTTP/1.1 206 Partial\r\nContent-Length: 1000\r\n\r\n{\"id\":\"x\"}"},
    {"refused-cut", "HTTP/1.1 422 No\r\nContent-Length: 1000\r\n\r\n{"},
    {"error-cut", "HTTP/1.1 503 Busy\r\nContent-Length: 1000\r\n\r\n{"},
    {"headers-only", "HTTP/1.1 401 No\r\nContent-Le"},
    {"going-on", "HTTP/1.1 100 Continue\r\n\r\n"},
    {"strange", "HTTP/1.1 799 What\r\nContent-Length: 0\r\n\r\n"},
    {"echo", "echo"},
    {"status-", "status"},
    {"wordless", "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"},
    {"unreadable", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{\"id\": [}"},
    {"rejection", "HTTP/1.1 200 OK\r\nContent-Length: 32\r\n\r\n"
                  "{\"id\":\"op-1\",\"status\":\"rejected\"}"},
    {"binary", "HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n{\"id\":\"a\\u00e4\"}"},
    {"cut", "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{\"id\":\"x\"}"},
    {"garbage", "220 smtp ready\r\n\r\n"},
    {"error", "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"},
    {"teapot", "HTTP/1.1 418 No\r\nContent-Length: 0\r\n\r\n"},
    {"moved", "HTTP/1.1 301 Moved\r\nLocation: /accept/messages\r\nContent-Length: 0\r\n\r\n"},
    {"rest", "HTTP/1.1 429 Rest\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n"},
    {"rest-long",
     "HTTP/1.1 429 Rest\r\nRetry-After: 9223372036854775807\r\nContent-Length: 0\r\n\r\n"},
    {"rest-longer",
     "HTTP/1.1 429 Rest\r\nRetry-After: 99999999999999999999\r\nContent-Length: 0\r\n\r\n"},
    {"rest-negative", "HTTP/1.1 429 Rest\r\nRetry-After: -5\r\nContent-Length: 0\r\n\r\n"},
    {"rest-past", "HTTP/1.1 429 Rest\r\nRetry-After: Fri, 01 Jan 1999 00:00:00 GMT\r\n"
                  "Content-Length: 0\r\n\r\n"},
    {"rest-2099", "HTTP/1.1 429 Rest\r\nRetry-After: Thu, 01 Jan 2099 00:00:00 GMT\r\n"
                  "Content-Length: 0\r\n\r\n"},
    {"rest-garbage", "HTTP/1.1 429 Rest\r\nRetry-After: soon\r\nContent-Length: 0\r\n\r\n"},
    {"tired", "HTTP/1.1 429 Rest\r\nContent-Length: 0\r\n\r\n"},
    {"missing", "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"},
    {"hang", "hang"},
    {"reset", "reset"},
    {"close", "close"},
    {"flood", "flood"},
    {"to-end", "HTTP/1.1 200 OK\r\n\r\n{\"id\":\"op-1\"}"},
    {"to-reset", "to-reset"},
    {"refused-body", "HTTP/1.1 422 No\r\nContent-Length: 2\r\n\r\n{}"},
    {"two-lengths", "HTTP/1.1 200 OK\r\nContent-Length: 20\r\nContent-Length: 13\r\n\r\n"
                    "{\"id\":\"op-1\"}"},
    {"both-lengths", "HTTP/1.1 200 OK\r\nContent-Length: 13\r\nTransfer-Encoding: chunked\r\n\r\n"
                     "d\r\n{\"id\":\"op-1\"}\r\n0\r\n\r\n"},
    {"where", "where"},
    {"kept-close", "kept-close"},
    {"kept-reset", "kept-reset"},
    {"late", "late"},
    {"pair", "pair"},
    {"farewell", "farewell"},
    {"when-told", "when-told"},
};
#define BEHAVIOURS (sizeof(behaviours) / sizeof(behaviours[0]))

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char last_request[8192]; /* under lock */
static int listener;
static uint16_t port;
static atomic_int connections, requests; /* those that had a request */
static sem_t say_more, said_more; /* what nobody has asked for is in the other side's socket */

static const char *behaviour_of(const char *request)
{
    const char *path = strchr(request, '/');

    for (size_t i = 0; path && i < BEHAVIOURS; i++) {
        size_t n = strlen(behaviours[i].name);

        if (!strncmp(path + 1, behaviours[i].name, n) &&
            (path[1 + n] == '/' || path[n] == '-')) /* "status-": a number follows */
            return behaviours[i].answer;
    }
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

/* An id, then blanks. */
static void lengthy(int fd, const char *status, size_t size)
{
    char *blanks = malloc(size);

    ck_assert_ptr_nonnull(blanks);
    memset(blanks, ' ', size);
    dprintf(fd, "HTTP/1.1 %s\r\nContent-Length: %zu\r\n\r\n{\"id\":\"op-1\"}", status, size + 13);
    send(fd, blanks, size, MSG_NOSIGNAL);
    free(blanks);
}

/* The Idempotency-Key comes back as the id. */
static void echo(int fd, const char *request)
{
    const char *key = strstr(request, "Idempotency-Key: ");
    int n = key ? (int)strcspn(key + 17, "\r") : 0;

    dprintf(fd, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"id\":\"%.*s\"}", n,
            key ? key + 17 : "");
}

/* The address that was called is the id. */
static void say_where(int fd)
{
    struct sockaddr_in address = {0};
    socklen_t size = sizeof(address);
    char text[INET_ADDRSTRLEN] = "";

    getsockname(fd, (struct sockaddr *)&address, &size);
    inet_ntop(AF_INET, &address.sin_addr, text, sizeof(text));
    dprintf(fd, "HTTP/1.1 200 OK\r\nContent-Length: 18\r\n\r\n{\"id\":\"%s\"}", text);
}

/* The answer to this request, and one to another that there was not. */
static void answer_more(int fd, const char *what)
{
    static const char right[] = "HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{\"id\":\"right\"}";
    static const char wrong[] = "HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{\"id\":\"wrong\"}";

    dprintf(fd, "%s%s", right, !strcmp(what, "pair") ? wrong : "");
    if (strcmp(what, "pair") != 0)
        sem_wait(&say_more);
    if (!strcmp(what, "late"))
        send(fd, wrong, strlen(wrong), MSG_NOSIGNAL);
    else if (!strcmp(what, "farewell"))
        shutdown(fd, SHUT_WR);
    sem_post(&said_more);
}

/* An answer whose end is the connection's. */
static void end_when_told(int fd)
{
    dprintf(fd, "HTTP/1.1 200 OK\r\n\r\n{\"id\":\"right\"}");
    sem_wait(&say_more);
    shutdown(fd, SHUT_WR);
    sem_post(&said_more);
}

/* One request a connection, but for those that are kept alive. */
static void *serve(void *arg)
{
    int fd = *(int *)arg;
    struct linger linger = {1, 0};
    int nth = 0;

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
        requests++;
        connections += !nth++;
        what = behaviour_of(request);
        if (!strncmp(what, "kept-", 5))
            what = nth > 1 ? what + 5 : behaviours[0].answer;
        if (!strcmp(what, "pair") || !strcmp(what, "late") || !strcmp(what, "farewell")) {
            answer_more(fd, what);
            continue;
        }
        if (!strcmp(what, "when-told")) {
            end_when_told(fd);
            continue;
        }
        if (!strcmp(what, "hang")) {
            recv(fd, request, 1, 0); /* until the other side gives up */
            break;
        }
        if (!strcmp(what, "to-reset"))
            dprintf(fd, "HTTP/1.1 200 OK\r\n\r\n{\"id\":\"op-1\"}");
        if (strstr(what, "reset"))
            setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
        if (strstr(what, "reset") || !strcmp(what, "close"))
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
        if (!strcmp(what, "where")) {
            say_where(fd);
            continue;
        }
        if (strstr(what, "long") && *what != 'H') {
            lengthy(fd, strstr(what, "refused") ? "422 No" : "200 OK",
                    !strcmp(what, "long") ? 60000 : 200000);
            continue;
        }
        send(fd, what, strlen(what), MSG_NOSIGNAL);
        if (strstr(what, "1000") || (!strstr(what, "Content-Length") && !strstr(what, "chunked")))
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
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {.s_addr = htonl(INADDR_ANY)}};
    socklen_t size = sizeof(address);
    pthread_t thread;

    signal(SIGPIPE, SIG_IGN);
    ck_assert(!sem_init(&say_more, 0, 0) && !sem_init(&said_more, 0, 0));
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
    struct operator_set *set;
    struct event_base *base;
    struct transport_call call;
    struct transport_result result;
    int results;
    struct transport_call early; /* one that is under way already */
    struct transport_result early_result;
    int early_results;
    int64_t timeout_ms; /* 0: TIMEOUT_MS */
    bool forbid;
    int leaves;  /* how often we get it; 0: always */
    int provoke; /* the operator, when we ask for leave for the nth time from now; 0: not */
};

static void on_done(struct transport_call *call_done, const struct transport_result *result,
                    void *arg)
{
    struct caller *call = arg;

    ck_assert(!transport_under_way(call_done));
    if (call_done == &call->early) {
        call->early_result = *result;
        call->early_results++;
        return;
    }
    ck_assert_ptr_eq(call_done, &call->call);
    call->result = *result;
    call->results++;
    event_base_loopbreak(call->base);
}

static void wait_for_more(void)
{
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 10;
    ck_assert(!sem_timedwait(&said_more, &until));
}

static void let_say_more(void)
{
    sem_post(&say_more);
    wait_for_more();
}

static bool may_send(void *arg)
{
    struct caller *call = arg;
    bool allow = !call->forbid;

    if (call->leaves && !--call->leaves)
        call->forbid = true;
    if (call->provoke && !--call->provoke)
        let_say_more();
    return allow;
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

/* Opens the base and the link. *set is the link's own, and may be changed between calls. */
static struct transport_link *open_link(struct caller *call, struct operator_set **set,
                                        const char *path, uint16_t to)
{
    struct transport_config config = {.operator_count = 1,
                                      .set = &call->set,
                                      .timeout_ms =
                                          call->timeout_ms ? call->timeout_ms : TIMEOUT_MS,
                                      .name_sec = 1,
                                      .calls_max = 4,
                                      .done = on_done,
                                      .may_send = may_send,
                                      .arg = call};
    char list[100];
    char why[200];

    snprintf(list, sizeof(list), "a=http://127.0.0.1:%u/%s", to, path);
    *set = call->set = operator_set_of_list(list, why, sizeof(why));
    ck_assert_ptr_nonnull(call->set);
    call->base = config.base = event_base_new();
    return transport_native.open(&config);
}

static void close_link(struct caller *call, struct transport_link *link)
{
    transport_native.close(link);
    event_base_free(call->base);
    operator_set_drop(call->set);
}

static void begin(struct caller *call, struct transport_link *link, struct job *job, bool lookup)
{
    call->call = (struct transport_call){.job = job};
    ck_assert((lookup ? transport_native.lookup : transport_native.submit)(link, &call->call));
    ck_assert(transport_under_way(&call->call));
}

static struct transport_result call_once(bool lookup, const char *path, uint16_t to)
{
    struct operator_set *set;
    struct caller call = {0};
    struct job *job;
    struct inflight *m = make_message(&job);
    struct transport_link *link = open_link(&call, &set, path, to);
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
    {"chunked", VERDICT_ACCEPTED, "op-1", 0},
    {"long", VERDICT_ACCEPTED, "op-1", 0},
    {"too-long", VERDICT_UNKNOWN, "", 0},
    {"refused-long", VERDICT_REJECTED, "", 0},
    {"no-content", VERDICT_UNKNOWN, "", 0},
    {"partial", VERDICT_UNKNOWN, "", 0},
    {"refused-cut", VERDICT_REJECTED, "", 0},
    {"error-cut", VERDICT_TRANSIENT, "", 0},
    {"headers-only", VERDICT_UNFIT, "", 0},
    {"going-on", VERDICT_UNKNOWN, "", 0},
    {"strange", VERDICT_UNKNOWN, "", 0},
    {"rejection", VERDICT_UNKNOWN, "", 0},
    {"wordless", VERDICT_UNKNOWN, "", 0},
    {"unreadable", VERDICT_UNKNOWN, "", 0},
    {"binary", VERDICT_ACCEPTED, "aä", 0},
    {"cut", VERDICT_UNKNOWN, "", 0},
    {"garbage", VERDICT_UNKNOWN, "", 0},
    {"flood", VERDICT_UNKNOWN, "", 0},
    {"to-end", VERDICT_ACCEPTED, "op-1", 0},
    {"to-reset", VERDICT_UNKNOWN, "", 0},
    {"hang", VERDICT_UNKNOWN, "", 0},
    {"reset", VERDICT_UNKNOWN, "", 0},
    {"close", VERDICT_UNKNOWN, "", 0},
    {"rest", VERDICT_THROTTLED, "", 7000},
    {"rest-long", VERDICT_THROTTLED, "", 86400000},
    {"rest-longer", VERDICT_THROTTLED, "", 1000},
    {"rest-negative", VERDICT_THROTTLED, "", 1000},
    {"rest-past", VERDICT_THROTTLED, "", 1000},
    {"rest-2099", VERDICT_THROTTLED, "", 86400000},
    {"rest-garbage", VERDICT_THROTTLED, "", 1000},
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
    {"accept", LOOKUP_FOUND},           {"binary", LOOKUP_FOUND},
    {"missing", LOOKUP_NOT_FOUND},      {"unreadable", LOOKUP_UNREACHABLE},
    {"cut", LOOKUP_UNREACHABLE},        {"created", LOOKUP_UNREACHABLE},
    {"no-content", LOOKUP_UNREACHABLE}, {"partial", LOOKUP_UNREACHABLE},
    {"rejection", LOOKUP_UNREACHABLE},  {"too-long", LOOKUP_UNREACHABLE},
    {"error", LOOKUP_UNREACHABLE},      {"teapot", LOOKUP_UNREACHABLE},
    {"rest", LOOKUP_UNREACHABLE},       {"hang", LOOKUP_UNREACHABLE},
    {"close", LOOKUP_UNREACHABLE},      {"moved", LOOKUP_UNREACHABLE},
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
    const char *length;
    char host[48];

    call_once(false, "accept", port);
    ck_assert_ptr_nonnull(strstr(asked(), "POST /accept/messages HTTP/1.1\r\n"));
    snprintf(host, sizeof(host), "\r\nHost: 127.0.0.1:%u\r\n", port);
    ck_assert_ptr_nonnull(strstr(asked(), host));
    ck_assert_ptr_nonnull(length = strstr(asked(), "\r\nContent-Length: "));
    ck_assert_uint_eq(strtoul(length + 18, NULL, 10), strlen(strstr(length, "\r\n\r\n") + 4));
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

/* A transfer that has failed is used again: nothing of the former call may show. */
START_TEST(transfers_are_reused)
{
    static const char *const order[] = {"accept", "rest", "hang", "accept", "error", "accept"};
    static const enum verdict expected[] = {VERDICT_ACCEPTED, VERDICT_THROTTLED, VERDICT_UNKNOWN,
                                            VERDICT_ACCEPTED, VERDICT_TRANSIENT, VERDICT_ACCEPTED};
    struct operator_set *set;
    struct caller call = {0};
    struct job *job;
    struct inflight *m = make_message(&job);
    struct transport_link *link = open_link(&call, &set, "accept", port);

    for (int i = 0; i < 6; i++) {
        snprintf(set->all[0]->url, sizeof(set->all[0]->url), "http://127.0.0.1:%u/%s", port,
                 order[i]);
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
    } urls[] = {{"localhost", "close"}, {"127.0.0.1", "echo"}, {"127.0.0.1", "close"},
                {"localhost", "echo"},  {"127.0.0.1", "echo"}, {"localhost", "close"}};
    struct operator_set *set;
    struct caller call = {0};
    struct job *job;
    struct inflight *m = make_message(&job);

    for (int round = 0; round < 3; round++) { /* a new cache of names each */
        struct transport_link *link = open_link(&call, &set, "accept", port);

        for (int i = 0; i < 6; i++) {
            bool accepts = !strcmp(urls[i].path, "echo");

            snprintf(set->all[0]->url, sizeof(set->all[0]->url), "http://%s:%u/%s", urls[i].host,
                     port, urls[i].path);
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
    struct operator_set *set;
    struct caller call = {.forbid = true};
    struct job *job;
    struct inflight *m = make_message(&job);
    struct transport_link *link = open_link(&call, &set, "accept", port);
    struct timeval limit = {0, 100000};

    pthread_mutex_lock(&lock);
    last_request[0] = '\0';
    pthread_mutex_unlock(&lock);
    begin(&call, link, job, false);
    event_base_loopexit(call.base, &limit);
    event_base_dispatch(call.base);
    ck_assert_int_eq(call.results, 0);
    ck_assert_str_eq(asked(), "");
    transport_native.abort(link, &call.call);
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

/* ---- connections that are kept ---- */

struct visit {
    struct caller caller;
    struct operator_set *set;
    struct transport_link *link;
    struct inflight *message;
    struct job *job;
};

static void visit_begin(struct visit *v, const char *path)
{
    *v = (struct visit){0};
    v->message = make_message(&v->job);
    v->link = open_link(&v->caller, &v->set, path, port);
    connections = requests = 0;
}

static const struct transport_result *visit_call(struct visit *v, bool lookup)
{
    begin(&v->caller, v->link, v->job, lookup);
    event_base_dispatch(v->caller.base);
    ck_assert(!transport_under_way(&v->caller.call));
    return &v->caller.result;
}

static void visit_end(struct visit *v)
{
    close_link(&v->caller, v->link);
    inflight_free(v->message);
}

static const char *const kept_ends[] = {"kept-close", "kept-reset"};

/* The operator may have it: what becomes of it is its caller's to decide. */
START_TEST(a_post_goes_out_once)
{
    struct visit v;
    const struct transport_result *r;

    visit_begin(&v, kept_ends[_i]);
    ck_assert_int_eq(visit_call(&v, false)->verdict, VERDICT_ACCEPTED);
    r = visit_call(&v, false);
    ck_assert_int_eq(r->verdict, VERDICT_UNKNOWN);
    ck_assert_str_eq(r->error, "the connection ended without an answer");
    ck_assert_int_eq(requests, 2);
    ck_assert_int_eq(visit_call(&v, false)->verdict, VERDICT_ACCEPTED);
    ck_assert_int_eq(requests, 3);
    visit_end(&v);
}
END_TEST

/* Asking twice does no harm. */
START_TEST(a_lookup_may_be_repeated)
{
    struct visit v;

    visit_begin(&v, kept_ends[_i]);
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(visit_call(&v, true)->answer, LOOKUP_FOUND);
    ck_assert_int_ge(requests, 4);
    visit_end(&v);
}
END_TEST

/* Both kept connections end with the next request: it goes out on one, and again on a new one, if
 * it still may. */
START_TEST(a_lookup_is_repeated_once)
{
    bool may = _i;
    struct visit v;

    visit_begin(&v, "kept-close");
    v.caller.early = (struct transport_call){.job = v.job};
    ck_assert(transport_native.lookup(v.link, &v.caller.early));
    ck_assert_int_eq(visit_call(&v, true)->answer, LOOKUP_FOUND);
    while (!v.caller.early_results)
        event_base_loop(v.caller.base, EVLOOP_ONCE);
    ck_assert_int_eq(connections, 2);
    v.caller.leaves = may ? 0 : 1;
    ck_assert_int_eq(visit_call(&v, true)->answer, may ? LOOKUP_FOUND : LOOKUP_UNREACHABLE);
    ck_assert_int_eq(requests, may ? 4 : 3);
    visit_end(&v);
}
END_TEST

/* Whether it is seen while nothing is asked, or comes when the next request is about to go out. */
START_TEST(what_nobody_asked_for_is_no_answer)
{
    struct visit v;
    bool at_once = _i & 1;

    visit_begin(&v, _i & 2 ? "farewell" : "late");
    for (int i = 0; i < 3; i++) {
        const struct transport_result *r = visit_call(&v, false);

        ck_assert_int_eq(r->verdict, VERDICT_ACCEPTED);
        ck_assert_str_eq(r->provider_id, "right");
        ck_assert_int_eq(connections, i + 1);
        if (at_once)
            let_say_more();
        v.caller.provoke = !at_once;
    }
    ck_assert_int_eq(requests, 3);
    if (!at_once)
        let_say_more();
    visit_end(&v);
}
END_TEST

START_TEST(two_answers_at_once_are_one_too_many)
{
    struct visit v;

    visit_begin(&v, "pair");
    for (int i = 0; i < 3; i++) {
        ck_assert_str_eq(visit_call(&v, false)->provider_id, "right");
        wait_for_more();
    }
    ck_assert_int_eq(connections, 3);
    visit_end(&v);
}
END_TEST

static const struct {
    const char *path;
    bool kept;
} endings[] = {{"accept", true},       {"chunked", true},      {"long", true},
               {"refused-body", true}, {"unreadable", false},  {"wordless", false},
               {"rejection", false},   {"two-lengths", false}, {"both-lengths", false}};

START_TEST(a_connection_is_kept_after_an_answer_we_understood)
{
    struct visit v;

    visit_begin(&v, endings[_i].path);
    visit_call(&v, false);
    visit_call(&v, false);
    ck_assert_msg(connections == (endings[_i].kept ? 1 : 2), "%s: %d", endings[_i].path,
                  connections);
    ck_assert_int_eq(requests, 2);
    visit_end(&v);
}
END_TEST

/* What curl has made it takes for idle: when it makes another, it closes those that have ended,
 * once a second. The call that is about to see its end must neither lose it, nor go on with the
 * next connection that gets the socket's number. */
START_TEST(a_connection_is_its_calls_alone)
{
    struct operator_set *set;
    struct caller call = {.timeout_ms = 8000};
    struct timeval second = {1, 100000}; /* for curl to look again */
    struct job *job;
    struct inflight *m = make_message(&job);
    struct transport_link *link = open_link(&call, &set, "when-told", port);

    call.early = (struct transport_call){.job = job};
    ck_assert(transport_native.submit(link, &call.early));
    event_base_loopexit(call.base, &second);
    event_base_dispatch(call.base);
    ck_assert_int_eq(call.early_results, 0);
    snprintf(set->all[0]->url, sizeof(set->all[0]->url), "http://127.0.0.1:%u/accept", port);
    call.provoke = 2; /* just before curl makes it */
    begin(&call, link, job, false);
    event_base_dispatch(call.base);
    ck_assert_int_eq(call.result.verdict, VERDICT_ACCEPTED);
    ck_assert_str_eq(call.result.provider_id, "op-1");
    ck_assert_int_eq(call.provoke, 0);
    while (!call.early_results)
        event_base_loop(call.base, EVLOOP_ONCE);
    ck_assert_int_eq(call.early_result.verdict, VERDICT_ACCEPTED);
    ck_assert_str_eq(call.early_result.provider_id, "right");
    close_link(&call, link);
    inflight_free(m);
}
END_TEST

/* ---- an operator that moves ---- */

static atomic_int moved;

/* Stands before libc's: "moving.test" is at 127.0.0.1 first. */
int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                struct addrinfo **out)
{
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);

    *(void **)&real = dlsym(RTLD_NEXT, "getaddrinfo");
    if (node && !strcmp(node, "moving.test"))
        node = moved ? "127.0.0.2" : "127.0.0.1";
    return real(node, service, hints, out);
}

/* Busy all the time, so that no connection is given up for having been idle. */
START_TEST(an_operator_that_moves_is_followed)
{
    int64_t give_up_ms = clock_mono_ms() + 20000;
    struct visit v;
    int here;

    visit_begin(&v, "where");
    snprintf(v.set->all[0]->url, sizeof(v.set->all[0]->url), "http://moving.test:%u/where", port);
    moved = 0;
    ck_assert_str_eq(visit_call(&v, false)->provider_id, "127.0.0.1");
    moved = 1;
    for (here = 0; !strcmp(visit_call(&v, false)->provider_id, "127.0.0.1"); here++)
        ck_assert_int_lt(clock_mono_ms(), give_up_ms);
    ck_assert_str_eq(v.caller.result.provider_id, "127.0.0.2");
    ck_assert_int_gt(here, 1);
    visit_end(&v);
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
    tcase_add_test(tc, transfers_are_reused);
    tcase_add_test(tc, sockets_change_places);
    tcase_add_test(tc, nothing_is_sent_without_leave);
    tcase_add_loop_test(tc, a_post_goes_out_once, 0, 2);
    tcase_add_loop_test(tc, a_lookup_may_be_repeated, 0, 2);
    tcase_add_loop_test(tc, a_lookup_is_repeated_once, 0, 2);
    tcase_add_loop_test(tc, what_nobody_asked_for_is_no_answer, 0, 4);
    tcase_add_test(tc, two_answers_at_once_are_one_too_many);
    tcase_add_loop_test(tc, a_connection_is_kept_after_an_answer_we_understood, 0,
                        (int)(sizeof(endings) / sizeof(endings[0])));
    tcase_add_test(tc, a_connection_is_its_calls_alone);
    tcase_add_test(tc, an_operator_that_moves_is_followed);
    suite_add_tcase(suite, tc);
    return suite_run(suite);
}
