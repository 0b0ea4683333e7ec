#include "api/batch.h"

#include <stdlib.h>
#include <string.h>

#include "api/idempotency.h"
#include "libcommon/base/must.h"
#include "libcommon/domain/ledger.h"
#include "libcommon/domain/outbox.h"
#include "libcommon/domain/recipient.h"
#include "libcommon/domain/webhook_event.h"

/* The most requests that are tried in one packet: there are fewer answers to save in a larger
 * batch, and more neighbours whom one refusal costs a second try. */
#define EASY_MAX 100
#define COMMON_MAX 4
#define SHORT_SLOTS 256

struct batch {
    const struct batch_settings *settings;
    struct operation **ops;
    size_t n;
    struct ledger_account *accounts; /* of the customers: sorted, distinct */
    size_t account_count;
    size_t account_room;
    struct db_packet packet;
    struct buf block;
    struct buf payload;
    int64_t
        short_of_money[SHORT_SLOTS]; /* customers, each in its slot, who were refused last time */
};

static struct db_label accept_label = {.query = "commit_accept"};
static struct db_label decide_label = {.query = "commit_lock"};
static struct db_label write_label = {.query = "commit_write"};

void batch_register(void)
{
    db_label_register(&accept_label);
    db_label_register(&decide_label);
    db_label_register(&write_label);
    ledger_register();
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
    free(b->accounts);
    db_packet_free(&b->packet);
    buf_free(&b->block);
    buf_free(&b->payload);
    free(b);
}

int batch_start(struct batch *b, struct operation **ops, size_t n)
{
    if (n > b->account_room) {
        struct ledger_account *more = realloc(b->accounts, n * sizeof(*more));

        if (!more)
            return -1;
        b->accounts = more;
        b->account_room = n;
    }
    b->ops = ops;
    b->n = n;
    for (size_t i = 0; i < n; i++)
        b->accounts[i] = (struct ledger_account){.user_id = ops[i]->customer_id};
    b->account_count = ledger_sort(b->accounts, n);
    MUST(b->account_count <= BATCH_CUSTOMERS_MAX);
    return idempotency_link_twins(ops, n);
}

typedef bool wants_row_fn(const struct batch *b, const struct operation *op);

/* A customer's first top-up needs a row to lock. */
static bool is_topup(const struct batch *b, const struct operation *op)
{
    (void)b;
    return op->kind == OPERATION_TOPUP;
}

/* So does what costs nothing, for a customer who has never had a balance: its key is safe behind
 * that lock, and its refunds find the row. */
static bool is_free_of_a_stranger(const struct batch *b, const struct operation *op)
{
    const struct ledger_account *c;

    if (op->kind != OPERATION_SEND || op->total || op->replay_only || op->outcome != OUTCOME_OPEN)
        return false;
    c = ledger_find(b->accounts, b->account_count, op->customer_id);
    MUST(c != NULL);
    return !c->locked && !c->elsewhere;
}

/* Before a transaction, which would lock the new rows in whatever order. */
static int make_balance_rows(const struct batch *b, struct db *db, wants_row_fn *wants_row,
                             struct err *err)
{
    int64_t ids[BATCH_CUSTOMERS_MAX];
    size_t n = 0;

    for (size_t i = 0; i < b->n; i++)
        if (wants_row(b, b->ops[i]))
            ids[n++] = b->ops[i]->customer_id;
    return n ? ledger_open(db, ids, n, err) : 0;
}

/* The last moment to turn back: what has begun is in packet 2. */
static bool begin(const struct batch *b, struct operation *op)
{
    op->begun = b->settings->enter(op, STAGE_BEGUN);
    op->outcome = op->begun ? OUTCOME_DONE : OUTCOME_EXPIRED;
    return op->begun;
}

static void accept_send(struct ledger_account *c, struct operation *op)
{
    c->change -= op->total;
    buf_reset(&op->response);
    buf_printf(&op->response,
               "{\"message_identifier\":\"%s\",\"status\":\"processing\",\"recipients\":%zu,"
               "\"price\":%lld}",
               op->message.id, op->message.recipient_count, (long long)op->total);
}

static void decide_send(const struct batch *b, struct ledger_account *c, struct operation *op)
{
    if (op->total && (!c->locked || c->balance + c->change < op->total)) {
        op->outcome = OUTCOME_INSUFFICIENT;
        return;
    }
    if (!c->locked) {
        op->outcome = OUTCOME_LOCKED; /* its row was made a moment ago, as for a top-up */
        return;
    }
    if (begin(b, op))
        accept_send(c, op);
}

static void decide_topup(const struct batch *b, struct ledger_account *c, struct operation *op)
{
    if (!c->locked) {
        op->outcome =
            OUTCOME_LOCKED; /* its row was made a moment ago: somebody else has locked it first */
        return;
    }
    if (c->balance + c->change > LEDGER_TOPUP_MAX - op->amount) {
        op->outcome = OUTCOME_BALANCE_TOO_HIGH;
        return;
    }
    if (!begin(b, op))
        return;
    c->change += op->amount;
    buf_reset(&op->response);
    buf_printf(&op->response, "{\"status\":\"done\",\"balance\":%lld,\"transaction_id\":\"%s\"}",
               (long long)c->balance + (long long)c->change, op->message.transaction_id);
}

/* The one that gets a key answers for those behind it; a refusal takes nothing from them. */
static void share_key(const struct batch *b, struct operation *op)
{
    for (struct operation *twin = op->later; twin; twin = twin->later)
        if (twin->outcome == OUTCOME_OPEN && begin(b, twin))
            idempotency_share(twin, op);
}

/* In order of arrival, so that whoever has an earlier twin finds that one decided. */
static void decide_one(struct batch *b, struct operation *op)
{
    struct ledger_account *c = ledger_find(b->accounts, b->account_count, op->customer_id);

    MUST(c != NULL);
    if (op->outcome != OUTCOME_OPEN)
        return;
    if (c->elsewhere) {
        op->outcome = OUTCOME_LOCKED;
    } else if (c->fence != LEDGER_OPEN) {
        op->outcome = OUTCOME_FENCED;
    } else if (op->replay_only) {
        op->outcome = OUTCOME_OVERLOADED;
    } else if (op->kind == OPERATION_SEND) {
        decide_send(b, c, op);
    } else {
        decide_topup(b, c, op);
    }
    if (op->begun)
        share_key(b, op);
}

static void forget_decisions(struct batch *b)
{
    for (size_t i = 0; i < b->account_count; i++)
        b->accounts[i] = (struct ledger_account){.user_id = b->accounts[i].user_id};
    for (size_t i = 0; i < b->n; i++) {
        b->ops[i]->outcome = OUTCOME_OPEN;
        b->ops[i]->begun = false;
    }
}

static bool put_doubted(struct batch *b)
{
    struct buf *sql = NULL;

    for (size_t i = 0; i < b->n; i++) {
        if (!b->ops[i]->doubted)
            continue;
        if (sql)
            buf_putc(sql, ',');
        else
            buf_puts(sql = db_statement(&b->packet, "written"),
                     "SELECT transaction_id FROM user_transactions WHERE transaction_id IN (");
        buf_printf(sql, "'%s'", b->ops[i]->message.transaction_id);
    }
    if (sql)
        buf_putc(sql, ')');
    return sql;
}

/* Over what its key has told: its response is still that of its first try. */
static void read_written(const struct batch *b, struct db_set *found)
{
    char **row;

    while ((row = db_next(found)))
        for (size_t i = 0; i < b->n; i++)
            if (b->ops[i]->doubted && !strcmp(row[0], b->ops[i]->message.transaction_id))
                b->ops[i]->outcome = OUTCOME_WRITTEN;
}

/* Packet 1: the balances, locked, and the keys that are known. */
static int look(struct batch *b, struct db *db, bool skip_locked, struct err *err)
{
    struct db_results results;
    bool keys, doubted;

    forget_decisions(b);
    db_begin(db);
    db_packet_reset(&b->packet);
    ledger_put_lock(db_statement(&b->packet, "balances"), b->accounts, b->account_count,
                    skip_locked);
    keys = idempotency_put_lookup(&b->packet, b->ops, b->n);
    doubted = put_doubted(b);
    if (db_run_packet(db, &decide_label, &b->packet, &results, err))
        return -1;
    ledger_read_lock(db_result(&results, "balances"), b->accounts, b->account_count);
    if (keys)
        idempotency_apply(db_result(&results, "keys"), b->ops, b->n);
    if (doubted)
        read_written(b, db_result(&results, "written"));
    db_results_free(&results);
    return skip_locked ? ledger_find_elsewhere(db, b->accounts, b->account_count, err) : 0;
}

static int look_with_rows(struct batch *b, struct db *db, bool skip_locked, struct err *err)
{
    bool strangers = false;

    if (make_balance_rows(b, db, is_topup, err) || look(b, db, skip_locked, err))
        return -1;
    for (size_t i = 0; i < b->n; i++)
        strangers |= is_free_of_a_stranger(b, b->ops[i]);
    if (!strangers)
        return 0;
    db_rollback(db);
    return make_balance_rows(b, db, is_free_of_a_stranger, err) || look(b, db, skip_locked, err)
               ? -1
               : 0;
}

static size_t short_slot(int64_t customer_id)
{
    return (uint64_t)customer_id % SHORT_SLOTS;
}

/* So that who is always short does not cost everybody a second try, time and again. */
static void note_who_is_short(struct batch *b, const struct operation *op)
{
    int64_t *slot = &b->short_of_money[short_slot(op->customer_id)];

    if (op->outcome == OUTCOME_INSUFFICIENT)
        *slot = op->customer_id;
    else if (op->outcome == OUTCOME_DONE && *slot == op->customer_id)
        *slot = 0;
}

int batch_decide(struct batch *b, struct db *db, bool skip_locked, bool *writes, struct err *err)
{
    *writes = false;
    if (look_with_rows(b, db, skip_locked, err))
        return -1;
    for (size_t i = 0; i < b->n; i++) {
        decide_one(b, b->ops[i]);
        note_who_is_short(b, b->ops[i]);
        *writes |= b->ops[i]->outcome == OUTCOME_DONE;
    }
    return 0;
}

static bool is_new_send(const struct operation *op)
{
    return op->kind == OPERATION_SEND && op->outcome == OUTCOME_DONE;
}

/* Separates the rows of an INSERT, whose statement begins with its first row. */
static struct buf *next_row(struct batch *b, struct buf *sql, const char *insert)
{
    if (sql)
        buf_putc(sql, ',');
    else
        buf_puts(sql = db_statement(&b->packet, NULL), insert);
    return sql;
}

static void put_messages(struct batch *b, struct db *db)
{
    struct buf *sql = NULL;

    for (size_t i = 0; i < b->n; i++) {
        const struct operation *op = b->ops[i];

        if (!is_new_send(op))
            continue;
        sql = next_row(b, sql,
                       "INSERT INTO messages(message_identifier,customer_id,type,text,recipients,"
                       "price,traceparent,tracestate) VALUES ");
        buf_printf(sql, "('%s',%lld,'%s',", op->message.id, (long long)op->customer_id,
                   message_type_name(op->message.type));
        db_put_quoted(db, sql, op->message.text, op->message.text_len);
        /* price: nothing reads it any more; it goes with the next release. */
        buf_printf(sql, ",%zu,%lld,'%s',", op->message.recipient_count, (long long)op->prices[0],
                   op->traceparent);
        db_put_quoted(db, sql, op->tracestate ? op->tracestate : "",
                      op->tracestate ? strlen(op->tracestate) : 0);
        buf_putc(sql, ')');
    }
}

static void put_recipients(struct batch *b)
{
    struct buf *sql = NULL;

    for (size_t i = 0; i < b->n; i++) {
        const struct operation *op = b->ops[i];

        for (size_t k = 0; is_new_send(op) && k < op->message.recipient_count; k++) {
            sql = next_row(b, sql, RECIPIENT_INSERT);
            recipient_put_row(sql, &op->message, k, op->prices[k]);
        }
    }
}

static void put_entries(struct batch *b, struct db *db)
{
    struct buf *sql = NULL;

    for (size_t i = 0; i < b->n; i++) {
        const struct operation *op = b->ops[i];

        if (op->outcome != OUTCOME_DONE)
            continue;
        sql = next_row(b, sql, LEDGER_INSERT);
        if (op->kind == OPERATION_SEND)
            ledger_put_charge(sql, op->customer_id, op->total, op->message.transaction_id);
        else
            ledger_put_deposit(db, sql, op->customer_id, op->amount,
                               op->description ? op->description : "", op->description_len,
                               op->message.transaction_id);
    }
}

static void put_outbox(struct batch *b, struct db *db)
{
    struct buf *sql = NULL;

    for (size_t i = 0; i < b->n; i++) {
        const struct operation *op = b->ops[i];

        if (!is_new_send(op))
            continue;
        sql = next_row(b, sql, OUTBOX_INSERT);
        buf_reset(&b->payload);
        message_put_payload(&b->payload, &op->message, b->settings->exchange,
                            b->settings->queues[op->message.type], op->traceparent,
                            op->tracestate ? op->tracestate : "", op->accepted_us);
        outbox_put_row(db, sql, OUTBOX_DELIVER, op->message.id, 0, op->message.type, &b->payload,
                       0);
    }
}

/* All but the balances. Keys come first: one that is known ends a block before it has worked. */
static void put_rows(struct batch *b, struct db *db)
{
    db_packet_reset(&b->packet);
    idempotency_put_store(db, &b->packet, b->ops, b->n);
    put_messages(b, db);
    put_recipients(b);
    put_entries(b, db);
    put_outbox(b, db);
}

/* Of a packet that commits. */
static int write_failed(struct err *err)
{
    if (db_outcome_unknown(err))
        err->kind = ERR_UNKNOWN;
    return -1;
}

/* Last, when the balances are what they will be: events that tell who has little left. */
static void put_low(struct batch *b, bool balances)
{
    int64_t low = b->settings->balance_low;

    if (webhook_wants_low(b->accounts, b->account_count, low, balances))
        webhook_put_low(db_statement(&b->packet, NULL), b->accounts, b->account_count, low,
                        balances);
}

int batch_write(struct batch *b, struct db *db, struct err *err)
{
    put_rows(b, db);
    if (ledger_changes(b->accounts, b->account_count))
        ledger_put_changes(db_statement(&b->packet, NULL), b->accounts, b->account_count);
    put_low(b, true);
    buf_puts(db_statement(&b->packet, NULL), "COMMIT");
    return db_run_packet(db, &write_label, &b->packet, NULL, err) ? write_failed(err) : 0;
}

/* ---- one packet ---- */

static bool is_easy(const struct batch *b, const struct operation *op)
{
    return op->kind == OPERATION_SEND && !op->replay_only && !op->earlier && !op->later &&
           !op->doubted && b->short_of_money[short_slot(op->customer_id)] != op->customer_id;
}

bool batch_is_easy(const struct batch *b, const struct db *db)
{
    if (b->n > EASY_MAX || !db_takes_blocks(db))
        return false;
    for (size_t i = 0; i < b->n; i++)
        if (!is_easy(b, b->ops[i]))
            return false;
    return true;
}

static bool begin_all(struct batch *b)
{
    bool any = false;

    for (size_t i = 0; i < b->n; i++) {
        if (!begin(b, b->ops[i]))
            continue;
        accept_send(ledger_find(b->accounts, b->account_count, b->ops[i]->customer_id), b->ops[i]);
        any = true;
    }
    return any;
}

/* Without handlers: an error of any statement ends the block and is its answer. Who has no balance
 * row has not enough, even for what costs nothing. */
static void put_block(struct batch *b, struct db *db)
{
    struct buf *sql = &b->block;

    put_rows(b, db);
    put_low(b, false);
    buf_reset(sql);
    buf_puts(sql, "BEGIN NOT ATOMIC START TRANSACTION;");
    ledger_put_charges(sql, b->accounts, b->account_count);
    buf_puts(sql, ";IF ROW_COUNT()=");
    buf_put_uint(sql, b->account_count);
    buf_puts(sql, " THEN ");
    buf_put(sql, b->packet.sql.data, b->packet.sql.len);
    buf_puts(sql, ";COMMIT;ELSE ROLLBACK;SELECT 1;END IF;END");
    sql->failed |= b->packet.sql.failed;
}

/* Whether there are few other shapes of it: they come often enough to be kept prepared. */
static bool is_common(const struct batch *b)
{
    if (b->n > COMMON_MAX)
        return false;
    for (size_t i = 0; i < b->n; i++)
        if (b->ops[i]->message.recipient_count > 1)
            return false;
    return true;
}

static int run_block(struct batch *b, struct db *db, bool *refused, struct err *err)
{
    struct db_results results;
    uint64_t rows = 0;
    int rc;

    if (is_common(b)) {
        rc = db_run_prepared(db, &accept_label, &b->block, &rows, err);
        *refused = rows;
        return rc;
    }
    if (db_run_buf(db, &accept_label, &b->block, &results, err))
        return -1;
    *refused = db_next(db_only(&results));
    db_results_free(&results);
    return 0;
}

int batch_accept(struct batch *b, struct db *db, enum batch_accepted *accepted, struct err *err)
{
    bool refused;

    *accepted = BATCH_EMPTY;
    forget_decisions(b);
    if (!begin_all(b))
        return 0;
    put_block(b, db);
    if (run_block(b, db, &refused, err) == 0) {
        *accepted = refused ? BATCH_REFUSED : BATCH_WRITTEN;
        return 0;
    }
    *accepted = BATCH_REFUSED;
    if (!db_is_duplicate(err))
        return write_failed(err);
    db_rollback(db);
    return 0;
}

/* ---- a lost answer ---- */

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
    int rc;

    MUST(op != NULL);
    db_begin(db);
    rc = ledger_look(db, op->customer_id, op->message.transaction_id, committed, err);
    db_rollback(db);
    return rc;
}
