#ifndef LIBCOMMON_DOMAIN_LEDGER_H
#define LIBCOMMON_DOMAIN_LEDGER_H

/*
 * Money: balances (user_balances) and the entries that explain them (user_transactions). The only
 * module that writes either. INVARIANT: a balance is the sum of its entries; both change in the
 * caller's transaction, together.
 *
 * Lock order: recipients and messages before balances, balances in the order of user_id (whatever
 * plan the optimizer likes), entries last. An entry's transaction_id is derived from what it is for
 * (c-<message>, r-<message>-<position>, d-<uuid>) and unique: nothing is charged or refunded twice.
 *
 * Functions named put append to a statement of the caller's packet and touch nothing; the others
 * block. Amounts are whole units.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/db/db.h"

/*
 * A balance may be so much: JavaScript reads whole numbers exactly to here (2^53 - 1). A top-up
 * adds no more than the half of it, and lifts no balance above that. The other half is room for
 * refunds, which nobody can refuse: of more than four thousand million recipients of one customer
 * at the highest price, all of them open at once.
 */
#define LEDGER_BALANCE_MAX INT64_C(9007199254740991)
#define LEDGER_TOPUP_MAX INT64_C(4503599627370495)

#define LEDGER_ACCOUNTS_MAX 900 /* an IN list of 1,000 values may flip to a scan */

/* A customer who moves to another cell (customer_move.h) leaves a balance behind that no longer
 * changes; the numbers are stored. */
enum ledger_fence {
    LEDGER_OPEN = 0,
    LEDGER_LEAVING = 1, /* refunds alone */
    LEDGER_CLOSED = 2,
};

struct ledger_account {
    int64_t user_id;
    int64_t balance;
    int64_t change; /* what the transaction does to it */
    enum ledger_fence fence;
    bool locked;    /* by us: the balance and the fence are true until we commit */
    bool elsewhere; /* its row exists, but somebody else holds it */
};

void ledger_register(void); /* the statements' labels; at start */

/* Sorts by user_id and drops repeats, whose changes are added up; returns how many are left. */
size_t ledger_sort(struct ledger_account *accounts, size_t n);
/* In sorted accounts; NULL: not there. */
struct ledger_account *ledger_find(struct ledger_account *accounts, size_t n, int64_t user_id);

/* The SELECT that locks n sorted accounts, at most LEDGER_ACCOUNTS_MAX. skip_locked: rows that
 * somebody else holds are passed over instead of waited for. */
void ledger_put_lock(struct buf *sql, const struct ledger_account *accounts, size_t n,
                     bool skip_locked);
/* Its answer: sets balance, fence and locked of what was found. */
void ledger_read_lock(struct db_set *found, struct ledger_account *accounts, size_t n);
/* After skip_locked: an account that is not locked may be unknown, or elsewhere. */
int ledger_find_elsewhere(struct db *db, struct ledger_account *accounts, size_t n,
                          struct err *err);
/* Makes the balance rows that n customers need to be locked by; those that exist are left alone,
 * and not waited for. */
int ledger_open(struct db *db, const int64_t *user_ids, size_t n, struct err *err);

/* The UPDATE that applies the changes of locked accounts; false, and nothing appended, when there
 * are none (so begin the statement afterwards: ledger_changes). */
bool ledger_changes(const struct ledger_account *accounts, size_t n);
void ledger_put_changes(struct buf *sql, const struct ledger_account *accounts, size_t n);

/* The UPDATE that locks n sorted accounts and charges them their changes, none of them above 0,
 * where that leaves nobody with less than nothing. It has matched n rows, or not everybody is open
 * and has enough. */
void ledger_put_charges(struct buf *sql, const struct ledger_account *accounts, size_t n);

/* "INSERT … VALUES", then one of these for each entry, separated by commas. */
#define LEDGER_INSERT                                                                           \
    "INSERT INTO user_transactions(user_id,amount,transaction_type,description,transaction_id)" \
    " VALUES "
void ledger_put_charge(struct buf *sql, int64_t user_id, int64_t amount, const char *id);
void ledger_put_deposit(struct db *db, struct buf *sql, int64_t user_id, int64_t amount,
                        const char *description, size_t description_len, const char *id);

/* Whether the entry of that id is there, after waiting for whoever holds the customer's balance.
 * The transaction, begun by the caller, keeps the lock. */
int ledger_look(struct db *db, int64_t user_id, const char *id, bool *there, struct err *err);

struct ledger_refund {
    int64_t user_id, amount;
    const char *message_id;
    unsigned position;
};

/* Credits n refunds. A refund that exists is ERR_BUG: the unique key has just prevented a second
 * one; so is a customer without a balance row or with one that is closed, and an amount that nobody
 * was charged. */
int ledger_refund(struct db *db, const struct ledger_refund *refunds, size_t n, struct err *err);

/* ---- a customer who moves (ledger_move.c) ---- */

/* Of a customer with a balance row; waits for whoever holds it. */
int ledger_set_fence(struct db *db, int64_t user_id, enum ledger_fence fence, struct err *err);

#define LEDGER_ID_SIZE 51

struct ledger_book {
    int64_t balance, sum; /* the same, or something is wrong */
    uint64_t entries;
    enum ledger_fence fence;
    char last[LEDGER_ID_SIZE]; /* the transaction_id of the last entry; "" for none */
};
/* All zero for who has no balance row. */
int ledger_read_book(struct db *db, int64_t user_id, struct ledger_book *book, struct err *err);

/* Entries of a customer as they are in the cell that is left, in their order. */
struct ledger_entry {
    int64_t amount;
    const char *type, *description, *id, *created_at; /* description: NULL is one */
};
/* Adds n entries that are not there yet to a closed balance, which moves along: in the caller's
 * transaction, under the balance's lock. after: the last entry that is there, "" for none;
 * ERR_RETRY when it is another. */
int ledger_take_in(struct db *db, int64_t user_id, const char *after,
                   const struct ledger_entry *entries, size_t n, struct err *err);

#endif
