#ifndef API_AUDIT_INTERNAL_H
#define API_AUDIT_INTERNAL_H

/*
 * What audit.c (the database's checks), audit_balances.c (one of them), audit_operators.c (the
 * operators' ledgers), audit_receipts.c (what operators tell), audit_webhooks.c (what customers are
 * told), audit_doubts.c (what is no violation) and audit_watch.c (the running audit) share; nobody
 * else includes this.
 */

#include "api/audit.h"
#include "libcommon/domain/webhook.h"

#define AUDIT_RANGE 2000 /* ids a statement looks at */

/* A check over ranges of one table's key, its id where NULL: rows of the SELECT are violations, its
 * first column says which row, its second what is wrong. %1 and %2 stand for the ends of the range,
 * %3 for stuck_after_sec. What is so by its age alone, or only while nothing runs, is no mismatch:
 * the running audit leaves it out. */
struct audit_range_check {
    const char *name;
    const char *table;
    const char *sql;
    bool quiesced_only, by_age;
    const char *key;
};

#define AUDIT_RANGE_CHECKS 9
extern const struct audit_range_check audit_range_checks[AUDIT_RANGE_CHECKS];

extern struct db_label audit_label;

/* audit_receipts.c: a recipient's delivery against what its operators have said, over
 * message_status, and rows of deliveries that are nobody's. */
extern const char audit_receipts_delivery[], audit_receipts_orphans[];
/* Recipients of a range whose price has gone back, and that were delivered all the same. */
int audit_receipts_doubt(struct db *db, int64_t first, int64_t last, struct audit_report *report,
                         struct err *err);

/* The end of the range of so many rows that begins after id: *last, and how many rows it has. 0
 * rows: the end. */
int audit_next_range(struct db *db, const char *table, const char *key, int64_t after,
                     int64_t limit, int64_t *last, int64_t *rows, struct err *err);
/* One range of one check; values for %1, %2 and %3. */
int audit_run_range(struct db *db, const struct audit_range_check *c, const int64_t values[3],
                    struct audit_report *report, struct audit_check *check, struct err *err);

/* The check that every balance is the sum of its entries: a walk over all customers, in statements
 * that read at most limit rows each, however many entries a customer has. */
#define AUDIT_BALANCES "balance_is_ledger_sum"
struct audit_balances;
struct audit_balances *audit_balances_new(void);
void audit_balances_free(struct audit_balances *a); /* NULL is fine */
void audit_balances_rewind(struct audit_balances *a);
/* One statement; limit at most AUDIT_RANGE. *end: all customers have been looked at. On failure
 * nothing has moved. */
int audit_balances_step(struct audit_balances *a, struct db *db, int64_t limit,
                        struct audit_report *report, struct audit_check *check, bool *end,
                        struct err *err);

/* audit_webhooks.c: endpoints in themselves; those that are not called, over webhooks; calls of
 * endpoints that are not there, over webhook_attempts. */
extern const char audit_webhooks_standing[], audit_webhooks_stuck[], audit_webhooks_calls[];

/* The check that each event is of what its recipient has become, for an endpoint that is to know: a
 * walk over all of them, in statements that read at most limit each, however many an endpoint has.
 * All zero: before the first. */
#define AUDIT_EVENTS "event_has_cause"
struct audit_events {
    uint64_t webhook_id; /* the last one that was looked at */
    char subject[WEBHOOK_SUBJECT_MAX + 1];
    unsigned kind;
};
/* One statement. *end: all have been looked at. On failure nothing has moved. */
int audit_events_step(struct audit_events *at, struct db *db, int64_t limit,
                      struct audit_report *report, struct audit_check *check, bool *end,
                      struct err *err);

#define AUDIT_SUM_SIZE 44 /* 39 digits, a sign, the end */
const char *audit_write_sum(audit_sum sum, char text[AUDIT_SUM_SIZE]);

struct audit_check *audit_add_check(struct audit_report *report, const char *name);
void audit_violate(struct audit_report *report, struct audit_check *check, const char *where,
                   const char *what);

void audit_doubt(struct audit_report *report, enum audit_doubt doubt, const char *where,
                 const char *what);

/* Every recipient that an operator may have though it is not done. */
int audit_doubts(struct db *db, const struct audit_options *options, struct audit_report *report,
                 struct err *err);

/* Every final recipient against the ledgers of options->operators, and every entry of theirs
 * against the database. */
int audit_operators(struct db *db, const struct audit_options *options, struct audit_report *report,
                    struct err *err);

#endif
