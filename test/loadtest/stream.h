#ifndef LOADTEST_STREAM_H
#define LOADTEST_STREAM_H

/*
 * A connected socket that does not block, with TLS or without (SSL_read(3): the same calls either
 * way). stream_send and stream_recv answer like send(2) and recv(2), EAGAIN alone meaning that it
 * goes on with the next event, of either direction: a handshake reads to be able to write.
 */

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

#include "libcommon/base/err.h"

struct stream {
    int fd;             /* -1: closed */
    struct ssl_st *ssl; /* NULL: plain */
};

/* What connections to one server have in common: its certificate is checked against ca_file, or
 * with "" against the system's. NULL: err says why. */
struct ssl_ctx_st *stream_tls_new(const char *ca_file, struct err *err);
void stream_tls_free(struct ssl_ctx_st *tls); /* NULL is fine */

/* tls NULL: plain, name unused; else the certificate's name or address. false: closed again. */
bool stream_open(struct stream *s, const struct sockaddr_storage *to, socklen_t len,
                 struct ssl_ctx_st *tls, const char *name);
void stream_close(struct stream *s);

/* Why the server's certificate is not taken; NULL: it is, or has not been seen. */
const char *stream_distrust(const struct stream *s);

ssize_t stream_send(struct stream *s, const char *data, size_t n);
/* Until it says EAGAIN: what TLS has decrypted makes no event. */
ssize_t stream_recv(struct stream *s, char *data, size_t n);

#endif
