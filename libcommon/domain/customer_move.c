#include "libcommon/domain/customer_move.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNTER "customer_moves"
#define FROM_COUNTER " FROM change_counters WHERE name='" COUNTER "'"

static struct db_label read_label = {.query = "customer_moves_read"};
static struct db_label set_label = {.query = "customer_moves_set"};
static struct db_label look_label = {.query = "customer_moves_look"};

void customer_move_register(void)
{
    db_label_register(&read_label);
    db_label_register(&set_label);
    db_label_register(&look_label);
}

const char *customer_move_name(enum customer_move_state state)
{
    static const char *const names[CUSTOMER_MOVE_STATES] = {
        [CUSTOMER_LIVES] = "none",      [CUSTOMER_COPYING] = "copying",
        [CUSTOMER_LEAVING] = "leaving", [CUSTOMER_FROZEN] = "frozen",
        [CUSTOMER_MOVED] = "moved",     [CUSTOMER_ARRIVING] = "arriving",
        [CUSTOMER_ARRIVED] = "arrived",
    };

    return names[state];
}

enum customer_move_state customer_move_state_read(const char *text)
{
    unsigned long value = text ? strtoul(text, NULL, 10) : 0;

    return value < CUSTOMER_MOVE_STATES ? (enum customer_move_state)value : CUSTOMER_LIVES;
}

static void read_row(char **row, struct customer_move *move)
{
    move->customer_id = strtoll(row[0], NULL, 10);
    move->state = customer_move_state_read(row[1]);
    snprintf(move->cell, sizeof(move->cell), "%s", row[2]);
    snprintf(move->since, sizeof(move->since), "%s", row[3]);
}

int customer_move_read(struct db *db, int64_t customer_id, bool lock, struct customer_move *move,
                       struct err *err)
{
    struct db_results results;
    struct buf sql = {0};
    char **row;
    int rc;

    *move = (struct customer_move){.customer_id = customer_id};
    buf_printf(&sql,
               "SELECT customer_id,state,cell,since FROM customer_moves WHERE customer_id=%lld%s",
               (long long)customer_id, lock ? " FOR UPDATE" : "");
    rc = db_run_buf(db, &read_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    row = db_next(db_only(&results));
    if (row)
        read_row(row, move);
    db_results_free(&results);
    return 0;
}

static void put_state(struct db *db, struct buf *sql, int64_t customer_id,
                      enum customer_move_state state, const char *cell)
{
    if (state == CUSTOMER_LIVES) {
        buf_printf(sql, "DELETE FROM customer_moves WHERE customer_id=%lld",
                   (long long)customer_id);
        return;
    }
    buf_printf(sql, "INSERT INTO customer_moves(customer_id,state,cell,since) VALUES (%lld,%d,",
               (long long)customer_id, (int)state);
    db_put_quoted(db, sql, cell, strlen(cell));
    buf_puts(sql, ",NOW(6)) ON DUPLICATE KEY UPDATE state=VALUES(state),cell=VALUES(cell),"
                  "since=VALUES(since)");
}

int customer_move_set(struct db *db, int64_t customer_id, enum customer_move_state state,
                      const char *cell, struct err *err)
{
    struct db_packet packet = {0};
    int rc;

    buf_puts(db_statement(&packet, NULL),
             "INSERT INTO change_counters(name,value,changed_at) VALUES ('" COUNTER "',1,NOW(6)) "
             "ON DUPLICATE KEY UPDATE value=value+1,changed_at=NOW(6)");
    put_state(db, db_statement(&packet, NULL), customer_id, state, cell);
    rc = db_run_packet(db, &set_label, &packet, NULL, err);
    db_packet_free(&packet);
    return rc;
}

int customer_move_each(struct db *db, customer_move_fn *fn, void *arg, struct err *err)
{
    static const char sql[] =
        "SELECT customer_id,state,cell,since FROM customer_moves ORDER BY customer_id";
    struct db_results results;
    struct customer_move move;
    bool ok = true;
    char **row;

    if (db_run(db, &read_label, sql, sizeof(sql) - 1, &results, err))
        return -1;
    while (ok && (row = db_next(db_only(&results)))) {
        read_row(row, &move);
        ok = fn(&move, arg);
    }
    db_results_free(&results);
    return ok ? 0 : err_set(err, ERR_RETRY, 0, "out of memory");
}

int customer_move_look(struct db *db, struct customer_move_counter *counter, struct err *err)
{
    static const char sql[] =
        "SELECT value,TIMESTAMPDIFF(MICROSECOND,'1970-01-01',changed_at)" FROM_COUNTER;
    struct db_results results;
    char **row;

    if (db_run(db, &look_label, sql, sizeof(sql) - 1, &results, err))
        return -1;
    row = db_next(db_only(&results));
    *counter = (struct customer_move_counter){0};
    if (row)
        *counter = (struct customer_move_counter){.changes = strtoull(row[0], NULL, 10),
                                                  .changed_us = strtoll(row[1], NULL, 10)};
    db_results_free(&results);
    return 0;
}

void customer_move_put_hold(struct buf *sql)
{
    buf_puts(sql, "SELECT value" FROM_COUNTER " LOCK IN SHARE MODE");
}

void customer_move_put_of_recipients(struct buf *sql, const uint64_t *ids, size_t n)
{
    buf_puts(sql, "SELECT DISTINCT c.customer_id,c.state FROM message_status s "
                  "FORCE INDEX(PRIMARY) JOIN customer_moves c ON c.customer_id=s.user_id WHERE "
                  "s.id IN (");
    for (size_t i = 0; i < n; i++) {
        if (i)
            buf_putc(sql, ',');
        buf_put_uint(sql, ids[i]);
    }
    buf_printf(sql, ") AND c.state IN (%d,%d,%d)", CUSTOMER_FROZEN, CUSTOMER_MOVED,
               CUSTOMER_ARRIVING);
}

int customer_move_refuse_left(struct db *db, int64_t customer_id, struct err *err)
{
    struct customer_move move;

    if (customer_move_read(db, customer_id, false, &move, err))
        return -1;
    switch (move.state) {
    case CUSTOMER_LEAVING:
    case CUSTOMER_FROZEN:
    case CUSTOMER_MOVED:
        return err_set(err, ERR_PERMANENT, 0,
                       "customer %lld moves, or has moved, to cell %s: change it there",
                       (long long)customer_id, move.cell);
    case CUSTOMER_ARRIVING:
        return err_set(err, ERR_PERMANENT, 0,
                       "customer %lld is on the way here from cell %s: change it when the move has "
                       "ended",
                       (long long)customer_id, move.cell);
    default:
        return 0;
    }
}
