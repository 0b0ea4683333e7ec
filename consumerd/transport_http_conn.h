#ifndef CONSUMERD_TRANSPORT_HTTP_CONN_H
#define CONSUMERD_TRANSPORT_HTTP_CONN_H

/*
 * Connections to operators. libcurl makes them (names, addresses, TLS) on a libevent base; what
 * goes over them is the caller's. Part of transport_http.c; nobody else includes this. One thread;
 * nothing blocks.
 *
 * A connection has one call at a time, or waits for the next. It stays in the event loop all the
 * time: what comes while it waits belongs to no call and ends it, and op_conns_take looks once
 * more before it gives one out. Its socket is its own from when it is made to its end, whatever
 * curl thinks of it.
 */

#include <curl/curl.h>
#include <event2/event.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/types.h>

struct op_conn;
TAILQ_HEAD(op_conn_list, op_conn);

struct op_conns {
    /* set by the caller */
    struct event_base *base;
    const char *tls_ca; /* NULL or "": the system's */
    int64_t life_ms;    /* a connection, or what a name stood for, is not used beyond it */
    size_t operator_count;
    size_t max;                  /* further ones are not kept */
    bool (*may_send)(void *arg); /* before curl may touch a socket */
    void *may_send_arg;
    void (*connected)(void *call);
    void (*failed)(void *call, const char *why); /* it could not be made, and is gone */
    void (*ready)(void *call, bool writable);    /* to read; or what op_conn_want_write is for */
    /* its own */
    CURLM *multi;
    struct event *timer;
    struct op_conn_list idle, *idle_of; /* of all, and of each operator: the last used first */
    size_t count;
    bool in_finished;
};

void op_conns_open(struct op_conns *conns);
void op_conns_close(struct op_conns *conns); /* no call may have one */

/* One that waits and leads to this operator; NULL: there is none. */
struct op_conn *op_conns_take(struct op_conns *conns, size_t op, void *call);
/* A new one: connected or failed follows, never from within. NULL: no memory. */
struct op_conn *op_conns_make(struct op_conns *conns, size_t op, const char *url,
                              int64_t timeout_ms, void *call);
/* Ends those that wait for this operator: it may have moved. */
void op_conns_forget(struct op_conns *conns, size_t op);
void op_conn_keep(struct op_conn *c); /* its call is over */
void op_conn_end(struct op_conn *c);

bool op_conn_was_used(const struct op_conn *c); /* by an earlier call */
/* How many bytes; 0: not now, or the end when read; -1: it is broken. */
ssize_t op_conn_write(struct op_conn *c, const char *data, size_t n);
ssize_t op_conn_read(struct op_conn *c, char *data, size_t n, bool *ended);
bool op_conn_is_tls(
    const struct op_conn *c); /* it is read until nothing comes: no event would tell */
bool op_conn_want_write(struct op_conn *c, bool want); /* false: no memory */

#endif
