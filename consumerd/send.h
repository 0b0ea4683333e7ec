#ifndef CONSUMERD_SEND_H
#define CONSUMERD_SEND_H

/*
 * Calls to operators over HTTP: libcurl's multi interface on a libevent base. The only file that
 * knows curl. Everything here happens on the thread that runs the base; nothing blocks.
 *
 *   POST {base}/messages {"reference","to","text","type"}, Idempotency-Key: <reference>
 *   GET  {base}/messages/{reference}
 *
 * What an answer means: 2xx accepted; 5xx, 408, 425 and calls whose request never went out:
 * transient; 429: resting; other 4xx: rejected; a timeout or a lost connection once the request (or
 * a part of it) had gone out: unknown. libcurl repeats a request by itself when a kept-alive
 * connection turns out to be closed; the operator knows it again by its reference.
 *
 * Redirects are not followed, proxies from the environment not used, answers beyond 64 KiB cut off.
 */

#include <event2/event.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "consumerd/hand.h"
#include "consumerd/settings.h"

#define SEND_ERROR_MAX (JOB_ERROR_MAX - OPERATOR_NAME_MAX - 4) /* the name goes before it */

enum send_kind { SEND_POST, SEND_LOOKUP };

struct send_result {
    enum send_kind kind;
    enum delivery_post post;     /* SEND_POST */
    enum delivery_lookup lookup; /* SEND_LOOKUP */
    int64_t rest_ms;             /* POST_RESTING: how long the operator wants to be left alone */
    int64_t duration_us;
    char provider_id[PROVIDER_ID_MAX + 1]; /* accepted or found; "" when it gave none */
    char error[SEND_ERROR_MAX];            /* what went wrong, for last_error and logs */
};

struct send_config {
    const struct operator_address *operators;
    size_t operator_count;
    int64_t timeout_ms;
    size_t calls_max; /* at a time, over all operators */
    void (*done)(struct job *job, const struct send_result *result, void *arg);
    /* Asked before curl may touch a socket; false: it has aborted every call, nothing may go out.
     */
    bool (*may_send)(void *arg);
    void *arg;
};

struct send;

struct send *send_new(struct event_base *base, const struct send_config *config);
void send_free(struct send *s); /* no call may be under way; NULL is fine */

/* Starts a call for the job's recipient; done follows, never from within this call. NULL: no
 * memory, nothing was sent. The job and its message must live until done or send_abort. */
struct transfer *send_start(struct send *s, enum send_kind kind, unsigned op, struct job *job);
/* Ends a call; done is not called. What had gone out has gone out. */
void send_abort(struct transfer *t);

#endif
