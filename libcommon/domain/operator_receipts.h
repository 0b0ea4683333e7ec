#ifndef LIBCOMMON_DOMAIN_OPERATOR_RECEIPTS_H
#define LIBCOMMON_DOMAIN_OPERATOR_RECEIPTS_H

/*
 * What an operator's file says of its receipts: the keys receipt.*, which msg-api goes by.
 */

#include <stdbool.h>

struct operator_draft;

struct operator_receipts {
    bool given; /* the operator sends some */
};

/* When all of a section's keys are read: what else is wrong with these. */
void operator_receipts_finish(struct operator_draft *draft);
void operator_receipts_free(struct operator_receipts *receipts);

#endif
