#ifndef LIBCOMMON_NET_HTTPD_TLS_H
#define LIBCOMMON_NET_HTTPD_TLS_H

/*
 * TLS under the HTTP server's connections: OpenSSL in libevent's bufferevents. Part of the server;
 * nobody else includes this.
 *
 * httpd_tls.c has what is shown and whom is trusted, read from files and again when they change;
 * each connection keeps to what it began with. httpd_tls_conn.c has what a connection does
 * otherwise than without TLS. For the rest of the server a handshake is a connection that has not
 * said anything yet, and is bounded as such, from when it was accepted.
 */

#include <event2/bufferevent.h>
#include <stdbool.h>

#include "libcommon/net/httpd.h"

struct http_conn;
struct http_thread;
struct http_tls;
struct ssl_st;

/* NULL, without an error, when the settings name no certificate. */
int http_tls_new(const struct httpd_settings *settings, struct http_tls **tls, struct err *err);
/* From here on the files are looked at once a second, on the thread that runs the base. */
void http_tls_follow(struct http_tls *tls, struct event_base *base);
void http_tls_free(struct http_tls *tls); /* NULL is fine; no thread of the server may run */
/* For one connection, to be freed by SSL_free; NULL when memory is out. Any thread. */
struct ssl_st *http_tls_session(struct http_tls *tls);
bool http_tls_wants_certificate(const struct http_tls *tls); /* of each client */

/* The bufferevent of a connection that will be accepted; sets c->ssl. NULL when memory is out. */
struct bufferevent *http_tls_bufferevent(struct http_conn *c);
/* Of more handshakes than may be under way those that have taken longest are cut. */
void http_tls_make_room(struct http_thread *t);
bool http_tls_is_shaking(const struct http_conn *c);
/* Whether the client has shown a certificate, which was verified then. */
bool http_tls_has_certificate(const struct http_conn *c);
/* What OpenSSL takes for it now, about. */
size_t http_tls_bytes(const struct http_conn *c);
#define HTTP_TLS_BYTES_MAX 32768
/* Past the bufferevent, whose output is empty. False: not all of it could be said. */
bool http_tls_say(struct http_conn *c, const char *p, size_t n);
/* An answer lies in the output. */
void http_tls_gather(struct http_conn *c);
/* evhttp is about to end its side: tells the client that this is meant. */
void http_tls_end(struct http_conn *c);
/* The connection goes; OpenSSL's part may outlive it. */
void http_tls_release(struct http_conn *c);

#endif
