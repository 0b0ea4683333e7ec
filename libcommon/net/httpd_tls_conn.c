#include <event2/buffer.h>
#include <event2/bufferevent_ssl.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <sys/socket.h>

#include "libcommon/net/httpd_internal.h"
#include "libcommon/telemetry/log.h"

#define SHAKING_MAX 512     /* handshakes under way, of a server: 45 KiB each */
#define SESSION_BYTES 14336 /* its structs, and the bufferevent's */
#define RECORD_BYTES 17408  /* room for one, until it is read to its end */
_Static_assert(SESSION_BYTES + RECORD_BYTES <= HTTP_TLS_BYTES_MAX, "as others count on");

/* What a client has sent is taken away, or closing would reset the connection under what it is told
 * last. */
static void take_rest(int fd)
{
    char rest[4096];

    for (int i = 0; i < 16 && recv(fd, rest, sizeof(rest), MSG_DONTWAIT) > 0; i++)
        ;
}

/* HTTP without TLS on our port: said in words that its client understands, as far as it reads them.
 */
static void answer_plain(int fd)
{
    static const char body[] =
        "{\"error\":\"bad_request\",\"message\":\"TLS comes first: this port speaks HTTPS.\"}";
    char page[256];
    int n = snprintf(page, sizeof(page),
                     "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n"
                     "Content-Length: %zu\r\nConnection: close\r\n\r\n%s",
                     sizeof(body) - 1, body);

    (void)!send(fd, page, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL);
    shutdown(fd, SHUT_WR);
    take_rest(fd);
}

static void on_info(const SSL *ssl, int where, int ret)
{
    struct http_conn *c = SSL_get_app_data(ssl);

    if (!c || c->shaken)
        return;
    if (where & SSL_CB_HANDSHAKE_DONE) {
        c->shaken = true;
        c->thread->shaking--;
        http_stats_handshake(true);
    } else if (where == SSL_CB_ACCEPT_EXIT && ret <= 0 &&
               ERR_GET_REASON(ERR_peek_last_error()) == SSL_R_HTTP_REQUEST) {
        answer_plain(SSL_get_fd(ssl));
    }
}

/*
 * libevent's reading, as 2.1 has it, fills two pieces of memory where the first is short, and an
 * end or a failure that it finds on the way to the second comes before what is in the first: a
 * request whose client has ended its side would be lost. With one byte wanted there is one piece,
 * of a kilobyte or so, and what OpenSSL holds beyond it is read in further rounds.
 */
#define ONE_PIECE 1

struct bufferevent *http_tls_bufferevent(struct http_conn *c)
{
    SSL *ssl = http_tls_session(c->thread->server->tls);
    struct bufferevent *bev;

    if (!ssl)
        return NULL;
    SSL_set_app_data(ssl, c);
    SSL_set_info_callback(ssl, on_info);
    bev = bufferevent_openssl_socket_new(c->thread->base, -1, ssl, BUFFEREVENT_SSL_ACCEPTING,
                                         BEV_OPT_CLOSE_ON_FREE); /* takes it, even in vain */
    if (!bev)
        return NULL;
    bufferevent_openssl_set_allow_dirty_shutdown(bev, 1);
    bufferevent_set_max_single_read(bev, ONE_PIECE);
    c->ssl = ssl;
    c->thread->shaking++;
    return bev;
}

void http_tls_make_room(struct http_thread *t)
{
    int64_t surplus = t->shaking - SHAKING_MAX / t->server->thread_count;
    struct http_conn *next;

    for (struct http_conn *c = TAILQ_FIRST(&t->silent); c && surplus > 0; c = next) {
        next = TAILQ_NEXT(c, place);
        if (!http_tls_is_shaking(c))
            continue;
        surplus--;
        http_stats_dropped(HTTP_DROP_CROWDED);
        bufferevent_trigger_event(c->bev, BEV_EVENT_READING | BEV_EVENT_TIMEOUT, 0);
    }
}

bool http_tls_is_shaking(const struct http_conn *c)
{
    return c->ssl && !c->shaken;
}

bool http_tls_has_certificate(const struct http_conn *c)
{
    return c->ssl && SSL_get0_peer_certificate(c->ssl);
}

void http_tls_end(struct http_conn *c)
{
    /* An answer that is cut short must look like it. */
    if (!c->shaken || evbuffer_get_length(bufferevent_get_output(c->bev)) > 0)
        return;
    ERR_clear_error();
    (void)SSL_shutdown(c->ssl);
    ERR_clear_error(); /* the client may have gone already */
}

/* Of a record that has begun nothing is told before its end: whoever wants to know asks now and
 * then.
 */
size_t http_tls_bytes(const struct http_conn *c)
{
    if (!c->ssl)
        return 0;
    return SESSION_BYTES + (!c->shaken || SSL_has_pending(c->ssl) ? RECORD_BYTES : 0);
}

bool http_tls_say(struct http_conn *c, const char *p, size_t n)
{
    bool said;

    ERR_clear_error();
    said = c->shaken && SSL_write(c->ssl, p, (int)n) == (int)n;
    ERR_clear_error(); /* the client may have gone already */
    return said;
}

/* Headers and a small body lie apart, and would be two records and two system calls. */
void http_tls_gather(struct http_conn *c)
{
    struct evbuffer *out = bufferevent_get_output(c->bev);

    if (evbuffer_get_length(out) <= SSL3_RT_MAX_PLAIN_LENGTH)
        (void)evbuffer_pullup(out, -1);
}

/* Who only looks whether the port is open has not tried. */
static void tell_failure(const struct http_conn *c)
{
    unsigned long code = bufferevent_get_openssl_error(c->bev);
    const char *reason = ERR_reason_error_string(code);

    if (!SSL_get_rbio(c->ssl) || !BIO_number_read(SSL_get_rbio(c->ssl)))
        return;
    take_rest(bufferevent_getfd(c->bev));
    http_stats_handshake(false);
    log_debug("tls.handshake_failed",
              L_STR("error", reason ? reason : "it did not come to its end"));
}

void http_tls_release(struct http_conn *c)
{
    if (!c->shaken) {
        c->thread->shaking--;
        tell_failure(c);
    }
    SSL_set_app_data(c->ssl, NULL);
}
