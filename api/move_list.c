#include <stdio.h>
#include <string.h>

#include "api/move_internal.h"
#include "api/settings.h"
#include "libcommon/db/schema.h"

struct listing {
    int64_t customer_id;
    size_t n;
};

static bool print_move(const struct customer_move *move, void *arg)
{
    struct listing *l = arg;

    if (l->customer_id && l->customer_id != move->customer_id)
        return true;
    if (!l->n++)
        printf("%-20s %-10s %-16s %s\n", "customer", "state", "cell", "since (UTC)");
    printf("%-20lld %-10s %-16s %s\n", (long long)move->customer_id,
           customer_move_name(move->state), move->cell, move->since);
    return true;
}

static int list(struct db *db, int64_t customer_id, struct err *err)
{
    struct listing l = {.customer_id = customer_id};

    if (db_acquire(db, err) || schema_need(db, err) || customer_move_each(db, print_move, &l, err))
        return -1;
    if (!l.n)
        printf(customer_id ? "the customer has not moved\n" : "nobody has moved\n");
    return 0;
}

int move_status(int64_t customer_id, struct err *err)
{
    struct db *db = db_new_reader(&api_settings.db);
    int rc = list(db, customer_id, err);

    db_release(db);
    db_free(db);
    return rc;
}

static int print_map(struct db *db, bool keys, struct err *err)
{
    static const char of_keys[] =
        "SELECT HEX(k.hash),c.cell FROM customer_moves c JOIN api_keys k ON "
        "k.customer_id=c.customer_id WHERE c.state=4 ORDER BY c.customer_id,k.id";
    static const char of_customers[] =
        "SELECT customer_id,cell FROM customer_moves WHERE state=4 ORDER BY customer_id";
    const char *sql = keys ? of_keys : of_customers;
    struct db_results results;
    char **row;

    if (db_acquire(db, err) || schema_need(db, err) ||
        db_run(db, &move_label, sql, strlen(sql), &results, err))
        return -1;
    while ((row = db_next(db_only(&results))))
        printf("%s %s\n", row[0], row[1]);
    db_results_free(&results);
    return 0;
}

int move_map(bool keys, struct err *err)
{
    struct db *db = db_new_reader(&api_settings.db);
    int rc = print_map(db, keys, err);

    db_release(db);
    db_free(db);
    return rc;
}
