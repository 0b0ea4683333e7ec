#ifndef LIBCOMMON_DOMAIN_WEBHOOK_QUEUE_H
#define LIBCOMMON_DOMAIN_WEBHOOK_QUEUE_H

/*
 * Events that wait for their endpoints, for who delivers them. An endpoint is called by one process
 * at a time: it takes a lease on the endpoint's row, locked by nobody else at that moment, and
 * renews it; who dies leaves it to run out. What such a process has not written down is delivered
 * again, by the next one, under the same id. Two that believe they have the lease (one was stopped
 * for a while) do no harm but a repeat.
 *
 * Of one subject, an event waits for those of lower kinds; in restore mode (restore_mode.h) nothing
 * is due. Times are the database's.
 *
 * All of it blocks, on a connection that is acquired, and may be repeated after any failure.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/base/trace.h"
#include "libcommon/db/db.h"
#include "libcommon/domain/webhook.h"
#include "libcommon/domain/webhook_sign.h"

#define WEBHOOK_TRIES_MAX 20

/* Waits after each failed try of an event; after the last one it is given up. */
struct webhook_schedule {
    int64_t sec[WEBHOOK_TRIES_MAX];
    size_t n;
};

/* "5,300,1800": 1 to WEBHOOK_TRIES_MAX waits of 1 s to a week. False: it is something else. */
bool webhook_schedule_parse(const char *text, struct webhook_schedule *schedule);

void webhook_queue_register(void); /* the statements' labels; at start */

struct webhook_due {
    uint64_t id;
    int64_t since_us; /* its first event */
};

/* Endpoints with something due that are the owner's, and then free ones, at most room of all;
 * *lag_ms: since when the longest waiting event of an endpoint that works has been due. recent:
 * only what has become due within the last ten seconds, which is cheap however much was delivered
 * of late. */
int webhook_queue_find(struct db *db, uint64_t owner, bool recent, struct webhook_due *due,
                       size_t room, size_t *n, int64_t *lag_ms, struct err *err);
/* Takes those of n that are free, and keeps their ids; *n: how many. */
int webhook_queue_claim(struct db *db, uint64_t owner, int64_t lease_ms, uint64_t *ids, size_t *n,
                        struct err *err);
/* Those of n that are the owner's go on being it. */
int webhook_queue_renew(struct db *db, uint64_t owner, int64_t lease_ms, const uint64_t *ids,
                        size_t n, struct err *err);
int webhook_queue_release(struct db *db, uint64_t owner, const uint64_t *ids, size_t n,
                          struct err *err);

struct webhook_event {
    char subject[WEBHOOK_SUBJECT_MAX + 1];
    enum webhook_kind kind;
    unsigned attempts; /* before this one */
    int64_t created_us;
    char *data;                 /* JSON */
    struct trace_context trace; /* of its message, if that is traced and tracing is on; else zero */
    char *tracestate;           /* NULL: none */
};

/* An endpoint and what is due for it, in order. */
struct webhook_page {
    uint64_t id;
    bool ours; /* else nothing below is set: it is another's by now, disabled or gone */
    char url[WEBHOOK_URL_MAX + 1];
    unsigned batch;
    struct webhook_secret secrets[2]; /* the second only while a rotation lasts */
    unsigned failures;
    int64_t failing_ms, paused_ms; /* since; for how long still; 0: not */
    uint64_t calls;
    int64_t since_us; /* the first event was due; before it are only those that wait for others */
    struct webhook_event *events;
    size_t n;
};

/* from_us: only what was due then or later. What has been delivered lies in the index in its place
 * until the server purges it, in front of what is due: whoever knows where that begins does not
 * walk the rest. */
int webhook_queue_load(struct db *db, uint64_t owner, uint64_t id, int64_t from_us, size_t most,
                       struct webhook_page *page, struct err *err);
void webhook_page_free(struct webhook_page *page); /* all zero is fine; clears the secrets */

/* A call that is over. */
struct webhook_call {
    uint64_t webhook_id, call_no;
    const struct webhook_event *events; /* that it carried */
    size_t n;
    bool delivered;
    const char *result;      /* a word */
    unsigned status;         /* 0: no answer */
    int64_t took_ms, ago_ms; /* since it was over */
    int64_t rest_ms;         /* the least wait that was asked for; 0: none */
};

/* How an endpoint stands after its calls. */
struct webhook_standing {
    uint64_t id, calls;
    unsigned failures; /* in a row */
    int64_t pause_ms;  /* 0: none */
};

/* Writes down calls, in groups of one endpoint each, and how these stand. One transaction. */
int webhook_queue_settle(struct db *db, uint64_t owner, const struct webhook_schedule *schedule,
                         const struct webhook_call *calls, size_t n,
                         const struct webhook_standing *standings, size_t standing_count,
                         struct err *err);

#endif
