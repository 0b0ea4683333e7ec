/*
 * Bytes of a connection to the whole server: each answer is HTTP and belongs to the request that it
 * stands for, and parameters of a query are read or refused.
 */

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "api/operation.h"
#include "api/query.h"
#include "libcommon/net/address.h"
#include "libcommon/net/httpd.h"
#include "test/fuzz/http_parts.h"

#define MAX_HEAD 2048
#define MAX_BODY 4096
#define ORIGIN "https://app.example"
#define WAIT_MS 30000 /* for a local answer: only one that does not come takes so long */

static uint16_t port;

/* It goes into log lines and answers. */
static void check_id(const char *id)
{
    MUST(*id);
    for (; *id; id++)
        MUST(*id > ' ' && *id <= '~' && *id != '"');
}

/* It is compared as bytes, and goes into statements and answers. */
static void check_key(const char *key)
{
    static const char body[] = "{\"user_id\":1,\"balance\":1}";
    struct operation_fault fault;
    struct operation *op = operation_parse_topup(body, sizeof(body) - 1, 0, &fault);

    MUST(op != NULL);
    if (operation_set_key(op, key, &fault)) {
        MUST(fault.code && !op->key);
    } else {
        MUST(*key && strlen(key) <= OPERATION_KEY_MAX && !strcmp(op->key, key));
        for (; *key; key++)
            MUST(*key >= ' ' && *key <= '~');
    }
    operation_free(op);
}

/* The body comes back; parameters as the reads have them. */
static void handle(struct httpd_request *req, void *arg)
{
    int64_t number[3];
    struct address peer;
    char id[51];
    size_t n;
    const char *body = httpd_body(req, &n);

    (void)arg;
    MUST(*httpd_path(req) == '/' && strlen(httpd_tracestate(req)) <= TRACE_STATE_MAX);
    MUST(address_parse(httpd_peer(req), strlen(httpd_peer(req)), &peer));
    check_id(httpd_request_id(req));
    if (httpd_header(req, "Idempotency-Key"))
        check_key(httpd_header(req, "Idempotency-Key"));
    if (!query_number(req, "user_id", 1, INT64_MAX, 0, &number[0]) ||
        !query_number(req, "limit", 1, 1000, 100, &number[1]) ||
        !query_number(req, "cursor", 1, INT64_MAX, INT64_MAX, &number[2]) ||
        !query_ascii(req, "message_identifier", id, sizeof(id)))
        return;
    for (const char *c = id; *c; c++)
        MUST(*c >= ' ' && *c <= '~');
    MUST(number[0] >= 0 && number[1] >= 1 && number[1] <= 1000 && number[2] >= 1);
    httpd_reply_type(req, 200, "application/octet-stream", body, n);
}

static const struct httpd_route routes[] = {
    {"GET", "/*", handle, 0, NULL},
    {"POST", "/*", handle, 0, NULL},
    {"DELETE", "/*", handle, 0, NULL},
};

/* libFuzzer's alarm rings in the middle of calls. */
static void keep_calls_whole(void)
{
    struct sigaction alarm;

    MUST(!sigaction(SIGALRM, NULL, &alarm));
    alarm.sa_flags |= SA_RESTART;
    MUST(!sigaction(SIGALRM, &alarm, NULL));
}

static void start_server(void)
{
    static char any_port[] = "127.0.0.1:0";
    static char proxies[] = "127.0.0.0/8";
    static char origins[] = ORIGIN;
    static const struct httpd_settings settings = {.listen_addr = any_port,
                                                   .trusted_proxies = proxies,
                                                   .cors_origins = origins,
                                                   .max_headers = 100,
                                                   .threads = 1,
                                                   .max_connections = 64,
                                                   .max_body_bytes = MAX_BODY,
                                                   .max_header_bytes = MAX_HEAD,
                                                   .read_timeout_ms = WAIT_MS * 4,
                                                   .idle_timeout_ms = WAIT_MS * 4,
                                                   .write_timeout_ms = WAIT_MS * 4};
    const struct httpd_config config = {
        .settings = &settings, .routes = routes, .route_count = sizeof(routes) / sizeof(routes[0])};
    struct err err = {0};
    struct httpd *server = httpd_new(&config, &err);

    MUST(server && !httpd_start(server, &err));
    keep_calls_whole();
    port = httpd_port(server);
}

/* From addresses in turn: else the ports of one would run out. */
static int dial(void)
{
    static uint32_t turn;
    struct sockaddr_in from = {.sin_family = AF_INET};
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int yes = 1;

    from.sin_addr.s_addr = htonl(0x7f010001 + turn++ % 0xffff);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &yes, sizeof(yes));
    MUST(fd >= 0 && !bind(fd, (struct sockaddr *)&from, sizeof(from)));
    MUST(!connect(fd, (struct sockaddr *)&to, sizeof(to)));
    return fd;
}

static void wait_readable(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    int rc;

    do
        rc = poll(&p, 1, WAIT_MS);
    while (rc < 0 && errno == EINTR);
    MUST(rc > 0);
}

/* All answers, up to the end of the connection; the server may end it before all is sent. */
static void talk(const uint8_t *data, size_t size, struct buf *answers)
{
    struct fuzz_cuts cuts = fuzz_cuts(data, size);
    char part[4096];
    int fd = dial();

    for (size_t at = 0; at < size;) {
        size_t n = fuzz_cut(&cuts, size - at);

        if (send(fd, data + at, n, MSG_NOSIGNAL) != (ssize_t)n)
            break;
        at += n;
    }
    shutdown(fd, SHUT_WR);
    for (;;) {
        ssize_t n;

        wait_readable(fd);
        n = recv(fd, part, sizeof(part), 0);
        MUST(n >= 0); /* a reset may eat an answer */
        if (!n)
            break;
        buf_put(answers, part, (size_t)n);
    }
    close(fd);
    MUST(!answers->failed);
}

struct answer {
    int status;
    bool close;
    struct fuzz_text body;
};

static bool has_line(struct fuzz_text head, const char *line)
{
    for (size_t i = 0; i + strlen(line) <= head.n; i++)
        if (!strncasecmp(head.p + i, line, strlen(line)))
            return true;
    return false;
}

/* No other origin is let in, whatever asks. */
static bool lets_others_in(struct fuzz_text head)
{
    static const char name[] = "\r\nAccess-Control-Allow-Origin: ";
    size_t n = sizeof(name) - 1;

    for (size_t i = 0; i + n <= head.n; i++)
        if (!strncasecmp(head.p + i, name, n))
            return head.n - i - n < sizeof(ORIGIN) + 1 ||
                   memcmp(head.p + i + n, ORIGIN "\r\n", sizeof(ORIGIN) + 1) != 0;
    return false;
}

/* The length that the head gives; 0: none. */
static size_t length_of(struct fuzz_text head)
{
    static const char name[] = "\r\nContent-Length: ";

    for (size_t i = 0; i + sizeof(name) <= head.n; i++)
        if (!strncasecmp(head.p + i, name, sizeof(name) - 1))
            return strtoul(head.p + i + sizeof(name) - 1, NULL, 10);
    return 0;
}

/* Takes the next answer, which is whole. */
static struct answer take_answer(struct fuzz_text *in, bool bodiless)
{
    const char *end = memmem(in->p, in->n, "\r\n\r\n", 4);
    struct fuzz_text head = {in->p, end ? (size_t)(end - in->p) + 2 : 0};
    struct answer a = {0};

    MUST(end && head.n > 12 && !memcmp(in->p, "HTTP/1.", 7));
    a.status = atoi(head.p + 9);
    MUST(a.status == 100 || a.status == 200 || a.status == 204 ||
         (a.status >= 400 && a.status < 600));
    MUST(!lets_others_in(head));
    a.close = has_line(head, "\r\nConnection: close\r\n");
    in->p += head.n + 2;
    in->n -= head.n + 2;
    /* evhttp has a page for what it cannot read, HEAD or not; it is the last word then. */
    if (a.status >= 400 && a.close && in->n == length_of(head))
        bodiless = false;
    a.body = (struct fuzz_text){in->p, bodiless || a.status == 100 ? 0 : length_of(head)};
    MUST(a.body.n <= in->n);
    in->p += a.body.n;
    in->n -= a.body.n;
    return a;
}

static bool is(struct fuzz_text text, const char *s)
{
    return text.n == strlen(s) && !memcmp(text.p, s, text.n);
}

/* One answer a request, in their order; the last one may be about what is no request, or ends the
 * connection before the others. */
static void check_answers(struct fuzz_text sent, struct fuzz_text answers)
{
    bool close = false;

    while (answers.n) {
        struct http_parts r;
        size_t n = http_parts_read(&r, sent.p, sent.n);
        struct answer a;

        MUST(!close);
        do
            a = take_answer(&answers, n && is(r.method, "HEAD"));
        while (a.status == 100);
        close = a.close || !n;
        MUST(n || a.status >= 400);
        if (n && a.status == 200 && !is(r.method, "HEAD"))
            MUST(a.body.n == r.body.len && (!a.body.n || !memcmp(a.body.p, r.body.data, a.body.n)));
        if (n && a.status == 200)
            MUST(is(r.method, "GET") || is(r.method, "HEAD") || is(r.method, "POST") ||
                 is(r.method, "DELETE"));
        if (n && a.status == 204) /* to a page that asks beforehand */
            MUST(is(r.method, "OPTIONS") && !a.body.n);
        close |= n && r.minor == 0 && !http_parts_header(&r, "connection");
        http_parts_free(&r);
        sent.p += n;
        sent.n -= n;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct buf answers = {0};
    const char *wrong;
    size_t n;
    char *text;

    if (!size || size > 65536)
        return -1;
    if (!port)
        start_server();
    text = http_parts_filter(data, size, MAX_HEAD, &n, &wrong);
    talk(data, size, &answers);
    check_answers((struct fuzz_text){text, wrong ? n - 3 : n},
                  (struct fuzz_text){answers.data, answers.len});
    buf_free(&answers);
    free(text);
    return 0;
}
