#ifndef API_BATCH_H
#define API_BATCH_H

/*
 * Sends and top-ups of many requests in one transaction. Packet 1 locks the balances of all
 * customers concerned, in order, and reads the idempotency keys; everything is then decided in
 * memory; packet 2 writes messages, recipients, ledger, outbox, keys and balances, and commits.
 *
 * A few sends that will most likely be accepted are one packet with one answer, where the server
 * takes blocks: it locks the balances, charges them, writes all the rest and commits; or it does
 * nothing, because somebody has not enough or a key is known, and the two packets decide.
 *
 * Blocks. INVARIANTS: whatever is answered with 200 was written by one transaction, charge, message
 * and outbox row together; whatever is written had begun (STAGE_BEGUN) before its deadline.
 */

#include "api/operation.h"
#include "libcommon/domain/ledger.h"

#define BATCH_CUSTOMERS_MAX LEDGER_ACCOUNTS_MAX

struct batch_settings {
    operation_enter_fn *enter;
    const char *exchange;
    const char *queues[MESSAGE_LANES];
    int64_t balance_low; /* whose balance falls below it is told; 0: never */
};

struct batch; /* scratch memory, one a committer */

void batch_register(void); /* statement labels; at start */
struct batch *batch_new(const struct batch_settings *settings);
void batch_free(struct batch *b);

/* Takes n operations (borrowed) whose outcome is to be decided. -1: memory is out. */
int batch_start(struct batch *b, struct operation **ops, size_t n);

/* Whether to try batch_accept first. */
bool batch_is_easy(const struct batch *b, const struct db *db);

enum batch_accepted {
    BATCH_REFUSED, /* nothing is decided or stored and no transaction is open; what has begun must
                    * wait again before batch_decide */
    BATCH_EMPTY,   /* all of it was too late to begin */
    BATCH_WRITTEN, /* committed, but for what was too late to begin */
};

/* Everything in one packet. On failure as batch_write. */
int batch_accept(struct batch *b, struct db *db, enum batch_accepted *accepted, struct err *err);

/* Packet 1 and the decisions. Leaves the transaction open, with its locks. With skip_locked,
 * customers whose row somebody else holds become OUTCOME_LOCKED instead of waiting. *writes:
 * whether there is anything for batch_write; otherwise roll back. What is doubted is first looked
 * for behind the locks: an earlier transaction of it has committed (OUTCOME_WRITTEN), or cannot
 * before this one. */
int batch_decide(struct batch *b, struct db *db, bool skip_locked, bool *writes, struct err *err);

/* Packet 2 with its COMMIT. On failure nothing is decided: ERR_UNKNOWN when the answer was lost
 * (then batch_look), else roll back. */
int batch_write(struct batch *b, struct db *db, struct err *err);

/* After a lost COMMIT, on a new session, once the old one has ended (db_end_lost_session: it may
 * not have begun, and hold no lock to wait behind): tells whether it committed. Rolls its own
 * transaction back. */
int batch_look(struct batch *b, struct db *db, bool *committed, struct err *err);

#endif
