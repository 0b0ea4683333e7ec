#include "outboxd/claim.h"

#include <stdlib.h>
#include <string.h>

#include "libcommon/base/backoff.h"
#include "libcommon/base/must.h"
#include "libcommon/base/random.h"
#include "libcommon/broker/broker.h"
#include "libcommon/db/restore_mode.h"
#include "libcommon/domain/outbox.h"
#include "libcommon/telemetry/log.h"
#include "outboxd/settings.h"

#define FARTHEST 1000 /* put-off rows of a kind looked at for a clock that was set back */

static struct db_label look_labels[LOOKS] = {
    [LOOK_WAIT] = {.query = "outbox_look"}, /* never run */
    [LOOK_PEEK] = {.query = "outbox_peek"},          [LOOK_FRESH] = {.query = "outbox_look_fresh"},
    [LOOK_LAGGED] = {.query = "outbox_look_lagged"}, [LOOK_FULL] = {.query = "outbox_look_full"},
    [LOOK_SWEEP] = {.query = "outbox_look_sweep"},   [LOOK_DUE] = {.query = "outbox_look_due"},
    [LOOK_ASK] = {.query = "outbox_look_ask"},       [LOOK_AHEAD] = {.query = "outbox_look_ahead"},
};
static struct db_label delete_label = {.query = "outbox_delete"};
static struct db_label burn_label = {.query = "outbox_burn_attempt"};
static struct db_label keep_label = {.query = "outbox_keep_delete"};

void claim_register(void)
{
    for (int i = LOOK_WAIT + 1; i < LOOKS; i++)
        db_label_register(&look_labels[i]);
    db_label_register(&delete_label);
    db_label_register(&burn_label);
    db_label_register(&keep_label);
}

void claim_init(struct claim *c, const struct db_settings *settings, enum message_type lane)
{
    *c = (struct claim){.db = db_new(settings), .lane = lane};
    c->rows = must_alloc(CLAIM_MAX, sizeof(c->rows[0]));
}

void claim_free(struct claim *c)
{
    db_results_free(&c->results);
    db_free(c->db);
    free(c->rows);
    *c = (struct claim){0};
}

static bool is_put_off(enum poller_look look)
{
    return look == LOOK_DUE || look == LOOK_ASK || look == LOOK_AHEAD;
}

/* A row that was written in the future: the clock was set back since, and would be at its time too
 * late. */
static const char *due_when(enum poller_look look)
{
    if (look == LOOK_AHEAD)
        return "updated_at>NOW(6)+INTERVAL 1 SECOND";
    return is_put_off(look) ? "next_run_at<=NOW(6)" : "next_run_at IS NULL";
}

static void put_part(struct buf *sql, enum message_type lane, enum poller_look look)
{
    buf_puts(sql, "SELECT id FROM outbox_events FORCE INDEX(idx_outbox_poll) WHERE ");
    outbox_put_part(sql, lane, look == LOOK_ASK ? OUTBOX_ASK : OUTBOX_DELIVER);
    buf_puts(sql, " AND ");
}

/* Rows of before the clock was set back are the farthest ahead. One that others hide here waits no
 * longer than they do, which is as long as rows are put off. */
static void put_farthest(struct buf *sql, enum message_type lane)
{
    const char *before = "";

    buf_puts(sql, "SELECT id FROM (");
    for (int kind = OUTBOX_DELIVER; kind <= OUTBOX_ASK; kind++, before = " UNION ALL ") {
        buf_printf(sql,
                   "%s(SELECT id,next_run_at,updated_at FROM outbox_events "
                   "FORCE INDEX(idx_outbox_poll) WHERE ",
                   before);
        outbox_put_part(sql, lane, (enum outbox_kind)kind);
        buf_printf(sql, " AND next_run_at>NOW(6) ORDER BY next_run_at DESC,id DESC LIMIT %d)",
                   FARTHEST);
    }
    buf_puts(sql, ") f WHERE ");
}

/* The ids are read without locks, then each row is locked by its primary key: a locking range would
 * take the record behind its end as well, which is the first row of the other lane. A row that
 * somebody else has comes back as an id alone; one that was put off in between fails the condition.
 */
static void put_look(struct buf *sql, enum message_type lane, const struct poller_task *task,
                     int64_t limit)
{
    const char *due = due_when(task->look);

    buf_printf(sql,
               "SELECT d.id,o.aggregate_id,o.event_type,o.attempts,"
               "IF(OCTET_LENGTH(o.payload)<=%d,o.payload,NULL) FROM (",
               BROKER_BODY_MAX);
    if (task->look == LOOK_AHEAD)
        put_farthest(sql, lane);
    else
        put_part(sql, lane, task->look);
    buf_puts(sql, due);
    if (is_put_off(task->look))
        buf_puts(sql, " ORDER BY next_run_at,id");
    else
        buf_printf(sql, " AND id>%lld ORDER BY id", (long long)task->from);
    buf_printf(sql,
               " LIMIT %lld,%lld) d LEFT JOIN outbox_events o FORCE INDEX(PRIMARY) ON o.id=d.id "
               "AND o.%s FOR UPDATE SKIP LOCKED",
               (long long)task->skip, (long long)limit, due);
}

/* How long until the first time of its kind that is not yet (of what asks: that there is), by one
 * step into the index. */
static void put_next(struct buf *sql, enum message_type lane, enum outbox_kind kind,
                     const char *when)
{
    buf_puts(sql, "(SELECT TIMESTAMPDIFF(MICROSECOND,NOW(6),next_run_at) FROM outbox_events "
                  "FORCE INDEX(idx_outbox_poll) WHERE ");
    outbox_put_part(sql, lane, kind);
    buf_printf(sql, " AND next_run_at%s ORDER BY next_run_at LIMIT 1)", when);
}

static void put_nexts(struct buf *sql, enum message_type lane, const char *when)
{
    put_next(sql, lane, OUTBOX_DELIVER, when);
    buf_putc(sql, ',');
    put_next(sql, lane, OUTBOX_ASK, " IS NOT NULL");
}

static int64_t next_of(const char *column)
{
    int64_t us = column ? strtoll(column, NULL, 10) : POLLER_NONE;

    return us > 0 ? us : 0;
}

static void read_nexts(struct claim *c, char **row)
{
    c->next_us = next_of(row ? row[0] : NULL);
    c->next_ask_us = next_of(row ? row[1] : NULL);
}

void claim_rest(struct claim *c)
{
    if (c->open)
        db_rollback(c->db);
    c->open = false;
}

int claim_peek(struct claim *c, struct err *err)
{
    struct db_results results;
    struct buf sql = {0};
    char **row;
    int rc;

    claim_rest(c);
    if (db_acquire(c->db, err))
        return -1;
    buf_puts(&sql, "SELECT ");
    put_nexts(&sql, c->lane, " IS NOT NULL");
    buf_puts(&sql, ",EXISTS(");
    put_part(&sql, c->lane, LOOK_FRESH);
    buf_puts(&sql, "next_run_at IS NULL)");
    rc = db_run_buf(c->db, &look_labels[LOOK_PEEK], &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    row = db_next(db_only(&results));
    read_nexts(c, row);
    c->fresh = row && row[2][0] == '1';
    db_results_free(&results);
    return 0;
}

static void read_row(struct claim *c, char **columns, const unsigned long *lengths)
{
    int64_t id = strtoll(columns[0], NULL, 10);
    struct row *row;

    c->seen++;
    if (id > c->last_id)
        c->last_id = id;
    if (!columns[1])
        return;
    row = &c->rows[c->n++];
    *row = (struct row){
        .id = id,
        .aggregate_id = columns[1],
        .event_type = columns[2],
        .attempts = strtoll(columns[3], NULL, 10),
        .payload = columns[4],
        .payload_len = columns[4] ? lengths[4] : 0,
        .state = ROW_TO_PUBLISH,
    };
    c->bytes += row->payload_len;
}

int claim_take(struct claim *c, const struct poller_task *task, int64_t limit, struct err *err)
{
    struct db_packet packet = {0};
    struct db_set *rows;
    char **columns;
    int rc;

    MUST(c->n == 0 && limit <= CLAIM_MAX);
    if (db_acquire(c->db, err))
        return -1;
    c->open = true;
    db_begin(c->db);
    restore_mode_put_held(db_statement(&packet, "mode"));
    if (task->look == LOOK_DUE) { /* before the rows: none is due between the two */
        buf_puts(db_statement(&packet, "next"), "SELECT ");
        put_nexts(&packet.sql, c->lane, ">NOW(6)");
    }
    put_look(db_statement(&packet, "rows"), c->lane, task, limit);
    rc = db_run_packet(c->db, &look_labels[task->look], &packet, &c->results, err);
    db_packet_free(&packet);
    if (rc) {
        claim_rest(c);
        db_release(c->db);
        return -1;
    }
    c->seen = c->bytes = 0;
    c->last_id = 0;
    c->put_off = is_put_off(task->look);
    c->held_back = db_number(db_result(&c->results, "mode")) == 1;
    if (task->look == LOOK_DUE)
        read_nexts(c, db_next(db_result(&c->results, "next")));
    rows = db_result(&c->results, "rows");
    while (!c->held_back && (columns = db_next(rows)))
        read_row(c, columns, rows->lengths);
    if (!c->n)
        db_results_free(&c->results);
    return 0;
}

static size_t count(const struct claim *c, enum row_state state)
{
    size_t n = 0;

    for (size_t i = 0; i < c->n; i++)
        n += c->rows[i].state == state;
    return n;
}

/* Joined to a list in this order, the plan is one point access a row on a table of any size; an IN
 * list turns into a scan, which waits for the rows of others, when the table is nearly empty. */
static void put_delete(struct buf *sql, const struct claim *c)
{
    const char *separator = "";

    buf_puts(sql, "DELETE o FROM JSON_TABLE('[");
    for (size_t i = 0; i < c->n; i++) {
        if (c->rows[i].state != ROW_CONFIRMED)
            continue;
        buf_puts(sql, separator);
        buf_put_int(sql, c->rows[i].id);
        separator = ",";
    }
    buf_puts(sql, "]','$[*]' COLUMNS(id BIGINT PATH '$')) j "
                  "STRAIGHT_JOIN outbox_events o ON o.id=j.id;");
}

bool claim_parks(const struct row *row)
{
    return row->attempts + 1 >= outboxd_settings.max_attempts;
}

static void put_park(struct db *db, struct buf *sql, const struct row *row)
{
    buf_printf(
        sql,
        "INSERT INTO outbox_parked(id,kind,aggregate_type,aggregate_id,event_type,payload,"
        "priority,attempts,last_error,created_at) SELECT id,kind,aggregate_type,aggregate_id,"
        "event_type,payload,priority,%lld,",
        (long long)row->attempts + 1);
    db_put_quoted(db, sql, row->reason, strlen(row->reason));
    buf_printf(sql,
               ",created_at FROM outbox_events WHERE id=%lld;"
               "DELETE FROM outbox_events WHERE id=%lld;",
               (long long)row->id, (long long)row->id);
}

static void put_burn(struct db *db, struct buf *sql, const struct row *row)
{
    const struct outboxd_settings *s = &outboxd_settings;
    int64_t delay_ms =
        backoff_ms((unsigned)row->attempts + 1, s->retry_base_ms, s->retry_max_ms, random_u64());

    buf_printf(sql,
               "UPDATE outbox_events SET attempts=attempts+1,"
               "next_run_at=NOW(6)+INTERVAL %lld MICROSECOND,last_error=",
               (long long)delay_ms * 1000);
    db_put_quoted(db, sql, row->reason, strlen(row->reason));
    buf_printf(sql, " WHERE id=%lld;", (long long)row->id);
}

static void put_refused(struct db *db, struct buf *sql, const struct row *row)
{
    if (claim_parks(row))
        put_park(db, sql, row);
    else
        put_burn(db, sql, row);
}

static int burn_all(struct claim *c, struct err *err)
{
    struct buf sql = {0};
    int rc;

    for (size_t i = 0; i < c->n; i++)
        if (c->rows[i].state == ROW_REFUSED)
            put_refused(c->db, &sql, &c->rows[i]);
    buf_puts(&sql, "COMMIT");
    rc = db_run_buf(c->db, &burn_label, &sql, NULL, err);
    buf_free(&sql);
    return rc;
}

/* Back to the savepoint, which spares what came before it; the row is looked at again after the
 * longest wait, for it would be due at once and for ever. */
static int leave_stuck(struct claim *c, struct row *row)
{
    struct err ignored;
    struct buf sql = {0};
    int rc;

    row->state = ROW_STUCK;
    buf_printf(&sql,
               "ROLLBACK TO SAVEPOINT confirmed;UPDATE outbox_events SET "
               "next_run_at=NOW(6)+INTERVAL %lld MICROSECOND WHERE id=%lld;SAVEPOINT confirmed",
               (long long)outboxd_settings.retry_max_ms * 1000, (long long)row->id);
    rc = db_run_buf(c->db, &keep_label, &sql, NULL, &ignored);
    buf_free(&sql);
    return rc;
}

static int burn_one(struct claim *c, struct row *row, struct err *err)
{
    struct buf sql = {0};
    int rc;

    put_refused(c->db, &sql, row);
    buf_puts(&sql, "SAVEPOINT confirmed");
    rc = db_run_buf(c->db, &burn_label, &sql, NULL, err);
    buf_free(&sql);
    if (!rc || err->kind == ERR_RETRY || err->kind == ERR_UNKNOWN)
        return rc;
    log_error("outbox.not_writable", L_INT("outbox_id", row->id),
              L_STR("message_id", row->aggregate_id), L_ERR(err));
    return leave_stuck(c, row);
}

/* A row that cannot be written stays as it is, and does not keep the others. */
static int burn_singly(struct claim *c, struct err *err)
{
    static const char commit[] = "COMMIT";

    for (size_t i = 0; i < c->n; i++)
        if (c->rows[i].state == ROW_REFUSED && burn_one(c, &c->rows[i], err))
            return -1;
    return db_run(c->db, &burn_label, commit, sizeof(commit) - 1, NULL, err);
}

/* Behind a savepoint: a fault here must not undo the delete of what was confirmed. */
static int burn_and_commit(struct claim *c, struct err *err)
{
    static const char back[] = "ROLLBACK TO SAVEPOINT confirmed";
    static const char keep[] = "ROLLBACK TO SAVEPOINT confirmed;COMMIT";
    struct err ignored;
    int rc = burn_all(c, err);

    if (rc && err->kind != ERR_RETRY && err->kind != ERR_UNKNOWN) {
        rc = db_run(c->db, &keep_label, back, sizeof(back) - 1, NULL, &ignored);
        if (!rc)
            rc = burn_singly(c, err);
    }
    if (rc)
        db_run(c->db, &keep_label, keep, sizeof(keep) - 1, NULL, &ignored);
    return rc;
}

int claim_finish(struct claim *c, struct err *err)
{
    size_t confirmed = count(c, ROW_CONFIRMED);
    size_t refused = count(c, ROW_REFUSED);
    struct buf sql = {0};
    int rc = 0;

    c->open = false;
    if (!confirmed && !refused) {
        db_rollback(c->db);
        return 0;
    }
    if (confirmed)
        put_delete(&sql, c);
    buf_puts(&sql, refused ? "SAVEPOINT confirmed" : "COMMIT");
    rc = db_run_buf(c->db, &delete_label, &sql, NULL, err);
    buf_free(&sql);
    if (!rc && refused)
        rc = burn_and_commit(c, err);
    if (rc)
        db_rollback(c->db);
    return rc;
}

int claim_delete_again(struct claim *c, struct err *err)
{
    struct buf sql = {0};
    int rc;

    if (!count(c, ROW_CONFIRMED))
        return 0;
    if (db_acquire(c->db, err))
        return -1;
    buf_puts(&sql, "START TRANSACTION;");
    put_delete(&sql, c);
    buf_puts(&sql, "COMMIT");
    rc = db_run_buf(c->db, &delete_label, &sql, NULL, err);
    buf_free(&sql);
    if (rc)
        db_rollback(c->db);
    return rc;
}

void claim_return(struct claim *c)
{
    claim_rest(c);
    claim_end(c);
}

void claim_end(struct claim *c)
{
    db_results_free(&c->results);
    c->n = 0;
    db_release(c->db);
}
