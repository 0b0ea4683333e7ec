#ifndef LOADTEST_VERIFY_H
#define LOADTEST_VERIFY_H

/*
 * What became of a run's messages, from the database and the operators: begin, sent, drain, finish
 * in this order. A run is what was written for its customers after verify_begin; other traffic of
 * the same customers meanwhile would count as its own. Blocks.
 *
 * Latency from accepted to done is updated_at - created_at of a recipient's row, both of the
 * database's clock in microseconds: from the INSERT of the transaction that accepts to the UPDATE
 * of the one that settles. From accepted to handed over is an operator's own time of it minus
 * created_at: two clocks, the same where all are on one machine. None is read during the run.
 */

#include "libcommon/base/err.h"
#include "libcommon/domain/message.h"
#include "test/loadtest/book.h"
#include "test/loadtest/options.h"

struct lane_latency {
    uint64_t count;
    int64_t p50_us, p90_us, p99_us, p999_us, max_us; /* exact */
};

struct verify_result {
    bool drained;
    int64_t drain_us; /* from verify_sent to the last settling, database time; 0: it was earlier */
    int64_t charged_amount, refunded_amount, owed_amount;
    bool balances_add_up; /* of the run's customers: balance = sum of the ledger */
    bool operators_asked;
    struct lane_latency done[MESSAGE_LANES], handed[MESSAGE_LANES];
    struct book_verdict verdict;
};

struct verify;

struct verify *verify_begin(const struct options *options, struct err *err);
int verify_sent(struct verify *v, struct err *err); /* the last send is answered */
int verify_drain(struct verify *v, struct verify_result *result, struct err *err); /* waits */
int verify_finish(struct verify *v, struct book *book, struct verify_result *result,
                  struct err *err);
bool verify_ok(const struct verify_result *result, uint64_t unanswered_max);
void verify_free(struct verify *v); /* NULL is fine */

#endif
