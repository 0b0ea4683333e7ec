#ifndef OUTBOXD_CLAIM_H
#define OUTBOXD_CLAIM_H

/*
 * Rows of the outbox in one relay thread's hands: locked by a transaction that is open from
 * claim_take to claim_finish. Blocks. Texts of rows belong to the claim and are valid until it
 * ends.
 *
 * A look that finds nothing leaves its transaction open, with no lock in it but the one that holds
 * the restore mode: the next look's START TRANSACTION ends it, which saves a round trip a poll. Who
 * waits for longer calls claim_rest.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/db/db.h"
#include "libcommon/domain/message.h"
#include "outboxd/poller.h"

#define CLAIM_MAX 1000

enum row_state {
    ROW_TO_PUBLISH,
    ROW_SENT,      /* on its way, no confirm yet */
    ROW_RETURNED,  /* unroutable; its confirm has come or will */
    ROW_CONFIRMED, /* the broker has it: delete */
    ROW_REFUSED,   /* a definite cause: burns an attempt */
    ROW_LEFT,      /* stays as it was, for another time */
    ROW_STUCK, /* the same because it cannot be written: for a person, or after the longest wait */
};

enum row_cause { CAUSE_PAYLOAD, CAUSE_UNROUTABLE, CAUSE_CHANNEL, CAUSES };

struct row {
    int64_t id;
    const char *aggregate_id; /* the message's identifier */
    const char *event_type;
    int64_t attempts;    /* before this one */
    const char *payload; /* NULL: longer than the broker would take */
    size_t payload_len;
    size_t together; /* messages of the AMQP message that it left in */
    enum row_state state;
    enum row_cause cause; /* of ROW_REFUSED, with reason */
    char reason[160];
};

struct claim {
    struct db *db;
    enum message_type lane;
    bool put_off;   /* rows whose time had come; else fresh ones */
    bool held_back; /* restore mode is on: nothing was taken */
    /* Of LOOK_DUE and LOOK_PEEK, as the poller is told. */
    int64_t next_us, next_ask_us;
    bool fresh;
    bool open; /* a transaction, from claim_take on */
    size_t n;
    size_t seen; /* rows that the look came upon; others may hold some */
    int64_t last_id;
    size_t bytes; /* of all payloads */
    struct db_results results;
    struct row *rows; /* CLAIM_MAX */
};

void claim_register(void); /* the statements' labels; at start */
void claim_init(struct claim *c, const struct db_settings *settings, enum message_type lane);
void claim_free(struct claim *c);

/* Looks as task says, for at most limit rows; c->n of c->seen rows are locked afterwards. Held
 * back: the look has told nothing. */
int claim_take(struct claim *c, const struct poller_task *task, int64_t limit, struct err *err);

/* LOOK_PEEK: locks nothing, and leaves no transaction open. On failure the connection is let go by
 * claim_end as ever. */
int claim_peek(struct claim *c, struct err *err);

/* Deletes what is confirmed, burns an attempt of what is refused (or parks it), commits; the rest
 * is free again. On failure nothing is locked any more, and claim_delete_again may be tried. */
int claim_finish(struct claim *c, struct err *err);
/* In a transaction of its own: what was confirmed must not come back because a deadlock or a broken
 * connection has undone the delete. Deleting twice does no harm. */
int claim_delete_again(struct claim *c, struct err *err);
/* All rows are free again as they were. */
void claim_return(struct claim *c);
/* Ends the transaction that a look without rows has left open. */
void claim_rest(struct claim *c);
/* Forgets the rows and lets go of the connection. */
void claim_end(struct claim *c);

/* Whether a refused row has used up its attempts. */
bool claim_parks(const struct row *row);

#endif
