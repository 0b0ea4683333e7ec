#include <stdio.h>
#include <string.h>

#include "libcommon/domain/webhook_store.h"

#define MOVED "disabled_for='" WEBHOOK_DISABLED_MOVED "'"

static struct db_label move_label = {.query = "webhooks_move"};

#define COUNTER                                                                        \
    "INSERT INTO change_counters(name,value,changed_at) VALUES ('webhooks',1,NOW(6)) " \
    "ON DUPLICATE KEY UPDATE value=value+1,changed_at=NOW(6)"

int webhook_store_touch(struct db *db, struct err *err)
{
    db_label_register(&move_label);
    return db_run(db, &move_label, COUNTER, sizeof(COUNTER) - 1, NULL, err);
}

/* set: of all of a customer's endpoints that are not deleted, and are as and_where says. */
static int run(struct db *db, const char *set, int64_t customer_id, const char *and_where,
               struct err *err)
{
    struct db_packet packet = {0};
    int rc;

    db_label_register(&move_label);
    buf_puts(db_statement(&packet, NULL), COUNTER);
    buf_printf(db_statement(&packet, NULL),
               "UPDATE webhooks SET %s WHERE customer_id=%lld AND deleted_at IS NULL%s", set,
               (long long)customer_id, and_where);
    rc = db_run_packet(db, &move_label, &packet, NULL, err);
    db_packet_free(&packet);
    return rc;
}

int webhook_store_leave(struct db *db, int64_t customer_id, struct err *err)
{
    return run(db, "disabled_at=NOW(6)," MOVED, customer_id, " AND disabled_at IS NULL", err);
}

int webhook_store_come(struct db *db, int64_t customer_id, struct err *err)
{
    return run(db, "disabled_at=NULL,disabled_for=''", customer_id, " AND " MOVED, err);
}

int webhook_store_forget(struct db *db, int64_t customer_id, struct err *err)
{
    return run(db, "deleted_at=NOW(6),secret='',old_secret=NULL", customer_id, "", err);
}

int webhook_store_is_calling(struct db *db, int64_t customer_id, bool *calling, struct err *err)
{
    struct db_results results;
    struct buf sql = {0};
    int rc;

    db_label_register(&move_label);
    buf_printf(&sql,
               "SELECT COUNT(*) FROM webhooks FORCE INDEX(idx_webhooks_customer) WHERE "
               "customer_id=%lld AND leased_until>=NOW(6)",
               (long long)customer_id);
    rc = db_run_buf(db, &move_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    *calling = db_number(db_only(&results)) > 0;
    db_results_free(&results);
    return 0;
}

/* [whether it has a number, whether that number is another customer's] */
static int look_at_number(struct db *db, int64_t customer_id, uint64_t old_id, bool *known,
                          bool *taken, struct err *err)
{
    struct db_results results;
    struct buf sql = {0};
    char **row;
    int rc;

    buf_printf(
        &sql,
        "SELECT (SELECT COUNT(*) FROM moved_webhooks WHERE customer_id=%lld AND old_id=%llu),"
        "(SELECT COUNT(*) FROM webhooks WHERE id=%llu AND customer_id<>%lld)",
        (long long)customer_id, (unsigned long long)old_id, (unsigned long long)old_id,
        (long long)customer_id);
    rc = db_run_buf(db, &move_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    row = db_next(db_only(&results));
    *known = row && row[0][0] != '0';
    *taken = row && row[1][0] != '0';
    db_results_free(&results);
    return 0;
}

/* A row that says nothing yet, and deleted, takes the number; what the move brings is written over
 * it. */
int webhook_store_number(struct db *db, int64_t customer_id, uint64_t old_id, struct err *err)
{
    struct db_packet packet = {0};
    char id[24] = "NULL";
    bool known;
    bool taken;
    int rc;

    db_label_register(&move_label);
    if (look_at_number(db, customer_id, old_id, &known, &taken, err))
        return -1;
    if (known)
        return 0;
    if (!taken)
        snprintf(id, sizeof(id), "%llu", (unsigned long long)old_id);
    buf_puts(db_statement(&packet, NULL), "START TRANSACTION");
    buf_printf(db_statement(&packet, NULL),
               "INSERT INTO webhooks(id,customer_id,url,kinds,secret,deleted_at) VALUES "
               "(%s,%lld,'',0,'',NOW(6)) ON DUPLICATE KEY UPDATE id=id",
               id, (long long)customer_id);
    buf_printf(db_statement(&packet, NULL),
               "INSERT INTO moved_webhooks(customer_id,old_id,new_id) VALUES (%lld,%llu,%s)",
               (long long)customer_id, (unsigned long long)old_id, taken ? "LAST_INSERT_ID()" : id);
    buf_puts(db_statement(&packet, NULL), "COMMIT");
    rc = db_run_packet(db, &move_label, &packet, NULL, err);
    db_packet_free(&packet);
    if (rc)
        db_rollback(db);
    return rc;
}
