#ifndef LOADTEST_LOAD_H
#define LOADTEST_LOAD_H

/*
 * The run: sends to POST /messages/send, in an open loop (-rps) or a closed one (-rps 0), and what
 * came of them. Customers take turns or are drawn by number (-users-zipf), as types are; recipients
 * are distinct: two runs send the same. Blocks; prints progress on stderr.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/base/err.h"
#include "test/loadtest/book.h"
#include "test/loadtest/histogram.h"
#include "test/loadtest/options.h"

#define LOAD_STATUSES 600

struct load_result {
    uint64_t sent, ok, non2xx, http_err;
    uint64_t unsent; /* open loop: due, and no worker was free for it in time; part of http_err */
    uint64_t by_status[LOAD_STATUSES];
    int64_t elapsed_us;       /* to the last answer */
    struct histogram latency; /* of answers with 2xx, from when they were due */
};

/* book: where accepted messages are noted, NULL: nowhere. */
int load_run(const struct options *options, struct book *book, struct load_result *result,
             struct err *err);

#endif
