#include "api/key_store.h"

#include <stdlib.h>
#include <string.h>

#include "libcommon/base/utf8.h"
#include "libcommon/db/leader.h"
#include "libcommon/domain/customer_move.h"
#include "libcommon/net/address.h"

#define COUNTER "api_keys"
#define LEADER "api_keys"
#define LEADER_WAIT_SEC 2 /* a retry follows */
#define PAGE 1000
#define BOOTSTRAP_LABEL "bootstrap"
#define BOOTSTRAP_SCOPES (KEY_SEND | KEY_READ | KEY_TOPUP | KEY_ADMIN | KEY_METRICS | KEY_WEBHOOKS)

#define ALIVE "(revoked_at IS NULL OR revoked_at>%s) AND (expires_at IS NULL OR expires_at>%s)"
#define RECENTLY "NOW(6)-INTERVAL 30 DAY"
#define MICROSECONDS(column) "TIMESTAMPDIFF(MICROSECOND,'1970-01-01'," column ")"

static struct db_label change_label = {.query = "api_keys_change"};
static struct db_label look_label = {.query = "api_keys_look"};
static struct db_label read_label = {.query = "api_keys_read"};

void key_store_register(void)
{
    db_label_register(&change_label);
    db_label_register(&look_label);
    db_label_register(&read_label);
    customer_move_register();
}

/* ---- what there can be ---- */

/* A label is printed on terminals. */
static bool label_ok(const char *label)
{
    size_t n = strlen(label);

    for (size_t i = 0, length; i < n; i += length) {
        length = utf8_character(label + i, n - i);
        if (!length || utf8_is_control(label + i, length))
            return false;
    }
    return n > 0 && n <= KEY_LABEL_MAX;
}

static bool networks_ok(const char *networks)
{
    char why[160];

    return strlen(networks) <= KEY_NETWORKS_MAX &&
           (!*networks || networks_check(networks, why, sizeof(why)));
}

const char *key_wish_fault(const struct key_wish *wish)
{
    if (!wish->label || !label_ok(wish->label))
        return "a label has 1 to 100 bytes of UTF-8 and no control characters";
    if (!wish->scopes)
        return "a key has at least one scope";
    if (wish->customer_id < 0)
        return "a customer is a whole number above 0";
    if (wish->customer_id && (wish->scopes & KEY_ADMIN))
        return "a key that is bound to a customer cannot have the scope admin";
    if (!networks_ok(wish->networks))
        return "networks are like 10.0.0.0/8, 2001:db8::/32 or single addresses, with commas, "
               "without bits behind a prefix, at most 1,000 bytes";
    return NULL;
}

/* ---- one change ---- */

static int run(struct db *db, const struct buf *sql, struct err *err)
{
    return db_run_buf(db, &change_label, sql, NULL, err);
}

/* The first column of the only row; *found: there is one. */
static int read_number(struct db *db, struct buf *sql, uint64_t *number, bool *found,
                       struct err *err)
{
    struct db_results results;
    char **row;

    if (db_run_buf(db, &change_label, sql, &results, err))
        return -1;
    row = db_next(db_only(&results));
    *found = row;
    *number = row && row[0] ? strtoull(row[0], NULL, 10) : 0;
    db_results_free(&results);
    return 0;
}

/* The lock on this row holds back every other change until the commit. */
int key_store_touch(struct db *db, struct err *err)
{
    static const char sql[] =
        "INSERT INTO change_counters(name,value,changed_at) VALUES ('" COUNTER "',1,NOW(6)) "
        "ON DUPLICATE KEY UPDATE value=value+1,changed_at=NOW(6)";

    return db_run(db, &change_label, sql, sizeof(sql) - 1, NULL, err);
}

static int begin_change(struct db *db, struct err *err)
{
    db_begin(db);
    return key_store_touch(db, err);
}

/* Ends it, well or not. */
static int end_change(struct db *db, int rc, struct err *err)
{
    if (!rc)
        rc = db_commit(db, err);
    if (rc)
        db_rollback(db);
    return rc;
}

/* *id: 0 when no key has that hash. */
static int find_hash(struct db *db, const uint8_t hash[KEY_HASH_LEN], uint64_t *id, struct err *err)
{
    struct buf sql = {0};
    bool found;
    int rc;

    buf_puts(&sql, "SELECT id FROM api_keys WHERE hash=");
    db_put_bytes(&sql, hash, KEY_HASH_LEN);
    rc = read_number(db, &sql, id, &found, err);
    buf_free(&sql);
    return rc;
}

static int check_room(struct db *db, struct err *err)
{
    struct buf sql = {0};
    uint64_t count;
    bool found;
    int rc;

    buf_printf(&sql, "SELECT COUNT(*) FROM api_keys WHERE " ALIVE, "NOW(6)", "NOW(6)");
    rc = read_number(db, &sql, &count, &found, err);
    buf_free(&sql);
    if (!rc && count >= KEY_STORE_MAX)
        return err_set(err, ERR_PERMANENT, 0, "there are %d keys, which is the most",
                       KEY_STORE_MAX);
    return rc;
}

static int insert(struct db *db, const struct key_wish *wish, const uint8_t hash[KEY_HASH_LEN],
                  uint64_t *id, struct err *err)
{
    struct buf sql = {0};
    int rc;

    buf_puts(&sql,
             "INSERT INTO api_keys(hash,label,customer_id,scopes,networks,expires_at) VALUES (");
    db_put_bytes(&sql, hash, KEY_HASH_LEN);
    buf_putc(&sql, ',');
    db_put_quoted(db, &sql, wish->label, strlen(wish->label));
    buf_printf(&sql, ",%lld,'", (long long)wish->customer_id);
    key_scopes_put(&sql, wish->scopes);
    buf_puts(&sql, "',");
    db_put_quoted(db, &sql, wish->networks, strlen(wish->networks));
    if (wish->expires_sec)
        buf_printf(&sql, ",NOW(6)+INTERVAL %lld SECOND)", (long long)wish->expires_sec);
    else
        buf_puts(&sql, ",NULL)");
    rc = run(db, &sql, err);
    buf_free(&sql);
    return rc ? -1 : find_hash(db, hash, id, err);
}

/* A customer who has left this cell has left its keys here as they were; they are changed where the
 * customer is. id 0: of a key that is yet to be. */
static int check_home(struct db *db, uint64_t id, int64_t customer_id, struct err *err)
{
    struct buf sql = {0};
    uint64_t owner = (uint64_t)customer_id;
    bool found = true;
    int rc = 0;

    buf_printf(&sql, "SELECT customer_id FROM api_keys WHERE id=%llu", (unsigned long long)id);
    if (id)
        rc = read_number(db, &sql, &owner, &found, err);
    buf_free(&sql);
    return rc || !found || !owner ? rc : customer_move_refuse_left(db, (int64_t)owner, err);
}

/* ---- create, revoke, rotate ---- */

int key_store_create(struct db *db, const struct key_wish *wish, const uint8_t hash[KEY_HASH_LEN],
                     uint64_t *id, struct err *err)
{
    const char *fault = key_wish_fault(wish);
    int rc;

    if (fault)
        return err_set(err, ERR_PERMANENT, 0, "%s", fault);
    rc = begin_change(db, err);
    if (!rc)
        rc = find_hash(db, hash, id, err);
    if (!rc && !*id)
        rc = check_home(db, 0, wish->customer_id, err);
    if (!rc && !*id) {
        rc = check_room(db, err);
        if (!rc)
            rc = insert(db, wish, hash, id, err);
    }
    return end_change(db, rc, err);
}

static int no_such_key(uint64_t id, struct err *err)
{
    return err_set(err, ERR_PERMANENT, 0, "there is no key %llu", (unsigned long long)id);
}

static int mark_revoked(struct db *db, uint64_t id, struct err *err)
{
    struct buf sql = {0};
    uint64_t known;
    bool found = false;
    int rc;

    buf_printf(&sql, "SELECT id FROM api_keys WHERE id=%llu", (unsigned long long)id);
    rc = read_number(db, &sql, &known, &found, err);
    buf_reset(&sql);
    buf_printf(&sql,
               "UPDATE api_keys SET revoked_at=NOW(6) WHERE id=%llu AND "
               "(revoked_at IS NULL OR revoked_at>NOW(6))",
               (unsigned long long)id);
    if (!rc)
        rc = found ? run(db, &sql, err) : no_such_key(id, err);
    buf_free(&sql);
    return rc;
}

int key_store_revoke(struct db *db, uint64_t id, struct err *err)
{
    int rc = begin_change(db, err);

    if (!rc)
        rc = check_home(db, id, 0, err);
    if (!rc)
        rc = mark_revoked(db, id, err);
    return end_change(db, rc, err);
}

/* Whether there is something to put another in the place of. */
static int check_old(struct db *db, uint64_t id, struct err *err)
{
    struct buf sql = {0};
    uint64_t dead;
    bool found;
    int rc;

    buf_printf(&sql, "SELECT revoked_at IS NOT NULL FROM api_keys WHERE id=%llu",
               (unsigned long long)id);
    rc = read_number(db, &sql, &dead, &found, err);
    buf_free(&sql);
    if (!rc && !found)
        return no_such_key(id, err);
    if (!rc && dead)
        return err_set(err, ERR_PERMANENT, 0, "key %llu is revoked or replaced already",
                       (unsigned long long)id);
    return rc;
}

static int replace(struct db *db, uint64_t id, int64_t grace_sec, const uint8_t hash[KEY_HASH_LEN],
                   uint64_t *new_id, struct err *err)
{
    struct buf sql = {0};
    int rc;

    buf_puts(&sql,
             "INSERT INTO api_keys(hash,label,customer_id,scopes,networks,expires_at) SELECT ");
    db_put_bytes(&sql, hash, KEY_HASH_LEN);
    buf_printf(&sql,
               ",label,customer_id,scopes,networks,NOW(6)+INTERVAL "
               "TIMESTAMPDIFF(MICROSECOND,created_at,expires_at) MICROSECOND FROM api_keys WHERE "
               "id=%llu",
               (unsigned long long)id);
    rc = run(db, &sql, err);
    if (!rc)
        rc = find_hash(db, hash, new_id, err);
    buf_reset(&sql);
    buf_printf(&sql,
               "UPDATE api_keys SET revoked_at=NOW(6)+INTERVAL %lld SECOND,replaced_by=%llu WHERE "
               "id=%llu",
               (long long)grace_sec, (unsigned long long)*new_id, (unsigned long long)id);
    if (!rc)
        rc = run(db, &sql, err);
    buf_free(&sql);
    return rc;
}

int key_store_rotate(struct db *db, uint64_t id, int64_t grace_sec,
                     const uint8_t hash[KEY_HASH_LEN], uint64_t *new_id, struct err *err)
{
    int rc = begin_change(db, err);

    if (!rc)
        rc = find_hash(db, hash, new_id, err);
    if (!rc && !*new_id)
        rc = check_home(db, id, 0, err);
    if (!rc && !*new_id) {
        rc = check_old(db, id, err);
        if (!rc)
            rc = replace(db, id, grace_sec, hash, new_id, err);
    }
    return end_change(db, rc, err);
}

/* ---- the first key ---- */

static int has_admin(struct db *db, bool *there, struct err *err)
{
    struct buf sql = {0};
    uint64_t id;
    int rc;

    buf_puts(&sql, "SELECT id FROM api_keys WHERE FIND_IN_SET('admin',scopes) LIMIT 1");
    rc = read_number(db, &sql, &id, there, err);
    buf_free(&sql);
    return rc;
}

static int make_first(struct db *db, const uint8_t hash[KEY_HASH_LEN], uint64_t *id, bool *made,
                      struct err *err)
{
    static const struct key_wish first = {
        .label = BOOTSTRAP_LABEL, .scopes = BOOTSTRAP_SCOPES, .networks = ""};
    bool there = false;
    int rc = begin_change(db, err);

    if (!rc)
        rc = find_hash(db, hash, id, err);
    if (!rc && !*id)
        rc = has_admin(db, &there, err);
    if (!rc && (*id || there)) {
        db_rollback(db); /* nothing has changed: nobody need look */
        return 0;
    }
    if (!rc)
        rc = insert(db, &first, hash, id, err);
    rc = end_change(db, rc, err);
    *made = !rc;
    return rc;
}

/* The leader's lock makes those who start together wait without a transaction; that only one makes
 * a key is the row lock's doing. */
int key_store_bootstrap(struct db *db, const uint8_t hash[KEY_HASH_LEN], uint64_t *id, bool *made,
                        struct err *err)
{
    bool leads = false;
    int rc;

    *id = 0;
    *made = false;
    if (leader_try(db, LEADER, LEADER_WAIT_SEC, &leads, err))
        return -1;
    if (!leads)
        return err_set(err, ERR_RETRY, 0, "another process is at it");
    rc = make_first(db, hash, id, made, err);
    leader_resign(db, LEADER);
    return rc;
}

/* ---- what there is ---- */

int key_store_look(struct db *db, struct key_store_state *state, struct err *err)
{
    static const char sql[] = "SELECT c.value," MICROSECONDS("c.changed_at") "," MICROSECONDS(
        "NOW(6)") " FROM (SELECT 1) one LEFT JOIN change_counters c ON c.name='" COUNTER "'";
    struct db_results results;
    char **row;

    if (db_run(db, &look_label, sql, sizeof(sql) - 1, &results, err))
        return -1;
    row = db_next(db_only(&results));
    if (row && row[2])
        *state = (struct key_store_state){
            .changes = row[0] ? strtoull(row[0], NULL, 10) : 0,
            .changed_us = row[1] ? strtoll(row[1], NULL, 10) : 0,
            .now_us = strtoll(row[2], NULL, 10),
        };
    db_results_free(&results);
    return row ? 0 : err_set(err, ERR_RETRY, 0, "the database did not say what time it is");
}

static bool read_hash(const char *hex, uint8_t hash[KEY_HASH_LEN])
{
    static const char digits[] = "0123456789ABCDEF";

    if (strlen(hex) != (size_t)2 * KEY_HASH_LEN)
        return false;
    for (size_t i = 0; i < KEY_HASH_LEN; i++) {
        const char *high = strchr(digits, hex[2 * i]);
        const char *low = strchr(digits, hex[2 * i + 1]);

        if (!high || !low)
            return false;
        hash[i] = (uint8_t)((high - digits) << 4 | (low - digits));
    }
    return true;
}

static int64_t number_or_0(const char *text)
{
    return text ? strtoll(text, NULL, 10) : 0;
}

static bool read_row(char **c, struct key_row *row)
{
    *row = (struct key_row){
        .id = strtoull(c[0], NULL, 10),
        .label = c[2],
        .customer_id = number_or_0(c[3]),
        .networks = c[5],
        .created_us = number_or_0(c[6]),
        .expires_us = number_or_0(c[7]),
        .revoked_us = number_or_0(c[8]),
        .replaced_by = c[9] ? strtoull(c[9], NULL, 10) : 0,
    };
    key_scopes_read(c[4], &row->scopes);
    return read_hash(c[1], row->hash);
}

static void put_page(struct buf *sql, uint64_t after, bool recent)
{
    buf_printf(
        sql,
        "SELECT id,HEX(hash),label,customer_id,scopes,networks," MICROSECONDS(
            "created_at") "," MICROSECONDS("expires_at") "," MICROSECONDS("revoked_at") ",replaced_"
                                                                                        "by FROM "
                                                                                        "api_keys "
                                                                                        "WHERE "
                                                                                        "id>%llu",
        (unsigned long long)after);
    if (recent)
        buf_printf(sql, " AND " ALIVE, RECENTLY, RECENTLY);
    buf_printf(sql, " ORDER BY id LIMIT %d", PAGE);
}

/* *after: the last id of the page; *found: its rows. */
static int read_page(struct db *db, bool recent, key_row_fn *fn, void *arg, uint64_t *after,
                     size_t *found, struct err *err)
{
    struct db_results results;
    struct buf sql = {0};
    struct key_row row;
    char **cells;
    bool ok = true;
    int rc;

    put_page(&sql, *after, recent);
    rc = db_run_buf(db, &read_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    *found = 0;
    while (ok && (cells = db_next(db_only(&results)))) {
        (*found)++;
        ok = !read_row(cells, &row) || fn(&row, arg);
        *after = row.id;
    }
    db_results_free(&results);
    return ok ? 0 : err_set(err, ERR_RETRY, 0, "out of memory");
}

int key_store_each(struct db *db, bool recent, key_row_fn *fn, void *arg, struct err *err)
{
    uint64_t after = 0;
    size_t found;

    do {
        if (read_page(db, recent, fn, arg, &after, &found, err))
            return -1;
    } while (found == PAGE);
    return 0;
}
