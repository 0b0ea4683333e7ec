#include <arpa/inet.h>
#include <check.h>
#include <netinet/in.h>
#include <poll.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "libcommon/base/clock.h"
#include "libcommon/net/httpd_internal.h"
#include "test/unit/suite.h"

/* How a thread of the server shares its time among connections. */

#define WAIT_MS 5000
#define BUSY_MS 5 /* longer than a turn of the loop */
#define READ_LIMIT_MS 2000
#define SLOW 400

static char any_port[] = "127.0.0.1:0";
static struct httpd *server;
static sem_t begun, go_on;
static _Atomic int busy, busy_before;
static _Atomic int64_t connections_then; /* when the quick one was handled */

/* The first one waits until the test has said more. */
static void handle_busy(struct httpd_request *req, void *arg)
{
    int64_t until_ms;

    (void)arg;
    if (atomic_fetch_add(&busy, 1) == 0) {
        sem_post(&begun);
        sem_wait(&go_on);
    }
    until_ms = clock_mono_ms() + BUSY_MS;
    while (clock_mono_ms() < until_ms)
        ;
    httpd_reply(req, 200, "busy", 4);
}

static void handle_quick(struct httpd_request *req, void *arg)
{
    (void)arg;
    atomic_store(&busy_before, atomic_load(&busy));
    atomic_store(&connections_then, atomic_load(&server->connections));
    httpd_reply(req, 200, "quick", 5);
}

static const struct httpd_route routes[] = {
    {"GET", "/busy", handle_busy, 0, NULL},
    {"GET", "/quick", handle_quick, 0, NULL},
};

static void setup(void)
{
    static const struct httpd_settings settings = {.listen_addr = any_port,
                                                   .threads = 1,
                                                   .max_connections = 1000,
                                                   .max_header_bytes = 2048,
                                                   .read_timeout_ms = READ_LIMIT_MS,
                                                   .idle_timeout_ms = 20000,
                                                   .write_timeout_ms = 20000};
    const struct httpd_config config = {
        .settings = &settings, .routes = routes, .route_count = sizeof(routes) / sizeof(routes[0])};
    struct err err = {0};

    sem_init(&begun, 0, 0);
    sem_init(&go_on, 0, 0);
    busy = busy_before = 0;
    server = httpd_new(&config, &err);
    ck_assert_msg(server != NULL, "%s", err.msg);
    ck_assert_int_eq(httpd_start(server, &err), 0);
}

static void teardown(void)
{
    httpd_free(server);
    sem_destroy(&begun);
    sem_destroy(&go_on);
}

static int dial(void)
{
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons(httpd_port(server))};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ck_assert_int_eq(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    return fd;
}

static void say(int fd, const char *text)
{
    ck_assert_int_eq(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
}

static bool hears(int fd, const char *start)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    char text[256];
    ssize_t n;

    if (poll(&p, 1, WAIT_MS) <= 0)
        return false;
    n = recv(fd, text, sizeof(text) - 1, 0);
    text[n < 0 ? 0 : n] = '\0';
    return !strncmp(text, start, strlen(start));
}

#define FOUR(request) request request request request
#define BUSY FOUR("GET /busy HTTP/1.1\r\nHost: x\r\n\r\n")
#define QUICK "GET /quick HTTP/1.1\r\nHost: x\r\n\r\n"

START_TEST(who_asks_once_does_not_wait_for_who_asks_many_times)
{
    int one = dial();
    int many = dial();

    say(one, QUICK);
    ck_assert(hears(one, "HTTP/1.1 200"));
    say(many, BUSY BUSY BUSY BUSY); /* read at once */
    sem_wait(&begun);
    say(one, QUICK);
    sem_post(&go_on);
    ck_assert(hears(one, "HTTP/1.1 200"));
    ck_assert_int_ge(busy_before, 1);
    ck_assert_int_le(busy_before, 3);
    close(one);
    close(many);
}
END_TEST

/* All of them are overdue when the thread comes to look. Their ends are a turn's work now and then,
 * between which two more requests and the quick one behind them are handled. */
START_TEST(those_whose_time_is_up_end_a_few_at_a_time)
{
    int slow[SLOW];
    int many = dial();
    int64_t overdue_ms;

    for (int i = 0; i < SLOW; i++) {
        slow[i] = dial();
        say(slow[i], "GET /quick HTTP/1.1\r\nX: ");
    }
    while (atomic_load(&server->connections) < SLOW + 1)
        poll(NULL, 0, 1);
    say(many, BUSY QUICK);
    sem_wait(&begun);
    overdue_ms = clock_mono_ms() + READ_LIMIT_MS + 1;
    while (clock_mono_ms() < overdue_ms)
        poll(NULL, 0, 10);
    sem_post(&go_on);
    for (int i = 0; i < SLOW; i++) {
        struct pollfd p = {.fd = slow[i], .events = POLLIN};

        ck_assert_int_eq(poll(&p, 1, WAIT_MS), 1);
        close(slow[i]);
    }
    ck_assert_int_eq(busy_before, 4);
    ck_assert_int_lt(connections_then, SLOW);
    ck_assert_int_gt(connections_then, SLOW / 4);
    close(many);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("httpd_turn");
    TCase *t = tcase_create("turns");

    signal(SIGPIPE, SIG_IGN);
    tcase_set_timeout(t, 30);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, who_asks_once_does_not_wait_for_who_asks_many_times);
    tcase_add_test(t, those_whose_time_is_up_end_a_few_at_a_time);
    suite_add_tcase(s, t);
    return suite_run(s);
}
