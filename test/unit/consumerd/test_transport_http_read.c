#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "consumerd/transport_http_read.h"
#include "test/unit/suite.h"

#define BODY_MAX 64
#define OK "HTTP/1.1 200 OK\r\n"

static const struct {
    const char *bytes;
    int status;
    enum http_read_state state;
    const char *body; /* when it is done */
    bool reusable;
    size_t more; /* bytes behind it that are not its own */
} answers[] = {
    {OK "Content-Length: 2\r\n\r\nab", 200, READ_DONE, "ab", true, 0},
    {OK "content-length:\t2 \r\n\r\nabc", 200, READ_DONE, "ab", true, 1},
    {OK "Content-Length: 2\n\nab", 200, READ_DONE, "ab", true, 0},
    {"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", 200, READ_DONE, "", true, 0},
    {"HTTP/1.1 503 Busy\r\nContent-Length: 1\r\n\r\nx", 503, READ_DONE, "x", true, 0},
    {"HTTP/1.1 204 No\r\n\r\nHTTP", 204, READ_DONE, "", true, 4},
    {"HTTP/1.1 304 No\r\nContent-Length: 7\r\n\r\n", 304, READ_DONE, "", true, 0},
    {"HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 204, READ_DONE, "", false,
     5},
    {"HTTP/1.1 304 No\r\nTransfer-Encoding: chunked\r\n\r\n", 304, READ_DONE, "", false, 0},
    {OK "Connection: keep-alive, Close\r\nContent-Length: 0\r\n\r\n", 200, READ_DONE, "", false, 0},
    {OK "Connection: closed\r\nContent-Length: 0\r\n\r\n", 200, READ_DONE, "", true, 0},
    {"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na", 200, READ_DONE, "a", false, 0},
    {OK "\r\nabc", 200, READ_TO_END, NULL, false, 0},
    {OK "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\nA ;x=1\r\n0123456789\r\n0\r\nT: 1\r\n\r\n",
     200, READ_DONE, "a0123456789", true, 0},
    {OK "Transfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n", 200, READ_BROKEN, NULL, false,
     5},
    {OK "Transfer-Encoding: chunked\r\n\r\nx\r\n", 200, READ_BROKEN, NULL, false, 0},
    {OK "Transfer-Encoding: chunked\r\n\r\n\r\n", 200, READ_BROKEN, NULL, false, 0},
    {OK "Transfer-Encoding: chunked\r\n\r\n1 1\r\na", 200, READ_BROKEN, NULL, false, 1},
    {OK "Transfer-Encoding: chunked\r\n\r\n1000000000000000\r\n", 200, READ_BROKEN, NULL, false, 0},
    {OK "Transfer-Encoding: gzip\r\n", 200, READ_BROKEN, NULL, false, 0},
    {OK "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 200, READ_BROKEN, NULL,
     false, 0},
    {OK "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", 200,
     READ_DONE, "a", false, 0},
    {OK "Content-Length: 1\r\nContent-Length: 1\r\n\r\na", 200, READ_DONE, "a", true, 0},
    {OK "Content-Length: 1\r\nContent-Length: 2\r\n\r\na", 200, READ_BROKEN, NULL, false, 3},
    {OK "Content-Length: -1\r\n", 200, READ_BROKEN, NULL, false, 0},
    {OK "Content-Length: +1\r\n", 200, READ_BROKEN, NULL, false, 0},
    {OK "Content-Length: 1, 1\r\n", 200, READ_BROKEN, NULL, false, 0},
    {OK "Content-Length:\r\n", 200, READ_BROKEN, NULL, false, 0},
    {OK "Content-Length: 9999999999999999\r\n", 200, READ_BROKEN, NULL, false, 0},
    {OK " Content-Length: 1\r\n\r\n", 200, READ_TO_END, NULL, false, 0},
    {OK "Content-Length: 0\r\nwhat\r\n\r\n", 200, READ_DONE, "", false, 0},
    {"HTTP/1.1 100 Continue\r\nContent-Length: 9\r\n\r\n" OK "Content-Length: 1\r\n\r\na", 200,
     READ_DONE, "a", true, 0},
    {"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 422 No\r\nContent-Length: 0\r\n\r\n", 422, READ_DONE, "",
     true, 0},
    {"HTTP/1.1 101 Other\r\n\r\n", 101, READ_BROKEN, NULL, false, 0},
    {"HTTP/1.1 401 No\r\nContent-Le", 401, READ_HEADER, NULL, false, 0},
    {"HTTP/1.1 20", 0, READ_STATUS, NULL, false, 0},
    {"HTTP/2 200 OK\r\n", 0, READ_BROKEN, NULL, false, 0},
    {"HTTP/1.1 2000 OK\r\n", 0, READ_BROKEN, NULL, false, 0},
    {"HTTP/1.1 020 OK\r\n", 0, READ_BROKEN, NULL, false, 0},
    {"HTTP/1.2 200 OK\r\n", 0, READ_BROKEN, NULL, false, 0},
    {"\r\n" OK, 0, READ_BROKEN, NULL, false, sizeof(OK) - 1},
    {"220 smtp ready\r\n", 0, READ_BROKEN, NULL, false, 0},
};

static size_t feed(struct http_read *r, struct buf *body, const char *bytes, size_t n, size_t step)
{
    size_t at = 0;

    http_read_begin(r);
    while (at < n && !http_read_over(r)) {
        size_t some = n - at < step ? n - at : step;
        size_t taken = http_read_take(r, bytes + at, some, body, BODY_MAX);

        ck_assert(taken == some || (taken < some && http_read_over(r)));
        at += taken;
    }
    return at;
}

/* However its bytes come. */
START_TEST(what_an_answer_is)
{
    size_t n = strlen(answers[_i].bytes);

    for (size_t step = 1; step <= n; step++) {
        struct http_read r;
        struct buf body = {0};
        size_t at = feed(&r, &body, answers[_i].bytes, n, step);
        bool in_order = step % 2;

        ck_assert_int_eq(r.status, answers[_i].status);
        ck_assert_int_eq(r.state, answers[_i].state);
        ck_assert_int_eq(r.reusable, answers[_i].reusable);
        ck_assert_uint_eq(n - at, answers[_i].more);
        if (answers[_i].body)
            ck_assert_str_eq(body.len ? body.data : "", answers[_i].body);
        http_read_end(&r, in_order);
        if (answers[_i].state == READ_TO_END)
            ck_assert(r.state == (in_order ? READ_DONE : READ_BROKEN) && !r.reusable);
        else
            ck_assert(r.state == (answers[_i].body ? READ_DONE : READ_BROKEN));
        buf_free(&body);
    }
}
END_TEST

START_TEST(what_it_says_of_waiting)
{
    struct http_read r;
    struct buf body = {0};
    static const char rest[] = "HTTP/1.1 429 Rest\r\nretry-after:  7 \r\nContent-Length: 0\r\n\r\n";

    feed(&r, &body, rest, strlen(rest), 3);
    ck_assert_str_eq(r.retry_after, "7");
    feed(&r, &body, OK "\r\n", strlen(OK) + 2, 3);
    ck_assert_str_eq(r.retry_after, "");
    buf_free(&body);
}
END_TEST

static void put_many(struct buf *b, char c, size_t n)
{
    while (n--)
        buf_putc(b, c);
}

START_TEST(nothing_of_it_is_without_end)
{
    static const struct {
        const char *before;
        size_t many;
        const char *behind;
        enum http_read_state state;
    } sizes[] = {
        {OK "X: ", 60000, "\r\nContent-Length: 0\r\n\r\n", READ_DONE},
        {OK "X: ", 70000, "\r\nContent-Length: 0\r\n\r\n", READ_BROKEN},
        {OK "Content-Length: ", 300, "1\r\n\r\na", READ_BROKEN}, /* it is cut */
        {OK "Content-Length: 64\r\n\r\n", 64, "", READ_DONE},
        {OK "Content-Length: 65\r\n\r\n", 65, "", READ_BROKEN},
        {OK "\r\n", 64, "", READ_TO_END},
        {OK "\r\n", 65, "", READ_BROKEN},
        {OK "Transfer-Encoding: chunked\r\n\r\n1;", 70000, "", READ_BROKEN},
    };

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct http_read r;
        struct buf body = {0};
        struct buf all = {0};

        buf_puts(&all, sizes[i].before);
        put_many(&all, '0', sizes[i].many);
        buf_puts(&all, sizes[i].behind);
        feed(&r, &body, all.data, all.len, 1000);
        ck_assert_msg(r.state == sizes[i].state, "%zu: %d", i, (int)r.state);
        ck_assert_int_eq(r.status, 200);
        ck_assert_uint_le(body.len, BODY_MAX);
        buf_free(&all);
        buf_free(&body);
    }
}
END_TEST

/* Whatever comes: it ends, and within its bounds. */
START_TEST(nonsense_is_harmless)
{
    unsigned seed = 1;

    for (int round = 0; round < 20000; round++) {
        const char *from = answers[(size_t)round % (sizeof(answers) / sizeof(answers[0]))].bytes;
        size_t n = strlen(from);
        char *bytes = malloc(n); /* exactly: a sanitizer sees what is read beyond */
        struct http_read r;
        struct buf body = {0};

        ck_assert_ptr_nonnull(bytes);
        memcpy(bytes, from, n); /* NOLINT: no text, its length is known */
        for (int i = 0; i < 3; i++)
            bytes[(size_t)rand_r(&seed) % n] = (char)rand_r(&seed);
        feed(&r, &body, bytes, n, 1 + (size_t)rand_r(&seed) % n);
        http_read_end(&r, round % 2);
        ck_assert(http_read_over(&r) && body.len <= BODY_MAX);
        buf_free(&body);
        free(bytes);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("transport_http_read");
    TCase *tc = tcase_create("transport_http_read");

    tcase_add_loop_test(tc, what_an_answer_is, 0, (int)(sizeof(answers) / sizeof(answers[0])));
    tcase_add_test(tc, what_it_says_of_waiting);
    tcase_add_test(tc, nothing_of_it_is_without_end);
    tcase_add_test(tc, nonsense_is_harmless);
    suite_add_tcase(suite, tc);
    return suite_run(suite);
}
