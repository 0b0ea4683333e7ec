#include <arpa/inet.h>
#include <check.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "libcommon/base/buf.h"
#include "libcommon/base/clock.h"
#include "libcommon/net/httpd.h"
#include "libcommon/telemetry/metrics.h"
#include "test/unit/suite.h"

#define WAIT_MS 20000 /* the answers are long, and the machine may be slow */
#define BODY_BYTES 16384
#define MEMORY_BYTES (512 << 10)
/* Each holds a little more than its body; an eighth of the budget is kept free. */
#define FIT (MEMORY_BYTES / 8 * 7 / (BODY_BYTES + 4096 + 200))
/* No more than may be connected: a crowd at the door comes in at once. */
#define MANY (2 * FIT)
#define CONSTANT_BYTES (1 << 20)
#define READERS 16 /* each of many times the budget */

static char any_port[] = "127.0.0.1:0";
static char constant[CONSTANT_BYTES];
static struct httpd *server;

static void handle_take(struct httpd_request *req, void *arg)
{
    (void)arg;
    httpd_drop_body(req);
    httpd_reply(req, 200, "taken", 5);
}

static void handle_constant(struct httpd_request *req, void *arg)
{
    (void)arg;
    if (httpd_query(req, "late"))
        httpd_delay(req, 1000);
    httpd_reply_constant(req, 200, "text/plain", constant, sizeof(constant));
}

static void handle_copy(struct httpd_request *req, void *arg)
{
    (void)arg;
    httpd_reply(req, 200, constant, BODY_BYTES * 8);
}

static const struct httpd_route routes[] = {
    {"POST", "/take", handle_take, 0, NULL},
    {"GET", "/constant", handle_constant, 0, NULL},
    {"GET", "/copy", handle_copy, 0, NULL},
};

static void start(const struct httpd_route *from, size_t n, int64_t memory_bytes)
{
    const struct httpd_settings settings = {.listen_addr = any_port,
                                            .threads = 1,
                                            .max_connections = 1000,
                                            .max_header_bytes = 2048,
                                            .memory_bytes = memory_bytes,
                                            .read_timeout_ms = 20000,
                                            .idle_timeout_ms = 20000,
                                            .write_timeout_ms = 20000};
    const struct httpd_config config = {
        .settings = &settings, .routes = from, .route_count = n, .body_bytes = BODY_BYTES};
    struct err err = {0};

    server = httpd_new(&config, &err);
    ck_assert_msg(server != NULL, "%s", err.msg);
    ck_assert_int_eq(httpd_start(server, &err), 0);
}

static void setup(void)
{
    for (size_t i = 0; i < sizeof(constant); i++)
        constant[i] = (char)('a' + i % 23);
    start(routes, sizeof(routes) / sizeof(routes[0]), MEMORY_BYTES);
}

static void teardown(void)
{
    httpd_free(server);
}

static int dial(void)
{
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons(httpd_port(server))};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int small = 4096;

    sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
    ck_assert_int_eq(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    return fd;
}

static void say(int fd, const char *text, size_t n)
{
    (void)!send(fd, text, n, MSG_NOSIGNAL); /* the other side may have had enough */
}

/* The head of a request and all of its body but the last byte. */
static void say_most(int fd)
{
    char text[BODY_BYTES + 200];
    size_t n = (size_t)snprintf(text, sizeof(text),
                                "POST /take HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n",
                                BODY_BYTES);

    memset(text + n, 'x', BODY_BYTES - 1);
    say(fd, text, n + BODY_BYTES - 1);
}

/* Until the connection ends or the answer has n bytes. */
static struct buf hear(int fd, size_t n)
{
    struct buf answer = {0};
    int64_t deadline_ms = clock_mono_ms() + WAIT_MS;
    char part[4096];

    while (answer.len < n) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        ssize_t got;

        ck_assert_int_gt(poll(&p, 1, (int)(deadline_ms - clock_mono_ms())), 0);
        got = recv(fd, part, sizeof(part), 0);
        if (got <= 0)
            break;
        buf_put(&answer, part, (size_t)got);
    }
    return answer;
}

/* It is told, and that is the end. */
static bool is_told(int fd)
{
    struct buf answer = hear(fd, SIZE_MAX);
    bool told = answer.len && !strncmp(answer.data, "HTTP/1.1 503", 12);

    buf_putc(&answer, '\0');
    told = told && strstr(answer.data, "\r\nRetry-After: 1\r\n") &&
           strstr(answer.data, "\"system_overloaded\"");
    buf_free(&answer);
    return told;
}

static bool is_open(int fd)
{
    char byte;

    return recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN;
}

/* A small answer comes in one piece. */
static bool is_served(int fd, const char *request, const char *answered)
{
    struct buf answer;
    bool served;

    say(fd, request, strlen(request));
    answer = hear(fd, 12);
    served = answer.len && !strncmp(answer.data, answered, strlen(answered));
    buf_free(&answer);
    return served;
}

START_TEST(slow_bodies_go_and_the_last_to_come_is_served)
{
    int fds[MANY];
    size_t alive = 0;
    int other = dial();

    for (size_t i = 0; i < MANY; i++) {
        fds[i] = dial();
        say_most(fds[i]);
        ck_assert(is_served(other, "GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 404"));
    }
    ck_assert(is_told(fds[0]));
    ck_assert(is_served(fds[MANY - 1], "x", "HTTP/1.1 200"));
    for (size_t i = 0; i < MANY; i++) {
        alive += i < MANY - 1 && is_open(fds[i]);
        close(fds[i]);
    }
    ck_assert_uint_le(alive, FIT);
    ck_assert_uint_ge(alive, FIT / 2);
    close(other);
}
END_TEST

START_TEST(answers_that_nobody_reads_go_by_the_same_budget)
{
    static const char ask[] = "GET /copy HTTP/1.1\r\nHost: x\r\n\r\n";
    struct buf answer;
    int fds[16];
    int other;

    for (size_t i = 0; i < 16; i++) {
        fds[i] = dial();
        say(fds[i], ask, sizeof(ask) - 1);
    }
    other = dial();
    ck_assert(is_served(other, "GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 404"));
    answer = hear(fds[0], SIZE_MAX); /* what had gone out comes, and then the end */
    ck_assert_uint_lt(answer.len, BODY_BYTES * 8);
    buf_free(&answer);
    for (size_t i = 0; i < 16; i++)
        close(fds[i]);
    close(other);
}
END_TEST

START_TEST(a_constant_answer_costs_nothing_and_is_whole)
{
    static const char *const asked[] = {"GET /constant HTTP/1.1\r\nHost: x\r\n\r\n",
                                        "GET /constant?late=1 HTTP/1.1\r\nHost: x\r\n\r\n"};
    static const char last[] = "GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    int fds[READERS];

    for (size_t i = 0; i < READERS; i++) {
        fds[i] = dial();
        say(fds[i], asked[i % 2], strlen(asked[i % 2]));
        say(fds[i], asked[(i + 1) % 2], strlen(asked[(i + 1) % 2]));
        say(fds[i], last, sizeof(last) - 1);
    }
    for (size_t i = 0; i < READERS; i++) {
        struct buf answer = hear(fds[i], SIZE_MAX);
        const char *body = answer.data;

        ck_assert_uint_gt(answer.len, 2 * CONSTANT_BYTES);
        for (int k = 0; k < 2; k++) {
            body = strstr(body, "\r\n\r\n") + 4;
            ck_assert(!memcmp(body, constant, CONSTANT_BYTES));
            body += CONSTANT_BYTES;
        }
        ck_assert(!strncmp(body, "HTTP/1.1 404", 12));
        buf_free(&answer);
        close(fds[i]);
    }
}
END_TEST

/* Where no route takes one, nor is one waited for. */
START_TEST(no_body_where_nothing_is_posted)
{
    int fd;

    teardown();
    start(routes + 1, 2, MEMORY_BYTES);
    fd = dial();
    ck_assert(is_served(fd, "POST /take HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n",
                        "HTTP/1.1 413"));
    close(fd);
}
END_TEST

/* A budget below what makes sense holds no more connections than it has room for, and some bodies.
 */
START_TEST(the_least_budget_serves)
{
    int fd;

    teardown();
    start(routes, sizeof(routes) / sizeof(routes[0]), 1);
    fd = dial();
    say_most(fd);
    ck_assert(is_served(fd, "x", "HTTP/1.1 200"));
    close(fd);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("httpd_memory");
    TCase *t = tcase_create("budget");

    signal(SIGPIPE, SIG_IGN);
    tcase_set_timeout(t, 30);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, slow_bodies_go_and_the_last_to_come_is_served);
    tcase_add_test(t, answers_that_nobody_reads_go_by_the_same_budget);
    tcase_add_test(t, a_constant_answer_costs_nothing_and_is_whole);
    tcase_add_test(t, no_body_where_nothing_is_posted);
    tcase_add_test(t, the_least_budget_serves);
    suite_add_tcase(s, t);
    return suite_run(s);
}
