#include "api/idempotency.h"

#include <stdlib.h>
#include <string.h>

static int compare_keys(const struct operation *x, const struct operation *y)
{
    if (x->customer_id != y->customer_id)
        return x->customer_id < y->customer_id ? -1 : 1;
    if (x->kind != y->kind)
        return x->kind < y->kind ? -1 : 1;
    if (x->key_len != y->key_len)
        return x->key_len < y->key_len ? -1 : 1;
    return memcmp(x->key, y->key, x->key_len);
}

/* Of places in one array: equal keys stay in order of arrival. */
static int by_key(const void *a, const void *b)
{
    struct operation **x = *(struct operation * *const *)a;
    struct operation **y = *(struct operation * *const *)b;
    int order = compare_keys(*x, *y);

    return order ? order : (x > y) - (x < y);
}

int idempotency_link_twins(struct operation **ops, size_t n)
{
    struct operation ***keyed = malloc(n * sizeof(struct operation **));
    size_t count = 0;

    if (!keyed)
        return -1;
    for (size_t i = 0; i < n; i++) {
        ops[i]->earlier = ops[i]->later = NULL;
        if (ops[i]->key)
            keyed[count++] = &ops[i];
    }
    if (count > 1)
        qsort(keyed, count, sizeof(struct operation **), by_key);
    for (size_t i = 1; i < count; i++) {
        struct operation *before = *keyed[i - 1];
        struct operation *op = *keyed[i];

        if (compare_keys(before, op) != 0)
            continue;
        before->later = op;
        op->earlier = before;
    }
    free(keyed);
    return 0;
}

bool idempotency_put_lookup(struct db_packet *packet, struct operation **ops, size_t n)
{
    struct buf *sql = NULL;

    for (size_t i = 0; i < n; i++) {
        if (!ops[i]->key || ops[i]->earlier)
            continue;
        if (sql)
            buf_putc(sql, ',');
        else
            buf_puts(sql = db_statement(packet, "keys"),
                     "SELECT j.op,k.body_hash,k.response FROM JSON_TABLE('[");
        buf_printf(sql, "[%zu,%lld,%d,\"", i, (long long)ops[i]->customer_id, (int)ops[i]->kind);
        buf_put_hex(sql, ops[i]->key, ops[i]->key_len);
        buf_puts(sql, "\"]");
    }
    if (sql)
        buf_puts(sql,
                 "]','$[*]' COLUMNS(op INT PATH '$[0]',customer BIGINT PATH '$[1]',route INT PATH "
                 "'$[2]',"
                 "hex VARCHAR(510) CHARACTER SET ascii PATH '$[3]')) j "
                 "STRAIGHT_JOIN idempotency_keys k FORCE INDEX(PRIMARY) "
                 "ON k.customer_id=j.customer AND k.route=j.route AND k.idem_key=UNHEX(j.hex)");
    return sql != NULL;
}

static void decide(struct operation *op, bool same_body, const char *response, size_t n)
{
    op->outcome = same_body ? OUTCOME_REPLAYED : OUTCOME_KEY_REUSED;
    buf_reset(&op->response);
    if (same_body)
        buf_put(&op->response, response, n);
}

void idempotency_apply(struct db_set *found, struct operation **ops, size_t n)
{
    char **row;

    while ((row = db_next(found))) {
        size_t i = strtoul(row[0], NULL, 10);

        for (struct operation *op = i < n ? ops[i] : NULL; op; op = op->later)
            decide(op,
                   found->lengths[1] == sizeof(op->body_hash) &&
                       !memcmp(row[1], op->body_hash, sizeof(op->body_hash)),
                   row[2], found->lengths[2]);
    }
}

void idempotency_share(struct operation *op, const struct operation *done)
{
    decide(op, !memcmp(done->body_hash, op->body_hash, sizeof(op->body_hash)), done->response.data,
           done->response.len);
}

void idempotency_put_store(struct db *db, struct db_packet *packet, struct operation **ops,
                           size_t n)
{
    struct buf *sql = NULL;

    for (size_t i = 0; i < n; i++) {
        const struct operation *op = ops[i];

        if (!op->key || op->outcome != OUTCOME_DONE)
            continue;
        if (sql)
            buf_putc(sql, ',');
        else
            buf_puts(sql = db_statement(packet, NULL),
                     "INSERT INTO "
                     "idempotency_keys(customer_id,route,idem_key,body_hash,response) VALUES ");
        buf_printf(sql, "(%lld,%d,", (long long)op->customer_id, (int)op->kind);
        db_put_bytes(sql, op->key, op->key_len);
        buf_putc(sql, ',');
        db_put_bytes(sql, op->body_hash, sizeof(op->body_hash));
        buf_putc(sql, ',');
        db_put_quoted(db, sql, op->response.data, op->response.len);
        buf_putc(sql, ')');
    }
}
