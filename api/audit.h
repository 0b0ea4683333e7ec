#ifndef API_AUDIT_H
#define API_AUDIT_H

/*
 * msg-api audit: checks on a live database that the money is right and nothing is lost. Short
 * statements over ranges of primary keys, each a consistent view of its own; what moves while it
 * runs cannot look like a fault, because every check compares rows that change together. Blocks;
 * memory is bounded.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "libcommon/db/db.h"

#define AUDIT_EXAMPLES 20 /* violations shown by name, each check */
#define AUDIT_CHECKS 18

struct audit_options {
    bool quiesced; /* nothing runs: every recipient must be final, the outbox empty */
    bool json;
    int64_t stuck_after_sec; /* age at which a recipient that is not final counts as stuck */
    const char *operators;   /* base URLs, comma-separated, of ledgers to compare with; or NULL */
    const char *operator_names; /* those that are configured, comma-separated; or NULL */
};

struct audit_check {
    const char *name;
    uint64_t checked; /* rows looked at */
    uint64_t violations;
    char *examples[AUDIT_EXAMPLES]; /* what is wrong where; never a recipient or a text */
};

/* What is no violation, and a person may want to know. */
enum audit_doubt {
    AUDIT_REFUNDED_IN_DOUBT,      /* an operator may have it all the same */
    AUDIT_DELIVERED_AND_REFUNDED, /* an operator has said so afterwards */
    AUDIT_HELD,                   /* open until an operator answers, or a person decides */
    AUDIT_OPERATOR_GONE, /* open, and an operator that is none of operator_names may have it */
    AUDIT_DOUBTS,
};

enum audit_total {
    AUDIT_SUM_DEPOSITS, /* units */
    AUDIT_SUM_BALANCES,
    AUDIT_SUM_DONE,
    AUDIT_SUM_OPEN,
    AUDIT_SUM_AWAY, /* open, of customers who have left, or have just come */
    AUDIT_SUM_REFUNDS,
    AUDIT_SUM_RECIPIENTS_DONE, /* rows */
    AUDIT_SUM_RECIPIENTS_FAILED,
    AUDIT_SUM_RECIPIENTS_OPEN,
    AUDIT_SUM_PARKED,
    AUDIT_SUMS
};

/* Over all customers, and of rows that may be damaged: 64 bits do not hold every sum. */
__extension__ typedef __int128 audit_sum;

struct audit_report {
    struct audit_check checks[AUDIT_CHECKS];
    size_t check_count;
    struct audit_check doubts[AUDIT_DOUBTS]; /* violations: how many; none of report's */
    audit_sum totals[AUDIT_SUMS];
    uint64_t violations;
};

int audit_run(struct db *db, const struct audit_options *options, struct audit_report *report,
              struct err *err);
void audit_print(const struct audit_report *report, const struct audit_options *options, FILE *to);
void audit_report_free(struct audit_report *report);

#endif
