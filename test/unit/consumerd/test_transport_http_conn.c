#include <arpa/inet.h>
#include <check.h>
#include <dlfcn.h>
#include <errno.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "consumerd/transport_http_conn.h"
#include "test/unit/suite.h"

/* Connections under TLS, to a server that reads all that comes, and says a word and leaves when it
 * is told to. */

#define BIG 40000 /* more than two records */

static SSL_CTX *server;
static int listener;
static char ca[] = "/tmp/test_transport_http_conn.XXXXXX";
static _Atomic size_t received;
static sem_t got_big, leave, left;

static void *take_all(void *arg)
{
    SSL *ssl = arg;
    char data[16384];
    int n;

    while ((n = SSL_read(ssl, data, sizeof(data))) > 0)
        if (atomic_fetch_add(&received, (size_t)n) + (size_t)n == BIG)
            sem_post(&got_big);
    return NULL;
}

static void *serve(void *arg)
{
    int fd = accept(listener, NULL, NULL);
    SSL *ssl = SSL_new(server);
    pthread_t reader;

    (void)arg;
    SSL_set_fd(ssl, fd);
    if (SSL_accept(ssl) == 1 && !pthread_create(&reader, NULL, take_all, ssl)) {
        sem_wait(&leave);
        shutdown(fd, SHUT_WR);
        sem_post(&left);
        pthread_join(reader, NULL);
    }
    SSL_free(ssl);
    close(fd);
    return NULL;
}

static void make_certificate(SSL_CTX *ctx)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *x = X509_new();
    X509_EXTENSION *names = X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name, "IP:127.0.0.1");
    int fd = mkstemp(ca);
    FILE *f = fdopen(fd, "w");

    ck_assert(key && x && names && f);
    X509_set_version(x, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(x), 1);
    X509_gmtime_adj(X509_getm_notBefore(x), -60);
    X509_gmtime_adj(X509_getm_notAfter(x), 3600);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_ASC,
                               (const unsigned char *)"operator", -1, -1, 0);
    X509_set_issuer_name(x, X509_get_subject_name(x));
    X509_set_pubkey(x, key);
    X509_add_ext(x, names, -1);
    ck_assert(X509_sign(x, key, EVP_sha256()) && PEM_write_X509(f, x) == 1);
    ck_assert(SSL_CTX_use_certificate(ctx, x) == 1 && SSL_CTX_use_PrivateKey(ctx, key) == 1);
    fclose(f);
    X509_EXTENSION_free(names);
    X509_free(x);
    EVP_PKEY_free(key);
}

static void start_server(void)
{
    signal(SIGPIPE, SIG_IGN);
    server = SSL_CTX_new(TLS_server_method());
    ck_assert_ptr_nonnull(server);
    SSL_CTX_set_num_tickets(server, 0); /* nothing comes before it is asked for */
    make_certificate(server);
}

static void stop_server(void)
{
    unlink(ca);
    SSL_CTX_free(server);
}

/* For one visitor: those that nobody accepts are gone with the listener. */
static uint16_t start_listening(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof(address);

    ck_assert(!sem_init(&got_big, 0, 0) && !sem_init(&leave, 0, 0) && !sem_init(&left, 0, 0));
    listener = socket(AF_INET, SOCK_STREAM, 0);
    ck_assert(listener >= 0 && !bind(listener, (struct sockaddr *)&address, size));
    ck_assert(!listen(listener, 16) && !getsockname(listener, (struct sockaddr *)&address, &size));
    return ntohs(address.sin_port);
}

static int sends_left = -1; /* then the connection is reset; below zero: never */

/* Stands before libc's: what curl sends. */
ssize_t send(int fd, const void *data, size_t n, int flags)
{
    ssize_t (*real)(int, const void *, size_t, int);

    *(void **)&real = dlsym(RTLD_NEXT, "send");
    if (!sends_left) {
        errno = ECONNRESET;
        return -1;
    }
    sends_left -= sends_left > 0;
    return real(fd, data, n, flags);
}

/* ---- the caller ---- */

struct caller {
    struct op_conns conns;
    char url[64];
    pthread_t server;
    int connected, ready; /* how often the one call, or its end, was heard of */
    bool provoke;         /* the server to leave, just before curl goes on */
};

static void wait_for(sem_t *sem)
{
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 10;
    ck_assert(!sem_timedwait(sem, &until));
}

static bool may_send(void *arg)
{
    struct caller *c = arg;

    if (c->provoke) {
        sem_post(&leave);
        wait_for(&left);
    }
    c->provoke = false;
    return true;
}

static void on_connected(void *call)
{
    struct caller *c = call;

    c->connected++;
    event_base_loopbreak(c->conns.base);
}

static void on_failed(void *call, const char *why)
{
    (void)call;
    ck_abort_msg("%s", why);
}

static void on_ready(void *call, bool writable)
{
    struct caller *c = call;

    (void)writable;
    c->ready++;
    event_base_loopbreak(c->conns.base);
}

static void run(struct caller *c, int ms)
{
    struct timeval limit = {ms / 1000, ms % 1000 * 1000};

    event_base_loopexit(c->conns.base, &limit);
    event_base_dispatch(c->conns.base);
}

static struct op_conn *begin(struct caller *c)
{
    struct op_conn *conn;

    *c = (struct caller){.conns = {.base = event_base_new(),
                                   .tls_ca = ca,

                                   .life_ms = 60000,
                                   .operator_count = 2,
                                   .max = 4,
                                   .may_send = may_send,
                                   .may_send_arg = c,
                                   .connected = on_connected,
                                   .failed = on_failed,
                                   .ready = on_ready}};
    received = 0;
    sends_left = -1;
    snprintf(c->url, sizeof(c->url), "https://127.0.0.1:%u/", start_listening());
    ck_assert(!pthread_create(&c->server, NULL, serve, NULL));
    op_conns_open(&c->conns);
    conn = op_conns_make(&c->conns, 0, c->url, 10000, c);
    ck_assert_ptr_nonnull(conn);
    run(c, 10000);
    ck_assert_int_eq(c->connected, 1);
    return conn;
}

static void end(struct caller *c)
{
    op_conns_close(&c->conns);
    event_base_free(c->conns.base);
    sem_post(&leave);
    pthread_join(c->server, NULL);
    close(listener);
}

START_TEST(all_of_it_goes_out)
{
    static const char big[BIG];
    struct caller c;
    struct op_conn *conn = begin(&c);
    size_t sent = 0;

    while (sent < BIG) {
        ssize_t n = op_conn_write(conn, big + sent, BIG - sent);

        ck_assert_int_ge(n, 0);
        sent += (size_t)n;
    }
    wait_for(&got_big);
    op_conn_end(conn);
    end(&c);
}
END_TEST

/* That a part has left must be told, or the whole goes out again. */
START_TEST(a_part_that_has_gone_out_is_told)
{
    static const char big[BIG];
    struct caller c;
    struct op_conn *conn = begin(&c);
    ssize_t n;

    sends_left = 1;
    n = op_conn_write(conn, big, BIG);
    ck_assert_int_gt(n, 0);
    ck_assert_int_lt(n, BIG);
    ck_assert_int_eq(op_conn_write(conn, big + n, BIG - (size_t)n), -1);
    op_conn_end(conn);
    end(&c);
}
END_TEST

/* When curl makes another, it closes what has ended and has not been written to yet. That must be
 * heard of, and nothing may go out any more. */
START_TEST(the_end_is_heard_of)
{
    bool written = _i;
    struct caller c;
    struct op_conn *conn = begin(&c);
    struct op_conn *other;
    char data[16];
    bool ended = false;

    if (written)
        ck_assert_int_eq(op_conn_write(conn, "x", 1), 1);
    run(&c, 1100); /* for curl to look again */
    ck_assert_int_eq(c.ready, 0);
    c.provoke = true;
    other = op_conns_make(&c.conns, 0, c.url, 10000, &c);
    ck_assert_ptr_nonnull(other);
    run(&c, 5000);
    ck_assert_int_eq(c.ready, 1);
    ck_assert(op_conn_read(conn, data, sizeof(data), &ended) < 0 || ended);
    if (!written)
        ck_assert_int_eq(op_conn_write(conn, "x", 1), -1);
    op_conn_end(other);
    op_conn_end(conn);
    end(&c);
}
END_TEST

START_TEST(each_operator_has_its_own)
{
    struct caller c;
    struct op_conn *conn = begin(&c);

    op_conn_keep(conn);
    ck_assert_ptr_null(op_conns_take(&c.conns, 1, &c));
    ck_assert_ptr_eq(op_conns_take(&c.conns, 0, &c), conn);
    ck_assert_ptr_null(op_conns_take(&c.conns, 0, &c));
    op_conn_keep(conn);
    end(&c);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("transport_http_conn");
    TCase *tc = tcase_create("transport_http_conn");

    tcase_add_unchecked_fixture(tc, start_server, stop_server);
    tcase_set_timeout(tc, 30);
    tcase_add_test(tc, all_of_it_goes_out);
    tcase_add_test(tc, a_part_that_has_gone_out_is_told);
    tcase_add_loop_test(tc, the_end_is_heard_of, 0, 2);
    tcase_add_test(tc, each_operator_has_its_own);
    suite_add_tcase(suite, tc);
    return suite_run(suite);
}
