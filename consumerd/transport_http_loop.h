#ifndef CONSUMERD_TRANSPORT_HTTP_LOOP_H
#define CONSUMERD_TRANSPORT_HTTP_LOOP_H

/*
 * libcurl's multi interface on a libevent base: its sockets, its timer. Part of transport_http.c;
 * nobody else includes this. One thread; nothing blocks.
 *
 * A connection to an operator stays watched when curl has no use for it at present: the next call
 * on it then costs no system call to watch it.
 */

#include <curl/curl.h>
#include <event2/event.h>
#include <stdbool.h>
#include <stddef.h>

struct http_watch;

struct http_loop {
    struct event_base *base;
    CURLM *multi;
    struct event *timer;
    struct http_watch **watches; /* by file descriptor */
    size_t watch_count;
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
    curl_socket_t watch_fd; /* the last one that curl wanted watched for it; -1: none */
};

/* The callbacks and the base are set by the caller, everything else is zero. */
void http_loop_open(struct http_loop *loop, size_t connections_max);
void http_loop_close(struct http_loop *loop); /* no handle may be in the multi */

/* Once for each handle. */
bool http_loop_adopt(struct http_loop *loop, struct http_handle *handle);
/* The handle's call was answered: we hear when curl closes its connection, and may watch on. */
void http_loop_answered(struct http_loop *loop, const struct http_handle *handle);

#endif
