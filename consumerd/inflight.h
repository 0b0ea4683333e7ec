#ifndef CONSUMERD_INFLIGHT_H
#define CONSUMERD_INFLIGHT_H

/*
 * What a lane has in hand: messages (struct inflight), each with the recipients it is working on
 * (struct job), and the AMQP messages that brought them (struct arrival): one message, or a bundle
 * of them (domain/bundle.h). Pure bookkeeping; a hand belongs to one lane thread.
 *
 * An arrival is acknowledged when the last of its members is over. A member that is freed without
 * being over comes again, and so does all of its arrival: what was over by then is found finished.
 *
 * A message is freed by its lane when it has no job left. A job belongs to its message's lane, but
 * for the time between dispatch_submit and its return through the lane's job queue it is the
 * dispatch thread's alone.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "consumerd/delivery.h"
#include "libcommon/base/must.h"
#include "libcommon/base/trace.h"
#include "libcommon/broker/broker.h"
#include "libcommon/domain/message.h"
#include "libcommon/domain/recipient.h"

/* FNV-1a: the keys are identifiers of our own making. */
static inline unsigned inflight_hash(const void *key, size_t n)
{
    const unsigned char *bytes = key;
    uint32_t hash = 2166136261u;

    for (size_t i = 0; i < n; i++)
        hash = (hash ^ bytes[i]) * 16777619u;
    return hash;
}
#define HASH_FUNCTION(key, n, hash) (hash) = inflight_hash(key, n)
#define uthash_fatal(what) must_fail(what, __FILE__, __LINE__)
#include <uthash.h>

#define JOB_ERROR_MAX 160

struct dispatch;
struct inflight;
struct transfer;

enum job_outcome {
    JOB_DONE,      /* accepted by operator op, which calls it provider_id */
    JOB_FAILED,    /* no operator will take it: refund */
    JOB_LATER,     /* through the outbox */
    JOB_HELD,      /* through the outbox, to be asked about */
    JOB_ABANDONED, /* this process may not settle it any more */
};

/* One recipient that this process owns. */
struct job {
    TAILQ_ENTRY(job) link;       /* in whichever queue it is */
    TAILQ_ENTRY(job) in_message; /* of its message's jobs */
    struct inflight *message;
    uint64_t status_id;
    unsigned position, attempt;
    int64_t user_id, price;
    int64_t give_up_at_ms;   /* end of the retry window, on clock_mono_ms; may be past */
    int64_t submitted_at_ms; /* no submission went out after this, on clock_mono_ms */
    char recipient[MESSAGE_RECIPIENT_MAX + 1];
    uint64_t era;     /* of the incarnation that owns it (worker.h) */
    uint32_t unknown; /* operators noted on the row */
    char *gone;       /* names noted there that are not configured any more; NULL: none */
    bool noted;       /* the row had any */
    bool any;         /* any operator may have it (delivery.h) */

    /* results */
    enum job_outcome outcome;
    enum delivery_failure failure; /* JOB_FAILED: why */
    unsigned op;
    char provider_id[PROVIDER_ID_MAX + 1];
    unsigned parts;            /* that the operator has made of it; 0: it has not said */
    char error[JOB_ERROR_MAX]; /* what the last failed submission said; no content */
    bool error_is_minor;       /* there was none: a lookup's, or why none was made */
    bool ours;                 /* settling found the row still ours */
};

TAILQ_HEAD(job_list, job);

/* An AMQP message that the broker has delivered. */
struct arrival {
    uint64_t tag, generation; /* good for an ack of the same generation only */
    size_t open;              /* members that are not over, and its reader */
    bool comes_again;         /* a member was let go: no ack */
    bool refused;             /* it is for a person to look at: rejected in place of an ack */
    char *bundle;             /* its body; NULL: one message alone */
    size_t bytes, *sum;       /* its body's, for as long as it exists a part of that sum */
    int64_t begun_ms;         /* since when a member is claimed, on clock_mono_ms; 0: none is */
};

/* A message that was delivered: waiting to be claimed, or with jobs in hand. */
struct inflight {
    UT_hash_handle hh;          /* in hand, by id */
    UT_hash_handle batch_hh;    /* in the batch that is being claimed */
    TAILQ_ENTRY(inflight) link; /* while it waits to be claimed */
    char id[MESSAGE_ID_MAX + 1];
    char transaction_id[MESSAGE_ID_MAX + 3];
    int64_t customer_id;
    enum message_type type;
    char *text;
    size_t text_len;
    size_t recipients; /* as many as its body lists */
    char traceparent[TRACE_PARENT_SIZE];
    char *tracestate;             /* NULL: none */
    struct trace_context trace;   /* as stored with the message */
    struct trace_context process; /* this delivery's own; zero: not traced */
    int64_t accepted_us, arrived_us;
    bool redelivered;
    bool unwritable; /* it cannot be put off: `messages` does not know it */
    bool ours;       /* the database says so: it cannot be put off, and waits to be alone */
    bool suspect;    /* claimed alone: it may be what killed its former consumers */

    struct arrival *arrival; /* NULL: it is over, as far as the broker is concerned */
    const char *json;        /* its text in arrival->bundle; NULL: it came alone */
    size_t json_len;
    const char *death;       /* why a person is to look at it */
    uint64_t letter_tag;     /* of its dead letter; 0: not published */
    int64_t letter_since_ms; /* it is one, on clock_mono_ms */
    bool letter_returned;    /* unroutable: the confirm that follows means nothing */

    struct job_list jobs; /* claimed and not settled */
    size_t job_count;
    size_t later_count; /* of these, to be put off (job_is_put_off): settled together, last */
    unsigned done, failed, put_off; /* recipients, for the metrics */
    unsigned held;                  /* of those put off */
};

TAILQ_HEAD(inflight_list, inflight);

struct inflight_table {
    struct inflight *by_id;
    size_t recipients; /* jobs of all messages */
};

/* Of a delivery, held by its reader; its bytes are added to *sum until it is freed. NULL: memory.
 */
struct arrival *arrival_new(const struct broker_event *event, uint64_t generation, size_t *sum);
/* One holder less. True: it was the last, and all are over: acknowledge. Frees it then, or when the
 * last one has let go; *out is what it was. */
bool arrival_over(struct arrival *a, struct arrival *out);
/* Likewise, of one that is not over. NULL is fine. */
void arrival_let_go(struct arrival *a);

/* A member of an arrival, which the function owns from here on. why: it is no message of ours and
 * has no more than its text and the id that it names; NULL: it is one. */
typedef void arrival_member_fn(struct inflight *m, const char *why, void *arg);
/* Gives every member. ERR_PERMANENT: a bundle that cannot be read, nothing was given; ERR_RETRY:
 * memory. */
int arrival_read(struct arrival *a, const struct broker_event *event, arrival_member_fn *fn,
                 void *arg, struct err *err);

void inflight_free(struct inflight *m); /* with its jobs; NULL is fine */

/* It goes through the outbox. */
static inline bool job_is_put_off(const struct job *job)
{
    return job->outcome == JOB_LATER || job->outcome == JOB_HELD;
}

struct job *job_new(struct inflight *m);
void job_free(struct job *job); /* takes it off its message; NULL is fine */

struct inflight *inflight_find(const struct inflight_table *h, const char *id);
void inflight_add(struct inflight_table *h, struct inflight *m);
void inflight_remove(struct inflight_table *h, struct inflight *m);

#endif
