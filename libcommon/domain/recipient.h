#ifndef LIBCOMMON_DOMAIN_RECIPIENT_H
#define LIBCOMMON_DOMAIN_RECIPIENT_H

/*
 * The life of a recipient's row (message_status). The only module that writes the table, and the
 * only one that names a state in SQL; others ask for the words (recipient_put_states).
 *
 *   pending ─claim─► sending ─done─► done
 *      ▲ │              │ ▲ └take over (its owner died)
 *      │ └───drop─────┐ │ └─────┘
 *      └──put off─────┼─┤
 *                     ▼ ▼ fail, drop
 *                    failed        refunded in the same transaction (ledger.h)
 *
 * A person may confirm what is open: done, at the operator that is said to have it. So may an
 * operator's receipt, of what is pending: it proves who has it.
 *
 * Beside the status of what is done stands its delivery, as receipts tell it
 * (recipient_receipt.h):
 *
 *   none ─asked─► waiting ─► delivered, undelivered       these two absorb
 *                    └─────► unreported ─► delivered, undelivered
 *
 * When its customer moves to another cell (customer_move.h), what is open is handed over: moved,
 * which ends it here, in the same way for whoever meets it. There, the copy of the row is moved too
 * until the move has ended, and then pending.
 *
 * Every transition is a function here: it runs in the caller's transaction (but
 * recipient_packet_run, which has its own), changes only rows that are in a state that it may begin
 * from and that answer to the fence (owner and attempt, as they were when the caller claimed or
 * locked the row), and says which rows it changed. All of them pass the same gate in
 * recipient_change.c: whoever wants to store something with a change of state does it there, where
 * the changed rows are known and the transaction is still open. Events for customers' endpoints are
 * (webhook_event.h).
 *
 * Lock order: recipients (by message and number, or by id), then messages, then balances, then the
 * ledger, then events. Everything but the functions named put, and those without a struct db,
 * blocks.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/db/db.h"
#include "libcommon/domain/message.h"

enum recipient_state {
    RECIPIENT_PENDING,
    RECIPIENT_SENDING,
    RECIPIENT_DONE,
    RECIPIENT_FAILED,
    RECIPIENT_MOVED, /* open in another cell, or not yet here */
    RECIPIENT_STATES,
};

/* message_status.delivery, and deliveries.state of one operator; the numbers are stored. */
enum recipient_delivery {
    RECIPIENT_DELIVERY_NONE = 0,    /* nobody who has it gives receipts */
    RECIPIENT_DELIVERY_WAITING = 1, /* for a receipt */
    RECIPIENT_DELIVERY_DELIVERED = 2,
    RECIPIENT_DELIVERY_UNDELIVERED = 3,
    RECIPIENT_DELIVERY_UNREPORTED = 4, /* none came in time */
    RECIPIENT_DELIVERIES,
};

const char *recipient_delivery_name(enum recipient_delivery delivery);
/* Of the column's text; what is no such is RECIPIENT_DELIVERY_NONE. */
enum recipient_delivery recipient_delivery_read(const char *text);
const char *recipient_state_name(enum recipient_state state);
bool recipient_state_parse(const char *name, enum recipient_state *state); /* either case */
/* The same, but of what a customer may ask for. */
bool recipient_state_parse_shown(const char *name, enum recipient_state *state);
/* What a customer is shown of the column's text: who has just come waits, like all that is pending.
 */
const char *recipient_state_shown(const char *name);
bool recipient_is_final(enum recipient_state state);
bool recipient_is_refunded(enum recipient_state state); /* its price has gone back */

#define PROVIDER_ID_MAX 128 /* bytes of what an operator calls it */

/* message_status.unknown_operators: names of operators that may have it, comma-separated; these two
 * are none. */
#define RECIPIENT_UNKNOWN_MAX 255
#define RECIPIENT_UNKNOWN_ANY "*"  /* any operator that is configured may have it */
#define RECIPIENT_UNKNOWN_MORE "?" /* ... and others, whose names did not fit */

/* Sets of states by what they mean, for other modules' SQL. */
enum recipient_set {
    RECIPIENT_ANY,
    RECIPIENT_OPEN,     /* not final */
    RECIPIENT_FINAL,    /* ... and it ended here */
    RECIPIENT_KEPT,     /* final, and paid for */
    RECIPIENT_REFUNDED, /* final, and the price has gone back */
    RECIPIENT_AWAY,     /* handed over, or not yet here */
    RECIPIENT_SETS,
};
/* "'pending','sending'": the inside of an IN list. */
void recipient_put_states(struct buf *sql, enum recipient_set set);
/* "pending, sending, done or failed", for people: those that a customer sees. */
void recipient_put_sentence(struct buf *out);
/* Appends template with {any} {open} {final} {kept} {refunded} {away} replaced by those lists. */
void recipient_put_template(struct buf *sql, const char *template);

/* ---- acceptance ---- */

/* "INSERT … VALUES", then a row for each recipient, separated by commas: pending, of nobody. */
#define RECIPIENT_INSERT                                                           \
    "INSERT INTO message_status(user_id,status,type,recipient,message_identifier," \
    "position,price) VALUES "
void recipient_put_row(struct buf *sql, const struct message *m, size_t position, int64_t price);

/* ---- locked reading ---- */

struct recipient {
    uint64_t id; /* message_status.id */
    enum recipient_state state;
    uint64_t owner;         /* workers.id; 0: nobody */
    const char *message_id; /* texts belong to the rows */
    const char *number;
    const char *unknown; /* operators that may have it, comma-separated */
    int64_t user_id, price;
    int64_t claimed_ms_ago; /* since the first claim; 0: there was none */
    int64_t updated_ms_ago; /* since the last change; never below 0 */
    unsigned position, attempt, takeovers;
};

struct recipient_rows {
    struct recipient *all; /* in the order of message and number */
    size_t n;
    struct db_results results;
};

/* Locks and reads all recipients of n messages, whatever their state. */
int recipient_lock(struct db *db, const char *const *message_ids, size_t n,
                   struct recipient_rows *rows, struct err *err);
void recipient_rows_free(struct recipient_rows *rows); /* all zero is fine */

/* ---- transitions ---- */

enum recipient_transition {
    RECIPIENT_CLAIM,     /* pending → sending: ours */
    RECIPIENT_TAKE_OVER, /* sending → sending: ours; its owner is dead */
    RECIPIENT_DELIVER,   /* sending → done: an operator has it */
    RECIPIENT_PUT_OFF,   /* sending → pending: later */
    RECIPIENT_FAIL,      /* sending → failed, refunded */
    RECIPIENT_DROP,      /* open → failed, refunded: a person gave it up */
    RECIPIENT_CONFIRM,   /* open → done: a person knows who has it */
    RECIPIENT_PROVE, /* pending → done: a receipt of an operator that nobody knew to have it */
    RECIPIENT_HAND_OVER, /* open → moved: its customer leaves this cell */
    RECIPIENT_TAKE_IN,   /* moved → pending: its customer has come, or stays after all */
    /* done, and its delivery becomes ... (recipient_receipt.h) */
    RECIPIENT_REPORT_DELIVERED,
    RECIPIENT_REPORT_UNDELIVERED, /* refunded, where that is set */
    RECIPIENT_REPORT_NOTHING,     /* unreported */
    RECIPIENT_TRANSITIONS,
};

enum recipient_result {
    RECIPIENT_LOST,    /* the fence does not hold: somebody else's by now, or final */
    RECIPIENT_HELD,    /* locked, and as it was; not changed yet */
    RECIPIENT_CHANGED, /* by this call */
    RECIPIENT_ALREADY, /* by an earlier try of ours whose answer was lost */
};

/* An operator that may have a recipient, and gives receipts. */
struct recipient_asked {
    const char *name;
    const char *match_id; /* what its receipts will call the message (receipt_rules.h), or "" */
    unsigned parts;       /* that were sent to it; 0: it has not said, so one */
};

/* A recipient, and what is to become of it. */
struct recipient_change {
    uint64_t id;
    enum recipient_transition transition;
    unsigned attempt; /* the fence, with the owner */
    unsigned position;
    const char *message_id;
    int64_t user_id, price;  /* whose it is, and what goes back (FAIL, DROP) */
    const char *provider;    /* DELIVER, CONFIRM: who has it ... */
    const char *provider_id; /* ... and what it calls it; "" when nobody has said */
    const char *unknown;     /* operators that may have it all the same; NULL: as the row says */
    const char *reason;      /* PUT_OFF, FAIL, DROP: into last_error, at most 255 bytes; NULL: as
                                the row says */
    enum recipient_result result;
    bool any; /* DROP: any operator may have it, beside those that the row says */
    const struct recipient_asked *asked; /* DELIVER: receipts are waited for from them */
    size_t asked_count;
};

void recipient_register(void); /* the statements' labels, the ledger's too; at start */

/* CLAIM or TAKE_OVER of rows that recipient_lock has locked in this transaction: owner becomes
 * theirs, and attempt grows by one. A row that is not as it was is ERR_BUG. */
int recipient_claim(struct db *db, enum recipient_transition transition, uint64_t owner,
                    const uint64_t *ids, size_t n, struct err *err);

/* What a consumer does in one transaction, and one packet: it settles what is done, and claims what
 * is free. Either part may be empty. */
struct recipient_packet {
    uint64_t owner;
    struct recipient_change *changes; /* DELIVER rows of that owner; sorted by id; at most 2,000 */
    size_t change_count;
    const char *const *message_ids; /* in order; CLAIM what is open of these messages ... */
    size_t message_count;
    int64_t receipt_wait_hours; /* where any of changes is asked about */
    struct recipient_rows rows; /* ... result: all their rows, as they were just before */
};

/* A transaction of its own. Success: each change is CHANGED, ALREADY or LOST, and every row that is
 * said to be pending is `sending` and the owner's, its attempt one more than said. ERR_PERMANENT: a
 * row of these messages is in somebody's hands; nothing has changed. ERR_UNKNOWN: all or nothing
 * has; what was claimed is the owner's, and a change that is repeated is ALREADY. No transaction is
 * left open.
 *
 * That the two parts share a commit ties neither to the other: each row has a fence of its own, a
 * crash in the middle leaves both as they were, and either may be repeated alone. Both lock
 * recipients only, those of the first part by what nobody else would claim from a living owner; so
 * a deadlock takes two consumers that were handed each other's messages, and is tried again. */
int recipient_packet_run(struct db *db, struct recipient_packet *t, struct err *err);

/* Locks n rows of that owner and sets each one's result: HELD, ALREADY or LOST. Sorts changes by
 * id. */
int recipient_hold(struct db *db, uint64_t owner, struct recipient_change *changes, size_t n,
                   struct err *err);
/* Put off those of changes that are to be, and are HELD: pending, of nobody. */
int recipient_put_off(struct db *db, struct recipient_change *changes, size_t n, struct err *err);
/* Fail and refund those that are to FAIL or DROP, and are HELD. A refund that exists is ERR_BUG. */
int recipient_fail(struct db *db, struct recipient_change *changes, size_t n, struct err *err);
/* Confirm n rows that are HELD. */
int recipient_confirm_all(struct db *db, struct recipient_change *changes, size_t n,
                          struct err *err);
/* For DROP and CONFIRM: a locked row is HELD. unknown: the others that may have it. */
struct recipient_change recipient_drop(const struct recipient *r, const char *reason);
struct recipient_change recipient_confirm(const struct recipient *r, const char *provider,
                                          const char *unknown);

/* A backup was loaded: of those with ids from first to last, the open ones that were accepted
 * before the restore mode was switched on. Any operator may have them, and they have not been
 * claimed yet; nothing of this touches the fence. *marked: how many, those marked before included.
 * A transaction of its own. */
int recipient_mark_restored(struct db *db, uint64_t first, uint64_t last, uint64_t *marked,
                            struct err *err);

/* A person has looked at the message: what killed consumers is forgotten. */
int recipient_forget_takeovers(struct db *db, const char *message_id, struct err *err);

#endif
