#ifndef CONSUMERD_TRANSPORT_HTTP_LOOP_H
#define CONSUMERD_TRANSPORT_HTTP_LOOP_H

/*
 * libcurl's multi interface on a libevent base: its sockets, its timer. Part of transport_http.c;
 * nobody else includes this. One thread; nothing blocks.
 *
 * A connection to an operator stays watched when curl has no use for it at present. What comes on
 * it then belongs to no call: the connection is shut down, and curl finds it dead before it would
 * use it again. http_loop_may_use sees what came too late for that.
 */

#include <curl/curl.h>
#include <event2/event.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HTTP_PORT_LISTS 256

struct http_watch;

struct http_loop {
    struct event_base *base;
    CURLM *multi;
    struct event *timer;
    struct http_watch **watches; /* by file descriptor */
    size_t watch_count;
    struct http_watch *by_port[HTTP_PORT_LISTS]; /* connections, by their local port */
    uint64_t sockets;                            /* opened so far */
    /* Asked before curl may touch a socket. */
    bool (*may_send)(void *arg);
    void *may_send_arg;
    /* curl has done something: transfers may have finished. */
    void (*progressed)(void *arg);
    void *progressed_arg;
};

/* What an easy handle's CURLOPT_PRIVATE points to. */
struct http_handle {
    CURL *easy;
    curl_socket_t fd; /* its connection, or the last that curl wanted watched for it; -1: none */
    uint64_t socket;  /* which one with that number it is */
};

/* As CURLOPT_PREREQFUNCTION has them. */
struct http_ends {
    const char *peer;
    int peer_port, local_port;
};

/* The callbacks and the base are set by the caller, everything else is zero. */
void http_loop_open(struct http_loop *loop, size_t connections_max);
void http_loop_close(struct http_loop *loop); /* no handle may be in the multi */

/* Once for each handle. */
bool http_loop_adopt(struct http_loop *loop, struct http_handle *handle);
/* Before each call. */
void http_loop_begin(struct http_handle *handle);
/* curl has a connection for the handle and is about to send. False: something has come on it that
 * belongs to no call, or it is not known to us. */
bool http_loop_may_use(struct http_loop *loop, struct http_handle *handle,
                       const struct http_ends *ends);
/* The connection of the handle's last call is not used again. */
void http_loop_spoil(struct http_loop *loop, const struct http_handle *handle);

#endif
