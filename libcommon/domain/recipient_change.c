#include <stdlib.h>
#include <string.h>

#include "libcommon/domain/ledger.h"
#include "libcommon/domain/recipient_internal.h"

#define CHUNK 500 /* ids of one statement */
#define REASON_MAX 255

static struct db_label claim_label = {.query = "claim_update"};
static struct db_label confirm_label = {.query = "confirm"};
static struct db_label hold_label = {.query = "settle_lock"};
static struct db_label put_off_label = {.query = "settle_later"};
static struct db_label fail_label = {.query = "settle_failed"};
static struct db_label forget_label = {.query = "dead_clean"};

void recipient_change_register(void)
{
    db_label_register(&claim_label);
    db_label_register(&confirm_label);
    db_label_register(&hold_label);
    db_label_register(&put_off_label);
    db_label_register(&fail_label);
    db_label_register(&forget_label);
}

#define IN(state) (1u << (state))

static const struct {
    unsigned from;
    enum recipient_state to;
} transitions[RECIPIENT_TRANSITIONS] = {
    [RECIPIENT_CLAIM] = {IN(RECIPIENT_PENDING), RECIPIENT_SENDING},
    [RECIPIENT_TAKE_OVER] = {IN(RECIPIENT_SENDING), RECIPIENT_SENDING},
    [RECIPIENT_DELIVER] = {IN(RECIPIENT_SENDING), RECIPIENT_DONE},
    [RECIPIENT_PUT_OFF] = {IN(RECIPIENT_SENDING), RECIPIENT_PENDING},
    [RECIPIENT_FAIL] = {IN(RECIPIENT_SENDING), RECIPIENT_FAILED},
    [RECIPIENT_DROP] = {IN(RECIPIENT_PENDING) | IN(RECIPIENT_SENDING), RECIPIENT_FAILED},
    [RECIPIENT_CONFIRM] = {IN(RECIPIENT_PENDING) | IN(RECIPIENT_SENDING), RECIPIENT_DONE},
    [RECIPIENT_PROVE] = {IN(RECIPIENT_PENDING), RECIPIENT_DONE},
    [RECIPIENT_HAND_OVER] = {IN(RECIPIENT_PENDING) | IN(RECIPIENT_SENDING), RECIPIENT_MOVED},
    [RECIPIENT_TAKE_IN] = {IN(RECIPIENT_MOVED), RECIPIENT_PENDING},
    [RECIPIENT_REPORT_DELIVERED] = {IN(RECIPIENT_DONE), RECIPIENT_DONE},
    [RECIPIENT_REPORT_UNDELIVERED] = {IN(RECIPIENT_DONE), RECIPIENT_DONE},
    [RECIPIENT_REPORT_NOTHING] = {IN(RECIPIENT_DONE), RECIPIENT_DONE},
};

void recipient_put_from(struct buf *sql, enum recipient_transition transition)
{
    const char *separator = "'";

    for (int i = 0; i < RECIPIENT_STATES; i++) {
        if (!(transitions[transition].from & IN(i)))
            continue;
        buf_puts(sql, separator);
        buf_puts(sql, recipient_state_name((enum recipient_state)i));
        buf_putc(sql, '\'');
        separator = ",'";
    }
}

bool recipient_may(enum recipient_transition transition, enum recipient_state from)
{
    return transitions[transition].from & IN(from);
}

const char *recipient_to_name(enum recipient_transition transition)
{
    return recipient_state_name(transitions[transition].to);
}

void recipient_mark_changed(enum recipient_transition transition, struct recipient_change *changes,
                            size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (changes[i].transition == transition && changes[i].result == RECIPIENT_HELD)
            changes[i].result = RECIPIENT_CHANGED;
}

/* The gate: n rows of changes, all HELD, have gone through transition, and nothing is committed.
 * What has to be stored along with a change of state is stored from here; what a packet delivers
 * and commits (recipient_packet.c) takes it along in the packet. */
int recipient_pass(struct db *db, enum recipient_transition transition,
                   struct recipient_change *changes, size_t n, struct err *err)
{
    if (recipient_write_events(db, transition, changes, n, err))
        return -1;
    recipient_mark_changed(transition, changes, n);
    return 0;
}

static int by_id(const void *a, const void *b)
{
    uint64_t x = ((const struct recipient_change *)a)->id;
    uint64_t y = ((const struct recipient_change *)b)->id;

    return x < y ? -1 : x > y;
}

void recipient_sort(struct recipient_change *changes, size_t n)
{
    if (n > 1)
        qsort(changes, n, sizeof(*changes), by_id);
}

static struct recipient_change *find(struct recipient_change *changes, size_t n, uint64_t id)
{
    struct recipient_change key = {.id = id};

    return bsearch(&key, changes, n, sizeof(key), by_id);
}

/* INVARIANT: takeovers counts consumers that died over the row. Assignments run from left to right,
 * so it looks at the former owner: a claim of our own whose answer was lost killed nobody. */
static void put_claim(struct buf *sql, enum recipient_transition transition, uint64_t owner,
                      const uint64_t *ids, size_t n)
{
    buf_printf(sql,
               "UPDATE message_status FORCE INDEX(PRIMARY) SET takeovers=takeovers+(%d AND "
               "owner<>%llu),status='%s',owner=%llu,attempt=attempt+1,"
               "first_claimed_at=COALESCE(first_claimed_at,NOW(6))," RECIPIENT_ROOM_CLAIMED
               " WHERE id IN (",
               transition == RECIPIENT_TAKE_OVER, (unsigned long long)owner,
               recipient_to_name(transition), (unsigned long long)owner);
    for (size_t i = 0; i < n; i++) {
        if (i)
            buf_putc(sql, ',');
        buf_put_uint(sql, ids[i]);
    }
    buf_puts(sql, ") AND status IN (");
    recipient_put_from(sql, transition);
    buf_putc(sql, ')');
}

int recipient_claim(struct db *db, enum recipient_transition transition, uint64_t owner,
                    const uint64_t *ids, size_t n, struct err *err)
{
    struct buf sql = {0};
    int rc = 0;

    for (size_t i = 0; i < n && !rc; i += CHUNK) {
        size_t count = n - i < CHUNK ? n - i : CHUNK;
        struct db_results results;

        buf_reset(&sql);
        put_claim(&sql, transition, owner, ids + i, count);
        rc = db_run_buf(db, &claim_label, &sql, &results, err);
        if (rc)
            break;
        if (db_only(&results)->affected != count)
            rc = err_set(err, ERR_BUG, 0, "claim: rows changed under their lock");
        db_results_free(&results);
    }
    buf_free(&sql);
    return rc;
}

static void put_quoted_json(struct db *db, struct buf *sql, const struct buf *json)
{
    if (json->failed)
        sql->failed = true;
    else
        db_put_quoted(db, sql, json->data, json->len);
}

static size_t count_held(const struct recipient_change *changes, size_t n)
{
    size_t held = 0;

    for (size_t i = 0; i < n; i++)
        held += changes[i].result == RECIPIENT_HELD;
    return held;
}

/* ---- hold ---- */

static enum recipient_result look_at(const struct recipient_change *c, uint64_t owner, char **row)
{
    enum recipient_state state;

    if (!recipient_state_parse(row[1], &state) || strtoul(row[3], NULL, 10) != c->attempt)
        return RECIPIENT_LOST;
    if ((transitions[c->transition].from & IN(state)) && strtoull(row[2], NULL, 10) == owner)
        return RECIPIENT_HELD;
    return state == transitions[c->transition].to ? RECIPIENT_ALREADY : RECIPIENT_LOST;
}

static int look_at_chunk(struct db *db, uint64_t owner, struct recipient_change *changes, size_t n,
                         const char *lock, struct err *err)
{
    struct db_results results;
    struct buf sql = {0};
    char **row;
    int rc;

    buf_puts(&sql, "SELECT id,status,owner,attempt FROM message_status FORCE INDEX(PRIMARY) "
                   "WHERE id IN (");
    for (size_t i = 0; i < n; i++) {
        if (i)
            buf_putc(&sql, ',');
        buf_put_uint(&sql, changes[i].id);
    }
    buf_puts(&sql, ") ORDER BY id");
    buf_puts(&sql, lock);
    rc = db_run_buf(db, &hold_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    while ((row = db_next(db_only(&results)))) {
        struct recipient_change *c = find(changes, n, strtoull(row[0], NULL, 10));

        if (c)
            c->result = look_at(c, owner, row);
    }
    db_results_free(&results);
    return 0;
}

static int look_at_all(struct db *db, uint64_t owner, struct recipient_change *changes, size_t n,
                       const char *lock, struct err *err)
{
    int rc = 0;

    recipient_sort(changes, n);
    for (size_t i = 0; i < n; i++)
        changes[i].result = RECIPIENT_LOST;
    for (size_t i = 0; i < n && !rc; i += CHUNK)
        rc = look_at_chunk(db, owner, changes + i, n - i < CHUNK ? n - i : CHUNK, lock, err);
    return rc;
}

int recipient_hold(struct db *db, uint64_t owner, struct recipient_change *changes, size_t n,
                   struct err *err)
{
    return look_at_all(db, owner, changes, n, " FOR UPDATE", err);
}

int recipient_look(struct db *db, uint64_t owner, struct recipient_change *changes, size_t n,
                   struct err *err)
{
    if (look_at_all(db, owner, changes, n, "", err))
        return -1;
    if (count_held(changes, n))
        return err_set(err, ERR_BUG, 0, "deliver: a row that answers to the fence was left out");
    return 0;
}

/* ---- put off, fail, drop ---- */

static bool is_to_do(const struct recipient_change *c, enum recipient_transition transition)
{
    return c->transition == transition && c->result == RECIPIENT_HELD;
}

static void put_json_or_null(struct buf *json, const char *text, size_t most)
{
    if (text)
        buf_put_json(json, text, strnlen(text, most));
    else
        buf_puts(json, "null");
}

/* [id, attempt, reason, operators that may have it] of each, null: as the row says, and a 1 where
 * any may; returns how many. */
static size_t put_ended(struct buf *json, enum recipient_transition transition,
                        const struct recipient_change *changes, size_t n)
{
    size_t count = 0;

    buf_putc(json, '[');
    for (size_t i = 0; i < n; i++) {
        const struct recipient_change *c = &changes[i];

        if (!is_to_do(c, transition))
            continue;
        buf_puts(json, count++ ? ",[" : "[");
        buf_put_uint(json, c->id);
        buf_putc(json, ',');
        buf_put_uint(json, c->attempt);
        buf_putc(json, ',');
        put_json_or_null(json, c->reason, REASON_MAX);
        buf_putc(json, ',');
        put_json_or_null(json, c->unknown, RECIPIENT_UNKNOWN_MAX);
        buf_puts(json, c->any ? ",1]" : "]");
    }
    buf_putc(json, ']');
    return count;
}

/* The rows are locked and were seen to be ours: anything else is a broken promise of the caller. */
static int write_ended(struct db *db, struct db_label *label, enum recipient_transition transition,
                       struct recipient_change *changes, size_t n, struct err *err)
{
    const char *forget = transition == RECIPIENT_PUT_OFF ? "m.takeovers=0," : "";
    struct db_results results;
    struct buf json = {0};
    struct buf sql = {0};
    size_t count = put_ended(&json, transition, changes, n);
    int rc;

    buf_puts(&sql, "UPDATE JSON_TABLE(");
    put_quoted_json(db, &sql, &json);
    buf_printf(&sql,
               ",'$[*]' COLUMNS(id BIGINT PATH '$[0]',attempt INT UNSIGNED PATH '$[1]',"
               "reason VARCHAR(255) PATH '$[2]',may_have VARCHAR(255) PATH '$[3]',"
               "any_may INT PATH '$[4]')) j "
               "STRAIGHT_JOIN message_status m FORCE INDEX(PRIMARY) ON m.id=j.id "
               "SET m.status='%s',m.owner=0,m." RECIPIENT_ROOM_SETTLED
               ",%sm.last_error=COALESCE(j.reason,m.last_error),"
               "m.unknown_operators=IF(j.any_may," RECIPIENT_MARKED
               ",COALESCE(j.may_have,m.unknown_operators)) WHERE m.status IN (",
               recipient_to_name(transition), forget);
    recipient_put_from(&sql, transition);
    buf_puts(&sql, ") AND m.attempt=j.attempt");
    rc = count ? db_run_buf(db, label, &sql, &results, err) : 0;
    buf_free(&sql);
    buf_free(&json);
    if (rc || !count)
        return rc;
    if (db_only(&results)->affected != count)
        rc = err_set(err, ERR_BUG, 0, "recipient: a row changed under its lock");
    db_results_free(&results);
    return rc;
}

int recipient_put_off(struct db *db, struct recipient_change *changes, size_t n, struct err *err)
{
    if (write_ended(db, &put_off_label, RECIPIENT_PUT_OFF, changes, n, err))
        return -1;
    return recipient_pass(db, RECIPIENT_PUT_OFF, changes, n, err);
}

static int refund(struct db *db, const struct recipient_change *changes, size_t n, struct err *err)
{
    struct ledger_refund *refunds = calloc(n + 1, sizeof(*refunds));
    size_t count = 0;
    int rc;

    if (!refunds)
        return err_set(err, ERR_RETRY, 0, "out of memory");
    for (size_t i = 0; i < n; i++)
        if (is_to_do(&changes[i], RECIPIENT_FAIL) || is_to_do(&changes[i], RECIPIENT_DROP))
            refunds[count++] = (struct ledger_refund){.user_id = changes[i].user_id,
                                                      .amount = changes[i].price,
                                                      .message_id = changes[i].message_id,
                                                      .position = changes[i].position};
    rc = ledger_refund(db, refunds, count, err);
    free(refunds);
    return rc;
}

int recipient_fail(struct db *db, struct recipient_change *changes, size_t n, struct err *err)
{
    if (write_ended(db, &fail_label, RECIPIENT_FAIL, changes, n, err) ||
        write_ended(db, &fail_label, RECIPIENT_DROP, changes, n, err) ||
        refund(db, changes, n, err))
        return -1;
    return recipient_pass(db, RECIPIENT_FAIL, changes, n, err) ||
                   recipient_pass(db, RECIPIENT_DROP, changes, n, err)
               ? -1
               : 0;
}

int recipient_confirm_all(struct db *db, struct recipient_change *changes, size_t n,
                          struct err *err)
{
    struct db_results results;
    struct buf sql = {0};
    int rc;

    if (!n)
        return 0;
    recipient_put_delivered(db, &sql, RECIPIENT_CONFIRM, 0, changes, n);
    rc = db_run_buf(db, &confirm_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    if (db_only(&results)->affected != n)
        rc = err_set(err, ERR_BUG, 0, "confirm: rows changed under their lock");
    else
        rc = recipient_pass(db, RECIPIENT_CONFIRM, changes, n, err);
    db_results_free(&results);
    return rc;
}

struct recipient_change recipient_confirm(const struct recipient *r, const char *provider,
                                          const char *unknown)
{
    return (struct recipient_change){
        .id = r->id,
        .transition = RECIPIENT_CONFIRM,
        .attempt = r->attempt,
        .position = r->position,
        .message_id = r->message_id,
        .user_id = r->user_id,
        .provider = provider,
        .provider_id = "",
        .unknown = unknown,
        .result = RECIPIENT_HELD,
    };
}

/* Who had it when it died may have submitted it. */
struct recipient_change recipient_drop(const struct recipient *r, const char *reason)
{
    return (struct recipient_change){
        .any = r->state == RECIPIENT_SENDING,
        .id = r->id,
        .transition = RECIPIENT_DROP,
        .attempt = r->attempt,
        .position = r->position,
        .message_id = r->message_id,
        .user_id = r->user_id,
        .price = r->price,
        .reason = reason,
        .result = RECIPIENT_HELD,
    };
}

int recipient_forget_takeovers(struct db *db, const char *message_id, struct err *err)
{
    struct buf sql = {0};
    int rc;

    buf_puts(&sql, "UPDATE message_status FORCE INDEX(uq_message_status_identifier_recipient) SET "
                   "takeovers=0 WHERE status IN (");
    recipient_put_states(&sql, RECIPIENT_OPEN);
    buf_puts(&sql, ") AND message_identifier=");
    db_put_quoted(db, &sql, message_id, strlen(message_id));
    rc = db_run_buf(db, &forget_label, &sql, NULL, err);
    buf_free(&sql);
    return rc;
}
