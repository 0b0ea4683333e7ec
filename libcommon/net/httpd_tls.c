#include "libcommon/net/httpd_tls.h"

#include <event2/event.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/telemetry/log.h"
#include "libcommon/telemetry/metrics.h"

#define LOOK_SEC 1
#define DAY_SEC 86400

/* Of TLS 1.2: those with forward secrecy that authenticate what they encrypt. 1.3 has no others. */
#define CIPHERS "ECDHE+AESGCM:ECDHE+CHACHA20"

#define SETTING_CERT "HTTP_TLS_CERT_FILE"
#define SETTING_KEY "HTTP_TLS_KEY_FILE"
#define SETTING_CA "HTTP_TLS_CLIENT_CA_FILE"

/* What tells one version of a file from another; all zero: there is none. */
struct version {
    dev_t device;
    ino_t inode;
    off_t size;
    struct timespec modified, changed;
};

struct files {
    struct version cert, key, ca;
};
_Static_assert(sizeof(struct files) == 3 * (3 * sizeof(off_t) + 2 * sizeof(struct timespec)),
               "without gaps: it is compared as memory");

struct http_tls {
    const struct httpd_settings *settings;
    pthread_mutex_t lock; /* guards which context is the present one */
    SSL_CTX *context;
    int64_t expires_sec; /* of the first of the certificates shown, since 1970 */
    struct files read;   /* by the last attempt */
    bool failed;         /* that was in vain */
    unsigned reloads;    /* that it knew of */
    struct metric *expiry;
    struct event *look;
};

static _Atomic unsigned reloads;

void httpd_reload(void)
{
    atomic_fetch_add(&reloads, 1);
}

/* ---- a context from files ---- */

static const char *why(void)
{
    unsigned long code = ERR_peek_error(); /* the first is the nearest to the cause */
    const char *reason;

    if (ERR_SYSTEM_ERROR(code))
        return strerror(ERR_GET_REASON(code));
    reason = ERR_reason_error_string(code);
    return reason ? reason : "OpenSSL does not say why";
}

/* Nobody is there to be asked. */
static int no_password(char *out, int size, int writing, void *arg)
{
    (void)writing, (void)arg;
    if (size > 0)
        *out = '\0';
    return -1;
}

/* Only what is spoken here; a client that names nothing is taken at its word later. */
static int choose_protocol(SSL *ssl, const unsigned char **out, unsigned char *out_len,
                           const unsigned char *offered, unsigned offered_len, void *arg)
{
    static const unsigned char spoken[] = "\x8http/1.1";
    unsigned char *chosen;

    (void)ssl, (void)arg;
    if (SSL_select_next_proto(&chosen, out_len, spoken, sizeof(spoken) - 1, offered, offered_len) !=
        OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    *out = chosen;
    return SSL_TLSEXT_ERR_OK;
}

/* A client that leaves without a word of TLS has left, no more: HTTP says itself where a request
 * ends. Buffers go while a connection is idle: they are 34 KB. */
static bool set_rules(SSL_CTX *context, const struct httpd_settings *s)
{
    SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                                     SSL_OP_IGNORE_UNEXPECTED_EOF |
                                     SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA);
    SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF); /* clients keep tickets */
    SSL_CTX_set_default_passwd_cb(context, no_password);
    SSL_CTX_set_alpn_select_cb(context, choose_protocol, NULL);
    return SSL_CTX_set_session_id_context(context, (const unsigned char *)"httpd", 5) &&
           SSL_CTX_set_cipher_list(context, CIPHERS) &&
           SSL_CTX_set_min_proto_version(
               context, !strcmp(s->tls_min_version, "1.3") ? TLS1_3_VERSION : TLS1_2_VERSION);
}

static int use_pair(SSL_CTX *context, const struct httpd_settings *s, struct err *err)
{
    if (SSL_CTX_use_certificate_chain_file(context, s->tls_cert_file) != 1)
        return err_set(err, ERR_PERMANENT, 0, "%s %s: %s", SETTING_CERT, s->tls_cert_file, why());
    if (SSL_CTX_use_PrivateKey_file(context, s->tls_key_file, SSL_FILETYPE_PEM) == 1 &&
        SSL_CTX_check_private_key(context) == 1)
        return 0;
    if (ERR_GET_LIB(ERR_peek_error()) == ERR_LIB_X509)
        return err_set(err, ERR_PERMANENT, 0, "%s %s is not the key of the certificate in %s %s",
                       SETTING_KEY, s->tls_key_file, SETTING_CERT, s->tls_cert_file);
    return err_set(err, ERR_PERMANENT, 0, "%s %s: %s", SETTING_KEY, s->tls_key_file, why());
}

static int use_clients(SSL_CTX *context, const struct httpd_settings *s, struct err *err)
{
    STACK_OF(X509_NAME) * names;

    if (!*s->tls_client_ca_file)
        return 0;
    names = SSL_load_client_CA_file(s->tls_client_ca_file);
    if (!names || SSL_CTX_load_verify_file(context, s->tls_client_ca_file) != 1) {
        sk_X509_NAME_pop_free(names, X509_NAME_free);
        return err_set(err, ERR_PERMANENT, 0, "%s %s: %s", SETTING_CA, s->tls_client_ca_file,
                       why());
    }
    SSL_CTX_set_client_CA_list(context, names);
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL); /* none is well, a wrong one is not */
    return 0;
}

static SSL_CTX *load(const struct httpd_settings *s, struct err *err)
{
    SSL_CTX *context;

    ERR_clear_error();
    context = SSL_CTX_new(TLS_server_method());
    if (!context || !set_rules(context, s))
        err_set(err, ERR_RETRY, 0, "TLS cannot be set up: %s", why());
    else if (!use_pair(context, s, err) && !use_clients(context, s, err))
        return context;
    SSL_CTX_free(context);
    ERR_clear_error();
    return NULL;
}

/* ---- when it expires ---- */

static int64_t now_sec(void)
{
    return clock_wall_us() / 1000000;
}

static int64_t end_of(const X509 *certificate)
{
    int days = 0;
    int seconds = 0;

    if (!ASN1_TIME_diff(&days, &seconds, NULL, X509_get0_notAfter(certificate)))
        return 0; /* not a time: it is no certificate that anybody takes */
    return now_sec() + (int64_t)days * DAY_SEC + seconds;
}

static int64_t first_end(SSL_CTX *context)
{
    int64_t first = end_of(SSL_CTX_get0_certificate(context));
    STACK_OF(X509) *others = NULL;

    SSL_CTX_get0_chain_certs(context, &others);
    for (int i = 0; i < sk_X509_num(others); i++) {
        int64_t end = end_of(sk_X509_value(others, i));

        first = end < first ? end : first;
    }
    return first;
}

/* ---- which files ---- */

static void look_at_file(const char *path, struct version *v)
{
    struct stat st;

    *v = (struct version){0};
    if (!*path || stat(path, &st))
        return;
    v->device = st.st_dev;
    v->inode = st.st_ino;
    v->size = st.st_size;
    v->modified = st.st_mtim;
    v->changed = st.st_ctim;
}

static struct files look_at_files(const struct httpd_settings *s)
{
    struct files files;

    look_at_file(s->tls_cert_file, &files.cert);
    look_at_file(s->tls_key_file, &files.key);
    look_at_file(s->tls_client_ca_file, &files.ca);
    return files;
}

/* ---- the present one ---- */

/* The files are looked at before they are read: what changes meanwhile is read again. */
static int renew(struct http_tls *tls, struct err *err)
{
    SSL_CTX *old;
    SSL_CTX *context;

    tls->reloads = atomic_load(&reloads);
    tls->read = look_at_files(tls->settings);
    context = load(tls->settings, err);
    tls->failed = !context;
    if (!context)
        return -1;
    tls->expires_sec = first_end(context);
    pthread_mutex_lock(&tls->lock);
    old = tls->context;
    tls->context = context;
    pthread_mutex_unlock(&tls->lock);
    SSL_CTX_free(old); /* connections hold it on */
    return 0;
}

static void observe(struct http_tls *tls)
{
    metrics_set(tls->expiry, tls->expires_sec - now_sec());
}

static void tell_expiry(const struct http_tls *tls, const char *what)
{
    int64_t left_sec = tls->expires_sec - now_sec();

    if (left_sec > 0)
        log_info("tls.certificate", L_MSG(what), L_INT("expires_in_sec", left_sec));
    else
        log_warn("tls.certificate", L_MSG("the certificate that is shown has expired"),
                 L_INT("expires_in_sec", left_sec));
}

/* A pair whose halves are changed one after the other does not fit for a moment, so it is tried at
 * each look; but told once. */
static void on_look(evutil_socket_t fd, short events, void *arg)
{
    struct http_tls *tls = arg;
    struct files now = look_at_files(tls->settings);
    bool asked = tls->reloads != atomic_load(&reloads);
    bool news = asked || memcmp(&now, &tls->read, sizeof(now)) != 0;
    struct err err;

    (void)fd, (void)events;
    if ((news || tls->failed) && !renew(tls, &err))
        tell_expiry(tls, "the certificate was read again");
    else if (news)
        log_error("tls.reload_failed", L_ERR(&err), L_MSG("the certificate before stays in use"));
    observe(tls);
}

SSL *http_tls_session(struct http_tls *tls)
{
    SSL *ssl;

    pthread_mutex_lock(&tls->lock);
    ssl = SSL_new(tls->context);
    pthread_mutex_unlock(&tls->lock);
    return ssl;
}

bool http_tls_wants_certificate(const struct http_tls *tls)
{
    return *tls->settings->tls_client_ca_file &&
           !strcmp(tls->settings->tls_client_auth, "required");
}

int http_tls_new(const struct httpd_settings *settings, struct http_tls **out, struct err *err)
{
    struct http_tls *tls;

    *out = NULL;
    if (!settings->tls_cert_file || !*settings->tls_cert_file)
        return 0;
    tls = must_alloc(1, sizeof(*tls));
    tls->settings = settings;
    pthread_mutex_init(&tls->lock, NULL);
    if (renew(tls, err)) {
        http_tls_free(tls);
        return -1;
    }
    tls->expiry = metrics_gauge("msg_tls_certificate_expiry_seconds",
                                "Until the certificate that is shown expires; below 0: since.", "");
    observe(tls);
    tell_expiry(tls, "HTTP is spoken over TLS");
    *out = tls;
    return 0;
}

void http_tls_follow(struct http_tls *tls, struct event_base *base)
{
    struct timeval every = {LOOK_SEC, 0};

    tls->look = event_new(base, -1, EV_PERSIST, on_look, tls);
    MUST(tls->look && event_add(tls->look, &every) == 0);
}

void http_tls_free(struct http_tls *tls)
{
    if (!tls)
        return;
    if (tls->look)
        event_free(tls->look);
    SSL_CTX_free(tls->context);
    pthread_mutex_destroy(&tls->lock);
    free(tls);
}
