#include "test/loadtest/stream.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <unistd.h>

SSL_CTX *stream_tls_new(const char *ca_file, struct err *err)
{
    SSL_CTX *tls = SSL_CTX_new(TLS_client_method());

    if (!tls) {
        err_set(err, ERR_RETRY, 0, "TLS: out of memory");
        return NULL;
    }
    SSL_CTX_set_verify(tls, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_min_proto_version(tls, TLS1_2_VERSION);
    SSL_CTX_set_mode(tls, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                              SSL_MODE_RELEASE_BUFFERS);
    if (*ca_file ? SSL_CTX_load_verify_locations(tls, ca_file, NULL)
                 : SSL_CTX_set_default_verify_paths(tls))
        return tls;
    err_set(err, ERR_PERMANENT, 0, "%s: %s", ca_file, ERR_reason_error_string(ERR_peek_error()));
    ERR_clear_error();
    SSL_CTX_free(tls);
    return NULL;
}

void stream_tls_free(SSL_CTX *tls)
{
    SSL_CTX_free(tls);
}

static bool is_address(const char *name)
{
    struct in6_addr any;

    return inet_pton(AF_INET, name, &any) == 1 || inet_pton(AF_INET6, name, &any) == 1;
}

static bool add_tls(struct stream *s, SSL_CTX *tls, const char *name)
{
    SSL *ssl = SSL_new(tls);

    s->ssl = ssl;
    if (!ssl || !SSL_set_fd(ssl, s->fd))
        return false;
    SSL_set_connect_state(ssl);
    if (is_address(name))
        return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), name);
    return SSL_set1_host(ssl, name) && SSL_set_tlsext_host_name(ssl, name);
}

bool stream_open(struct stream *s, const struct sockaddr_storage *to, socklen_t len, SSL_CTX *tls,
                 const char *name)
{
    int yes = 1;

    s->fd = socket(to->ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (s->fd < 0)
        return false;
    setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
    if ((!connect(s->fd, (const struct sockaddr *)to, len) || errno == EINPROGRESS) &&
        (!tls || add_tls(s, tls, name)))
        return true;
    stream_close(s);
    return false;
}

void stream_close(struct stream *s)
{
    SSL_free(s->ssl);
    s->ssl = NULL;
    if (s->fd >= 0)
        close(s->fd);
    s->fd = -1;
}

const char *stream_distrust(const struct stream *s)
{
    long why = s->ssl ? SSL_get_verify_result(s->ssl) : X509_V_OK;

    return why == X509_V_OK ? NULL : X509_verify_cert_error_string(why);
}

static ssize_t answer(SSL *ssl, int rc, size_t n)
{
    int why = SSL_get_error(ssl, rc);

    if (rc > 0)
        return (ssize_t)n;
    ERR_clear_error();
    if (why == SSL_ERROR_ZERO_RETURN)
        return 0;
    if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE)
        errno = EAGAIN;
    else if (why != SSL_ERROR_SYSCALL || (errno != ENOTCONN && errno != EAGAIN))
        errno = EPROTO;
    return -1;
}

ssize_t stream_send(struct stream *s, const char *data, size_t n)
{
    size_t sent = 0;
    int rc;

    if (!s->ssl)
        return send(s->fd, data, n, MSG_NOSIGNAL);
    rc = SSL_write_ex(s->ssl, data, n, &sent);
    return answer(s->ssl, rc, sent);
}

ssize_t stream_recv(struct stream *s, char *data, size_t n)
{
    size_t got = 0;
    int rc;

    if (!s->ssl)
        return recv(s->fd, data, n, 0);
    rc = SSL_read_ex(s->ssl, data, n, &got);
    return answer(s->ssl, rc, got);
}
