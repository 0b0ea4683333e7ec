#include "libcommon/domain/webhook_store.h"

#include <stdlib.h>
#include <string.h>

#include "libcommon/base/random.h"
#include "libcommon/domain/customer_move.h"
#include "libcommon/domain/webhook_event.h"

#define COUNTER "webhooks"
#define MICROSECONDS(column) "COALESCE(TIMESTAMPDIFF(MICROSECOND,'1970-01-01'," column "),0)"
#define MESSAGE_ENDPOINTS 64 /* of a customer, whose events are looked at for one message */

static struct db_label change_label = {.query = "webhooks_change"};
static struct db_label look_label = {.query = "webhooks_look"};
static struct db_label read_label = {.query = "webhooks_read"};
static struct db_label replay_label = {.query = "webhooks_replay"};

void webhook_store_register(void)
{
    db_label_register(&change_label);
    db_label_register(&look_label);
    db_label_register(&read_label);
    db_label_register(&replay_label);
    customer_move_register();
}

/* ---- one change ---- */

/* The lock on this row holds back every other change until the commit. */
static int begin_change(struct db *db, struct err *err)
{
    static const char sql[] =
        "INSERT INTO change_counters(name,value,changed_at) VALUES ('" COUNTER "',1,NOW(6)) "
        "ON DUPLICATE KEY UPDATE value=value+1,changed_at=NOW(6)";

    db_begin(db);
    return db_run(db, &change_label, sql, sizeof(sql) - 1, NULL, err);
}

/* The same, of a customer's own: who has left this cell changes nothing here any more, and is told
 * to try again, which then is answered elsewhere. */
static int begin_customers_change(struct db *db, int64_t customer_id, struct err *err)
{
    if (begin_change(db, err))
        return -1;
    if (!customer_move_refuse_left(db, customer_id, err))
        return 0;
    if (err->kind == ERR_PERMANENT)
        err->kind = ERR_RETRY;
    return -1;
}

/* Ends it, well or not; what has changed nothing is told to nobody. */
static int end_change(struct db *db, int rc, bool changed, struct err *err)
{
    if (!rc && changed)
        rc = db_commit(db, err);
    if (rc || !changed)
        db_rollback(db);
    return rc;
}

/* Runs it and empties it; *affected, unless NULL: rows that it matched. */
static int run(struct db *db, struct buf *sql, uint64_t *affected, struct err *err)
{
    struct db_results results;
    int rc = db_run_buf(db, &change_label, sql, &results, err);

    buf_reset(sql);
    if (rc)
        return -1;
    if (affected)
        *affected = db_only(&results)->affected;
    db_results_free(&results);
    return 0;
}

static int read_number(struct db *db, struct buf *sql, uint64_t *number, struct err *err)
{
    struct db_results results;
    int rc = db_run_buf(db, &change_label, sql, &results, err);

    buf_reset(sql);
    if (rc)
        return -1;
    *number = (uint64_t)db_number(db_only(&results));
    db_results_free(&results);
    return 0;
}

static void put_one(struct buf *sql, int64_t customer_id, uint64_t id)
{
    buf_printf(sql, " WHERE id=%llu AND customer_id=%lld AND deleted_at IS NULL",
               (unsigned long long)id, (long long)customer_id);
}

/* A change that is one UPDATE of one endpoint. */
static int change_one(struct db *db, const char *set, int64_t customer_id, uint64_t id, bool *found,
                      struct err *err)
{
    struct buf sql = {0};
    uint64_t affected = 0;
    int rc = begin_customers_change(db, customer_id, err);

    buf_puts(&sql, "UPDATE webhooks SET ");
    buf_puts(&sql, set);
    put_one(&sql, customer_id, id);
    if (!rc)
        rc = run(db, &sql, &affected, err);
    buf_free(&sql);
    *found = affected > 0;
    return end_change(db, rc, *found, err);
}

/* ---- create, remove, rotate, enable, disable ---- */

static void put_insert(struct db *db, struct buf *sql, const struct webhook_wish *wish,
                       const struct webhook_secret *secret)
{
    buf_printf(sql, "INSERT INTO webhooks(customer_id,kinds,batch,url,secret) VALUES (%lld,%u,%u,",
               (long long)wish->customer_id, wish->kinds, wish->batch);
    db_put_quoted(db, sql, wish->url, strlen(wish->url));
    buf_putc(sql, ',');
    db_put_bytes(sql, secret->bytes, secret->len);
    buf_putc(sql, ')');
}

int webhook_store_create(struct db *db, const struct webhook_wish *wish,
                         const struct webhook_secret *secret, int64_t most, uint64_t *id,
                         struct err *err)
{
    struct buf sql = {0};
    uint64_t count = 0;
    int rc = begin_customers_change(db, wish->customer_id, err);

    *id = 0;
    buf_printf(&sql, "SELECT COUNT(*) FROM webhooks WHERE customer_id=%lld AND deleted_at IS NULL",
               (long long)wish->customer_id);
    if (!rc)
        rc = read_number(db, &sql, &count, err);
    if (!rc && count < (uint64_t)most) {
        put_insert(db, &sql, wish, secret);
        rc = run(db, &sql, NULL, err);
        buf_puts(&sql, "SELECT LAST_INSERT_ID()");
        if (!rc)
            rc = read_number(db, &sql, id, err);
    }
    buf_free(&sql);
    return end_change(db, rc, *id, err);
}

int webhook_store_remove(struct db *db, int64_t customer_id, uint64_t id, bool *found,
                         struct err *err)
{
    return change_one(db, "deleted_at=NOW(6),secret='',old_secret=NULL", customer_id, id, found,
                      err);
}

int webhook_store_rotate(struct db *db, int64_t customer_id, uint64_t id,
                         const struct webhook_secret *secret, int64_t grace_sec, bool *found,
                         struct err *err)
{
    struct buf set = {0};
    int rc;

    buf_printf(&set, "old_secret=secret,old_secret_until=NOW(6)+INTERVAL %lld SECOND,secret=",
               (long long)grace_sec);
    db_put_bytes(&set, secret->bytes, secret->len);
    rc = set.failed ? err_set(err, ERR_RETRY, 0, "out of memory")
                    : change_one(db, set.data, customer_id, id, found, err);
    buf_free(&set);
    return rc;
}

int webhook_store_enable(struct db *db, int64_t customer_id, uint64_t id, bool *found,
                         struct err *err)
{
    return change_one(db,
                      "disabled_at=NULL,disabled_for='',failures=0,failing_since=NULL,"
                      "paused_until=NULL",
                      customer_id, id, found, err);
}

/* For each other endpoint of the customer. The event is of this once: it may be enabled again. */
static void put_disabled_event(struct buf *sql, uint64_t id)
{
    char subject[UUID_TEXT_SIZE];
    struct buf quoted = {0};

    random_uuid7(subject);
    buf_printf(&quoted, "'%s'", subject);
    sql->failed |= quoted.failed;
    if (!sql->failed)
        webhook_put_event(sql, WEBHOOK_DISABLED, quoted.data,
                          "JSON_OBJECT('user_id',d.customer_id,'webhook_id',d.id,'url',d.url,"
                          "'reason',d.disabled_for)");
    buf_free(&quoted);
    buf_puts(sql, "webhooks d");
    webhook_put_endpoints(sql, WEBHOOK_DISABLED, "d.customer_id");
    buf_printf(sql, " WHERE d.id=%llu AND w.id<>d.id", (unsigned long long)id);
}

int webhook_store_disable(struct db *db, uint64_t id, const char *why, bool *changed,
                          struct err *err)
{
    struct buf sql = {0};
    uint64_t affected = 0;
    int rc = begin_change(db, err);

    buf_puts(&sql, "UPDATE webhooks SET disabled_at=NOW(6),disabled_for=");
    db_put_quoted(db, &sql, why, strlen(why));
    buf_printf(&sql, " WHERE id=%llu AND disabled_at IS NULL AND deleted_at IS NULL",
               (unsigned long long)id);
    if (!rc)
        rc = run(db, &sql, &affected, err);
    if (!rc && affected) {
        put_disabled_event(&sql, id);
        rc = run(db, &sql, NULL, err);
    }
    buf_free(&sql);
    *changed = affected > 0;
    return end_change(db, rc, *changed, err);
}

/* ---- replay ---- */

static int is_there(struct db *db, int64_t customer_id, uint64_t id, bool *found, struct err *err)
{
    struct buf sql = {0};
    uint64_t known = 0;
    int rc;

    buf_puts(&sql, "SELECT id FROM webhooks");
    put_one(&sql, customer_id, id);
    rc = read_number(db, &sql, &known, err);
    buf_free(&sql);
    *found = known > 0;
    return rc;
}

int webhook_store_replay(struct db *db, int64_t customer_id, uint64_t id, int64_t from_us,
                         uint64_t most, uint64_t *count, bool *found, struct err *err)
{
    struct db_results results;
    struct buf sql = {0};
    int rc = is_there(db, customer_id, id, found, err);

    *count = 0;
    if (rc || !*found)
        return rc;
    buf_printf(&sql,
               "UPDATE webhook_events FORCE INDEX(idx_webhook_events_made) SET next_at=NOW(6),"
               "delivered_at=NULL,attempts=0 WHERE webhook_id=%llu AND next_at IS NULL AND "
               "created_at>='1970-01-01'+INTERVAL %lld MICROSECOND ORDER BY created_at LIMIT %llu",
               (unsigned long long)id, (long long)from_us, (unsigned long long)most);
    rc = db_run_buf(db, &replay_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    *count = db_only(&results)->affected;
    db_results_free(&results);
    return 0;
}

/* ---- what there is ---- */

static int64_t number(const char *text)
{
    return text ? strtoll(text, NULL, 10) : 0;
}

int webhook_store_each(struct db *db, int64_t customer_id, uint64_t id, webhook_row_fn *fn,
                       void *arg, struct err *err)
{
    struct db_results results;
    struct buf sql = {0};
    char **c;
    int rc;

    buf_puts(
        &sql,
        "SELECT id,url,disabled_for,kinds,batch," MICROSECONDS("created_at") "," MICROSECONDS(
            "disabled_at") "," MICROSECONDS("failing_since") ","
                                                             "IF(old_secret_until>NOW(6)"
                                                             "," MICROSECONDS(
                                                                 "old_secret_until") ",0) "
                                                                                     "FROM "
                                                                                     "webhooks "
                                                                                     "FORCE "
                                                                                     "INDEX(idx_"
                                                                                     "webhooks_"
                                                                                     "customer)");
    buf_printf(&sql, " WHERE customer_id=%lld AND deleted_at IS NULL", (long long)customer_id);
    if (id)
        buf_printf(&sql, " AND id=%llu", (unsigned long long)id);
    buf_puts(&sql, " ORDER BY id");
    rc = db_run_buf(db, &read_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    while ((c = db_next(db_only(&results)))) {
        const struct webhook_row row = {
            .id = strtoull(c[0], NULL, 10),
            .url = c[1],
            .disabled_for = c[2],
            .kinds = (unsigned)number(c[3]),
            .batch = (unsigned)number(c[4]),
            .created_us = number(c[5]),
            .disabled_us = number(c[6]),
            .failing_us = number(c[7]),
            .old_secret_us = number(c[8]),
        };

        fn(&row, arg);
    }
    db_results_free(&results);
    return 0;
}

int webhook_store_attempts(struct db *db, int64_t customer_id, uint64_t id, uint64_t before,
                           uint64_t most, webhook_attempt_fn *fn, void *arg, bool *found,
                           struct err *err)
{
    struct db_results results;
    struct buf sql = {0};
    char **c;
    int rc = is_there(db, customer_id, id, found, err);

    if (rc || !*found)
        return rc;
    buf_printf(&sql,
               "SELECT call_no," MICROSECONDS("at") ",took_ms,event_id,result,events,status FROM "
                                                    "webhook_attempts WHERE webhook_id=%llu AND "
                                                    "call_no<%llu ORDER BY call_no DESC LIMIT "
                                                    "%llu",
               (unsigned long long)id, (unsigned long long)before, (unsigned long long)most);
    rc = db_run_buf(db, &read_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    while ((c = db_next(db_only(&results)))) {
        const struct webhook_attempt attempt = {
            .call_no = strtoull(c[0], NULL, 10),
            .at_us = number(c[1]),
            .took_ms = number(c[2]),
            .event_id = c[3],
            .result = c[4],
            .events = (unsigned)number(c[5]),
            .status = (unsigned)number(c[6]),
        };

        fn(&attempt, arg);
    }
    db_results_free(&results);
    return 0;
}

static int read_endpoints(struct db *db, struct buf *list, int64_t customer_id, struct err *err)
{
    struct db_results results;
    struct buf sql = {0};
    char **c;
    int rc;

    buf_printf(&sql,
               "SELECT id FROM webhooks FORCE INDEX(idx_webhooks_customer) WHERE customer_id=%lld "
               "ORDER BY id DESC LIMIT %d",
               (long long)customer_id, MESSAGE_ENDPOINTS);
    rc = db_run_buf(db, &read_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    while ((c = db_next(db_only(&results))))
        buf_printf(list, "%s%s", list->len ? "," : "", c[0]);
    db_results_free(&results);
    return 0;
}

/* Subjects are in the order of characters: all of a message's lie between "<message>-" and
 * "<message>.". */
static void put_told(struct db *db, struct buf *sql, const char *endpoints, const char *message_id,
                     uint64_t most)
{
    buf_printf(
        sql,
        "SELECT webhook_id,subject,kind," MICROSECONDS("created_at") "," MICROSECONDS(
            "delivered_at") "," MICROSECONDS("next_at") ",attempts,last_status FROM "
                                                        "webhook_events FORCE INDEX(PRIMARY) WHERE "
                                                        "webhook_id IN (%s) AND subject>CONCAT(",
        endpoints);
    db_put_quoted(db, sql, message_id, strlen(message_id));
    buf_puts(sql, ",'-') AND subject<CONCAT(");
    db_put_quoted(db, sql, message_id, strlen(message_id));
    buf_printf(sql, ",'.') ORDER BY created_at,subject,kind,webhook_id LIMIT %llu",
               (unsigned long long)most);
}

int webhook_store_told(struct db *db, int64_t customer_id, const char *message_id, uint64_t most,
                       webhook_told_fn *fn, void *arg, struct err *err)
{
    struct db_results results;
    struct buf endpoints = {0};
    struct buf sql = {0};
    char **c;
    int rc = read_endpoints(db, &endpoints, customer_id, err);

    if (rc || !endpoints.len) {
        buf_free(&endpoints);
        return rc;
    }
    put_told(db, &sql, endpoints.data, message_id, most);
    buf_free(&endpoints);
    rc = db_run_buf(db, &read_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    while ((c = db_next(db_only(&results)))) {
        int64_t kind = number(c[2]);
        const struct webhook_told told = {
            .webhook_id = strtoull(c[0], NULL, 10),
            .subject = c[1],
            .kind = (enum webhook_kind)kind,
            .created_us = number(c[3]),
            .delivered_us = number(c[4]),
            .next_us = number(c[5]),
            .attempts = (unsigned)number(c[6]),
            .status = (unsigned)number(c[7]),
        };

        if (kind >= 0 && kind < WEBHOOK_KINDS) /* a newer release may know others */
            fn(&told, arg);
    }
    db_results_free(&results);
    return 0;
}

int webhook_store_look(struct db *db, struct webhook_store_state *state, struct err *err)
{
    static const char sql[] =
        "SELECT value," MICROSECONDS("changed_at") " FROM change_counters WHERE name='" COUNTER "'";
    struct db_results results;
    char **c;

    if (db_run(db, &look_label, sql, sizeof(sql) - 1, &results, err))
        return -1;
    *state = (struct webhook_store_state){0};
    c = db_next(db_only(&results));
    if (c)
        *state = (struct webhook_store_state){.changes = strtoull(c[0], NULL, 10),
                                              .changed_us = number(c[1])};
    db_results_free(&results);
    return 0;
}

int webhook_store_customers(struct db *db, int64_t **customers, size_t *n, struct err *err)
{
    static const char sql[] =
        "SELECT DISTINCT customer_id FROM webhooks WHERE deleted_at IS NULL AND "
        "(disabled_at IS NULL OR disabled_for='" WEBHOOK_DISABLED_MOVED "') ORDER BY customer_id";
    struct db_results results;
    size_t count = 0;
    int64_t *all;
    char **c;

    if (db_run(db, &read_label, sql, sizeof(sql) - 1, &results, err))
        return -1;
    all = calloc(db_only(&results)->affected + 1, sizeof(*all));
    while (all && (c = db_next(db_only(&results))))
        all[count++] = number(c[0]);
    db_results_free(&results);
    if (!all)
        return err_set(err, ERR_RETRY, 0, "out of memory");
    *customers = all;
    *n = count;
    return 0;
}

int webhook_store_count(struct db *db, uint64_t *all, uint64_t *disabled, struct err *err)
{
    static const char sql[] = "SELECT COUNT(*),COALESCE(SUM(disabled_at IS NOT NULL),0) FROM "
                              "webhooks WHERE deleted_at IS NULL";
    struct db_results results;
    char **c;

    if (db_run(db, &read_label, sql, sizeof(sql) - 1, &results, err))
        return -1;
    c = db_next(db_only(&results));
    *all = c ? strtoull(c[0], NULL, 10) : 0;
    *disabled = c ? strtoull(c[1], NULL, 10) : 0;
    db_results_free(&results);
    return 0;
}
