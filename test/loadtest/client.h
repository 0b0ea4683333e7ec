#ifndef LOADTEST_CLIENT_H
#define LOADTEST_CLIENT_H

/*
 * An HTTP/1.1 client for load: a fixed number of kept-alive connections, one request in flight on
 * each, one thread, epoll. A worker is a connection. Who uses it says what is sent (next) and takes
 * what comes back (answered); both are called from client_run and must not block. client_run
 * returns when next has said CLIENT_END and nothing is in flight. A connection that fails, times
 * out or is closed is opened again for the next request.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/base/buf.h"
#include "libcommon/base/err.h"

struct client_request {
    const char *path;       /* after the base URL's */
    const struct buf *body; /* NULL: GET */
    int64_t due_us;         /* when it should have begun; its latency counts from here */
    uint64_t number;        /* the caller's own */
};

struct client_answer {
    int status; /* 0: none came (refused, cut, timed out) */
    const char *body;
    size_t body_len;
    int64_t latency_us;
};

enum client_turn {
    CLIENT_SEND,  /* *request is filled */
    CLIENT_LATER, /* nothing before *wake_us */
    CLIENT_END,
};

struct client_work {
    enum client_turn (*next)(void *arg, int64_t now_us, struct client_request *request,
                             int64_t *wake_us);
    void (*answered)(void *arg, uint64_t number, const struct client_answer *answer);
    void (*tick)(void *arg, int64_t now_us); /* ten times a second; may be NULL */
    void *arg;
};

struct client_settings {
    const char *base_url; /* http[s]://host[:port][/path] */
    const char *ca_file;  /* https: who signs the server's certificate; NULL or "": the system's */
    const char *api_key;  /* NULL or "": none */
    size_t connections;
    int64_t timeout_us;
    bool rest; /* a worker that is refused with Retry-After stays away that long */
};

struct client;

/* Resolves the host; opens nothing yet. NULL: err says why. */
struct client *client_new(const struct client_settings *settings, struct err *err);
void client_free(struct client *client); /* NULL is fine */
void client_run(struct client *client, const struct client_work *work);

/* One GET on a connection of its own. The body is appended to out. Blocks. */
int client_get(const char *url, const char *path, int64_t timeout_us, struct buf *out,
               struct err *err);

#endif
