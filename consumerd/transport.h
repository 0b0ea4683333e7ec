#ifndef CONSUMERD_TRANSPORT_H
#define CONSUMERD_TRANSPORT_H

/*
 * How operators are called: a table of functions for each kind of protocol, with what there is to
 * know about it. Whoever calls an operator uses the functions below and knows no protocol; what an
 * answer means comes back in the words of verdict.h.
 *
 * A link is a transport at work for all operators of its kind: sessions, connections, handles. All
 * of it happens on the thread that runs the event base; nothing blocks.
 *
 * A transport promises:
 *   - done follows each submit and lookup that returned true, once, and never from within the call
 *     that started it; after abort it does not follow. done may start and abort other calls.
 *   - may_send is asked before anything can go out, each time; if it says no, it has aborted every
 *     call, and nothing goes out.
 *   - every call ends within its operator's timeout.
 *   - a submission of which any part may have gone out, and which was not answered, is
 *     VERDICT_UNKNOWN; VERDICT_TRANSIENT only when the operator cannot have the message.
 *   - the reference that it gives the operator is transport_reference(), on every try.
 *   - nothing of an error but plain ASCII, and no recipient or text in it.
 *   - no allocation a call in the long run.
 *
 * A new one is a kind of operator (operator_file.h), a row in transport.c and a file of its own.
 */

#include <event2/event.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "consumerd/inflight.h"
#include "consumerd/settings.h"
#include "libcommon/domain/operator_exchange.h"
#include "libcommon/domain/verdict.h"
#include "libcommon/telemetry/tracer.h"

#define TRANSPORT_ERROR_MAX (JOB_ERROR_MAX - OPERATOR_NAME_MAX - 4) /* the name goes before it */
#define TRANSPORT_REFERENCE_MAX (MESSAGE_ID_MAX + 12)
#define TRANSPORT_SPAN_ATTRS 4

/* One call, embedded in its caller's; it, its job and the job's message live until done or abort.
 */
struct transport_call {
    const struct job *job;
    unsigned op;
    struct trace_context trace; /* of the call, if the message is traced */
    void *own;                  /* the transport's; NULL: the call is not under way */
};

struct transport_result {
    bool lookup;               /* what was asked */
    enum verdict verdict;      /* of a submission */
    enum lookup_answer answer; /* of a lookup */
    enum unfit unfit;          /* VERDICT_UNFIT: why */
    int64_t rest_ms;           /* VERDICT_THROTTLED: how long the operator wants to be left alone */
    int64_t duration_us;
    int64_t parts, cost_millionths;        /* accepted: as the operator says; OPERATOR_NO_NUMBER */
    int64_t remaining;                     /* of our money there, in whole units; likewise */
    unsigned rule_line;                    /* of its file, that decided; 0: none */
    char provider_id[PROVIDER_ID_MAX + 1]; /* accepted or found; "" when it gave none */
    char error[TRANSPORT_ERROR_MAX];       /* what went wrong, for last_error and logs */
};

/* An operator that moves to another address is followed within two of these (a name is looked up, a
 * connection made with what was found), and what is under way then. */
#define TRANSPORT_NAME_SEC 50

struct transport_config {
    struct event_base *base;
    const struct operator_address *operators; /* all of them: only the link's own are called */
    size_t operator_count;
    /* What is known of each of them, in the same order. It changes on this thread alone; transports
     * hear of it by reloaded, and keep the set that a call has begun with. */
    struct operator_set *const *set;
    const char *tls_ca;                      /* file of authorities; NULL or "": the system's */
    const struct receipt_settings *receipts; /* how operators are told where to bring theirs */
    int64_t timeout_ms;                      /* of an operator that says nothing else */
    int64_t name_sec; /* what a host name stood for is believed so long; a connection, too */
    size_t calls_max; /* at a time, over all operators */
    void (*done)(struct transport_call *call, const struct transport_result *result, void *arg);
    bool (*may_send)(void *arg);
    /* For a person who looks on, NULL else: a request, secrets as ***, and an answer. */
    void (*said)(const char *request, size_t n, void *arg);
    void (*heard)(int status, const char *body, size_t n, void *arg);
    bool dry_run; /* nothing goes out, and no call ends */
    void *arg;
};

/* How a call shows in a trace. */
struct transport_span {
    const char *name;
    struct tracer_attr attrs[TRANSPORT_SPAN_ATTRS];
    size_t attr_count;
};

struct transport_link {
    const struct transport *transport; /* the rest is the transport's */
};

struct transport {
    const char *kind;
    struct transport_span submit_span, lookup_span;
    struct transport_link *(*open)(const struct transport_config *config);
    void (*close)(struct transport_link *link); /* no call may be under way */
    /* False: no memory, nothing was sent. lookup is for operators that can be asked; NULL: none of
     * them can. */
    bool (*submit)(struct transport_link *link, struct transport_call *call);
    bool (*lookup)(struct transport_link *link, struct transport_call *call);
    /* Ends a call that is under way; what had gone out has gone out. */
    void (*abort)(struct transport_link *link, struct transport_call *call);
    /* What is known of operators has changed, and how many calls there may be. NULL: it needs to do
     * nothing. */
    void (*reloaded)(struct transport_link *link, size_t calls_max);
};

/* The one for each kind of operator. */
extern const struct transport transport_native, transport_carrier;
const struct transport *transport_of_kind(enum operator_kind kind);

/* Opens one link for each transport that an operator has; links[op] is what it is called through.
 */
void transport_open_all(const struct transport_config *config, struct transport_link *links[]);
void transport_close_all(struct transport_link *links[], size_t n);

/* What a message is called at every operator. */
void transport_reference(const struct job *job, char out[TRANSPORT_REFERENCE_MAX]);

static inline bool transport_under_way(const struct transport_call *call)
{
    return call->own != NULL;
}

#endif
