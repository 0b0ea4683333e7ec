#include <arpa/inet.h>
#include <check.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "api/admission.h"
#include "api/auth.h"
#include "libcommon/telemetry/metrics.h"
#include "test/unit/api/fake_ring.h"
#include "test/unit/suite.h"

#define SECOND INT64_C(1000000)
#define NOW_US (1000 * SECOND)

static const struct admission_needs send_needs = {
    .scope = KEY_SEND, .subject = SUBJECT_IN_BODY, .customer_limit = true};
static const struct admission_needs topup_needs = {.scope = KEY_TOPUP, .subject = SUBJECT_IN_BODY};
static const struct admission_needs read_needs = {
    .scope = KEY_READ, .subject = SUBJECT_IN_QUERY, .read_limit = true};
static const struct admission_needs page_needs = {.group = GROUP_SWAGGER};
static const struct admission_needs metrics_needs = {
    .group = GROUP_METRICS, .scope = KEY_METRICS, .no_limit = true};

/* Refusals of a scope since it was asked for the last time. */
static uint64_t refused(bool customer)
{
    static uint64_t before[2];
    uint64_t now = metrics_value(metrics_counter("rate_limited_requests_total",
                                                 "Requests refused by a rate limit.",
                                                 customer ? "scope=\"user\"" : "scope=\"global\""));
    uint64_t more = now - before[customer];

    before[customer] = now;
    return more;
}

static void setup(void)
{
    refused(false);
    refused(true);
}

/* ---- decisions ---- */

START_TEST(all_share_one_limit)
{
    const struct admission_config config = {
        .global_rps = 1, .global_burst = 2, .customer_rps = 0, .customer_burst = 1};
    struct admission *a = admission_new(&config);
    const struct identity nobody = {0};
    const struct identity seven = {.customer_id = 7};

    ck_assert_int_eq(admission_take_global(a, &nobody, NOW_US), 0);
    ck_assert_int_eq(admission_take_global(a, &seven, NOW_US), 0);
    ck_assert_int_eq(admission_take_global(a, &nobody, NOW_US), 1);
    ck_assert_int_eq(admission_take_global(a, &seven, NOW_US), 1);
    ck_assert_uint_eq(refused(false), 2);
    ck_assert_uint_eq(refused(true), 0);
    ck_assert_int_eq(admission_take_global(a, &seven, NOW_US + SECOND), 0);
    admission_free(a);
}
END_TEST

START_TEST(each_customer_has_a_limit_where_the_route_says_so)
{
    const struct admission_config config = {
        .global_rps = 0, .global_burst = 1, .customer_rps = 1, .customer_burst = 1};
    struct admission *a = admission_new(&config);
    const struct identity seven = {.customer_id = 7};
    const struct identity eight = {.customer_id = 8};

    for (int i = 0; i < 10; i++)
        ck_assert_int_eq(admission_take_customer(a, &topup_needs, &seven, NOW_US), 0);
    ck_assert_int_eq(admission_take_customer(a, &send_needs, &seven, NOW_US), 0);
    ck_assert_int_eq(admission_take_customer(a, &send_needs, &seven, NOW_US), 1);
    ck_assert_int_eq(admission_take_customer(a, &send_needs, &eight, NOW_US), 0);
    ck_assert_int_eq(admission_take_customer(a, &topup_needs, &seven, NOW_US), 0);
    ck_assert_uint_eq(refused(false), 0);
    ck_assert_uint_eq(refused(true), 1);
    admission_free(a);
}
END_TEST

START_TEST(reads_have_a_limit_of_their_own)
{
    const struct admission_config config = {.customer_rps = 1,
                                            .customer_burst = 1,
                                            .global_burst = 1,
                                            .reads_rps = 1,
                                            .reads_burst = 2};
    struct admission *a = admission_new(&config);
    const struct identity seven = {.customer_id = 7};
    const struct identity eight = {.customer_id = 8};
    const struct identity with_key = {.customer_id = 7, .key = {.key_id = 1}};

    ck_assert_int_eq(admission_take_customer(a, &send_needs, &seven, NOW_US), 0);
    ck_assert_int_eq(admission_take_customer(a, &read_needs, &seven, NOW_US), 0);
    ck_assert_int_eq(admission_take_customer(a, &read_needs, &seven, NOW_US), 0);
    ck_assert_int_eq(admission_take_customer(a, &read_needs, &seven, NOW_US), 1);
    ck_assert_int_eq(admission_take_customer(a, &read_needs, &eight, NOW_US), 0);
    ck_assert_int_eq(admission_take_customer(a, &read_needs, &with_key, NOW_US), 0);
    ck_assert_int_eq(admission_take_customer(a, &read_needs, &seven, NOW_US + SECOND), 0);
    ck_assert_uint_eq(refused(true), 1);
    admission_free(a);
}
END_TEST

/* ---- at a server ---- */

static struct admission *admission;
static struct httpd *server;

static bool admit(struct httpd_request *req, void *arg)
{
    (void)arg;
    return admission_enter(admission, req);
}

/* Says whom the request is about. */
static void handle(struct httpd_request *req, void *arg)
{
    const struct admission_needs *needs = httpd_needs(req);
    char text[32];
    size_t n;

    (void)arg;
    if (needs->subject == SUBJECT_IN_BODY) {
        const char *body = httpd_body(req, &n);

        ck_assert_int_eq(admission_identity(req)->customer_id, 0);
        snprintf(text, sizeof(text), "%.*s", (int)n, body);
        if (!admission_name(admission, req,
                            n ? atoi(text) : admission_identity(req)->key.customer_id))
            return;
    }
    n = (size_t)snprintf(text, sizeof(text), "customer %lld",
                         (long long)admission_identity(req)->customer_id);
    httpd_reply(req, 200, text, n);
}

static const struct httpd_route routes[] = {
    {"POST", "/send", handle, 0, &send_needs},      {"POST", "/topup", handle, 0, &topup_needs},
    {"GET", "/read", handle, 0, &read_needs},       {"GET", "/page", handle, 0, &page_needs},
    {"GET", "/figures", handle, 0, &metrics_needs},
};

static void open_for(const struct admission_config *limits)
{
    static char addr[] = "127.0.0.1:0";
    const struct httpd_settings settings = {.listen_addr = addr,
                                            .threads = 1,
                                            .max_connections = 100,
                                            .max_header_bytes = 4096,
                                            .read_timeout_ms = 5000,
                                            .idle_timeout_ms = 5000,
                                            .write_timeout_ms = 5000};
    const struct httpd_config config = {
        &settings, routes, sizeof(routes) / sizeof(routes[0]), NULL, admit, 0, 4096};
    struct err err;

    admission = admission_new(limits);
    server = httpd_new(&config, &err);
    ck_assert_msg(server != NULL, "%s", err.msg);
    ck_assert_int_eq(httpd_start(server, &err), 0);
}

static void open_server(int64_t global_burst, int64_t customer_burst)
{
    const struct admission_config limits = {.global_rps = 1,
                                            .global_burst = global_burst,
                                            .customer_rps = 1,
                                            .customer_burst = customer_burst};

    open_for(&limits);
}

/* Keys for the API and the figures, the page is off. */
static void open_for_keys(int64_t failure_burst)
{
    const struct admission_config config = {
        .access =
            {[GROUP_API] = ACCESS_KEY, [GROUP_METRICS] = ACCESS_KEY, [GROUP_SWAGGER] = ACCESS_OFF},
        .ring = &fake_ring,
        .stale_ms = 30000,
        .failure_rps = failure_burst ? 1 : 0,
        .failure_burst = failure_burst ? failure_burst : 1,
    };

    open_for(&config);
}

static void close_server(void)
{
    httpd_drain(server);
    httpd_wait_drained(server, 5000);
    httpd_free(server);
    admission_free(admission);
}

/* key: NULL for none. */
static const char *ask_with(const char *key, const char *method, const char *target,
                            const char *body)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(httpd_port(server))};
    static char answer[2048];
    char request[512];
    size_t at = 0;
    ssize_t n;
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ck_assert_int_eq(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
    n = snprintf(request, sizeof(request),
                 "%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s%s%sContent-Length: %zu\r\n"
                 "\r\n%s",
                 method, target, key ? "X-Api-Key: " : "", key ? key : "", key ? "\r\n" : "",
                 strlen(body), body);
    ck_assert_int_eq(write(fd, request, (size_t)n), n);
    while ((n = read(fd, answer + at, sizeof(answer) - 1 - at)) > 0)
        at += (size_t)n;
    answer[at] = '\0';
    close(fd);
    return answer;
}

static const char *ask(const char *method, const char *target, const char *body)
{
    return ask_with(NULL, method, target, body);
}

static void assert_answer(const char *answer, const char *status, const char *part)
{
    ck_assert_msg(!strncmp(answer, status, strlen(status)), "%s", answer);
    ck_assert_msg(strstr(answer, part) != NULL, "%s", answer);
}

START_TEST(whom_a_request_is_about)
{
    open_server(100, 100);
    assert_answer(ask("POST", "/send", "7"), "HTTP/1.1 200", "customer 7");
    assert_answer(ask("POST", "/topup", "8"), "HTTP/1.1 200", "customer 8");
    assert_answer(ask("GET", "/read?user_id=9", ""), "HTTP/1.1 200", "customer 9");
    assert_answer(ask("GET", "/page?user_id=9", ""), "HTTP/1.1 200", "customer 0");
    assert_answer(ask("GET", "/read", ""), "HTTP/1.1 400", "\"field\":\"user_id\"");
    assert_answer(ask("GET", "/read?user_id=0", ""), "HTTP/1.1 400", "\"field\":\"user_id\"");
    close_server();
}
END_TEST

START_TEST(a_customer_is_refused_alone)
{
    open_server(100, 1);
    assert_answer(ask("POST", "/send", "7"), "HTTP/1.1 200", "customer 7");
    assert_answer(ask("POST", "/send", "7"), "HTTP/1.1 429", "\r\nRetry-After: 1\r\n");
    assert_answer(ask("POST", "/send", "8"), "HTTP/1.1 200", "customer 8");
    assert_answer(ask("POST", "/topup", "7"), "HTTP/1.1 200", "customer 7");
    close_server();
}
END_TEST

/* The shared limit comes before a look at query and body. */
START_TEST(all_are_refused_first)
{
    open_server(1, 1);
    assert_answer(ask("GET", "/page", ""), "HTTP/1.1 200", "customer 0");
    assert_answer(ask("GET", "/read?user_id=x", ""), "HTTP/1.1 429",
                  "{\"error\":\"rate_limit_exceeded\","
                  "\"message\":\"Too many requests. Please retry later.\"}");
    assert_answer(ask("POST", "/send", "7"), "HTTP/1.1 429", "\r\nRetry-After: 1\r\n");
    ck_assert_uint_eq(refused(false), 2);
    ck_assert_uint_eq(refused(true), 0);
    close_server();
}
END_TEST

/* ---- with keys ---- */

static uint64_t failures(const char *labels)
{
    return metrics_value(metrics_counter("msg_auth_failures_total", "", labels));
}

START_TEST(who_has_no_key_is_told_how)
{
    uint64_t missing;

    fake_ring_make(0, KEY_SEND);
    open_for_keys(0);
    missing = failures("reason=\"missing\"");
    assert_answer(ask("POST", "/send", "7"), "HTTP/1.1 401",
                  "\r\nWWW-Authenticate: Bearer realm=\"messaging-platform\"\r\n");
    assert_answer(ask("GET", "/read?user_id=7", ""), "HTTP/1.1 401", "\"error\":\"unauthorized\"");
    assert_answer(ask_with("nonsense", "POST", "/send", "7"), "HTTP/1.1 401",
                  ", error=\"invalid_token\"\r\n");
    ck_assert_uint_eq(failures("reason=\"missing\"") - missing, 2);
    fake_ring.answer = KEY_REVOKED;
    assert_answer(ask_with(fake_ring.text, "POST", "/send", "7"), "HTTP/1.1 401",
                  ", error=\"invalid_token\"\r\n");
    ck_assert_str_eq(fake_ring.peer, "127.0.0.1");
    close_server();
}
END_TEST

START_TEST(a_missing_scope_is_named)
{
    fake_ring_make(0, KEY_SEND);
    open_for_keys(0);
    assert_answer(ask_with(fake_ring.text, "POST", "/send", "7"), "HTTP/1.1 200", "customer 7");
    assert_answer(ask_with(fake_ring.text, "POST", "/topup", "7"), "HTTP/1.1 403",
                  "error=\"insufficient_scope\", scope=\"topup\"\r\n");
    assert_answer(ask_with(fake_ring.text, "GET", "/read?user_id=7", ""), "HTTP/1.1 403",
                  "{\"error\":\"forbidden\",\"message\":\"The API key lacks the scope read.\"}");
    assert_answer(ask_with(fake_ring.text, "GET", "/figures", ""), "HTTP/1.1 403", "metrics");
    close_server();
}
END_TEST

START_TEST(a_bound_key_is_its_customer)
{
    char absent[1024];

    fake_ring_make(7, KEY_SEND | KEY_READ | KEY_METRICS);
    open_for_keys(0);
    assert_answer(ask_with(fake_ring.text, "POST", "/send", ""), "HTTP/1.1 200", "customer 7");
    assert_answer(ask_with(fake_ring.text, "POST", "/send", "7"), "HTTP/1.1 200", "customer 7");
    assert_answer(ask_with(fake_ring.text, "GET", "/read", ""), "HTTP/1.1 200", "customer 7");
    assert_answer(ask_with(fake_ring.text, "GET", "/read?user_id=7", ""), "HTTP/1.1 200",
                  "customer 7");
    assert_answer(ask_with(fake_ring.text, "GET", "/figures", ""), "HTTP/1.1 200", "customer 0");
    assert_answer(ask_with(fake_ring.text, "GET", "/read?user_id=x", ""), "HTTP/1.1 400",
                  "\"field\":\"user_id\"");
    snprintf(absent, sizeof(absent), "%s", ask_with(fake_ring.text, "POST", "/send", "8"));
    assert_answer(absent, "HTTP/1.1 404", "{\"error\":\"not_found\",");
    ck_assert_str_eq(strstr(absent, "{"),
                     strstr(ask_with(fake_ring.text, "GET", "/read?user_id=9", ""), "{"));
    close_server();
}
END_TEST

START_TEST(what_is_off_is_not_there)
{
    fake_ring_make(0, KEY_SEND);
    open_for_keys(0);
    assert_answer(ask_with(fake_ring.text, "GET", "/page", ""), "HTTP/1.1 404", "not_found");
    close_server();
}
END_TEST

START_TEST(old_keys_spend_nothing)
{
    fake_ring_make(7, KEY_SEND | KEY_READ);
    open_for_keys(1);
    fake_ring.age_ms = AUTH_MONEY_STALE_MS + 1;
    for (int i = 0; i < 3; i++) /* and nobody is to blame for it */
        assert_answer(ask_with(fake_ring.text, "POST", "/send", ""), "HTTP/1.1 503",
                      "\r\nRetry-After: 1\r\n");
    assert_answer(ask_with(fake_ring.text, "GET", "/read", ""), "HTTP/1.1 200", "customer 7");
    close_server();
}
END_TEST

/* Who fails too often waits; a good key of the same address does not. */
START_TEST(failures_of_an_address_are_limited)
{
    fake_ring_make(7, KEY_SEND);
    open_for_keys(2);
    assert_answer(ask("POST", "/send", ""), "HTTP/1.1 401", "unauthorized");
    assert_answer(ask_with("nonsense", "POST", "/send", ""), "HTTP/1.1 401", "unauthorized");
    assert_answer(ask("POST", "/send", ""), "HTTP/1.1 429", "\r\nRetry-After: 1\r\n");
    assert_answer(ask_with(fake_ring.text, "POST", "/send", ""), "HTTP/1.1 200", "customer 7");
    close_server();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("admission");
    TCase *tc = tcase_create("admission");

    tcase_add_checked_fixture(tc, setup, NULL);
    tcase_add_test(tc, all_share_one_limit);
    tcase_add_test(tc, each_customer_has_a_limit_where_the_route_says_so);
    tcase_add_test(tc, reads_have_a_limit_of_their_own);
    tcase_add_test(tc, whom_a_request_is_about);
    tcase_add_test(tc, a_customer_is_refused_alone);
    tcase_add_test(tc, all_are_refused_first);
    tcase_add_test(tc, who_has_no_key_is_told_how);
    tcase_add_test(tc, a_missing_scope_is_named);
    tcase_add_test(tc, a_bound_key_is_its_customer);
    tcase_add_test(tc, what_is_off_is_not_there);
    tcase_add_test(tc, old_keys_spend_nothing);
    tcase_add_test(tc, failures_of_an_address_are_limited);
    suite_add_tcase(suite, tc);
    return suite_run(suite);
}
