#include "api/batch.h"

#include <stdlib.h>
#include <string.h>

#include "api/idempotency.h"
#include "libcommon/base/must.h"
#include "libcommon/domain/outbox.h"

struct customer {
    int64_t id;
    int64_t balance;
    int64_t change;
    bool locked;    /* by us: the balance is true until we commit */
    bool elsewhere; /* its row exists but somebody else holds it */
};

struct batch {
    const struct batch_settings *settings;
    struct operation **ops;
    size_t n;
    struct customer *customers; /* sorted by id, distinct */
    size_t customer_count;
    size_t customer_room;
    struct buf sql;
    struct buf payload;
};

static struct db_label decide_label = {.query = "commit_lock"};
static struct db_label write_label = {.query = "commit_write"};
static struct db_label rows_label = {.query = "commit_balance_rows"};
static struct db_label held_label = {.query = "commit_find_held"};
static struct db_label look_label = {.query = "commit_look"};

void batch_register(void)
{
    db_label_register(&decide_label);
    db_label_register(&write_label);
    db_label_register(&rows_label);
    db_label_register(&held_label);
    db_label_register(&look_label);
}

struct batch *batch_new(const struct batch_settings *settings)
{
    struct batch *b = must_alloc(1, sizeof(*b));

    b->settings = settings;
    return b;
}

void batch_free(struct batch *b)
{
    if (!b)
        return;
    free(b->customers);
    buf_free(&b->sql);
    buf_free(&b->payload);
    free(b);
}

static int by_id(const void *a, const void *b)
{
    int64_t x = ((const struct customer *)a)->id;
    int64_t y = ((const struct customer *)b)->id;

    return x < y ? -1 : x > y;
}

int batch_start(struct batch *b, struct operation **ops, size_t n)
{
    size_t kept = 0;

    if (n > b->customer_room) {
        struct customer *more = realloc(b->customers, n * sizeof(*more));

        if (!more)
            return -1;
        b->customers = more;
        b->customer_room = n;
    }
    b->ops = ops;
    b->n = n;
    for (size_t i = 0; i < n; i++)
        b->customers[i] = (struct customer){.id = ops[i]->customer_id};
    qsort(b->customers, n, sizeof(*b->customers), by_id);
    for (size_t i = 0; i < n; i++)
        if (!kept || b->customers[kept - 1].id != b->customers[i].id)
            b->customers[kept++] = b->customers[i];
    b->customer_count = kept;
    MUST(kept <= BATCH_CUSTOMERS_MAX);
    return idempotency_link_twins(ops, n);
}

static struct customer *find(struct batch *b, int64_t id)
{
    struct customer key = {.id = id};

    return bsearch(&key, b->customers, b->customer_count, sizeof(key), by_id);
}

static void put_customer_ids(struct batch *b, bool unlocked_only)
{
    bool first = true;

    for (size_t i = 0; i < b->customer_count; i++) {
        if (unlocked_only && b->customers[i].locked)
            continue;
        if (!first)
            buf_putc(&b->sql, ',');
        buf_put_int(&b->sql, b->customers[i].id);
        first = false;
    }
}

static void put_lock_balances(struct batch *b, bool skip_locked)
{
    buf_puts(&b->sql,
             "START TRANSACTION;SELECT user_id,balance FROM user_balances FORCE INDEX(user_id) "
             "WHERE user_id IN (");
    put_customer_ids(b, false);
    buf_puts(&b->sql, ") ORDER BY user_id FOR UPDATE");
    buf_puts(&b->sql, skip_locked ? " SKIP LOCKED;" : ";");
}

/* A top-up of a new customer needs a row to lock; INSERT IGNORE would wait on the rows of others.
 */
static int make_balance_rows(struct batch *b, struct db *db, struct err *err)
{
    bool any = false;

    buf_reset(&b->sql);
    for (size_t i = 0; i < b->n; i++) {
        if (b->ops[i]->kind != OPERATION_TOPUP || b->ops[i]->replay_only)
            continue;
        buf_puts(&b->sql, any ? ","
                              : "INSERT IGNORE INTO user_balances(user_id) "
                                "SELECT j.id FROM JSON_TABLE('[");
        buf_put_int(&b->sql, b->ops[i]->customer_id);
        any = true;
    }
    if (!any)
        return 0;
    buf_puts(&b->sql,
             "]','$[*]' COLUMNS(id BIGINT PATH '$')) j LEFT JOIN user_balances u ON u.user_id=j.id "
             "WHERE u.user_id IS NULL ORDER BY j.id");
    return db_run_buf(db, &rows_label, &b->sql, NULL, err);
}

static void read_balances(struct batch *b, struct db_set *set)
{
    char **row;

    while ((row = db_next(set))) {
        struct customer *c = find(b, strtoll(row[0], NULL, 10));

        MUST(c != NULL);
        c->balance = strtoll(row[1], NULL, 10);
        c->locked = true;
    }
}

/* With SKIP LOCKED a customer that is missing may be unknown, or held by somebody else. */
static int find_held(struct batch *b, struct db *db, struct err *err)
{
    struct db_results results;
    size_t missing = 0;
    char **row;

    for (size_t i = 0; i < b->customer_count; i++)
        missing += !b->customers[i].locked;
    if (!missing)
        return 0;
    buf_reset(&b->sql);
    buf_puts(&b->sql, "SELECT user_id FROM user_balances FORCE INDEX(user_id) WHERE user_id IN (");
    put_customer_ids(b, true);
    buf_putc(&b->sql, ')');
    if (db_run_buf(db, &held_label, &b->sql, &results, err))
        return -1;
    while ((row = db_next(&results.set[0]))) {
        struct customer *c = find(b, strtoll(row[0], NULL, 10));

        MUST(c != NULL);
        c->elsewhere = true;
    }
    db_results_free(&results);
    return 0;
}

static void decide_send(struct customer *c, struct operation *op)
{
    int64_t total = op->price * (int64_t)op->message.recipient_count;

    if (!c->locked || c->balance + c->change < total) {
        op->outcome = OUTCOME_INSUFFICIENT;
        return;
    }
    c->change -= total;
    op->outcome = OUTCOME_DONE;
    buf_reset(&op->response);
    buf_printf(&op->response,
               "{\"message_identifier\":\"%s\",\"status\":\"processing\",\"recipients\":%zu,"
               "\"price\":%lld}",
               op->message.id, op->message.recipient_count, (long long)total);
}

static void decide_topup(struct customer *c, struct operation *op)
{
    if (!c->locked) {
        op->outcome =
            OUTCOME_LOCKED; /* its row was made a moment ago: somebody else has locked it first */
        return;
    }
    if (c->balance + c->change > OPERATION_BALANCE_MAX - op->amount) {
        op->outcome = OUTCOME_BALANCE_TOO_HIGH;
        return;
    }
    c->change += op->amount;
    op->outcome = OUTCOME_DONE;
    buf_reset(&op->response);
    buf_printf(&op->response, "{\"status\":\"done\",\"balance\":%lld,\"transaction_id\":\"%s\"}",
               (long long)c->balance + (long long)c->change, op->message.transaction_id);
}

static void decide_twin(struct operation *op)
{
    const struct operation *first = op->twin;

    op->outcome = first->outcome;
    if (first->outcome != OUTCOME_DONE && first->outcome != OUTCOME_REPLAYED)
        return;
    if (memcmp(first->body_hash, op->body_hash, sizeof(op->body_hash)) != 0) {
        op->outcome = OUTCOME_KEY_REUSED;
        return;
    }
    op->outcome = OUTCOME_REPLAYED;
    buf_reset(&op->response);
    buf_put(&op->response, first->response.data, first->response.len);
}

/* In order of arrival. Twins come after their first one: ops keep that order, and the first of a
 * key is the one that idempotency_link_twins met first only among equals, so it is decided on
 * demand. */
static void decide_one(struct batch *b, struct operation *op)
{
    struct customer *c = find(b, op->customer_id);

    MUST(c != NULL);
    if (op->outcome != OUTCOME_OPEN)
        return;
    if (op->twin) {
        decide_one(b, op->twin);
        decide_twin(op);
    } else if (c->elsewhere) {
        op->outcome = OUTCOME_LOCKED;
    } else if (op->replay_only) {
        op->outcome = OUTCOME_OVERLOADED;
    } else if (op->kind == OPERATION_SEND) {
        decide_send(c, op);
    } else {
        decide_topup(c, op);
    }
}

int batch_decide(struct batch *b, struct db *db, bool skip_locked, bool *writes, struct err *err)
{
    struct db_results results;
    bool keys;

    *writes = false;
    for (size_t i = 0; i < b->customer_count; i++)
        b->customers[i] = (struct customer){.id = b->customers[i].id};
    for (size_t i = 0; i < b->n; i++)
        b->ops[i]->outcome = OUTCOME_OPEN;
    if (make_balance_rows(b, db, err))
        return -1;
    buf_reset(&b->sql);
    put_lock_balances(b, skip_locked);
    keys = idempotency_put_lookup(&b->sql, b->ops, b->n);
    if (db_run_buf(db, &decide_label, &b->sql, &results, err))
        return -1;
    read_balances(b, &results.set[1]);
    if (keys)
        idempotency_apply(&results.set[2], b->ops, b->n);
    db_results_free(&results);
    if (skip_locked && find_held(b, db, err))
        return -1;
    for (size_t i = 0; i < b->n; i++) {
        decide_one(b, b->ops[i]);
        *writes |= b->ops[i]->outcome == OUTCOME_DONE;
    }
    return 0;
}

static bool is_new_send(const struct operation *op)
{
    return op->kind == OPERATION_SEND && op->outcome == OUTCOME_DONE;
}

static void put_messages(struct batch *b, struct db *db)
{
    bool any = false;

    for (size_t i = 0; i < b->n; i++) {
        const struct operation *op = b->ops[i];

        if (!is_new_send(op))
            continue;
        buf_puts(
            &b->sql,
            any ? ","
                : "INSERT INTO messages(message_identifier,customer_id,type,text,recipients,price,"
                  "traceparent,tracestate) VALUES ");
        buf_printf(&b->sql, "('%s',%lld,'%s',", op->message.id, (long long)op->customer_id,
                   message_type_name(op->message.type));
        db_put_quoted(db, &b->sql, op->message.text, op->message.text_len);
        buf_printf(&b->sql, ",%zu,%lld,'%s',", op->message.recipient_count, (long long)op->price,
                   op->traceparent);
        db_put_quoted(db, &b->sql, op->tracestate ? op->tracestate : "",
                      op->tracestate ? strlen(op->tracestate) : 0);
        buf_putc(&b->sql, ')');
        any = true;
    }
    if (any)
        buf_putc(&b->sql, ';');
}

static void put_recipients(struct batch *b)
{
    bool any = false;

    for (size_t i = 0; i < b->n; i++) {
        const struct operation *op = b->ops[i];

        for (size_t k = 0; is_new_send(op) && k < op->message.recipient_count; k++) {
            buf_puts(&b->sql, any ? ",("
                                  : "INSERT INTO message_status(user_id,status,type,recipient,"
                                    "message_identifier,position,price) VALUES (");
            buf_put_int(&b->sql, op->customer_id);
            buf_puts(&b->sql, op->message.type == MESSAGE_EXPRESS ? ",'pending','express','"
                                                                  : ",'pending','normal','");
            buf_puts(&b->sql, op->message.recipients[k]); /* + and digits only */
            buf_puts(&b->sql, "','");
            buf_puts(&b->sql, op->message.id);
            buf_puts(&b->sql, "',");
            buf_put_uint(&b->sql, k);
            buf_putc(&b->sql, ',');
            buf_put_int(&b->sql, op->price);
            buf_putc(&b->sql, ')');
            any = true;
        }
    }
    if (any)
        buf_putc(&b->sql, ';');
}

static void put_ledger(struct batch *b, struct db *db)
{
    bool any = false;

    for (size_t i = 0; i < b->n; i++) {
        const struct operation *op = b->ops[i];

        if (op->outcome != OUTCOME_DONE)
            continue;
        buf_puts(&b->sql,
                 any ? ",("
                     : "INSERT INTO user_transactions(user_id,amount,transaction_type,description,"
                       "transaction_id) VALUES (");
        buf_put_int(&b->sql, op->customer_id);
        buf_putc(&b->sql, ',');
        if (op->kind == OPERATION_SEND) {
            buf_put_int(&b->sql, -op->price * (int64_t)op->message.recipient_count);
            buf_puts(&b->sql, ",'withdrawal','Message charge',");
        } else {
            buf_put_int(&b->sql, op->amount);
            buf_puts(&b->sql, ",'deposit',");
            db_put_quoted(db, &b->sql, op->description ? op->description : "", op->description_len);
            buf_putc(&b->sql, ',');
        }
        buf_printf(&b->sql, "'%s')", op->message.transaction_id);
        any = true;
    }
    buf_putc(&b->sql, ';');
}

static void put_outbox(struct batch *b, struct db *db)
{
    bool any = false;

    for (size_t i = 0; i < b->n; i++) {
        const struct operation *op = b->ops[i];

        if (!is_new_send(op))
            continue;
        buf_puts(&b->sql, any ? "," : OUTBOX_INSERT);
        buf_reset(&b->payload);
        message_put_payload(&b->payload, &op->message, b->settings->exchange,
                            b->settings->queues[op->message.type], op->traceparent,
                            op->tracestate ? op->tracestate : "", op->accepted_us);
        outbox_put_row(db, &b->sql, op->message.id, 0, op->message.type, &b->payload, 0);
        any = true;
    }
    if (any)
        buf_putc(&b->sql, ';');
}

/* The rows are locked: no guard can fail. Joined to a list, because a CASE over hundreds of
 * customers is walked for each row. */
static void put_balances(struct batch *b)
{
    bool any = false;

    for (size_t i = 0; i < b->customer_count; i++) {
        if (!b->customers[i].change)
            continue;
        buf_printf(&b->sql, "%s[%lld,%lld]", any ? "," : "UPDATE JSON_TABLE('[",
                   (long long)b->customers[i].id, (long long)b->customers[i].change);
        any = true;
    }
    if (any)
        buf_puts(&b->sql, "]','$[*]' COLUMNS(id BIGINT PATH '$[0]',d BIGINT PATH '$[1]')) j "
                          "STRAIGHT_JOIN user_balances u FORCE INDEX(user_id) ON u.user_id=j.id "
                          "SET u.balance=u.balance+j.d;");
}

int batch_write(struct batch *b, struct db *db, struct err *err)
{
    buf_reset(&b->sql);
    put_messages(b, db);
    put_recipients(b);
    put_ledger(b, db);
    put_outbox(b, db);
    idempotency_put_store(db, &b->sql, b->ops, b->n);
    put_balances(b);
    buf_puts(&b->sql, "COMMIT");
    if (db_run_buf(db, &write_label, &b->sql, NULL, err)) {
        if (db_outcome_unknown(err))
            err->kind = ERR_UNKNOWN;
        return -1;
    }
    return 0;
}

/* Any one row tells, and any one lock waits: the transaction is all or nothing. */
static const struct operation *first_written(const struct batch *b)
{
    for (size_t i = 0; i < b->n; i++)
        if (b->ops[i]->outcome == OUTCOME_DONE)
            return b->ops[i];
    return NULL;
}

int batch_look(struct batch *b, struct db *db, bool *committed, struct err *err)
{
    const struct operation *op = first_written(b);
    struct db_results results;

    MUST(op != NULL);
    buf_reset(&b->sql);
    buf_printf(&b->sql,
               "START TRANSACTION;SELECT balance FROM user_balances FORCE INDEX(user_id) WHERE "
               "user_id=%lld "
               "FOR UPDATE;SELECT 1 FROM user_transactions WHERE transaction_id='%s'",
               (long long)op->customer_id, op->message.transaction_id);
    if (db_run_buf(db, &look_label, &b->sql, &results, err)) {
        db_rollback(db);
        return -1;
    }
    *committed = results.n == 3 && results.set[2].affected == 1;
    db_results_free(&results);
    db_rollback(db);
    return 0;
}
