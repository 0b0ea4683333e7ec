#ifndef LIBCOMMON_DOMAIN_WEBHOOK_STORE_H
#define LIBCOMMON_DOMAIN_WEBHOOK_STORE_H

/*
 * Endpoints (table webhooks), as their customers know them, what the last calls came to, and what
 * has been told of a message. A change of who is called is one transaction, which first raises a
 * counter: that row's lock makes such changes come one after another, and its value tells whoever
 * keeps customers in memory (webhook_watch.h). A secret is stored as it is, because requests are
 * signed with it, and shown to its owner once. Who delivers uses webhook_queue.h.
 *
 * All of it blocks, on a connection that is acquired. Another customer's endpoint is as if there
 * were none (*found false). ERR_UNKNOWN: the change may have been made.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/db/db.h"
#include "libcommon/domain/webhook.h"
#include "libcommon/domain/webhook_sign.h"

void webhook_store_register(void); /* the statements' labels; at start */

/* An endpoint as it is to be. */
struct webhook_wish {
    int64_t customer_id;
    const char *url; /* webhook_url_fault says nothing */
    unsigned kinds;  /* of WEBHOOK_CHOICES */
    unsigned batch;  /* events in one request, 1 to WEBHOOK_BATCH_MAX */
};

/* *id 0: the customer has most of them already. */
int webhook_store_create(struct db *db, const struct webhook_wish *wish,
                         const struct webhook_secret *secret, int64_t most, uint64_t *id,
                         struct err *err);
int webhook_store_remove(struct db *db, int64_t customer_id, uint64_t id, bool *found,
                         struct err *err);
/* The old secret signs beside the new one for another grace_sec. */
int webhook_store_rotate(struct db *db, int64_t customer_id, uint64_t id,
                         const struct webhook_secret *secret, int64_t grace_sec, bool *found,
                         struct err *err);
/* It is called again, at once, with what waits for it. */
int webhook_store_enable(struct db *db, int64_t customer_id, uint64_t id, bool *found,
                         struct err *err);
/* It is called no more; the customer's others hear of it. *changed: it was called until now. */
int webhook_store_disable(struct db *db, uint64_t id, const char *why, bool *changed,
                          struct err *err);

/* Events since from_us (microseconds since 1970) that are over are to be sent again, at most so
 * many in this call. *count: how many; less than most: all of them. */
int webhook_store_replay(struct db *db, int64_t customer_id, uint64_t id, int64_t from_us,
                         uint64_t most, uint64_t *count, bool *found, struct err *err);

/* Times are microseconds since 1970, 0: never. Texts are valid until the function returns. */
struct webhook_row {
    uint64_t id;
    const char *url, *disabled_for;
    unsigned kinds, batch;
    int64_t created_us, disabled_us, failing_us, old_secret_us;
};
typedef void webhook_row_fn(const struct webhook_row *row, void *arg);
/* A customer's endpoints in the order of their making; id 0: all. */
int webhook_store_each(struct db *db, int64_t customer_id, uint64_t id, webhook_row_fn *fn,
                       void *arg, struct err *err);

struct webhook_attempt {
    uint64_t call_no;
    int64_t at_us, took_ms;
    const char *event_id, *result;
    unsigned events, status;
};
typedef void webhook_attempt_fn(const struct webhook_attempt *attempt, void *arg);
/* The newest first, of those before that number. */
int webhook_store_attempts(struct db *db, int64_t customer_id, uint64_t id, uint64_t before,
                           uint64_t most, webhook_attempt_fn *fn, void *arg, bool *found,
                           struct err *err);

/* An event of a message, for one endpoint. */
struct webhook_told {
    uint64_t webhook_id;
    const char *subject; /* <message>-<position> */
    enum webhook_kind kind;
    int64_t created_us, delivered_us, next_us;
    unsigned attempts, status;
};
typedef void webhook_told_fn(const struct webhook_told *told, void *arg);
/* What of a message was told to a customer's endpoints, or is to be, in the order of its happening.
 */
int webhook_store_told(struct db *db, int64_t customer_id, const char *message_id, uint64_t most,
                       webhook_told_fn *fn, void *arg, struct err *err);

/* One small row: whether anything has changed. */
struct webhook_store_state {
    uint64_t changes; /* counted; with changed_us never the same again */
    int64_t changed_us;
};
int webhook_store_look(struct db *db, struct webhook_store_state *state, struct err *err);
/* Those with an endpoint that is called, or will be once its customer has come, sorted; the caller
 * frees. */
int webhook_store_customers(struct db *db, int64_t **customers, size_t *n, struct err *err);
/* disabled_for of the endpoints of a customer who has left this cell, or has not yet come. */
#define WEBHOOK_DISABLED_MOVED "moved"
/* What a move does to them, in the caller's transaction: raises the counter, which other changes
 * wait for. leave: they are called no more; come: they are called from now on; forget: those of an
 * earlier stay are deleted, before the move brings them as they are now. */
int webhook_store_leave(struct db *db, int64_t customer_id, struct err *err);
int webhook_store_come(struct db *db, int64_t customer_id, struct err *err);
int webhook_store_forget(struct db *db, int64_t customer_id, struct err *err);
/* Endpoints have come that are not called yet: who keeps customers in memory reads them again. */
int webhook_store_touch(struct db *db, struct err *err);
/* Some process may still be calling one of them. */
int webhook_store_is_calling(struct db *db, int64_t customer_id, bool *calling, struct err *err);
/* An endpoint of a customer who comes has a number here: the same, where that is free. */
int webhook_store_number(struct db *db, int64_t customer_id, uint64_t old_id, struct err *err);

/* How many endpoints there are, and how many of them are disabled. */
int webhook_store_count(struct db *db, uint64_t *all, uint64_t *disabled, struct err *err);

#endif
