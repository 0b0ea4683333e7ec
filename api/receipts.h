#ifndef API_RECEIPTS_H
#define API_RECEIPTS_H

/*
 * Where receipts become facts: requests with receipts wait here, bounded, and a few threads, each
 * with a connection, store what waits, many requests in one transaction
 * (libcommon/domain/recipient_receipt.h); a request is answered when its receipts are committed,
 * those that match nothing yet among them (receipt_early.h).
 *
 * Another thread, of one replica at a time, looks again at what was early, once a second, and at
 * recipients whose receipts do not come.
 *
 * Storing the same again is harmless, so nothing is looked up after a lost commit: it is done
 * again, and who has not been answered sends again.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/domain/recipient_receipt.h"

struct httpd_request;
struct receipts;

/* The receipts of one request. */
struct receipt_job {
    struct receipt_job *next;
    struct httpd_request *request; /* for the answer; not looked into */
    int64_t deadline_ms;           /* monotonic; not begun after it */
    size_t n;
    struct recipient_receipt receipts[];
};

/* NULL: memory is out. Of at most RECEIPT_BATCH_MAX receipts. */
struct receipt_job *receipt_job_new(size_t n);

enum receipts_outcome {
    RECEIPTS_STORED,
    RECEIPTS_FULL,        /* too many wait for what they match; these are not stored */
    RECEIPTS_UNAVAILABLE, /* the database is away, or it took too long; they may be stored */
    RECEIPTS_INTERNAL,    /* our fault */
};

/* Answers, unless the deadline has; on a worker's thread. */
typedef void receipts_answer_fn(struct receipt_job *job, enum receipts_outcome outcome);

/* settings: api_settings */
struct receipts *receipts_start(receipts_answer_fn *answer);
/* Any thread; never blocks. False when too many wait: the job stays the caller's. */
bool receipts_submit(struct receipts *r, struct receipt_job *job);
void receipts_stop(struct receipts *r); /* stores what waits first; NULL is fine */

#endif
