/* Whom an amqps:// connection trusts. The library's own check of names knows no addresses, and
 * tells nothing of what it did not like; OpenSSL's, told what to look for, does both in the
 * handshake. */

#include <amqp_ssl_socket.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include "libcommon/broker/broker_internal.h"

static int on_verify(int trusted, X509_STORE_CTX *store)
{
    SSL *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
    struct broker *b = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));

    if (!trusted)
        b->distrust = X509_verify_cert_error_string(X509_STORE_CTX_get_error(store));
    return trusted;
}

/* What ended the handshake otherwise, in the word that TLS has for it: "protocol version", say. */
static void on_alert(const SSL *ssl, int where, int alert)
{
    struct broker *b = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));

    if ((where & SSL_CB_ALERT) && alert >> 8 == SSL3_AL_FATAL)
        b->alert = SSL_alert_desc_string_long(alert);
}

static bool expect_name(SSL_CTX *context, const char *host)
{
    X509_VERIFY_PARAM *expected = SSL_CTX_get0_param(context);

    return X509_VERIFY_PARAM_set1_ip_asc(expected, host) ||
           X509_VERIFY_PARAM_set1_host(expected, host, 0);
}

static int prepare(struct broker *b, amqp_socket_t *socket, const char *host, struct err *err)
{
    SSL_CTX *context = amqp_ssl_socket_get_context(socket);

    amqp_ssl_socket_set_verify_peer(socket, 1);
    amqp_ssl_socket_set_verify_hostname(socket, 0); /* expect_name */
    SSL_CTX_set_app_data(context, b);
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, on_verify);
    SSL_CTX_set_info_callback(context, on_alert);
    if (!expect_name(context, host) ||
        amqp_ssl_socket_set_ssl_versions(socket, AMQP_TLSv1_2, AMQP_TLSvLATEST))
        return err_set(err, ERR_RETRY, 0, "broker: TLS could not be set up");
    if (amqp_ssl_socket_set_cacert(socket, b->settings->tls_ca))
        return err_set(err, ERR_PERMANENT, 0, "broker: cannot read RABBIT_TLS_CA %s",
                       b->settings->tls_ca);
    return 0;
}

amqp_socket_t *broker_tls_socket(struct broker *b, const char *host, struct err *err)
{
    amqp_socket_t *socket = amqp_ssl_socket_new(b->conn);

    return socket && !prepare(b, socket, host, err) ? socket : NULL;
}
