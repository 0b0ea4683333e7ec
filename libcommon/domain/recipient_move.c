#include "libcommon/domain/recipient_move.h"

#include <stdlib.h>

#include "libcommon/domain/recipient_internal.h"

#define CHUNK 500 /* ids of one statement */

static struct db_label find_label = {.query = "move_find_open"};
static struct db_label hand_label = {.query = "move_hand_over"};
static struct db_label take_label = {.query = "move_take_in"};

void recipient_move_register(void)
{
    db_label_register(&find_label);
    db_label_register(&hand_label);
    db_label_register(&take_label);
}

/* ---- leaving ---- */

static void put_lives(struct buf *sql, const char *owner, int64_t dead_sec)
{
    buf_printf(sql,
               "EXISTS (SELECT 1 FROM workers w WHERE w.id=%s AND "
               "w.heartbeat_at>NOW(6)-INTERVAL %lld SECOND)",
               owner, (long long)dead_sec);
}

/* [id, whether somebody living has it] of all that is open. */
static int find_open(struct db *db, const struct recipient_leaving *l, struct db_results *results,
                     struct err *err)
{
    struct buf sql = {0};
    int rc;

    buf_printf(&sql, "SELECT s.id,s.status='%s' AND ", recipient_state_name(RECIPIENT_SENDING));
    put_lives(&sql, "s.owner", l->dead_sec);
    buf_printf(&sql,
               " FROM message_status s FORCE INDEX(idx_message_status_user) WHERE s.user_id=%lld "
               "AND s.id>=%llu AND s.status IN (",
               (long long)l->user_id, (unsigned long long)l->from);
    recipient_put_states(&sql, RECIPIENT_OPEN);
    buf_puts(&sql, ") ORDER BY s.id");
    rc = db_run_buf(db, &find_label, &sql, results, err);
    buf_free(&sql);
    return rc;
}

/* What was found free is looked at again under its lock. Assignments run from left to right:
 * whether somebody had it is asked before the status changes. */
static int hand_chunk(struct db *db, struct recipient_leaving *l, const uint64_t *ids, size_t n,
                      struct err *err)
{
    const char *sending = recipient_state_name(RECIPIENT_SENDING);
    struct db_results results;
    struct buf sql = {0};
    int rc;

    buf_printf(&sql,
               "UPDATE message_status FORCE INDEX(PRIMARY) SET unknown_operators=IF(status='%s',"
               "%s,unknown_operators),status='%s',owner=0 WHERE id IN (",
               sending, RECIPIENT_MARKED, recipient_to_name(RECIPIENT_HAND_OVER));
    for (size_t i = 0; i < n; i++) {
        if (i)
            buf_putc(&sql, ',');
        buf_put_uint(&sql, ids[i]);
    }
    buf_puts(&sql, ") AND status IN (");
    recipient_put_from(&sql, RECIPIENT_HAND_OVER);
    buf_printf(&sql, ") AND (status<>'%s' OR NOT ", sending);
    put_lives(&sql, "message_status.owner", l->dead_sec);
    buf_putc(&sql, ')');
    rc = db_run_buf(db, &hand_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    l->handed += db_only(&results)->affected;
    db_results_free(&results);
    return 0;
}

int recipient_hand_over(struct db *db, struct recipient_leaving *l, struct err *err)
{
    struct db_results found;
    uint64_t ids[CHUNK];
    uint64_t first = 0;
    size_t n = 0;
    char **row;
    int rc;

    if (find_open(db, l, &found, err))
        return -1;
    l->in_hand = 0;
    rc = 0;
    while (!rc && (row = db_next(db_only(&found)))) {
        uint64_t id = strtoull(row[0], NULL, 10);

        if (!first)
            first = id;
        if (row[1] && row[1][0] == '1') {
            l->in_hand++;
            continue;
        }
        ids[n++] = id;
        if (n == CHUNK) {
            rc = hand_chunk(db, l, ids, n, err);
            n = 0;
        }
    }
    if (!rc && n)
        rc = hand_chunk(db, l, ids, n, err);
    if (!rc && first)
        l->from = first;
    db_results_free(&found);
    return rc;
}

/* ---- coming ---- */

int recipient_find_moved(struct db *db, int64_t user_id, uint64_t from, size_t limit,
                         struct db_results *results, struct err *err)
{
    struct buf sql = {0};
    int rc;

    buf_printf(
        &sql,
        "SELECT id,message_identifier FROM message_status "
        "FORCE INDEX(idx_message_status_user) WHERE user_id=%lld AND id>=%llu AND status IN (",
        (long long)user_id, (unsigned long long)from);
    recipient_put_states(&sql, RECIPIENT_AWAY);
    buf_printf(&sql, ") ORDER BY id LIMIT %zu", limit);
    rc = db_run_buf(db, &take_label, &sql, results, err);
    buf_free(&sql);
    return rc;
}

int recipient_count_left(struct db *db, int64_t user_id, enum recipient_set set, uint64_t *count,
                         struct err *err)
{
    struct db_results results;
    struct buf sql = {0};
    int rc;

    buf_printf(&sql,
               "SELECT COUNT(*) FROM message_status FORCE INDEX(idx_message_status_user) WHERE "
               "user_id=%lld AND status IN (",
               (long long)user_id);
    recipient_put_states(&sql, set);
    buf_putc(&sql, ')');
    rc = db_run_buf(db, &find_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    *count = (uint64_t)db_number(db_only(&results));
    db_results_free(&results);
    return 0;
}

int recipient_take_in(struct db *db, const struct recipient_rows *rows, uint64_t *n,
                      struct err *err)
{
    struct db_results results;
    struct buf sql = {0};
    int rc;

    *n = 0;
    buf_printf(&sql,
               "UPDATE message_status FORCE INDEX(PRIMARY) SET status='%s',owner=0 WHERE id IN (",
               recipient_to_name(RECIPIENT_TAKE_IN));
    for (size_t i = 0; i < rows->n; i++) {
        if (!recipient_may(RECIPIENT_TAKE_IN, rows->all[i].state))
            continue;
        if ((*n)++)
            buf_putc(&sql, ',');
        buf_put_uint(&sql, rows->all[i].id);
    }
    buf_puts(&sql, ") AND status IN (");
    recipient_put_from(&sql, RECIPIENT_TAKE_IN);
    buf_putc(&sql, ')');
    rc = *n ? db_run_buf(db, &take_label, &sql, &results, err) : 0;
    buf_free(&sql);
    if (rc || !*n)
        return rc;
    if (db_only(&results)->affected != *n)
        rc = err_set(err, ERR_BUG, 0, "take in: rows changed under their lock");
    db_results_free(&results);
    return rc;
}
