#ifndef LOADTEST_SEED_H
#define LOADTEST_SEED_H

/*
 * Money for the customers of a run: a deposit of -seed-balance for each, every time it is called.
 * Through the database (ledger row and balance in one transaction, hundreds of customers each) or
 * through POST /balance/add. Blocks.
 */

#include "libcommon/base/err.h"
#include "test/loadtest/options.h"

int seed_run(const struct options *options, struct err *err);

#endif
