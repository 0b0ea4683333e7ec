#ifndef API_READS_H
#define API_READS_H

/*
 * History and balance pages, messages, and what is asked about endpoints, answered by a few threads
 * with a connection each: the event loops never wait for the database. Pages run from newest to
 * oldest by row id; a cursor is the last id looked at, and given when a further row is known, or
 * when the search for a state has looked at so many rows that the client had better hear from us.
 */

#include <stdbool.h>
#include <stdint.h>

#include "api/webhook_task.h"
#include "libcommon/base/buf.h"
#include "libcommon/domain/recipient.h"

struct httpd_request;
struct reads;

enum read_kind { READ_HISTORY, READ_BALANCE, READ_MESSAGE, READ_WEBHOOK };

struct read_job {
    struct read_job *next; /* of the customer's */
    struct httpd_request *request;
    enum read_kind kind;
    int64_t deadline_ms;
    int64_t user_id;
    bool for_itself; /* user_id asks: a message that is none of its own is as if there were none */
    int64_t limit;
    int64_t before; /* rows with a smaller id only; INT64_MAX: from the newest */
    bool by_state;
    enum recipient_state state;
    char message_id[MESSAGE_ID_MAX + 1]; /* "": any */
    struct webhook_task *task;           /* of READ_WEBHOOK; freed with the job */
};

enum read_outcome {
    READ_OK,
    READ_ABSENT,  /* what is asked for is not there; a message, for whoever asks for itself */
    READ_FULL,    /* the customer has as many endpoints as there may be */
    READ_UNKNOWN, /* a change may have been made */
    READ_UNAVAILABLE,
    READ_TOO_LATE,
    READ_INTERNAL,
};

/* A job that changes something is about to. False: the deadline was first, and nothing is done. */
typedef bool read_begin_fn(const struct read_job *job);

/* Gives the answer (body: JSON when READ_OK), unless the deadline has been first; called on a
 * reading thread. The job is freed afterwards. */
typedef void read_answer_fn(const struct read_job *job, enum read_outcome outcome,
                            const struct buf *body);

struct reads *reads_start(read_answer_fn *answer,
                          read_begin_fn *begin); /* settings: api_settings */
/* Takes a copy of job, and its task; any thread, never blocks. False: no room (read_queue.h). */
bool reads_submit(struct reads *r, const struct read_job *job);
void reads_stop(struct reads *r); /* answers what waits */

#endif
