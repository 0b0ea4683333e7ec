#include <check.h>
#include <event2/buffer.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/net/httpd_internal.h"
#include "test/unit/suite.h"

#define MAX_HEAD 512
#define GET "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
#define POST(more) "POST / HTTP/1.1\r\nHost: x\r\n" more "\r\n"
#define CHUNKED(body) POST("Transfer-Encoding: chunked\r\n") body
#define NONSENSE "x\r\n"

/* Bytes that may hold NULs; the literal's own is not among them. */
#define BYTES(text)              \
    {                            \
        (text), sizeof(text) - 1 \
    }

struct bytes {
    const char *p;
    size_t n;
};

/* A connection's input: what is in it may be drained by evhttp between two reads, or not. */
struct stream {
    struct http_wire wire;
    struct evbuffer *in;
    struct evbuffer *seen; /* what evhttp has taken */
    bool lazy;             /* it takes nothing */
};

static struct stream open_stream(bool lazy)
{
    struct stream s = {.wire = {.max_head = MAX_HEAD, .max_headers = 8}, .lazy = lazy};

    s.in = evbuffer_new();
    s.seen = evbuffer_new();
    return s;
}

static void feed(struct stream *s, const char *p, size_t n)
{
    if (!n)
        return;
    ck_assert_int_eq(evbuffer_add(s->in, p, n), 0);
    http_wire_take(&s->wire, s->in, n);
    if (!s->lazy)
        evbuffer_add_buffer(s->seen, s->in);
}

/* Whether evhttp got to see exactly that, and what the wire says about it (NULL: nothing). */
static void check_stream(struct stream *s, const struct bytes *expected, const char *wrong)
{
    size_t n;
    const unsigned char *p;

    evbuffer_add_buffer(s->seen, s->in);
    n = evbuffer_get_length(s->seen);
    p = evbuffer_pullup(s->seen, -1);
    ck_assert_uint_eq(n, expected->n);
    ck_assert(n == 0 || !memcmp(p, expected->p, n));
    if (wrong)
        ck_assert_str_eq(s->wire.wrong, wrong);
    else
        ck_assert_ptr_null(s->wire.wrong);
    buf_free(&s->wire.held);
    evbuffer_free(s->in);
    evbuffer_free(s->seen);
}

/* In two segments cut at each place, and byte by byte: where they end makes no difference. */
static void check_cuts(const struct bytes *sent, const struct bytes *expected, const char *wrong)
{
    for (int lazy = 0; lazy < 2; lazy++) {
        struct stream s;

        for (size_t cut = 0; cut < sent->n; cut++) {
            s = open_stream(lazy);
            feed(&s, sent->p, cut);
            feed(&s, sent->p + cut, sent->n - cut);
            check_stream(&s, expected, wrong);
        }
        s = open_stream(lazy);
        for (size_t i = 0; i < sent->n; i++)
            feed(&s, sent->p + i, 1);
        check_stream(&s, expected, wrong);
    }
}

static const struct {
    struct bytes sent, seen;
} clean[] = {
    {BYTES(GET), BYTES(GET)},
    {BYTES(GET GET GET), BYTES(GET GET GET)},
    {BYTES(POST("a:\r\nb:\r\nc:\r\nd:\r\ne:\r\nf:\r\ng:\r\n") GET),
     BYTES(POST("a:\r\nb:\r\nc:\r\nd:\r\ne:\r\nf:\r\ng:\r\n") GET)},
    {BYTES("\r\n\r\n" GET "\r\n" GET), BYTES(GET GET)},
    {BYTES("GET / HTTP/1.0\r\n\r\n"), BYTES("GET / HTTP/1.0\r\n\r\n")},
    {BYTES("GET / HTTP/1.1\r\nHost:\t \tx\t\r\nY:\r\nZ:\t\r\n\r\n"),
     BYTES("GET / HTTP/1.1\r\nHost:   x\t\r\nY:\r\nZ: \r\n\r\n")},
    {BYTES(POST("content-length:3\r\n") "a\0\n" GET),
     BYTES(POST("content-length:3\r\n") "a\0\n" GET)},
    {BYTES(POST("Content-Length: 0\r\n") GET), BYTES(POST("Content-Length: 0\r\n") GET)},
    {BYTES("GET / HTTP/1.1\r\nContent-Length: 4\r\n\r\n\r\n\r\n" GET),
     BYTES("GET / HTTP/1.1\r\nContent-Length: 4\r\n\r\n\r\n\r\n" GET)},
    {BYTES(CHUNKED("3\r\n\r\n\0\r\n0a\r\n0123456789\r\n0\r\n\r\n") GET),
     BYTES(CHUNKED("3\r\n\r\n\0\r\n0a\r\n0123456789\r\n0\r\n\r\n") GET)},
    {BYTES(CHUNKED("1;a=\"b;c\"\r\nx\r\n1 ;d\r\ny\r\n0;e\r\n\r\n") GET),
     BYTES(CHUNKED("1        \r\nx\r\n1   \r\ny\r\n0  \r\n\r\n") GET)},
    {BYTES(CHUNKED("1\r\nx\r\n0\r\nA: b\r\nContent-Length: 5\r\n\r\n") GET),
     BYTES(CHUNKED("1\r\nx\r\n0\r\n\r\n") GET)},
};

START_TEST(what_is_clean_goes_on)
{
    check_cuts(&clean[_i].sent, &clean[_i].seen, NULL);
}
END_TEST

#define LINE_END "Every line must end with CR LF."
#define CONTROL "A control character stands where none may."
#define NO_REQUEST "The request line is not one of HTTP/1.1."
#define VERSION "The server speaks HTTP/1.1."
#define NAME "A header name holds a character that it must not."
#define FOLDED "A header goes on in a further line."
#define LENGTH "Content-Length must be given once, in digits."
#define ENCODING "Transfer-Encoding may only be chunked."
#define BODILESS "This method takes no body."
#define CHUNK_SIZE "A chunk's size must be a hexadecimal number."
#define CHUNK_LONG "A chunk is longer than its size says."
#define Y4     \
    "Y: z\r\n" \
    "Y: z\r\n" \
    "Y: z\r\n" \
    "Y: z\r\n"
#define X8 "xxxxxxxx"
#define X64 X8 X8 X8 X8 X8 X8 X8 X8
#define X512 X64 X64 X64 X64 X64 X64 X64 X64

/* What goes on of the last request before the wire refuses. */
static const struct {
    struct bytes sent, seen;
    const char *wrong;
} unclean[] = {
    {BYTES("GET / HTTP/1.1\r\nHost: x\r\nIdempotency-Key: n1\0b\r\n\r\n"), BYTES(""), CONTROL},
    {BYTES("GET / HTTP/1.1\r\nHost: x\r\n\0\r\n" POST("Content-Length: 0\r\n")), BYTES(""),
     CONTROL},
    {BYTES("GET / HTTP/1.1\r\nHost: x\r\n\0Y: z\r\n\r\n"), BYTES(""), CONTROL},
    {BYTES("GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n"), BYTES(""), CONTROL},
    {BYTES("\0GET / HTTP/1.1\r\nHost: x\r\n\r\n"), BYTES(""), CONTROL},
    {BYTES("GET / HTTP/1.1\r\nHost: x\r\nY: \x7f\r\n\r\n"), BYTES(""), CONTROL},
    {BYTES("GET / HTTP/1.1\r\nHost: x\r\nY: \x1b[m\r\n\r\n"), BYTES(""), CONTROL},
    {BYTES("GET / HTTP/1.1\r\nHost: x\n\r\n"), BYTES(""), LINE_END},
    {BYTES("GET / HTTP/1.1\nHost: x\n\n"), BYTES(""), LINE_END},
    {BYTES("GET / HTTP/1.1\r\nHost: x\r\n\n" GET), BYTES(""), LINE_END},
    {BYTES("GET / HTTP/1.1\r\nHost: x\r\r\n\r\n"), BYTES(""), LINE_END},
    {BYTES("GET / HTTP/1.1\r\nY: a\rContent-Length: 5\r\n\r\n"), BYTES(""), LINE_END},
    {BYTES("\n" GET), BYTES(""), LINE_END},
    {BYTES("\r\r\n" GET), BYTES(""), LINE_END},
    {BYTES("GET / HTTP/1.1\r\nY: z\r\n folded: 1\r\n\r\n"), BYTES(""), FOLDED},
    {BYTES("GET / HTTP/1.1\r\n\tHost: x\r\n\r\n"), BYTES(""), FOLDED},
    {BYTES("GET / HTTP/1.1\r\nHost\r\n\r\n"), BYTES(""), "A header has no colon."},
    {BYTES("GET / HTTP/1.1\r\n: x\r\n\r\n"), BYTES(""), NAME},
    {BYTES("GET / HTTP/1.1\r\nHost : x\r\n\r\n"), BYTES(""), NAME},
    {BYTES("GET / HTTP/1.1\r\nB\xc3\xa9: x\r\n\r\n"), BYTES(""), NAME},
    {BYTES("nonsense\r\n\r\n"), BYTES(""), NO_REQUEST},
    {BYTES("GET /\r\n\r\n"), BYTES(""), NO_REQUEST},
    {BYTES("GET  HTTP/1.1\r\n\r\n"), BYTES(""), NO_REQUEST},
    {BYTES("GET\t/ HTTP/1.1\r\n\r\n"), BYTES(""), NO_REQUEST},
    {BYTES(" GET / HTTP/1.1\r\n\r\n"), BYTES(""), NO_REQUEST},
    {BYTES("G(T / HTTP/1.1\r\n\r\n"), BYTES(""), NO_REQUEST},
    {BYTES("GET / a HTTP/1.1\r\n\r\n"), BYTES(""), NO_REQUEST},
    {BYTES("GET / HTTP/1.1 \r\n\r\n"), BYTES(""), VERSION},
    {BYTES("GET / HTTP/1.7\r\n\r\n"), BYTES(""), VERSION},
    {BYTES("GET / HTTP/01.1\r\n\r\n"), BYTES(""), VERSION},
    {BYTES("GET / http/1.1\r\n\r\n"), BYTES(""), NO_REQUEST},
    {BYTES("CONNECT / HTTP/1.1\r\n\r\n"), BYTES(""), "The server is no proxy."},
    {BYTES(POST("Content-Length: 4\r\nContent-Length: 4\r\n") "abcd"), BYTES(""), LENGTH},
    {BYTES(POST("Content-Length: 4\r\ncontent-length: 9\r\n") "abcd"), BYTES(""), LENGTH},
    {BYTES(POST("Content-Length: 4, 4\r\n") "abcd"), BYTES(""), LENGTH},
    {BYTES(POST("Content-Length: +4\r\n") "abcd"), BYTES(""), LENGTH},
    {BYTES(POST("Content-Length: -4\r\n") "abcd"), BYTES(""), LENGTH},
    {BYTES(POST("Content-Length: 0x4\r\n") "abcd"), BYTES(""), LENGTH},
    {BYTES(POST("Content-Length: 4 4\r\n") "abcd"), BYTES(""), LENGTH},
    {BYTES(POST("Content-Length: 4;\r\n") "abcd"), BYTES(""), LENGTH},
    {BYTES(POST("Content-Length:\r\n")), BYTES(""), LENGTH},
    {BYTES(POST("Content-Length: 9999999999999999999\r\n")), BYTES(""), LENGTH},
    {BYTES(POST("Content-Length : 4\r\n") "abcd"), BYTES(""), NAME},
    {BYTES(POST("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n") "0\r\n\r\n"), BYTES(""),
     "Content-Length and Transfer-Encoding exclude each other."},
    {BYTES(POST("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n")), BYTES(""),
     ENCODING},
    {BYTES(POST("Transfer-Encoding: gzip, chunked\r\n")), BYTES(""), ENCODING},
    {BYTES(POST("Transfer-Encoding: xchunked\r\n")), BYTES(""), ENCODING},
    {BYTES(POST("Transfer-Encoding: \"chunked\"\r\n")), BYTES(""), ENCODING},
    {BYTES("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), BYTES(""),
     "Transfer-Encoding is for HTTP/1.1."},
    {BYTES("HEAD / HTTP/1.1\r\nContent-Length: 4\r\n\r\nabcd"), BYTES(""), BODILESS},
    {BYTES("TRACE / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"), BYTES(""), BODILESS},
    {BYTES("BREWTHIS / HTTP/1.1\r\nContent-Length: 0\r\n\r\n"), BYTES(""), BODILESS},
    {BYTES(GET "get / HTTP/1.1\r\nContent-Length: 4\r\n\r\n"), BYTES(GET), BODILESS},
    {BYTES("GET / HTTP/1.1\r\nY: " X512 "\r\n\r\n"), BYTES(""), "The headers are too large."},
    {BYTES("GET /" X512), BYTES(""), "The headers are too large."},
    {BYTES("GET / HTTP/1.1\r\n" Y4 Y4 "Host: x\r\n\r\n"), BYTES(""), "There are too many headers."},
    {BYTES(POST(Y4 "Y: z\r\nY: z\r\nY: z\r\n") POST(Y4 Y4)),
     BYTES(POST(Y4 "Y: z\r\nY: z\r\nY: z\r\n")), "There are too many headers."},
    {BYTES(CHUNKED("g\r\n")), BYTES(CHUNKED("")), CHUNK_SIZE},
    {BYTES(CHUNKED("\r\n")), BYTES(CHUNKED("")), CHUNK_SIZE},
    {BYTES(CHUNKED("-1\r\n")), BYTES(CHUNKED("")), CHUNK_SIZE},
    {BYTES(CHUNKED("0x4\r\nabcd\r\n")), BYTES(CHUNKED("")), CHUNK_SIZE},
    {BYTES(CHUNKED(" 4\r\nabcd\r\n")), BYTES(CHUNKED("")), CHUNK_SIZE},
    {BYTES(CHUNKED("4 4\r\nabcd\r\n")), BYTES(CHUNKED("")), CHUNK_SIZE},
    {BYTES(CHUNKED("1000000000000000\r\n")), BYTES(CHUNKED("")), CHUNK_SIZE},
    {BYTES(CHUNKED("4;a=\0\r\nabcd\r\n")), BYTES(CHUNKED("")), CONTROL},
    {BYTES(CHUNKED("4;a\nabcd\r\n")), BYTES(CHUNKED("")), LINE_END},
    {BYTES(CHUNKED("4\nabcd\r\n")), BYTES(CHUNKED("")), LINE_END},
    {BYTES(CHUNKED("4\r\nabcde\r\n")), BYTES(CHUNKED("4\r\nabcd")), CHUNK_LONG},
    {BYTES(CHUNKED("4\r\nabcd\n0\r\n\r\n")), BYTES(CHUNKED("4\r\nabcd")), CHUNK_LONG},
    {BYTES(CHUNKED("4\r\nabcd\rx0\r\n\r\n")), BYTES(CHUNKED("4\r\nabcd")), CHUNK_LONG},
    {BYTES(CHUNKED("0\r\n\0\r\n\r\n")), BYTES(CHUNKED("0\r\n")), CONTROL},
    {BYTES(CHUNKED("0\r\nA: b\n\r\n")), BYTES(CHUNKED("0\r\n")), LINE_END},
    {BYTES(CHUNKED("0\r\n a: b\r\n\r\n")), BYTES(CHUNKED("0\r\n")), FOLDED},
    {BYTES(CHUNKED("0\r\nGET / HTTP/1.1\r\n\r\n")), BYTES(CHUNKED("0\r\n")),
     "A header has no colon."},
    {BYTES(CHUNKED("0\r\nA: " X64 "\r\nA: " X512)), BYTES(CHUNKED("0\r\n")),
     "The trailers are too large."},
};

/* What was clean before it goes on, then a line that no reader takes for anything, then nothing. */
START_TEST(what_is_not_ends_there)
{
    char sent[2048];
    char seen[2048];
    struct bytes all = {sent, unclean[_i].sent.n};
    struct bytes expected = {seen, unclean[_i].seen.n};

    memcpy(sent, unclean[_i].sent.p, all.n);
    memcpy(sent + all.n, GET, sizeof(GET)); /* never to be seen */
    all.n += strlen(GET);
    memcpy(seen, unclean[_i].seen.p, expected.n);
    memcpy(seen + expected.n, NONSENSE, sizeof(NONSENSE));
    expected.n += strlen(NONSENSE);
    check_cuts(&all, &expected, unclean[_i].wrong);
}
END_TEST

/* Streams of clean requests with one byte changed, in segments of any size: in one piece or in
 * many, evhttp sees the same. */
START_TEST(changed_bytes_read_the_same_in_any_segments)
{
    static const char changes[] = "\0\n\r\t :;0a\x7f\xff";
    unsigned seed = 20261;

    for (int round = 0; round < 3000; round++) {
        struct stream whole = open_stream(false);
        struct stream parts = open_stream(round % 2);
        struct bytes expected;
        char text[2048];
        size_t n = 0;

        for (int i = 0; i < 3; i++) {
            const struct bytes *one =
                &clean[(size_t)rand_r(&seed) % (sizeof(clean) / sizeof(clean[0]))].sent;

            memcpy(text + n, one->p, one->n);
            n += one->n;
        }
        text[(size_t)rand_r(&seed) % n] = changes[(size_t)rand_r(&seed) % (sizeof(changes) - 1)];
        for (size_t at = 0; at < n;) {
            size_t len = (size_t)rand_r(&seed) % 40 + 1;

            len = len < n - at ? len : n - at;
            feed(&parts, text + at, len);
            at += len;
        }
        feed(&whole, text, n);
        expected.n = evbuffer_get_length(whole.seen);
        expected.p = expected.n ? (const char *)evbuffer_pullup(whole.seen, -1) : "";
        check_stream(&parts, &expected, whole.wire.wrong);
        check_stream(&whole, &expected, whole.wire.wrong);
    }
}
END_TEST

/* Where the two see a request end: both, evhttp too early, too late, and with another one behind
 * it. */
START_TEST(whoever_reads_other_requests_is_found_out)
{
    static const struct {
        struct bytes sent;
        uint64_t taken; /* by evhttp */
        size_t unread;
        bool agrees;
    } views[] = {
        {BYTES(GET), 1, 0, true},
        {BYTES(GET), 1, 4, false},
        {BYTES(GET), 2, 0, false},
        {BYTES(GET "GET / HT"), 1, 0, true},
        {BYTES(GET GET), 1, sizeof(GET) - 1, true},
        {BYTES(GET GET), 1, 0, false},
        {BYTES(GET GET), 2, 0, true},
        {BYTES(GET GET), 2, 1, false},
        {BYTES(GET "nonsense\r\n"), 1, sizeof(NONSENSE) - 1, true},
        {BYTES(GET "nonsense\r\n"), 1, 0, false},
        {BYTES(POST("Content-Length: 4\r\n") "ab"), 1, 0, false},
        {BYTES(GET POST("Content-Length: 4\r\n") "ab"), 1, 2, true},
        {BYTES(CHUNKED("2\r\nab\r\n0\r\n\r\n")), 1, 0, true},
        {BYTES(CHUNKED("2\r\nab\r\n0\r\n")), 1, 0, false},
    };

    for (size_t i = 0; i < sizeof(views) / sizeof(views[0]); i++) {
        struct stream s = open_stream(false);

        feed(&s, views[i].sent.p, views[i].sent.n);
        ck_assert_msg(http_wire_agrees(&s.wire, views[i].taken, views[i].unread) == views[i].agrees,
                      "view %zu", i);
        buf_free(&s.wire.held);
        evbuffer_free(s.in);
        evbuffer_free(s.seen);
    }
}
END_TEST

/* A peer that sends line ends for ever, or a head without one, costs no more than the limit. */
START_TEST(what_is_held_is_bounded)
{
    struct stream s = open_stream(false);

    for (int i = 0; i < MAX_HEAD && !s.wire.wrong; i++)
        feed(&s, "\r\n", 2);
    ck_assert_str_eq(s.wire.wrong, "There are too many blank lines.");
    for (int i = 0; i < 100; i++)
        feed(&s, GET, strlen(GET));
    check_stream(&s, &(struct bytes)BYTES(NONSENSE), "There are too many blank lines.");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("httpd_wire");
    TCase *t = tcase_create("wire");

    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, what_is_clean_goes_on, 0, (int)(sizeof(clean) / sizeof(clean[0])));
    tcase_add_loop_test(t, what_is_not_ends_there, 0, (int)(sizeof(unclean) / sizeof(unclean[0])));
    tcase_add_test(t, changed_bytes_read_the_same_in_any_segments);
    tcase_add_test(t, what_is_held_is_bounded);
    tcase_add_test(t, whoever_reads_other_requests_is_found_out);
    suite_add_tcase(s, t);
    return suite_run(s);
}
