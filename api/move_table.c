#include "api/move_table.h"

#include <string.h>

#include "libcommon/domain/recipient.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* clang-format off */
#define SAME(name_) {.name = (name_)}
#define BYTES(name_) {.name = (name_), .bytes = true}
#define OF_ENDPOINT(name_, here_) {.name = (name_), .value = {(here_), "m.old_id"}}
#define END {0}
/* clang-format on */

#define OF_MESSAGES "message_status s FORCE INDEX(idx_message_status_user) "

static const struct move_column messages[] = {SAME("message_identifier"),
                                              SAME("customer_id"),
                                              SAME("type"),
                                              SAME("text"),
                                              SAME("recipients"),
                                              SAME("price"),
                                              SAME("traceparent"),
                                              SAME("tracestate"),
                                              SAME("accepted_at"),
                                              SAME("retry_until"),
                                              SAME("enqueues"),
                                              SAME("repairs"),
                                              SAME("repaired_at"),
                                              END};

/* What is open comes as moved, and wakes when the move has ended. */
static const struct move_column message_status[] = {
    SAME("user_id"),
    {.name = "status", .value = {"IF(t.status IN ({open}),{away},t.status)"}},
    SAME("type"),
    SAME("recipient"),
    SAME("provider"),
    SAME("message_identifier"),
    SAME("position"),
    SAME("price"),
    SAME("attempt"),
    SAME("takeovers"),
    SAME("provider_message_id"),
    SAME("last_error"),
    SAME("unknown_operators"),
    SAME("first_claimed_at"),
    SAME("created_at"),
    SAME("updated_at"),
    SAME("room"),
    SAME("delivery"),
    SAME("delivery_refunded"),
    END};

static const struct move_column deliveries[] = {
    {.name = "status_id", .value = {"s.message_identifier"}},
    {.value = {"s.recipient"}},
    SAME("operator"),
    SAME("match_id"),
    SAME("state"),
    SAME("parts"),
    BYTES("parts_seen"),
    SAME("code"),
    SAME("words"),
    SAME("reason"),
    SAME("reported_at"),
    SAME("created_at"),
    SAME("look_at"),
    SAME("looked"),
    END};

static const struct move_column user_transactions[] = {SAME("user_id"),
                                                       SAME("amount"),
                                                       SAME("transaction_type"),
                                                       SAME("description"),
                                                       SAME("transaction_id"),
                                                       SAME("created_at"),
                                                       END};

static const struct move_column idempotency_keys[] = {SAME("customer_id"),
                                                      SAME("route"),
                                                      BYTES("idem_key"),
                                                      BYTES("body_hash"),
                                                      SAME("response"),
                                                      SAME("created_at"),
                                                      END};

/* Nobody calls what has not come yet; what was disabled for another reason stays so. */
static const struct move_column webhooks[] = {
    OF_ENDPOINT("id", "t.id"),
    SAME("customer_id"),
    SAME("url"),
    SAME("kinds"),
    SAME("batch"),
    BYTES("secret"),
    BYTES("old_secret"),
    SAME("old_secret_until"),
    SAME("created_at"),
    {.name = "disabled_at",
     .value = {"IF(t.disabled_for='moved',NULL,t.disabled_at)"},
     .written = "COALESCE({0},NOW(6))"},
    {.name = "disabled_for",
     .value = {"IF(t.disabled_for='moved','',t.disabled_for)"},
     .written = "IF({0}='','moved',{0})"},
    SAME("deleted_at"),
    SAME("failing_since"),
    SAME("failures"),
    SAME("paused_until"),
    SAME("calls"),
    END};

static const struct move_column webhook_events[] = {OF_ENDPOINT("webhook_id", "t.webhook_id"),
                                                    SAME("subject"),
                                                    SAME("kind"),
                                                    SAME("data"),
                                                    SAME("created_at"),
                                                    SAME("next_at"),
                                                    SAME("delivered_at"),
                                                    SAME("attempts"),
                                                    SAME("last_status"),
                                                    END};

static const struct move_column webhook_attempts[] = {OF_ENDPOINT("webhook_id", "t.webhook_id"),
                                                      SAME("slot"),
                                                      SAME("call_no"),
                                                      SAME("at"),
                                                      SAME("event_id"),
                                                      SAME("events"),
                                                      SAME("result"),
                                                      SAME("status"),
                                                      SAME("took_ms"),
                                                      END};

/* The one that replaces a key may come behind it: then another look finds it. */
static const struct move_column api_keys[] = {
    BYTES("hash"),
    SAME("label"),
    SAME("customer_id"),
    SAME("scopes"),
    SAME("networks"),
    SAME("created_at"),
    SAME("expires_at"),
    SAME("revoked_at"),
    {.name = "replaced_by",
     .value = {"r.hash"},
     .written = "(SELECT y.id FROM (SELECT x.id,x.hash FROM api_keys x) y WHERE y.hash={0})",
     .bytes = true},
    END};

static const char *const id[] = {"id", NULL};
static const char *const of_recipients[] = {"id", "owner", NULL};
static const char *const of_webhooks[] = {"owner", "leased_until", NULL};
static const char *const nothing[] = {NULL};

/* Short enough that the rest, which is copied while the customer waits, is what minutes have
 * changed. */
#define SPAN_SEC 60

/* In the order in which rows need each other. The ledger behind the recipients that it is about. */
const struct move_table move_tables[MOVE_TABLES] = {
    {.name = "messages",
     .rows = {OF_MESSAGES
              "STRAIGHT_JOIN messages t ON t.message_identifier=s.message_identifier WHERE "
              "s.user_id={customer} AND s.position=0"},
     .columns = messages,
     .unmoved = nothing,
     .moment = "s.created_at",
     .span_sec = SPAN_SEC,
     .place = "s.id",
     .by_number = true},
    {.name = "message_status",
     .rows = {"message_status t FORCE INDEX(idx_message_status_user) WHERE t.user_id={customer}"},
     .columns = message_status,
     .unmoved = of_recipients,
     .moment = "t.created_at",
     .span_sec = SPAN_SEC,
     .place = "t.id",
     .by_number = true,
     .sum = "t.price"},
    {.name = "deliveries",
     .number = MOVE_OF_RECIPIENT,
     .rows = {OF_MESSAGES "STRAIGHT_JOIN deliveries t ON t.status_id=s.id WHERE "
                          "s.user_id={customer}"},
     .columns = deliveries,
     .unmoved = nothing,
     .moment = "s.created_at",
     .span_sec = SPAN_SEC,
     .place = "s.id",
     .by_number = true,
     .shrinks = true},
    {.name = "user_transactions",
     .rows = {"user_transactions t FORCE INDEX(idx_user_transactions_user) WHERE "
              "t.user_id={customer}"},
     .columns = user_transactions,
     .unmoved = id,
     .moment = "t.created_at",
     .span_sec = SPAN_SEC,
     .place = "t.id",
     .by_number = true,
     .is_ledger = true,
     .sum = "t.amount"},
    {.name = "idempotency_keys",
     .rows = {"idempotency_keys t WHERE t.customer_id={customer}"},
     .columns = idempotency_keys,
     .unmoved = nothing,
     .moment = "t.created_at",
     .span_sec = SPAN_SEC,
     .place = "t.created_at",
     .shrinks = true},
    {.name = "webhooks",
     .number = MOVE_OF_ENDPOINT,
     .rows = {"webhooks t WHERE t.customer_id={customer}",
              "moved_webhooks m JOIN webhooks t ON t.id=m.new_id WHERE m.customer_id={customer}"},
     .columns = webhooks,
     .unmoved = of_webhooks,
     .place = "t.id",
     .shrinks = true},
    {.name = "webhook_events",
     .number = MOVE_OF_ENDPOINT,
     .rows = {"webhooks w JOIN webhook_events t ON t.webhook_id=w.id WHERE "
              "w.customer_id={customer}",
              "moved_webhooks m JOIN webhook_events t ON t.webhook_id=m.new_id WHERE "
              "m.customer_id={customer}"},
     .columns = webhook_events,
     .unmoved = nothing,
     .moment = "t.created_at",
     .span_sec = SPAN_SEC,
     .place = "t.created_at",
     .shrinks = true},
    {.name = "webhook_attempts",
     .number = MOVE_OF_ENDPOINT,
     .rows = {"webhooks w JOIN webhook_attempts t ON t.webhook_id=w.id WHERE "
              "w.customer_id={customer}",
              "moved_webhooks m JOIN webhook_attempts t ON t.webhook_id=m.new_id WHERE "
              "m.customer_id={customer}"},
     .columns = webhook_attempts,
     .unmoved = nothing,
     .place = "t.slot",
     .shrinks = true},
    {.name = "api_keys",
     .rows = {"api_keys t LEFT JOIN api_keys r ON r.id=t.replaced_by WHERE "
              "t.customer_id={customer}"},
     .columns = api_keys,
     .unmoved = id,
     .place = "t.id"},
};
/* Tables whose rows do not move as they are. */
static const struct {
    const char *name, *why;
} others[] = {
    {"user_balances", "made there, and fenced; moves along with the ledger (ledger.h)"},
    {"outbox_events", "work: what is open is enqueued there anew"},
    {"outbox_parked", "the same: what is open is tried there, and parked there if it must be"},
    {"receipts_early", "come to their customer when they match (receipt_moved.h)"},
    {"receipts_moved", "of customers who have left"},
    {"customer_moves", "the moves"},
    {"moved_webhooks", "the numbers of endpoints that came"},
    {"workers", "a cell's own"},
    {"published_open", "a cell's own, counted anew"},
    {"platform_modes", "a cell's own"},
    {"change_counters", "a cell's own"},
    {"schema_migrations", "a cell's own"},
};

bool move_column_is_last(const struct move_column *column)
{
    return !column->name && !column->value[MOVE_HERE];
}

static const struct move_table *find(const char *name)
{
    for (size_t i = 0; i < MOVE_TABLES; i++)
        if (!strcmp(move_tables[i].name, name))
            return &move_tables[i];
    return NULL;
}

static bool is_other(const char *name)
{
    for (size_t i = 0; i < COUNT(others); i++)
        if (!strcmp(others[i].name, name))
            return true;
    return false;
}

static bool knows_column(const struct move_table *t, const char *name)
{
    for (const struct move_column *c = t->columns; !move_column_is_last(c); c++)
        if (c->name && !strcmp(c->name, name))
            return true;
    for (const char *const *u = t->unmoved; *u; u++)
        if (!strcmp(*u, name))
            return true;
    return false;
}

static int check_one(const char *table, const char *column, struct err *err)
{
    const struct move_table *t = find(table);

    if (is_other(table) || (t && knows_column(t, column)))
        return 0;
    if (t)
        return err_set(err, ERR_PERMANENT, 0,
                       "nobody has said how %s.%s moves (api/move_table.c): nothing is moved",
                       table, column);
    return err_set(
        err, ERR_PERMANENT, 0,
        "nobody has said whether the table %s moves (api/move_table.c): nothing is moved", table);
}

int move_table_check(struct db *db, struct err *err)
{
    static struct db_label label = {.query = "move_check"};
    static const char sql[] = "SELECT table_name,column_name FROM information_schema.columns WHERE "
                              "table_schema=DATABASE() "
                              "ORDER BY table_name,ordinal_position";
    struct db_results results;
    char **row;
    int rc = 0;

    db_label_register(&label);
    if (db_run(db, &label, sql, sizeof(sql) - 1, &results, err))
        return -1;
    while (!rc && (row = db_next(db_only(&results))))
        rc = check_one(row[0], row[1], err);
    db_results_free(&results);
    return rc;
}

void move_table_put(struct buf *sql, const char *template, long long customer_id)
{
    static const char word[] = "{customer}";
    struct buf sets = {0};

    recipient_put_template(&sets, template);
    sql->failed |= sets.failed;
    for (const char *at = sets.failed ? "" : sets.data; *at;) {
        if (strncmp(at, word, sizeof(word) - 1) != 0) {
            buf_putc(sql, *at++);
            continue;
        }
        buf_put_int(sql, customer_id);
        at += sizeof(word) - 1;
    }
    buf_free(&sets);
}
