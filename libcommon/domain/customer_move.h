#ifndef LIBCOMMON_DOMAIN_CUSTOMER_MOVE_H
#define LIBCOMMON_DOMAIN_CUSTOMER_MOVE_H

/*
 * Which customers leave this cell, have left it or come to it: the table customer_moves, and the
 * only module that writes it. Who does the moving is api/move.h.
 *
 *   in the cell that is left:   none → copying → leaving → frozen → moved
 *   in the cell that is come to:        none → arriving → arrived
 *
 * copying: all goes on as ever. leaving: no charges and no top-ups any more; what is in hand is
 * settled, and refunded. frozen: nothing of the customer changes. moved: nor will it; the rows stay
 * as an archive, and whoever asks for the customer is told the cell. arriving: nothing but the move
 * changes it, and nobody is served. arrived: the customer lives here.
 *
 * The fence of a balance (ledger.h) is set in the transaction that changes the state, and is what
 * charges and refunds obey. A counter (a row of change_counters) is raised by each change: who
 * keeps the moves in memory sees by it that there is something new, and who holds it until its
 * transaction ends (customer_move_put_hold) is waited for by the change. Lock order: the counter
 * before all else.
 *
 * Functions named put append SQL and touch nothing; the others block.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/db/db.h"

#define CELL_NAME_MAX 16

enum customer_move_state {                     /* the numbers are stored */
                           CUSTOMER_LIVES = 0, /* no row */
                           CUSTOMER_COPYING = 1,
                           CUSTOMER_LEAVING = 2,
                           CUSTOMER_FROZEN = 3,
                           CUSTOMER_MOVED = 4,
                           CUSTOMER_ARRIVING = 5,
                           CUSTOMER_ARRIVED = 6,
                           CUSTOMER_MOVE_STATES,
};

const char *customer_move_name(enum customer_move_state state);

struct customer_move {
    int64_t customer_id;
    enum customer_move_state state;
    char cell[CELL_NAME_MAX + 1]; /* the other one; "" for CUSTOMER_LIVES */
    char since[32];               /* UTC, as text */
};

void customer_move_register(void); /* the statements' labels; at start */

/* Without a row: CUSTOMER_LIVES. lock: until the transaction ends nobody else changes it. */
int customer_move_read(struct db *db, int64_t customer_id, bool lock, struct customer_move *move,
                       struct err *err);
/* In the caller's transaction, and as its first statement: raises the counter, which waits for
 * whoever holds it. CUSTOMER_LIVES removes the row. */
int customer_move_set(struct db *db, int64_t customer_id, enum customer_move_state state,
                      const char *cell, struct err *err);

typedef bool customer_move_fn(const struct customer_move *move,
                              void *arg); /* false: memory is out */
/* All of them, by customer. */
int customer_move_each(struct db *db, customer_move_fn *fn, void *arg, struct err *err);

/* One small row: whether anything has changed. */
struct customer_move_counter {
    uint64_t changes; /* counted; with changed_us never the same again */
    int64_t changed_us;
};
int customer_move_look(struct db *db, struct customer_move_counter *counter, struct err *err);

/* SELECT that holds the counter: no state changes until the transaction ends. */
void customer_move_put_hold(struct buf *sql);
/* SELECT of customer and state of those of n recipients (message_status.id) whose customer is
 * frozen, moved or arriving. */
void customer_move_put_of_recipients(struct buf *sql, const uint64_t *ids, size_t n);
enum customer_move_state customer_move_state_read(const char *text);
/* "NOT IN (SELECT …)": for an audit, of a column: the customer is not arriving, whose rows are not
 * all there yet. A literal, so that it stands in tables of statements. */
#define CUSTOMER_NOT_ARRIVING " NOT IN (SELECT a.customer_id FROM customer_moves a WHERE a.state=5)"

/* For key changes and the like, in a transaction that has locked whatever makes them come one after
 * another: ERR_PERMANENT with the cell when the customer leaves or has left. */
int customer_move_refuse_left(struct db *db, int64_t customer_id, struct err *err);

#endif
